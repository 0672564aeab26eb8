//! `potluck execute`: the process that executes steps. The agent starts it; it is not for people.

use std::path::PathBuf;
use std::process::ExitCode;

/// Executes what the agent says over standard input
#[derive(clap::Args, Debug)]
#[command(hide = true)]
pub(crate) struct Args {
    /// The directory of the journal
    #[arg(long, value_name = "DIR")]
    pub(crate) dir: PathBuf,
}

pub(crate) fn run(args: &Args) -> ExitCode {
    potluck_provision::main(&args.dir)
}
