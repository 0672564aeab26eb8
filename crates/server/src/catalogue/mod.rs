//! Everything the server knows apart from the bytes: the narrow interface that a database stands behind.
//!
//! Guarantees that every implementation gives, and `suite` checks:
//! - A method that changes something is one transaction; when it returns, the change is durable.
//! - `change` grows with every change that a waiting node may have to hear of.
//! - What a node is assigned changes in the transaction that is the cause of it, and its sequence number grows with it,
//!   also across a restore from an older copy (it is never below the Unix time of the change).
//!
//! Methods block: call them where blocking is allowed.

mod membership;
mod sqlite;
#[cfg(test)]
mod suite;

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;

use potluck_model::api::{
    AudienceKey, Configuration, FleetKey, Labels, Neighbour, NodeState, Progress, Release, Standing, Target, Wave,
};
use potluck_model::assignment::AssignedRelease;
use potluck_model::audit::AuditLog;
use potluck_model::list::Content;
use potluck_model::trace::Event;
use potluck_model::{ConfigurationName, Digest, NodeId, UnixSeconds, VersionName};

pub(crate) use membership::{
    NewAuditEntry, NewToken, OperatorRecord, Redeemed, RedeemedOperator, Redemption, Revocation, Revoked,
};
pub(crate) use sqlite::SqliteCatalogue;

use crate::blobs::{PackId, Stored};
use crate::gc::Used;
use crate::site::SiteKey;

/// The most nodes of one server.
pub(crate) const NODES_MAX: u64 = 100_000;
/// For how long nodes open datagrams with a key that was replaced: those that did not hear of the new one yet use it.
pub(crate) const FLEET_KEY_GRACE_SECONDS: u64 = 600;
/// Keys for datagrams that are kept.
pub(crate) const FLEET_KEYS_MAX: usize = 4;
/// The most assignments.
pub(crate) const ASSIGNMENTS_MAX: u64 = 10_000;
/// The most tokens that have not expired.
pub(crate) const TOKENS_MAX: u64 = 100_000;
/// The events kept of each node; older ones make room.
pub(crate) const EVENTS_PER_NODE_MAX: u64 = 50_000;
/// A pack that was used at most this long ago need not be marked as used again.
pub(crate) const RELY_SLACK_SECONDS: u64 = 300;
/// The bytes kept of the events of each node, as JSON; older ones make room.
pub(crate) const EVENT_BYTES_PER_NODE_MAX: u64 = 16 << 20;
/// The releases that `configuration` and `configurations` tell of, newest first.
pub(crate) const RELEASES_TOLD_MAX: u64 = 100;

/// Why the catalogue did not do what was asked. Nothing was changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CatalogueError {
    /// No room on the disk.
    #[error("no room left on the disk of the server")]
    Full,
    /// Written by a newer version.
    #[error("the database has format {0}, newer than this version of Potluck knows: update it")]
    Newer(i64),
    /// What is stored does not parse.
    #[error("the database is damaged ({0}): restore it from a backup")]
    Damaged(String),
    /// The database refused or failed.
    #[error("{0}")]
    Database(String),
}

/// Result of the catalogue.
pub(crate) type Result<T> = std::result::Result<T, CatalogueError>;

/// What the server knows. See the module for what each implementation guarantees.
pub(crate) trait Catalogue: Send + Sync {
    /// The number of the last change that a node may have to hear of.
    fn change(&self) -> Result<u64>;
    /// Something that waiting nodes have to hear of has changed elsewhere than here.
    fn announce(&self) -> Result<()>;
    /// The secrets of the fleet, with keys for datagrams that are still opened at `now`.
    fn keys(&self, now: UnixSeconds) -> Result<FleetKeys>;

    /// Where chunks are, in the order of `digests`.
    fn chunks(&self, digests: &[Digest]) -> Result<Vec<Option<Stored>>>;
    /// The same, for somebody who goes on to count on those that are there: their packs count as used at `now`, or at
    /// most `RELY_SLACK_SECONDS` before.
    fn rely(&self, digests: &[Digest], now: UnixSeconds) -> Result<Vec<Option<Stored>>>;
    /// Calls `visit` with every chunk, in no particular order, from one consistent state.
    fn each_chunk(&self, visit: &mut dyn FnMut(&Digest, Stored)) -> Result<()>;
    /// Records the chunks of a pack that is durable already. Chunks that are known stay where they were.
    fn add_pack(&self, pack: PackId, chunks: Vec<(Digest, Stored)>) -> Result<()>;
    /// The packs that are recorded.
    fn packs(&self) -> Result<BTreeSet<PackId>>;
    /// Those that were not used since `cutoff`.
    fn packs_unused_since(&self, cutoff: UnixSeconds) -> Result<BTreeSet<PackId>>;
    /// Bytes of all chunks.
    fn stored_bytes(&self) -> Result<u64>;
    /// A file of several chunks that a release names.
    fn file(&self, digest: &Digest) -> Result<Option<Content>>;

    /// How many times chunks have been removed. To be read before the content of a release is checked.
    fn sweeps(&self) -> Result<u64>;
    /// Removes releases but the newest `keep` of each configuration (at least 1) and those that an assignment names or a
    /// node is assigned. Returns what was removed.
    fn remove_releases(&self, keep: u64) -> Result<Vec<Release>>;
    /// How many releases have been published, and the lists of those that are there.
    fn lists(&self) -> Result<(u64, BTreeSet<Digest>)>;
    /// Forgets the cuts of files that no release names; how many. `None`, and nothing happens, if something was published
    /// since `published`.
    fn retain_files(&self, published: u64, used: Arc<Used>) -> Result<Option<u64>>;
    /// Forgets packs and what is in them. Returns those it did; a pack that was used meanwhile stays as it is. `None`,
    /// and nothing happens, if something was published meanwhile.
    fn sweep(&self, sweep: Sweep) -> Result<Option<Vec<PackId>>>;
    /// Makes a release visible, whole or not at all. Its content has been checked.
    fn publish(&self, release: NewRelease) -> Result<Published>;
    /// All configurations, by name.
    fn configurations(&self) -> Result<Vec<Configuration>>;
    /// One configuration with its newest releases.
    fn configuration(&self, name: &ConfigurationName) -> Result<Option<Configuration>>;
    /// The release with this number and the one with this name, if there are any.
    fn releases(&self, name: &ConfigurationName, version: &str) -> Result<Vec<Release>>;

    /// Keeps a token.
    fn add_token(&self, token: NewToken) -> Result<bool>;
    /// Uses a token up by one and admits a node. The same key with the same token again gets the same id, at no cost.
    fn redeem(&self, redemption: Redemption) -> Result<Redeemed>;

    /// Digest of a node's key, and whether it belongs to the fleet. `None`: there is no such node.
    fn standing(&self, node: NodeId) -> Result<Option<(Digest, Standing)>>;
    /// Admits a node that waits for that, and assigns it. `None`: there is no such node; else what it was before.
    fn approve(&self, node: NodeId, now: UnixSeconds) -> Result<Option<Standing>>;
    /// Puts nodes out of the fleet for good, and makes a new key for datagrams. Returns those that were not out before.
    fn revoke(&self, revocation: Revocation) -> Result<Vec<NodeId>>;
    /// Notes that the identity of a node was seen in two places.
    fn set_twice(&self, node: NodeId, at: UnixSeconds) -> Result<()>;
    /// The nodes that were revoked since `since`, the latest `limit` of them, ascending.
    fn revoked(&self, since: UnixSeconds, limit: usize) -> Result<Revoked>;
    /// All operators that there are or were, by name.
    fn operators(&self) -> Result<Vec<OperatorRecord>>;
    /// The operator of this name has this key, and no other one any more.
    fn set_operator(&self, name: &str, key: Digest, now: UnixSeconds) -> Result<()>;
    /// Uses an operator's token up. The same key with the same token again gets the same answer.
    fn redeem_operator(&self, token: Digest, key: Digest, now: UnixSeconds) -> Result<RedeemedOperator>;
    /// The operator of this name may do nothing any more. `false`: there is no such operator.
    fn remove_operator(&self, name: &str, now: UnixSeconds) -> Result<bool>;
    /// Adds to the audit log; the number of the entry.
    fn audit(&self, entry: NewAuditEntry) -> Result<u64>;
    /// Entries of the audit log with numbers above `after`, and the end of the log.
    fn audit_log(&self, after: u64, limit: usize) -> Result<AuditLog>;

    /// A node.
    fn node(&self, node: NodeId) -> Result<Option<NodeRecord>>;
    /// All nodes, by id.
    fn nodes(&self) -> Result<Vec<NodeRecord>>;
    /// Nodes whose id begins with `text` or whose `hostname` is `text`; at most 10.
    fn find_nodes(&self, text: &str) -> Result<Vec<NodeId>>;
    /// Sets a node's labels, and assigns it anew. `false`: there is no such node.
    fn set_labels(&self, node: NodeId, labels: Labels) -> Result<bool>;
    /// Sets where a node is and what it says of itself. `false`: there is no such node.
    fn set_presence(&self, node: NodeId, presence: PresenceRecord) -> Result<bool>;
    /// Sets when nodes were last heard of.
    fn set_seen(&self, seen: Vec<(NodeId, UnixSeconds)>) -> Result<()>;
    /// The sites that a node is in.
    fn sites(&self, node: NodeId) -> Result<BTreeSet<SiteKey>>;
    /// Other nodes for this one to ask: those of its sites, of these the ones seen since `since` first, then those of the
    /// sites `shared` seen since then; at most `limit`, another choice for each node.
    fn neighbours(
        &self,
        node: NodeId,
        shared: Vec<SiteKey>,
        since: UnixSeconds,
        limit: usize,
    ) -> Result<Vec<Neighbour>>;
    /// Other nodes of this one's sites that are assigned this list and were seen since `since`: those that stand nearest
    /// behind the list's place on the ring (`ring`), nearest first, at most `limit`. The same for all who ask.
    fn nearest(&self, node: NodeId, list: Digest, since: UnixSeconds, limit: usize) -> Result<Vec<Neighbour>>;
    /// Another map than the one with this number may have said which sites nodes are in: they are in none until they say
    /// again where they are. Whether that was so.
    fn use_site_map(&self, number: u64) -> Result<bool>;
    /// How many nodes share a site with this one, itself among them.
    fn population(&self, node: NodeId) -> Result<u32>;

    /// Assigns. An assignment with the same target is replaced.
    fn assign(&self, assignment: NewAssignment) -> Result<Assigned>;
    /// Takes assignments back: the one with this number, or those of a configuration. Returns what was taken back.
    fn unassign(&self, which: Unassign) -> Result<Vec<AssignmentRecord>>;
    /// All assignments, in the order in which they were made.
    fn assignments(&self) -> Result<Vec<AssignmentRecord>>;
    /// Whether the fleet is halted.
    fn halted(&self) -> Result<bool>;
    /// Halts the fleet, or lets it go on.
    fn set_halted(&self, halted: bool) -> Result<()>;

    /// Keeps events of a node, each once, and follows its progress. `None`: there is no such node.
    fn add_events(&self, node: NodeId, events: Vec<Event>) -> Result<Option<Transition>>;
    /// Events of a node in the order in which they came: number and event, of numbers above `after`.
    fn events(&self, node: NodeId, after: u64, list: Option<Digest>, limit: usize) -> Result<Vec<(u64, Event)>>;
}

/// The secrets of the fleet.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct FleetKeys {
    /// Keys of audiences; for now every node belongs to each.
    pub(crate) audiences: Vec<AudienceKey>,
    /// Keys for datagrams, the first seals.
    pub(crate) fleet: Vec<FleetKey>,
}

/// A release to be made.
#[derive(Clone, Debug)]
pub(crate) struct NewRelease {
    /// What will be told of it.
    pub(crate) release: Release,
    /// Its files of several chunks.
    pub(crate) files: Vec<Content>,
    /// `sweeps` before its content was checked.
    pub(crate) sweeps: u64,
}

/// What is to be forgotten.
#[derive(Clone, Debug)]
pub(crate) struct Sweep {
    /// How many releases had been published when it was found out what they name.
    pub(crate) published: u64,
    /// A pack that was used since then stays.
    pub(crate) cutoff: UnixSeconds,
    /// Now.
    pub(crate) now: UnixSeconds,
    /// The packs.
    pub(crate) packs: Vec<PackId>,
    /// Their chunks that are in use, and where these are now; that pack is durable.
    pub(crate) moved: Vec<Moved>,
    /// Their other chunks.
    pub(crate) unused: Vec<(Digest, Stored)>,
}

/// A chunk that was copied.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Moved {
    /// Which.
    pub(crate) digest: Digest,
    /// Where it was.
    pub(crate) from: Stored,
    /// Where it is as well.
    pub(crate) to: Stored,
}

/// What became of a release.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Published {
    /// It is visible.
    New(Release),
    /// It is the newest already.
    Same(Release),
    /// Chunks were removed since `sweeps` was read: the content must be checked again.
    Swept,
    /// Its number is not the next one.
    Conflict {
        /// The newest number; 0 if there is none.
        newest: u64,
    },
    /// Another release has its name.
    VersionTaken {
        /// The name.
        version: VersionName,
        /// The number of the other.
        release: u64,
    },
}

/// A node as it is kept.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct NodeRecord {
    /// Its id.
    pub(crate) node: NodeId,
    /// Digest of its key.
    pub(crate) key: Digest,
    /// Labels.
    pub(crate) labels: Labels,
    /// Facts.
    pub(crate) facts: Labels,
    /// Addresses of its peer port.
    pub(crate) addresses: Vec<SocketAddr>,
    /// Its sites, for people.
    pub(crate) site: Option<String>,
    /// Version of its agent; empty before its first presence.
    pub(crate) version: String,
    /// When it joined.
    pub(crate) joined: UnixSeconds,
    /// When it was last heard of.
    pub(crate) seen: UnixSeconds,
    /// Sequence number of what it is assigned.
    pub(crate) sequence: u64,
    /// What it is assigned.
    pub(crate) assigned: Option<AssignedRelease>,
    /// How far it is.
    pub(crate) progress: Progress,
    /// Whether it belongs to the fleet.
    pub(crate) standing: Standing,
    /// When that was decided last.
    pub(crate) decided: UnixSeconds,
    /// Why it was revoked.
    pub(crate) reason: String,
    /// The node whose state it found on its disk.
    pub(crate) replaces: Option<NodeId>,
    /// When its identity was last seen in two places.
    pub(crate) twice: Option<UnixSeconds>,
}

/// Where a node is.
#[derive(Clone, Debug)]
pub(crate) struct PresenceRecord {
    /// Addresses of its peer port.
    pub(crate) addresses: Vec<SocketAddr>,
    /// Facts.
    pub(crate) facts: Labels,
    /// Version of its agent.
    pub(crate) version: String,
    /// The sites that it is in.
    pub(crate) sites: BTreeSet<SiteKey>,
    /// Now.
    pub(crate) now: UnixSeconds,
}

/// What became of an assignment.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Assigned {
    /// It is made.
    Made(AssignmentRecord),
    /// There are `ASSIGNMENTS_MAX` of them.
    TooMany,
    /// The release is not there, or not any more.
    NoRelease,
}

/// An assignment to be made.
#[derive(Clone, Debug)]
pub(crate) struct NewAssignment {
    /// The configuration.
    pub(crate) configuration: ConfigurationName,
    /// The release; none: the newest.
    pub(crate) release: Option<u64>,
    /// For whom.
    pub(crate) target: Target,
    /// Now.
    pub(crate) now: UnixSeconds,
}

/// An assignment as it is kept.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct AssignmentRecord {
    /// Its number.
    pub(crate) id: u64,
    /// The configuration.
    pub(crate) configuration: ConfigurationName,
    /// The release; none: the newest.
    pub(crate) release: Option<u64>,
    /// For whom.
    pub(crate) target: Target,
    /// When it was made.
    pub(crate) made: UnixSeconds,
    /// The waves.
    pub(crate) waves: Vec<Wave>,
    /// Whether it waits.
    pub(crate) halted: bool,
}

/// Which assignments are taken back.
#[derive(Clone, Debug)]
pub(crate) enum Unassign {
    /// One.
    Id(u64),
    /// All of a configuration.
    Configuration(ConfigurationName),
}

/// How a node's state changed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Transition {
    /// Before.
    pub(crate) before: NodeState,
    /// After.
    pub(crate) after: Progress,
    /// What it is assigned.
    pub(crate) assigned: Option<AssignedRelease>,
}
