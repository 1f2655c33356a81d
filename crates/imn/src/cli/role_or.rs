//! A role whose flags share their place with verbs: `imn agent --id ID` runs one, `imn agent list` lists them.

use clap::{ArgMatches, Args, Command, Error, FromArgMatches, Subcommand};

/// What stands after such a name. An `Option` of flattened arguments would not do: clap forgets a group that has
/// flattened arguments itself, and takes variables of the environment for arguments given.
#[derive(Debug)]
pub(crate) enum RoleOr<R, V> {
    /// The flags of the role.
    Role(Box<R>),
    /// A verb.
    Verb(V),
}

impl<R: Args, V: Subcommand> FromArgMatches for RoleOr<R, V> {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, Error> {
        if matches.subcommand_name().is_some() {
            V::from_arg_matches(matches).map(Self::Verb)
        } else {
            R::from_arg_matches(matches).map(Box::new).map(Self::Role)
        }
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

impl<R: Args, V: Subcommand> Args for RoleOr<R, V> {
    fn augment_args(command: Command) -> Command {
        V::augment_subcommands(R::augment_args(command))
            .args_conflicts_with_subcommands(true)
            .subcommand_negates_reqs(true)
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory, Parser};

    use crate::cli::{AgentVerb, Cli, Command as Name, ModuleVerb};

    use super::*;

    fn check_names(command: &Command, path: &str) {
        let mut seen = std::collections::BTreeSet::new();
        for argument in command.get_arguments() {
            let long = argument.get_long().map(|long| format!("--{long}"));
            let short = argument.get_short().map(|short| format!("-{short}"));
            for name in [Some(argument.get_id().to_string()), long, short].into_iter().flatten() {
                assert!(seen.insert(name.clone()), "{path}: {name} is there twice");
            }
        }
        for verb in command.get_subcommands() {
            check_names(verb, &format!("{path} {}", verb.get_name()));
        }
    }

    /// Which clap itself looks at in debug builds only.
    #[test]
    fn no_two_flags_of_a_command_have_one_name() {
        let mut command = Cli::command();
        command.build();
        check_names(&command, "imn");
    }

    #[test]
    fn flags_are_the_role_and_verbs_are_verbs() {
        let parse = |line: &str| Cli::try_parse_from(line.split(' ')).map(|cli| cli.command);
        assert!(matches!(
            parse("imn agent --id lon1 --region eu --nats-url nats://x:1 --tag a=b").unwrap(),
            Name::Agent(RoleOr::Role(args)) if args.id().unwrap().as_str() == "lon1" && args.nats.nats_url == "nats://x:1"
        ));
        assert!(matches!(
            parse("imn agent list --status active").unwrap(),
            Name::Agent(RoleOr::Verb(AgentVerb::List { status: Some(_), .. }))
        ));
        assert!(
            matches!(parse("imn module icmp").unwrap(), Name::Module(RoleOr::Role(args)) if args.kind == "icmp")
        );
        assert!(matches!(
            parse("imn module disable icmp").unwrap(),
            Name::Module(RoleOr::Verb(ModuleVerb::Disable { kind, .. })) if kind == "icmp"
        ));
        assert!(matches!(
            parse("imn agent --name London/1").unwrap(),
            Name::Agent(RoleOr::Role(args)) if args.id().unwrap().as_str() == "london-1"
        ));
        for line in ["imn agent", "imn module", "imn agent --id a list", "imn agent --id a.b"] {
            assert!(parse(line).is_err(), "{line}");
        }
    }
}
