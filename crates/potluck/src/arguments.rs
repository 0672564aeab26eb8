//! The command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use potluck_model::{LabelKey, units};
use tracing::level_filters::LevelFilter;

use crate::commands;
use crate::exit::EXIT_CODES;
use crate::logging::LogFormat;

const ENVIRONMENT: &str = "\
Environment:
  POTLUCK_SERVER           HOST:PORT of the management server, for operator commands
  POTLUCK_JOIN             the join string, for agent
  POTLUCK_KEYS             the directory with publishers' keys, for key and publish
  POTLUCK_PASSPHRASE       the passphrase of sealed publishers' keys
  POTLUCK_LOG, RUST_LOG    filter of the log, such as debug or potluck_net=trace
  NO_COLOR                 no colours";

/// Provisions fleets of machines: nodes get their files from each other first.
#[derive(Parser, Debug)]
#[command(
    name = "potluck",
    version,
    disable_help_subcommand = true,
    after_help = format!("{ENVIRONMENT}\n\n{EXIT_CODES}")
)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What every command takes.
#[derive(Args, Debug, Clone)]
pub(crate) struct Global {
    /// State directory: the server's, or with `agent` the node's
    #[arg(long, global = true, value_name = "DIR", help_heading = "Everywhere")]
    pub(crate) data: Option<PathBuf>,
    /// Print the result as one JSON document
    #[arg(long, global = true, help_heading = "Everywhere")]
    pub(crate) json: bool,
    /// How log lines look
    #[arg(
        long,
        global = true,
        value_enum,
        value_name = "FORMAT",
        default_value_t,
        help_heading = "Everywhere"
    )]
    pub(crate) log_format: LogFormat,
    /// Log more; twice: even more
    #[arg(short, long, global = true, action = clap::ArgAction::Count, help_heading = "Everywhere")]
    pub(crate) verbose: u8,
    /// Log errors only, show no progress
    #[arg(short, long, global = true, conflicts_with = "verbose", help_heading = "Everywhere")]
    pub(crate) quiet: bool,
}

/// What can be done.
#[derive(Subcommand, Debug)]
pub(crate) enum Command {
    Demo(commands::demo::Args),
    Server(commands::server::Args),
    Agent(commands::agent::Args),
    JoinToken(commands::join_token::Args),
    New(commands::new::Args),
    Publish(commands::publish::Args),
    Assign(commands::assign::Args),
    Unassign(commands::assign::UnassignArgs),
    Halt(commands::halt::HaltArgs),
    Resume(commands::halt::ResumeArgs),
    Status(commands::status::StatusArgs),
    Nodes(commands::status::NodesArgs),
    Node(commands::status::NodeArgs),
    Logs(commands::logs::Args),
    Trace(commands::trace::Args),
    Plan(commands::plan::Args),
    Facts(commands::facts::Args),
    Approve(commands::membership::ApproveArgs),
    Revoke(commands::membership::RevokeArgs),
    Operator(commands::operators::Args),
    Key(commands::key::Args),
    Audit(commands::audit::Args),
    Gc(commands::gc::Args),
    Backup(commands::backup::BackupArgs),
    Restore(commands::backup::RestoreArgs),
    Completions(commands::manual::CompletionsArgs),
    Man(commands::manual::ManArgs),
    Execute(commands::execute::Args),
}

/// Parses `KEY=VALUE`.
pub(crate) fn label(text: &str) -> Result<(LabelKey, String), String> {
    let (key, value) = text.split_once('=').ok_or("expected KEY=VALUE")?;
    Ok((key.parse().map_err(|error| format!("{error}"))?, value.to_owned()))
}

/// Parses a span such as `90s`, `30m`, `1h30m` or `2d`: seconds, at least one.
pub(crate) fn ttl_seconds(text: &str) -> Result<u64, String> {
    match span_seconds(text)? {
        0 => Err("it must be at least a second".into()),
        seconds => Ok(seconds),
    }
}

/// Parses a span, which may be zero (`0s`): seconds.
pub(crate) fn span_seconds(text: &str) -> Result<u64, String> {
    let span = units::parse_duration(text).map_err(|error| error.to_string())?;
    Ok(span.as_secs())
}

impl Command {
    /// What is logged unless flags or the environment say otherwise: services tell what an operator cares about.
    pub(crate) fn usual_level(&self) -> LevelFilter {
        if self.is_service() {
            LevelFilter::INFO
        } else {
            LevelFilter::WARN
        }
    }

    /// Whether it goes on for weeks.
    pub(crate) fn is_service(&self) -> bool {
        matches!(self, Self::Server(_) | Self::Agent(_))
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn help_fits_into_105_columns() {
        let mut cli = Cli::command();
        cli.build();
        let mut long = Vec::new();
        for command in std::iter::once(&cli).chain(cli.get_subcommands()) {
            for text in [command.clone().render_help(), command.clone().render_long_help()] {
                let text = text.to_string();
                let lines = text.lines().filter(|line| line.chars().count() > 105);
                long.extend(lines.map(|line| format!("{}: {line}", command.get_name())));
            }
        }
        assert!(long.is_empty(), "{long:#?}");
    }

    #[test]
    fn every_command_has_an_about_and_all_but_the_simplest_have_examples() {
        let simple = ["execute", "halt", "resume", "status", "nodes", "node"];
        for command in Cli::command().get_subcommands() {
            assert!(command.get_about().is_some(), "{}", command.get_name());
            let examples = command
                .get_after_help()
                .is_some_and(|text| text.to_string().contains("Examples:"));
            assert!(
                examples || simple.contains(&command.get_name()),
                "{}",
                command.get_name()
            );
        }
    }

    #[test]
    fn the_help_names_the_commands_the_environment_and_the_exit_codes() {
        insta::assert_snapshot!(Cli::command().render_help(), @"
        Provisions fleets of machines: nodes get their files from each other first

        Usage: potluck [OPTIONS] <COMMAND>

        Commands:
          demo         Shows Potluck on this machine: a server and nodes, real files, who got what from where
          server       Runs the management server
          agent        Runs this machine's managed node
          join-token   Prints a join string, with which new nodes join
          new          Writes a first configuration.toml for a directory, guessed from what lies there
          publish      Publishes a directory: makes an immutable release of a configuration
          assign       Assigns a configuration to nodes: it becomes their designated configuration
          unassign     Withdraws assignments
          halt         Keeps every step that has not started from starting, on all nodes
          resume       Lifts a halt: nodes go on with the steps that have not started
          status       Shows the server, the assignments and the nodes on one screen
          nodes        Lists all nodes
          node         Shows all that the server knows of one node
          logs         Shows what the steps of a node printed, and how they ended
          trace        Shows who a node asked, who answered, where each byte came from, and how each step ended
          plan         Shows what the assigned release would do on this machine, and changes nothing
          facts        Prints the facts of this machine, which conditions and templates may use
          approve      Admits nodes that wait for it
          revoke       Puts nodes out of the fleet for good
          operator     Adds, lists and removes operators, each with a key of their own
          key          Shows and changes whose signatures decide what nodes execute
          audit        Shows what operators did, oldest first
          gc           Removes releases that nobody is assigned, and the chunks that no release needs
          backup       Writes all that a server needs into one file, while it runs
          restore      Makes a server's data directory from a backup
          completions  Prints a completion script for a shell
          man          Writes manual pages into a directory

        Options:
          -h, --help     Print help
          -V, --version  Print version

        Everywhere:
              --data <DIR>           State directory: the server's, or with `agent` the node's
              --json                 Print the result as one JSON document
              --log-format <FORMAT>  How log lines look [default: human] [possible values: human, json]
          -v, --verbose...           Log more; twice: even more
          -q, --quiet                Log errors only, show no progress

        Environment:
          POTLUCK_SERVER           HOST:PORT of the management server, for operator commands
          POTLUCK_JOIN             the join string, for agent
          POTLUCK_KEYS             the directory with publishers' keys, for key and publish
          POTLUCK_PASSPHRASE       the passphrase of sealed publishers' keys
          POTLUCK_LOG, RUST_LOG    filter of the log, such as debug or potluck_net=trace
          NO_COLOR                 no colours

        Exit codes:
           0  done; with agent --once: converged
           1  something failed, and the message says what
           2  agent --once --detailed-exit-code: converged, and something was changed
           3  agent --once: nothing is assigned to this node
           4  the management server cannot be reached
           5  agent --once: a step failed
          64  the command line is wrong
          65  what was to be read is wrong: a configuration, settings, a join string, a data directory, a backup
        ");
    }
}
