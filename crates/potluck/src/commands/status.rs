//! `potluck status`, `potluck nodes` and `potluck node`: how the fleet is.

use potluck_model::UnixSeconds;
use potluck_model::api::Status;

use crate::arguments::Global;
use crate::exit::{Exit, Failure};
use crate::fleet;
use crate::operator::{Operator, block_on};
use crate::output::Output;

/// Shows the server, the assignments and the nodes on one screen
#[derive(clap::Args, Debug)]
pub(crate) struct StatusArgs {}

pub(crate) fn status(global: &Global, output: Output) -> Result<Exit, Failure> {
    let operator = Operator::find(global)?;
    let status = read(&operator)?;
    output.result(&status, |style| fleet::status(&status, operator.server(), style))?;
    Ok(Exit::Ok)
}

/// Lists all nodes
#[derive(clap::Args, Debug)]
pub(crate) struct NodesArgs {
    /// Only nodes with a failed step or other trouble
    #[arg(long)]
    trouble: bool,
}

pub(crate) fn nodes(args: &NodesArgs, global: &Global, output: Output) -> Result<Exit, Failure> {
    let operator = Operator::find(global)?;
    let mut status = read(&operator)?;
    status.nodes.retain(|node| !args.trouble || fleet::in_trouble(node));
    output.result(&status.nodes, |style| {
        let table = fleet::nodes(status.nodes.iter(), status.time).render(style);
        table + &fleet::pending(status.nodes.iter())
    })?;
    Ok(Exit::Ok)
}

fn read(operator: &Operator) -> Result<Status, Failure> {
    block_on(async { Ok(operator.client.get("/v1/status").await?) })
}

/// Shows all that the server knows of one node
#[derive(clap::Args, Debug)]
pub(crate) struct NodeArgs {
    /// Its id, the beginning of its id, or its host name
    #[arg(value_name = "ID")]
    node: String,
}

pub(crate) fn node(args: &NodeArgs, global: &Global, output: Output) -> Result<Exit, Failure> {
    let operator = Operator::find(global)?;
    let node = block_on(operator.node(&args.node))?;
    output.result(&node, |style| fleet::node(&node, UnixSeconds::now(), style))?;
    Ok(Exit::Ok)
}
