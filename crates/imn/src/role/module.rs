//! `imn module TYPE`.

use anyhow::Result;

use crate::{cli::ModuleArgs, exit::Code};

pub(crate) fn main(args: &ModuleArgs) -> Result<Code> {
    imn_module::run_builtin(imn_contract::canonical_type(&args.kind))?;
    Ok(Code::Ok)
}
