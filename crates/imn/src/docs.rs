//! `imn docs` and `imn completions`: what is generated from the program itself.

use std::{
    collections::BTreeMap,
    io::{self, Write},
};

use anyhow::{Context, Result};
use clap::CommandFactory;
use clap_complete::Shell;

use crate::{
    cli::{Cli, DocsVerb},
    exit::Code,
};

pub(crate) fn main(verb: &DocsVerb) -> Result<Code> {
    let text = match verb {
        DocsVerb::Openapi => imn_server::openapi().to_pretty_json().context("write the OpenAPI document")?,
        DocsVerb::Schemas => {
            let files: BTreeMap<_, _> =
                imn_contract::schemas().into_iter().map(|file| (file.file, file.schema)).collect();
            serde_json::to_string_pretty(&files).context("write the schemas")?
        }
        DocsVerb::Asyncapi => {
            let document = imn_contract::asyncapi().context("make the AsyncAPI document")?;
            serde_saphyr::to_string(&document).context("write the AsyncAPI document")?.trim_end().to_owned()
        }
    };
    writeln!(io::stdout(), "{text}")?;
    Ok(Code::Ok)
}

pub(crate) fn completions(shell: Shell) -> Result<Code> {
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "imn", &mut text);
    io::stdout().write_all(&text)?;
    Ok(Code::Ok)
}
