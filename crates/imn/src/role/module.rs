//! `imn module TYPE`.

use anyhow::Result;

use crate::{
    cli::ModuleArgs,
    exit::{Code, Exit},
};

pub(crate) fn main(args: &ModuleArgs) -> Result<Code> {
    let kind = imn_contract::canonical_type(&args.kind);
    if !imn_module::KINDS.contains(&kind) {
        let known = imn_module::KINDS.join(", ");
        return Err(Exit::usage(format!("TYPE {:?}: use one of {known}", args.kind)).into());
    }
    imn_module::run_builtin(kind)?;
    Ok(Code::Ok)
}
