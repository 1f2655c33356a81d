//! The project's own commands: `cargo xtask up`, `test`, `soak`, `tidy`, `openapi`, `bench`.

mod bench;
mod generate;
mod install;
mod run;
mod suite;
mod test;
mod tidy;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Commands for users and developers of IMN.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Install what is missing, build, and run everything on this host; further arguments go to `imn up`.
    Up {
        /// Arguments of `imn up`, such as `--state-dir DIR`.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
    /// Install what is missing, check the rules, and run every test.
    Test {
        /// Only tests whose name contains this.
        filter: Option<String>,
        /// Leave out `tidy`.
        #[arg(long)]
        no_tidy: bool,
    },
    /// Run the long scenarios in full, and each fuzz target for a minute.
    Soak {
        /// Only tests whose name contains this.
        filter: Option<String>,
    },
    /// Check what can be checked without running: crate edges, file sizes, formatting, lints, generated files.
    Tidy,
    /// Write the generated files again: OpenAPI document and JSON Schemas.
    Openapi,
    /// Compare with peers on this machine.
    Bench {
        /// What to compare.
        what: bench::What,
    },
}

fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Command::Up { args } => run::up(&args),
        Command::Test { filter, no_tidy } => test::test(filter.as_deref(), !no_tidy),
        Command::Soak { filter } => test::soak(filter.as_deref()),
        Command::Tidy => run::build().and_then(|program| tidy::tidy(&program)),
        Command::Openapi => generate::write(),
        Command::Bench { what } => bench::bench(what),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}
