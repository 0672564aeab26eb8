//! `potluck execute`: the process that executes steps. The agent starts it; it is not for people.

use std::path::PathBuf;
use std::process::ExitCode;

use potluck_model::Digest;
use potluck_provision::Bounds;

/// Executes what the agent says over standard input
#[derive(clap::Args, Debug)]
#[command(hide = true)]
pub(crate) struct Args {
    /// The directory of the journal
    #[arg(long, value_name = "DIR")]
    pub(crate) dir: PathBuf,
    /// What paths on the machine are under, whatever a job says
    #[arg(long, value_name = "DIR")]
    root: Option<PathBuf>,
    /// The digest of the trusted root that the first job has to name
    #[arg(long, value_name = "DIGEST")]
    pin: Option<Digest>,
    /// The directory that the bytes of jobs lie in
    #[arg(long, value_name = "DIR")]
    store: Option<PathBuf>,
}

pub(crate) fn run(args: Args) -> ExitCode {
    let bounds = Bounds {
        root: args.root,
        pin: args.pin,
        store: args.store,
    };
    potluck_provision::main(&args.dir, &bounds)
}
