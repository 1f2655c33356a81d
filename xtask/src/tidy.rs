//! `tidy`: every rule that a machine can check.

mod dependency;
mod edge;
mod size;

use std::{path::Path, process::Command};

use anyhow::{Context, Result, bail};

use crate::{
    generate,
    run::{cargo, output, root, run},
};

/// Checks all rules; the generated files against what `program` prints.
pub(crate) fn tidy(program: &Path) -> Result<()> {
    let mut broken = Vec::new();
    let mut rule = |name: &str, done: Result<()>| match done {
        Ok(()) => eprintln!("tidy {name}: ok"),
        Err(error) => {
            eprintln!("tidy {name}: {error:#}");
            broken.push(name.to_owned());
        }
    };
    rule("edges", edges());
    rule("file size", sizes());
    rule("formatting", run(cargo().args(["fmt", "--all", "--check"])));
    rule(
        "lints",
        run(cargo().args(["clippy", "--quiet", "--workspace", "--all-targets", "--", "-D", "warnings"])),
    );
    rule("generated files", generate::check(program));
    rule("dependencies", dependencies());
    if broken.is_empty() { Ok(()) } else { bail!("tidy: {} broken: {}", broken.len(), broken.join(", ")) }
}

fn edges() -> Result<()> {
    let metadata = output(cargo().args(["metadata", "--format-version", "1", "--no-deps", "--locked"]))?;
    let metadata = serde_json::from_slice(&metadata).context("read cargo metadata")?;
    let forbidden = edge::forbidden(&metadata);
    if forbidden.is_empty() { Ok(()) } else { bail!("{}", forbidden.join("; ")) }
}

fn sizes() -> Result<()> {
    let files = output(Command::new("git").args(["ls-files", "-z", "*.rs"]).current_dir(root()))?;
    let mut long = Vec::new();
    for path in String::from_utf8(files)?.split('\0').filter(|path| size::counts(path)) {
        // A file may be deleted and not yet committed.
        let Ok(text) = std::fs::read_to_string(root().join(path)) else { continue };
        let lines = size::code_lines(&text);
        if lines > size::LIMIT {
            long.push(format!("{path} has {lines} lines of non-test code, more than {}", size::LIMIT));
        }
    }
    if long.is_empty() { Ok(()) } else { bail!("{}", long.join("; ")) }
}

fn dependencies() -> Result<()> {
    let rules = std::fs::read_to_string(root().join("deny.toml")).context("read deny.toml")?;
    let mut metadata = cargo();
    metadata.args(["metadata", "--format-version", "1", "--locked"]);
    for target in dependency::targets(&rules)? {
        metadata.args(["--filter-platform", &target]);
    }
    let metadata = serde_json::from_slice(&output(&mut metadata)?).context("read cargo metadata")?;
    let forbidden = dependency::forbidden(&rules, &metadata)?;
    if forbidden.is_empty() { Ok(()) } else { bail!("{}", forbidden.join("; ")) }
}
