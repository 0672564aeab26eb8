//! The head: what a node is assigned, and what it needs to know of the fleet. A long poll.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use potluck_model::api::{Head, Neighbour, POLL_SECONDS_MAX, Standing};
use potluck_model::assignment::{ASSIGNMENT_FORMAT, Assignment, AssignmentKind};
use potluck_model::revocations::{Edition, REVOCATIONS_FORMAT, Revocations, RevocationsKind};
use potluck_model::ring::{self, SEATS_MAX};
use potluck_model::{NodeId, UnixSeconds};
use serde::Deserialize;
use tokio::time::Instant;

use crate::app::{App, stopped};
use crate::catalogue::{FleetKeys, NodeRecord, Revoked};
use crate::refusal::Refusal;
use crate::request::{Arguments, CallingNode};
use crate::signing::Signing;
use crate::site;

/// For how long an assignment may be adopted. Each answer carries a fresh one.
const ASSIGNMENT_SECONDS: u64 = 7 * 86_400;
/// Answers within the offline grace, at least: the node must not doubt a server that is there.
const NEWS_PER_GRACE: u32 = 3;
/// The most neighbours of an answer beside those that sit in the seats of the node's crowd.
const NEIGHBOURS_MAX: usize = 16;
/// Nodes that were heard of in this time come first.
const NEIGHBOUR_SEEN_SECONDS: u64 = 120;

#[derive(Deserialize)]
pub(super) struct Poll {
    #[serde(default)]
    cursor: u64,
    #[serde(default)]
    wait: u64,
    #[serde(default)]
    revocations: u64,
    #[serde(default)]
    issued: UnixSeconds,
    instance: Option<u64>,
}

/// What decides whether a node is woken.
struct Essence {
    node: NodeRecord,
    halted: bool,
    keys: FleetKeys,
    revoked: Arc<Revoked>,
    /// Versions of what publishers have signed.
    signed: (u64, u64),
}

impl Essence {
    fn read(app: &App, node: NodeId) -> Result<Self, Refusal> {
        let record = app
            .catalogue
            .node(node)?
            .ok_or_else(|| Refusal::not_found(format!("node {node} is not known any more")))?;
        // Revoked while it waited here.
        match record.standing {
            Standing::Admitted => {}
            Standing::Pending => return Err(Refusal::pending(node, &record.key)),
            Standing::Revoked => return Err(Refusal::revoked(node)),
        }
        Ok(Self {
            node: record,
            halted: app.catalogue.halted()?,
            keys: app.catalogue.keys(UnixSeconds::now())?,
            revoked: app.revoked().borrow().clone(),
            signed: app.signing.as_ref().map_or((0, 0), Signing::versions),
        })
    }

    /// A number for this very answer: computed from what it says, so that any server gives the same, also after a
    /// restart. Never 0, and at most 53 bits, which every reader of JSON understands.
    fn cursor(&self) -> u64 {
        let mut hasher = blake3::Hasher::new();
        hasher.update(b"potluck head 1");
        hasher.update(&self.node.node.0.to_be_bytes());
        hasher.update(&self.node.sequence.to_be_bytes());
        hasher.update(&[u8::from(self.halted)]);
        for key in &self.keys.audiences {
            hasher.update(key.audience.as_str().as_bytes());
            hasher.update(key.key.as_bytes());
        }
        for key in &self.keys.fleet {
            hasher.update(&key.epoch.to_be_bytes());
            hasher.update(key.key.as_bytes());
        }
        hasher.update(&self.revoked.number.to_be_bytes());
        hasher.update(&self.signed.0.to_be_bytes());
        hasher.update(&self.signed.1.to_be_bytes());
        let digest = hasher.finalize();
        let number = u64::from_be_bytes(*digest.as_bytes().first_chunk().expect("a digest has 32 bytes"));
        (number >> 11).max(1)
    }
}

/// Answers at once if there is something that the node does not know, else when there is, or when its time is over.
/// Neighbours come and go too often to be a reason; each answer has the present ones.
pub(super) async fn head(
    State(app): State<Arc<App>>,
    CallingNode(node): CallingNode,
    Arguments(poll): Arguments<Poll>,
) -> Result<Json<Head>, Refusal> {
    if let Some(instance) = poll.instance
        && app.instances.heard(node, instance)
    {
        tracing::warn!(%node, "the identity of this node is in two places");
        app.blocking(move |app| Ok(app.catalogue.set_twice(node, UnixSeconds::now())?))
            .await?;
    }
    let wait = Duration::from_secs(poll.wait.min(POLL_SECONDS_MAX));
    // An answer is also news that nobody was revoked.
    let news = app.offline_grace.map_or(wait, |grace| grace / NEWS_PER_GRACE);
    let deadline = Instant::now() + wait.min(news);
    let mut changes = app.changes();
    let mut stopping = app.stopping();
    let essence = loop {
        // Before it is read, so that no change falls in between.
        changes.borrow_and_update();
        let essence = app.blocking(move |app| Essence::read(app, node)).await?;
        if essence.cursor() != poll.cursor || Instant::now() >= deadline || *stopping.borrow() {
            break essence;
        }
        tokio::select! {
            _ = changes.changed() => {}
            () = tokio::time::sleep_until(deadline) => {}
            () = stopped(&mut stopping) => {}
        }
    };
    app.saw(node);
    let known = Edition {
        number: poll.revocations,
        issued: poll.issued,
    };
    app.blocking(move |app| answer(app, essence, known)).await.map(Json)
}

fn answer(app: &App, essence: Essence, known: Edition) -> Result<Head, Refusal> {
    let cursor = essence.cursor();
    let now = UnixSeconds::now();
    let node = essence.node.node;
    let since = UnixSeconds(now.0.saturating_sub(NEIGHBOUR_SEEN_SECONDS));
    let list = essence.node.assigned.as_ref().map(|release| release.list);
    let assignment = app.authority.sign(Assignment {
        kind: AssignmentKind::Assignment,
        format: ASSIGNMENT_FORMAT,
        node,
        sequence: essence.node.sequence,
        issued: now,
        expires: UnixSeconds(now.0 + ASSIGNMENT_SECONDS),
        release: essence.node.assigned,
    });
    // Views of who sits in a crowd's seats have to agree: they begin with this one.
    let mut neighbours = Vec::new();
    if let Some(list) = list {
        let nearest = app.catalogue.nearest(node, list, since, SEATS_MAX)?;
        neighbours = ring::suggested(&list, node, nearest, |neighbour| neighbour.node);
    }
    let sites = app.catalogue.sites(node)?;
    let shared = app.sites.shared(&sites);
    for other in app.catalogue.neighbours(node, shared, since, NEIGHBOURS_MAX)? {
        if neighbours.iter().all(|known: &Neighbour| known.node != other.node) {
            neighbours.push(other);
        }
    }
    // After the assignment was read: what is assigned has been signed by now.
    let trust = match &app.signing {
        Some(signing) => signing.turn().told(now)?,
        None => None,
    };
    let edition = Edition {
        number: essence.revoked.number,
        issued: now,
    };
    let revocations = known.is_outdated_by(edition).then(|| {
        app.authority.sign_revocations(Revocations {
            kind: RevocationsKind::Revocations,
            format: REVOCATIONS_FORMAT,
            number: edition.number,
            issued: edition.issued,
            grace_seconds: app.offline_grace.map(|grace| grace.as_secs()),
            nodes: essence.revoked.nodes.clone(),
        })
    });
    Ok(Head {
        cursor,
        assignment,
        audiences: essence.keys.audiences,
        fleet_keys: essence.keys.fleet,
        neighbours,
        population: app.catalogue.population(node)?,
        site: site::name(&sites),
        trust,
        halted: essence.halted,
        time: now,
        revocations,
        audit: Some(app.catalogue.audit_log(u64::MAX, 0)?.newest),
    })
}
