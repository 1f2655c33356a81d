//! The `imn` binary: command line and composition root.
//!
//! Every role of the network is a subcommand. This crate puts the others together and decides nothing that they
//! could decide; it is the only one that prints, and the only one that uses `anyhow`.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "printing is what a command line does")]

mod bgp;
mod cli;
mod client;
mod docs;
mod enroll;
mod exit;
mod job;
mod manage;
mod measure;
mod reflect;
mod role;
mod settings;
mod sys;
mod up;

use clap::{CommandFactory, FromArgMatches};

use cli::{Cli, Command, RoleOr};

fn main() -> std::process::ExitCode {
    sys::bound_arenas();
    imn_runtime::tls::install();
    let command = match settings::command(cli::with_negative_numbers(Cli::command())) {
        Ok(command) => command,
        Err(error) => return exit::report(Err(error)),
    };
    let parsed = command.try_get_matches();
    let cli = match parsed.and_then(|matches| Cli::from_arg_matches(&matches)) {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version go to stdout and are no error; usage goes to stderr and is exit code 2.
            let _ = error.print();
            return exit::Code::from_usage(&error).into();
        }
    };
    let telemetry = if cli.command.submits_jobs() { role::telemetry_of_command() } else { Ok(None) };
    let _telemetry = match telemetry {
        Ok(telemetry) => telemetry,
        Err(error) => return exit::report(Err(error)),
    };
    let done = match cli.command {
        Command::Up(args) => up::main(args),
        Command::Server(args) => role::server::main(args),
        Command::Agent(RoleOr::Role(args)) => role::agent::main(*args),
        Command::Agent(RoleOr::Verb(verb)) => manage::agent::main(verb),
        Command::Module(RoleOr::Role(args)) => role::module::main(&args),
        Command::Module(RoleOr::Verb(verb)) => manage::module::main(verb),
        Command::Ping(args) => measure::ping(args),
        Command::Tcp(args) => measure::tcp(args),
        Command::Dns(args) => measure::dns(args),
        Command::Http(args) => measure::http(args),
        Command::Stamp(cli::StampVerb::Send(args)) => measure::stamp(*args),
        Command::Stamp(cli::StampVerb::Reflect(args)) => reflect::main(&args),
        Command::Bgp(verb) => bgp::main(verb),
        Command::Trace(args) => measure::trace::trace(args),
        Command::Mtr(args) => measure::trace::mtr(args),
        Command::Measure(args) => measure::any(args),
        Command::Probe(args) => role::probe::main(args),
        Command::Target(verb) => manage::target::main(verb),
        Command::Tier(verb) => manage::tier::main(verb),
        Command::Job(verb) => manage::job::main(verb),
        Command::Token(verb) => manage::token::main(verb),
        Command::Results(verb) => manage::results::main(verb),
        Command::Config(verb) => settings::main(verb),
        Command::Docs(verb) => docs::main(&verb),
        Command::Completions { shell } => docs::completions(shell),
    };
    exit::report(done)
}
