//! `potluck assign` and `potluck unassign`: which nodes get which configuration.

use potluck_model::ConfigurationName;
use potluck_model::api::{AssignRequest, AssignmentInfo, Target};
use potluck_model::selector::Selector;

use crate::arguments::Global;
use crate::exit::{Exit, Failure};
use crate::fleet;
use crate::operator::{Operator, block_on};
use crate::output::{Output, count};

/// Assigns a configuration to nodes: it becomes their designated configuration
///
/// One assignment applies to a node: one for its id before one for its labels before one for all
/// nodes, then the latest.
#[derive(clap::Args, Debug)]
#[command(
    verbatim_doc_comment,
    after_help = "\
Examples:
  potluck assign web-edge --all                   every node; follows the newest release
  potluck assign web-edge@3 --where 'role=web'    release 3, for nodes with that label
  potluck assign web-edge@2026.1 --where 'role in (web,proxy),site!=lab'
  potluck assign debug --node 00c0ffee00c0ffee    one node"
)]
pub(crate) struct Args {
    /// A configuration, and the number or name of a release [default: the newest]
    #[arg(value_name = "NAME[@VERSION]", value_parser = reference)]
    configuration: Reference,
    #[command(flatten)]
    target: TargetArgs,
}

#[derive(clap::Args, Debug)]
#[group(required = true, multiple = false)]
struct TargetArgs {
    /// To every node
    #[arg(long)]
    all: bool,
    /// To nodes whose labels match: k=v, k!=v, k in (a,b), k notin (a,b), k, !k
    #[arg(long = "where", value_name = "SELECTOR")]
    selector: Option<Selector>,
    /// To one node: its id, the beginning of its id, or its host name
    #[arg(long, value_name = "ID")]
    node: Option<String>,
}

/// A configuration, with or without a release.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Reference {
    name: ConfigurationName,
    version: Option<String>,
}

fn reference(text: &str) -> Result<Reference, String> {
    let (name, version) = match text.split_once('@') {
        Some((_, "")) => return Err("nothing follows the @: give the number or name of a release".into()),
        Some((name, version)) => (name, Some(version.to_owned())),
        None => (text, None),
    };
    Ok(Reference {
        name: name.parse().map_err(|error| format!("{error}"))?,
        version,
    })
}

pub(crate) fn run(args: Args, global: &Global, output: Output) -> Result<Exit, Failure> {
    let operator = Operator::find(global)?;
    let made: AssignmentInfo = block_on(async {
        let TargetArgs { all: _, selector, node } = args.target;
        let target = match (selector, node) {
            (Some(selector), _) => Target::Where(selector.to_string()),
            (None, Some(node)) => Target::Node(match node.parse() {
                Ok(id) => id,
                Err(_) => operator.node(&node).await?.node,
            }),
            (None, None) => Target::All,
        };
        let request = AssignRequest {
            configuration: args.configuration.name,
            version: args.configuration.version,
            target,
        };
        Ok(operator.client.post("/v1/assignments", &request).await?)
    })?;
    if made.matches == 0 && !output.json {
        output.note(&format!("warning: {}", nobody(&made.target)));
    }
    output.result(&made, |_| {
        let release = made
            .release
            .map_or_else(|| "newest release".to_owned(), |release| format!("release {release}"));
        format!(
            "assigned {} ({release}) to {}: {} now",
            made.configuration,
            fleet::target(&made.target),
            count(made.matches.into(), "node")
        )
    })?;
    Ok(Exit::Ok)
}

/// What it means that an assignment is for nobody. It is kept all the same: nodes may come.
fn nobody(target: &Target) -> String {
    match target {
        Target::All => "there is no node yet; nodes that join will get it".into(),
        Target::Where(selector) => format!(
            "no node's labels match {selector} now; nodes that match later will get it. `potluck nodes` lists the nodes, \
             `potluck node ID` the labels of one"
        ),
        Target::Node(node) => format!("node {node} is not known any more"),
    }
}

/// Withdraws assignments
///
/// Nodes fall back to what else is assigned to them, or to nothing. What they have executed stays
/// as it is.
#[derive(clap::Args, Debug)]
#[command(
    verbatim_doc_comment,
    after_help = "\
Examples:
  potluck unassign web-edge      all assignments of this configuration
  potluck unassign --id 3        the assignment with this number, see `potluck status`"
)]
pub(crate) struct UnassignArgs {
    /// All assignments of this configuration
    #[arg(value_name = "NAME", required_unless_present = "id", conflicts_with = "id")]
    configuration: Option<ConfigurationName>,
    /// One assignment, by its number
    #[arg(long, value_name = "N")]
    id: Option<u64>,
}

pub(crate) fn unassign(args: UnassignArgs, global: &Global, output: Output) -> Result<Exit, Failure> {
    let operator = Operator::find(global)?;
    let (path, what) = match (args.configuration, args.id) {
        (Some(name), _) => (
            format!("/v1/assignments?configuration={name}"),
            format!("all assignments of {name}"),
        ),
        (None, id) => {
            let id = id.unwrap_or_default();
            (format!("/v1/assignments/{id}"), format!("assignment {id}"))
        }
    };
    let (): () = block_on(async { Ok(operator.client.delete(&path).await?) })?;
    output.result(&serde_json::json!({ "withdrawn": what }), |_| {
        format!("withdrew {what}")
    })?;
    Ok(Exit::Ok)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_release_follows_the_name_after_an_at_sign() {
        let parse = |text| reference(text).map(|found| (found.name.to_string(), found.version));
        assert_eq!(parse("web"), Ok(("web".into(), None)));
        assert_eq!(parse("web@3"), Ok(("web".into(), Some("3".into()))));
        assert!(parse("web@").is_err());
        assert!(parse("@3").is_err());
    }
}
