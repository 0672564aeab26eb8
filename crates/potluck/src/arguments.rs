//! The command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
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
    propagate_version = true,
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

#[derive(Subcommand, Debug)]
pub(crate) enum Command {}

impl Command {
    /// What is logged unless flags or the environment say otherwise: services tell what an operator cares about.
    pub(crate) fn usual_level(&self) -> LevelFilter {
        LevelFilter::WARN
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
