//! `potluck trace`: the evidence of who got what from where.

use potluck_model::Digest;

use crate::arguments::Global;
use crate::exit::{Exit, Failure};
use crate::fleet;
use crate::operator::{Operator, block_on};
use crate::output::Output;
use crate::trace::{self, TraceReport};

/// Shows who a node asked, who answered, where each byte came from, and how each step ended
///
/// With --json all of it, per file: what caused each fetch of the list; which existence requests
/// went to whom and when; who answered what; per range of bytes where it came from and why. Times
/// are microseconds of the node's clock.
#[derive(clap::Args, Debug)]
#[command(
    verbatim_doc_comment,
    after_help = "\
Reasons:
  held             it was here already
  answered         a peer said that it has it
  nobody-answered  no peer did, so it came from the server
  my-share         this node's share of a flash crowd: from the server, for all
  peer-failed      the peers that had it failed
  hedge            a second request for the slow end

Examples:
  potluck trace edge-1                 the release that the node worked on last
  potluck trace edge-1 --json | jq '.files[] | {path, from: [.ranges[].source]}'"
)]
pub(crate) struct Args {
    /// Its id, the beginning of its id, or its host name
    #[arg(value_name = "ID")]
    node: String,
    /// Of the release with this list instead of the last one
    #[arg(long, value_name = "DIGEST")]
    list: Option<Digest>,
    /// Of this start of the agent instead of the last one
    #[arg(long, value_name = "N")]
    boot: Option<u64>,
}

pub(crate) fn run(args: &Args, global: &Global, output: Output) -> Result<Exit, Failure> {
    let operator = Operator::find(global)?;
    let (report, names) = block_on(async {
        let node = operator.node(&args.node).await?.node;
        let report = read(&operator, node, args.list, args.boot).await?;
        let names = if output.json {
            Vec::new()
        } else {
            operator.client.get("/v1/nodes").await?
        };
        Ok((report, fleet::host_names(&names)))
    })?;
    output.result(&report, |style| trace::show(&report, &names, style))?;
    Ok(Exit::Ok)
}

/// The trace of a node, from the server.
pub(crate) async fn read(
    operator: &Operator,
    node: potluck_model::NodeId,
    list: Option<Digest>,
    boot: Option<u64>,
) -> Result<TraceReport, Failure> {
    // Requests for the list are events without one, so that all events are needed.
    let events = operator.events(node, None).await?;
    let Some(digest) = list.or_else(|| trace::last_list(&events)) else {
        return Err(Failure::new(format!("node {node} has not worked on any list yet")));
    };
    let list = operator.list(&digest).await?;
    TraceReport::new(node, digest, &list, events, boot).ok_or_else(|| {
        let boot = boot.map_or_else(String::new, |boot| format!(" in boot {boot}"));
        Failure::new(format!(
            "node {node} did nothing for list {digest}{boot} that the server knows of"
        ))
    })
}
