//! Our DNS engine beside dig, at one name server on loopback.

use anyhow::Result;

use crate::{
    install,
    run::{cargo, run},
};

/// The example starts the server, alternates the two, and prints the table.
pub(super) fn dns() -> Result<()> {
    install::for_benches()?;
    run(cargo().args(["run", "--release", "--package", "imn-probe", "--example", "ask"]))
}
