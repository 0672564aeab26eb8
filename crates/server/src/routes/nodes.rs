//! Nodes, as operators see them.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use potluck_model::api::{
    ErrorKind, Labels, NodeEvents, NodeInfo, REASON_BYTES_MAX, REVOKED_PER_REQUEST_MAX, ReleaseName, RevokeAnswer,
    RevokeRequest, Standing,
};
use potluck_model::join::fingerprint;
use potluck_model::{Digest, NodeId, UnixSeconds};
use serde::Deserialize;

use super::join::{check_labels, label_text};
use crate::app::App;
use crate::catalogue::{NodeRecord, Revocation};
use crate::refusal::Refusal;
use crate::request::{Arguments, CallingOperator, Input, Segment};

/// A node that was heard of in this time is online: it waits at the server for at most 55 seconds at a time.
const ONLINE_SECONDS: u64 = 70;
const EVENTS_DEFAULT: usize = 1_000;
const EVENTS_MAX: usize = 10_000;

pub(super) async fn list(State(app): State<Arc<App>>) -> Result<Json<Vec<NodeInfo>>, Refusal> {
    let nodes = app.blocking(|app| Ok(app.catalogue.nodes()?)).await?;
    Ok(Json(infos(nodes)))
}

pub(super) async fn node(
    State(app): State<Arc<App>>,
    Segment(text): Segment<String>,
) -> Result<Json<NodeInfo>, Refusal> {
    app.blocking(move |app| {
        let node = find(app, &text)?;
        described(app, node)
    })
    .await
}

#[derive(Deserialize)]
pub(super) struct Page {
    #[serde(default)]
    after: u64,
    list: Option<Digest>,
    limit: Option<usize>,
}

pub(super) async fn events(
    State(app): State<Arc<App>>,
    Segment(text): Segment<String>,
    Arguments(page): Arguments<Page>,
) -> Result<Json<NodeEvents>, Refusal> {
    let limit = page.limit.unwrap_or(EVENTS_DEFAULT).clamp(1, EVENTS_MAX);
    app.blocking(move |app| {
        let node = find(app, &text)?;
        // One more than wanted tells whether there is a rest.
        let mut events = app.catalogue.events(node, page.after, page.list, limit + 1)?;
        let rest = events.len() > limit;
        events.truncate(limit);
        Ok(Json(NodeEvents {
            next: events.last().filter(|_| rest).map(|(number, _)| *number),
            last: events.last().map(|(number, _)| *number),
            events: events.into_iter().map(|(_, event)| event).collect(),
        }))
    })
    .await
}

pub(super) async fn labels(
    State(app): State<Arc<App>>,
    CallingOperator(operator): CallingOperator,
    Segment(text): Segment<String>,
    Input(labels): Input<Labels>,
) -> Result<Json<NodeInfo>, Refusal> {
    check_labels(&labels, "labels")?;
    app.changing(move |app| {
        let node = find(app, &text)?;
        let shown = label_text(&labels);
        app.catalogue.set_labels(node, labels)?;
        tracing::info!(%operator, %node, labels = %shown, "labels set");
        described(app, node)
    })
    .await
}

pub(super) async fn approve(
    State(app): State<Arc<App>>,
    CallingOperator(operator): CallingOperator,
    Segment(text): Segment<String>,
) -> Result<Json<NodeInfo>, Refusal> {
    app.changing(move |app| {
        let node = find(app, &text)?;
        match app.catalogue.approve(node, UnixSeconds::now())? {
            None => return Err(unknown(&text)),
            Some(Standing::Revoked) => {
                let message = format!("node {node} was revoked, and cannot be approved: it has to join again");
                return Err(Refusal::new(ErrorKind::Conflict, message));
            }
            Some(Standing::Pending) => tracing::info!(%operator, %node, "node approved"),
            Some(Standing::Admitted) => {}
        }
        described(app, node)
    })
    .await
}

pub(super) async fn revoke(
    State(app): State<Arc<App>>,
    CallingOperator(operator): CallingOperator,
    Input(RevokeRequest { nodes, reason }): Input<RevokeRequest>,
) -> Result<Json<RevokeAnswer>, Refusal> {
    if nodes.is_empty() || nodes.len() > REVOKED_PER_REQUEST_MAX {
        return Err(Refusal::bad(format!(
            "1 to {REVOKED_PER_REQUEST_MAX} nodes are revoked at a time, not {}",
            nodes.len()
        )));
    }
    if reason.len() > REASON_BYTES_MAX {
        return Err(Refusal::bad(format!(
            "the reason has {} bytes, at most {REASON_BYTES_MAX} are kept",
            reason.len()
        )));
    }
    app.changing(move |app| {
        // All or none: who mistypes the third name has not revoked two.
        let nodes = nodes.iter().map(|text| find(app, text)).collect::<Result<_, _>>()?;
        let revoked = app.catalogue.revoke(Revocation {
            nodes,
            reason: reason.clone(),
            now: UnixSeconds::now(),
        })?;
        for node in &revoked {
            tracing::warn!(%operator, %node, reason, "node revoked");
        }
        Ok(Json(RevokeAnswer { revoked }))
    })
    .await
}

/// Nodes as they are told.
pub(super) fn infos(nodes: Vec<NodeRecord>) -> Vec<NodeInfo> {
    let now = UnixSeconds::now();
    nodes.into_iter().map(|node| info(node, now)).collect()
}

fn info(node: NodeRecord, now: UnixSeconds) -> NodeInfo {
    NodeInfo {
        node: node.node,
        labels: node.labels,
        facts: node.facts,
        addresses: node.addresses,
        site: node.site,
        standing: node.standing,
        reason: Some(node.reason).filter(|reason| !reason.is_empty()),
        twice: node.twice,
        fingerprint: fingerprint(&node.key),
        joined: node.joined,
        seen: node.seen,
        // A node that has only joined has not been here as itself.
        online: node.standing.is_admitted()
            && !node.version.is_empty()
            && now.0.saturating_sub(node.seen.0) < ONLINE_SECONDS,
        assigned: node.assigned.map(|assigned| ReleaseName {
            configuration: assigned.configuration,
            release: assigned.release,
        }),
        progress: node.progress,
    }
}

fn described(app: &App, node: NodeId) -> Result<Json<NodeInfo>, Refusal> {
    let record = app.catalogue.node(node)?.ok_or_else(|| unknown(&node.to_string()))?;
    Ok(Json(info(record, UnixSeconds::now())))
}

/// The node that is meant: its id, the beginning of it, or its host name.
fn find(app: &App, text: &str) -> Result<NodeId, Refusal> {
    if let Ok(node) = text.parse()
        && app.catalogue.node(node)?.is_some()
    {
        return Ok(node);
    }
    match app.catalogue.find_nodes(text)?.as_slice() {
        [node] => Ok(*node),
        [] => Err(unknown(text)),
        several => {
            let ids: Vec<String> = several.iter().map(ToString::to_string).collect();
            let message = format!("{text:?} may be any of {}: give more of the id", ids.join(", "));
            Err(Refusal::new(ErrorKind::Conflict, message))
        }
    }
}

fn unknown(text: &str) -> Refusal {
    let text: String = text.chars().take(80).collect();
    Refusal::not_found(format!(
        "there is no node {text:?}, by id or by host name; `potluck nodes` lists all"
    ))
}
