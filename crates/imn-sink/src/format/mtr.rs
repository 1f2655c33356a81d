//! mtr's JSON reports, of paths only.

use std::io::{self, Write};

use super::{Format, Row, formless};

pub(super) fn row(_: &mut impl Write, row: &Row) -> io::Result<()> {
    Err(formless(Format::MtrJson, &row.outcome))
}
