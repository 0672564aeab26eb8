//! `potluck approve` and `potluck revoke`: who belongs to the fleet.

use potluck_model::api::{NodeInfo, RevokeAnswer, RevokeRequest};

use crate::arguments::Global;
use crate::exit::{Exit, Failure};
use crate::operator::{Operator, block_on};
use crate::output::{Output, count};

/// Admits nodes that wait for it
///
/// A node waits if its join string says so (`join-token --approval`), or if its data directory was
/// copied from another node. Compare the fingerprint in its log with that in `potluck nodes` first.
#[derive(clap::Args, Debug)]
#[command(
    verbatim_doc_comment,
    after_help = "\
Examples:
  potluck nodes                     which nodes wait, and their fingerprints
  potluck approve 3f2a"
)]
pub(crate) struct ApproveArgs {
    /// Its id, the beginning of its id, or its host name
    #[arg(value_name = "NODE", required = true)]
    nodes: Vec<String>,
}

pub(crate) fn approve(args: &ApproveArgs, global: &Global, output: Output) -> Result<Exit, Failure> {
    let operator = Operator::find(global)?;
    let approved: Vec<NodeInfo> = block_on(async {
        let mut approved = Vec::new();
        for name in &args.nodes {
            let node = operator.node(name).await?.node;
            let path = format!("/v1/nodes/{node}/approve");
            approved.push(operator.client.post(&path, &()).await?);
        }
        Ok(approved)
    })?;
    output.result(&approved, |_| {
        let lines = approved
            .iter()
            .map(|node| format!("{} belongs to the fleet", node.node));
        lines.collect::<Vec<_>>().join("\n")
    })?;
    Ok(Exit::Ok)
}

/// Puts nodes out of the fleet for good
///
/// The server refuses them and cuts their connections at once; the others hear of it within a
/// minute, cut theirs too, and get a new key for datagrams. What is on the disks of a revoked
/// node stays there. To let the machine in again, remove its data directory and join it anew.
#[derive(clap::Args, Debug)]
#[command(
    verbatim_doc_comment,
    after_help = "\
Examples:
  potluck revoke edge-7 --reason 'stolen from the van'
  potluck revoke 3f2a 91bc 77d0"
)]
pub(crate) struct RevokeArgs {
    /// Its id, the beginning of its id, or its host name; all are found, or none is revoked
    #[arg(value_name = "NODE", required = true)]
    nodes: Vec<String>,
    /// Why, for whoever looks at the node later
    #[arg(long, value_name = "TEXT", default_value = "")]
    reason: String,
}

pub(crate) fn revoke(args: RevokeArgs, global: &Global, output: Output) -> Result<Exit, Failure> {
    let operator = Operator::find(global)?;
    let request = RevokeRequest {
        nodes: args.nodes,
        reason: args.reason,
    };
    let answer: RevokeAnswer = block_on(async { Ok(operator.client.post("/v1/revocations", &request).await?) })?;
    output.result(&answer, |_| {
        let ids: Vec<String> = answer.revoked.iter().map(ToString::to_string).collect();
        if ids.is_empty() {
            "they were revoked before".to_owned()
        } else {
            format!("{} revoked: {}", count(ids.len() as u64, "node"), ids.join(" "))
        }
    })?;
    Ok(Exit::Ok)
}
