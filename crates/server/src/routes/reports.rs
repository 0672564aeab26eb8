//! What nodes report: where they are, and what happens on them.

use std::sync::Arc;

use axum::Extension;
use axum::extract::State;
use axum::http::StatusCode;
use potluck_model::UnixSeconds;
use potluck_model::api::{EVENTS_PER_REPORT_MAX, Events, NodeState, Presence};

use super::join::check_labels;
use crate::app::App;
use crate::caller::Caller;
use crate::catalogue::{PresenceRecord, Transition};
use crate::refusal::Refusal;
use crate::request::{CallingNode, Input};
use crate::site::NETWORKS_MAX;

/// The most addresses of a node.
const ADDRESSES_MAX: usize = 16;
/// The most bytes of the version of an agent.
const VERSION_BYTES_MAX: usize = 64;

pub(super) async fn presence(
    State(app): State<Arc<App>>,
    CallingNode(node): CallingNode,
    Extension(caller): Extension<Caller>,
    Input(presence): Input<Presence>,
) -> Result<StatusCode, Refusal> {
    if presence.addresses.len() > ADDRESSES_MAX {
        return Err(Refusal::bad(format!(
            "{} addresses, at most {ADDRESSES_MAX} are kept",
            presence.addresses.len()
        )));
    }
    if presence.version.len() > VERSION_BYTES_MAX {
        return Err(Refusal::bad("the version of the agent is too long"));
    }
    if presence.networks.len() > NETWORKS_MAX {
        return Err(Refusal::bad(format!(
            "{} networks, at most {NETWORKS_MAX} are taken",
            presence.networks.len()
        )));
    }
    check_labels(&presence.facts, "facts")?;
    let record = PresenceRecord {
        sites: app.sites.keys(&presence, caller.address.ip()),
        addresses: presence.addresses,
        facts: presence.facts,
        version: presence.version,
        now: UnixSeconds::now(),
    };
    let known = app
        .blocking(move |app| Ok(app.catalogue.set_presence(node, record)?))
        .await?;
    if known {
        Ok(StatusCode::NO_CONTENT)
    } else {
        Err(Refusal::not_found(format!("node {node} is not known any more")))
    }
}

pub(super) async fn events(
    State(app): State<Arc<App>>,
    CallingNode(node): CallingNode,
    Input(report): Input<Events>,
) -> Result<StatusCode, Refusal> {
    if report.events.len() > EVENTS_PER_REPORT_MAX {
        return Err(Refusal::bad(format!(
            "{} events in one report, at most {EVENTS_PER_REPORT_MAX} are taken",
            report.events.len()
        )));
    }
    let transition = app
        .blocking(move |app| Ok(app.catalogue.add_events(node, report.events)?))
        .await?
        .ok_or_else(|| Refusal::not_found(format!("node {node} is not known any more")))?;
    tell(node, &transition);
    Ok(StatusCode::NO_CONTENT)
}

/// A line for what an operator cares about.
fn tell(node: potluck_model::NodeId, transition: &Transition) {
    let Transition {
        before,
        after,
        assigned: Some(assigned),
    } = transition
    else {
        return;
    };
    if *before == after.state {
        return;
    }
    let (configuration, release) = (&assigned.configuration, assigned.release);
    let recap = after.recap.map(|recap| recap.to_string()).unwrap_or_default();
    match after.state {
        NodeState::Converged => {
            let (peers, server) = (after.peer_bytes, after.origin_bytes);
            tracing::info!(%node, %configuration, release, peers, server, %recap, "node converged");
        }
        NodeState::Failed => {
            let trouble = after.trouble.as_deref().unwrap_or_default();
            tracing::warn!(%node, %configuration, release, %recap, trouble, "node failed");
        }
        NodeState::Halted => tracing::info!(%node, %configuration, release, %recap, "node halted"),
        NodeState::Unassigned | NodeState::Waiting | NodeState::Fetching | NodeState::Executing => {
            tracing::debug!(%node, %configuration, release, state = ?after.state, "node is at work");
        }
    }
}
