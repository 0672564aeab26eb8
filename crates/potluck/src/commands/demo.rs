//! `potluck demo`: all of it on this machine.

use std::path::PathBuf;

use crate::demo::{self, Demo};
use crate::exit::{Doing, Exit, Failure};
use crate::output::Output;
use crate::shutdown;

/// Shows Potluck on this machine: a server and nodes, real files, who got what from where
///
/// Starts a server and nodes as processes on loopback addresses, publishes an example (or your own
/// directory), assigns it to all, and shows who got what from where. The last node comes when the
/// others have finished. Needs no root, changes nothing outside a temporary directory, and leaves
/// nothing behind.
#[derive(clap::Args, Debug)]
#[command(
    verbatim_doc_comment,
    after_help = "\
Examples:
  potluck demo
  potluck demo --nodes 8 --dir ./my-configuration
  potluck demo --keep                 leaves it running, and says how to look into it"
)]
pub(crate) struct Args {
    /// How many nodes
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u8).range(1..=64))]
    nodes: u8,
    /// Publish this directory instead of the example
    #[arg(long, value_name = "PATH")]
    dir: Option<PathBuf>,
    /// Leave everything running until Ctrl-C, and the files after that
    #[arg(long)]
    keep: bool,
}

pub(crate) fn run(args: Args, output: Output) -> Result<Exit, Failure> {
    let demo = Demo {
        nodes: args.nodes,
        directory: args.dir,
        keep: args.keep,
    };
    let (shown, exit) = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .doing(|| "starting the asynchronous runtime".into())?
        .block_on(async { demo::run(demo, output, shutdown::requested(false)?).await })?;
    if shown.directory.is_none() || output.json {
        output.result(&shown, |style| demo::summary(&shown, style))?;
    }
    Ok(exit)
}
