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
  POTLUCK_LOG, RUST_LOG    filter of the log, such as debug or potluck_net=trace
  NO_COLOR                 no colours";

/// Provisions fleets of machines: nodes get their files from each other first.
#[derive(Parser, Debug)]
#[command(
    name = "potluck",
    version,
    max_term_width = 100,
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
    /// State directory: the server's for `server` and operator commands, the node's for `agent`
    #[arg(long, global = true, value_name = "DIR", help_heading = "Everywhere")]
    pub(crate) data: Option<PathBuf>,
    /// Print the result as one JSON document
    #[arg(long, global = true, help_heading = "Everywhere")]
    pub(crate) json: bool,
    /// How log lines look, on stderr
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
    Execute(commands::execute::Args),
}

/// Parses `KEY=VALUE`.
pub(crate) fn label(text: &str) -> Result<(LabelKey, String), String> {
    let (key, value) = text.split_once('=').ok_or("expected KEY=VALUE")?;
    Ok((key.parse().map_err(|error| format!("{error}"))?, value.to_owned()))
}

/// Parses a span such as `90s`, `30m`, `1h30m` or `2d`: seconds, at least one.
pub(crate) fn ttl_seconds(text: &str) -> Result<u64, String> {
    match units::parse_duration(text)
        .map_err(|error| error.to_string())?
        .as_secs()
    {
        0 => Err("it must be at least a second".into()),
        seconds => Ok(seconds),
    }
}

impl Command {
    /// What is logged unless flags or the environment say otherwise: services tell what an operator cares about.
    pub(crate) fn usual_level(&self) -> LevelFilter {
        match self {
            Self::Server(_) | Self::Agent(_) => LevelFilter::INFO,
            _ => LevelFilter::WARN,
        }
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
}
