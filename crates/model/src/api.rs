//! What the server, the agents and the command line say to each other over HTTPS, in JSON.
//!
//! All paths begin with `/v1`. docs/protocol.md lists the routes; the server generates the OpenAPI document from them.

mod identity;
mod trust;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use crate::assignment::{Assignment, Root, Signed};
use crate::audit::Checkpoint;
use crate::revocations::Revocations;
use crate::trace::{Event, Ignored, Recap};
use crate::{AudienceName, ConfigurationName, Digest, LabelKey, NodeId, StepId, UnixSeconds, VersionName};

pub use identity::{
    HeadQuery, OPERATOR_NAME_MAX, OperatorAnswer, OperatorInfo, OperatorRequest, REASON_BYTES_MAX,
    REVOKED_PER_REQUEST_MAX, RenewAnswer, RenewRequest, RevokeAnswer, RevokeRequest, Standing, is_operator_name,
};

pub use trust::{OnlineKeys, TRUST_CHANGE_BYTES_MAX, TrustAnswer, TrustChange, TrustInfo};

/// Labels or facts: short values by key.
pub type Labels = BTreeMap<LabelKey, String>;

/// The most seconds that a long poll waits.
pub const POLL_SECONDS_MAX: u64 = 55;
/// The most chunks that one request may name.
pub const CHUNKS_PER_REQUEST_MAX: usize = 8_192;
/// The most bytes of chunks that one upload may carry.
pub const UPLOAD_BYTES_MAX: usize = 96 << 20;
/// The most events of one report.
pub const EVENTS_PER_REPORT_MAX: usize = 2_000;
/// In the answer to a request for chunks: this instead of a length says that the server does not have the chunk.
pub const CHUNK_ABSENT: u32 = u32::MAX;

/// `POST /v1/join`, without a certificate; the token is the credential.
#[derive(Clone, Debug, Serialize, Deserialize, schemars::JsonSchema)]
pub struct JoinRequest {
    /// `Token::to_hex`.
    pub token: String,
    /// Certificate signing request, PEM. Only its key is used.
    pub csr: String,
    /// What the node says of itself.
    pub facts: Labels,
    /// `--label`: kept only where the token permits the key.
    pub labels: Labels,
    /// The node whose data directory this machine has and does not own: then an operator decides.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replaces: Option<NodeId>,
    /// The token is an operator's: the answer is an `OperatorAnswer`.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub operator: bool,
    /// Digest of the trusted root that the join string names; without it, the server gives the newest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub root: Option<Digest>,
}

/// Answer to a `JoinRequest`.
#[derive(Clone, Debug, Serialize, Deserialize, schemars::JsonSchema)]
pub struct JoinAnswer {
    /// The id that the server assigned.
    pub node: NodeId,
    /// The node's certificate, PEM.
    pub certificate: String,
    /// The CA's certificate, PEM.
    pub ca: String,
    /// The trusted root, whose digest is in the join string.
    pub root: Root,
}

/// `PUT /v1/node/presence`: where the node's peers can reach it, and what it says of itself.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Presence {
    /// Addresses of its peer port (TCP and UDP), at most 16.
    pub addresses: Vec<SocketAddr>,
    /// Operating system, architecture, host name and such; at most 64.
    pub facts: Labels,
    /// Version of the agent.
    pub version: String,
    /// Networks that the addresses are on-link in, such as `10.1.2.0/23`; at most 16.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub networks: Vec<String>,
}

/// `GET /v1/node/head?cursor=N&wait=SECONDS`: the small part that must come from the server.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Head {
    /// To be given with the next request; that one waits until something differs from this answer.
    pub cursor: u64,
    /// What this node is assigned.
    pub assignment: Signed<Assignment>,
    /// Keys of the audiences that the node belongs to.
    pub audiences: Vec<AudienceKey>,
    /// Keys that seal datagrams: the first seals, all open. At most 4.
    pub fleet_keys: Vec<FleetKey>,
    /// Some nodes of this one's site, and of those that share with it; at most 64.
    pub neighbours: Vec<Neighbour>,
    /// About how many nodes share this node's site.
    pub population: u32,
    /// The name of this node's site in the operator's site map, if it is in one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub site: Option<String>,
    /// What publishers have signed. Absent in fleets that were made before releases were signed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trust: Option<ReleaseTrust>,
    /// No step may start.
    pub halted: bool,
    /// The server's clock.
    pub time: UnixSeconds,
    /// The list of revoked nodes, if it differs from the one that the node has, or was signed much later.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revocations: Option<Signed<Revocations>>,
    /// The end of the audit log.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub audit: Option<Checkpoint>,
}

/// Metadata of The Update Framework, each file as it was signed.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, schemars::JsonSchema)]
pub struct ReleaseTrust {
    /// `1.root.json`, `2.root.json`, and so on.
    pub roots: Vec<String>,
    /// `timestamp.json`.
    pub timestamp: String,
    /// `snapshot.json`. Its `x-blake3` names the targets, which are content (`GET /v1/content/DIGEST`).
    pub snapshot: String,
    /// `targets.json`. The server leaves it out; a node adds it when it has fetched it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub targets: Option<String>,
}

/// The key of an audience: from it identifiers in datagrams are derived, and with it nodes prove that they belong.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct AudienceKey {
    /// Which audience.
    pub audience: AudienceName,
    /// 32 secret bytes, in hexadecimal digits.
    pub key: String,
}

/// The key that seals datagrams.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct FleetKey {
    /// Number of the key.
    pub epoch: u32,
    /// 32 secret bytes, in hexadecimal digits.
    pub key: String,
}

impl std::fmt::Debug for AudienceKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "AudienceKey({})", self.audience)
    }
}

impl std::fmt::Debug for FleetKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "FleetKey({})", self.epoch)
    }
}

/// A peer that the server suggests.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Neighbour {
    /// Who.
    pub node: NodeId,
    /// Where its peer port is.
    pub addresses: Vec<SocketAddr>,
    /// Whether it is of another site, with which the node's own shares.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub shared: bool,
}

/// `POST /v1/node/events`: answered with 204 once it is kept.
#[derive(Clone, Debug, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Events {
    /// At most `EVENTS_PER_REPORT_MAX`, oldest first.
    pub events: Vec<Event>,
}

/// `POST /v1/tokens`.
#[derive(Clone, Debug, Serialize, Deserialize, schemars::JsonSchema)]
pub struct TokenRequest {
    /// How many nodes may join with it.
    pub uses: u32,
    /// Seconds for which it is valid.
    pub ttl_seconds: u64,
    /// Labels that nodes get that join with it.
    pub labels: Labels,
    /// Whether an operator has to approve each node.
    #[serde(default)]
    pub approval: bool,
}

/// Answer to a `TokenRequest`.
#[derive(Clone, Debug, Serialize, Deserialize, schemars::JsonSchema)]
pub struct TokenAnswer {
    /// The join string.
    pub join: String,
    /// When it expires.
    pub expires: UnixSeconds,
}

/// `POST /v1/configurations/NAME/releases`: makes a release of a list that has been uploaded with all it names.
///
/// 409 with an `ApiError` of kind `conflict` if another release came between; 422 `content-missing` if bytes are missing.
#[derive(Clone, Debug, Serialize, Deserialize, schemars::JsonSchema)]
pub struct PublishRequest {
    /// Digest of the list.
    pub list: Digest,
    /// Only these nodes may execute it; all may, if absent. For servers that hold the publishers' key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub only: Option<BTreeSet<NodeId>>,
    /// From now on no release of the configuration with a lower number is executed. Likewise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub minimum: Option<u64>,
}

/// A release, as the server knows it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Release {
    /// Its configuration.
    pub configuration: ConfigurationName,
    /// Its number.
    pub release: u64,
    /// Its name for people.
    pub version: Option<VersionName>,
    /// Digest of its list.
    pub list: Digest,
    /// Bytes of its list.
    pub list_size: u64,
    /// Files in it.
    pub files: u64,
    /// Bytes of its files.
    pub bytes: u64,
    /// When it was published.
    pub published: UnixSeconds,
}

/// `GET /v1/configurations`, and one of them at `/v1/configurations/NAME`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Configuration {
    /// Its name.
    pub name: ConfigurationName,
    /// Its releases, newest first; at most 100.
    pub releases: Vec<Release>,
}

/// Whom an assignment is for.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Target {
    /// Every node.
    All,
    /// Nodes whose labels match a selector, as written (`role=web,site!=lab`).
    Where(String),
    /// One node.
    Node(NodeId),
}

/// `POST /v1/assignments`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, schemars::JsonSchema)]
pub struct AssignRequest {
    /// The configuration.
    pub configuration: ConfigurationName,
    /// The number or name of a release; without it, the newest release, also when a newer one is published.
    pub version: Option<String>,
    /// For whom.
    pub target: Target,
}

/// An assignment, as the server knows it: a rollout, for now of one wave.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, schemars::JsonSchema)]
pub struct AssignmentInfo {
    /// Its number; the higher, the later.
    pub id: u64,
    /// The configuration.
    pub configuration: ConfigurationName,
    /// The release it is pinned to; none: the newest.
    pub release: Option<u64>,
    /// For whom.
    pub target: Target,
    /// When it was made.
    pub made: UnixSeconds,
    /// The waves in which it reaches its nodes.
    pub waves: Vec<Wave>,
    /// Whether it waits.
    pub halted: bool,
    /// Nodes that it matches now.
    pub matches: u32,
}

/// A part of a rollout.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Wave {
    /// Which share of the nodes has it after this wave, in percent.
    pub percent: u8,
    /// Whether it has begun.
    pub started: bool,
}

/// `POST /v1/halt`: for the whole fleet.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, schemars::JsonSchema)]
pub struct HaltRequest {
    /// `true` halts, `false` resumes.
    pub halted: bool,
}

/// `POST /v1/gc`: removes what nobody needs any more.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, schemars::JsonSchema)]
pub struct GcRequest {
    /// How many releases of each configuration stay, the newest ones, at least 1. What is assigned stays in any case.
    pub keep: u64,
    /// Chunks that were uploaded, or that a publisher was told are there, in the last so many seconds stay.
    pub grace_seconds: u64,
}

/// Answer to a `GcRequest`: what was removed.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, schemars::JsonSchema)]
pub struct GcReport {
    /// The releases.
    pub releases: Vec<ReleaseName>,
    /// Files of several chunks.
    pub files: u64,
    /// Chunks.
    pub chunks: u64,
    /// Bytes of chunks.
    pub bytes: u64,
    /// Packs that are gone.
    pub packs: u64,
    /// Of these, the ones whose other chunks were moved into new packs.
    pub packs_rewritten: u64,
    /// Bytes of unused chunks that stay for now: too young, or in packs that are used for the most part.
    pub bytes_left: u64,
}

/// A node, as the server knows it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, schemars::JsonSchema)]
pub struct NodeInfo {
    /// Its id.
    pub node: NodeId,
    /// Labels, from its token or the operator.
    pub labels: Labels,
    /// What it says of itself; `hostname` is among them.
    pub facts: Labels,
    /// Where its peer port is.
    pub addresses: Vec<SocketAddr>,
    /// Its site: a name from the operator's site map, or the networks that it is in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub site: Option<String>,
    /// Whether it belongs to the fleet.
    #[serde(default, skip_serializing_if = "Standing::is_admitted")]
    pub standing: Standing,
    /// Why it was revoked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// When its identity was last seen in two places: two machines have the same key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub twice: Option<UnixSeconds>,
    /// What its key is recognised by, for people: the node's log says the same.
    #[serde(default)]
    pub fingerprint: String,
    /// When it joined.
    pub joined: UnixSeconds,
    /// When it last spoke to the server.
    pub seen: UnixSeconds,
    /// Whether it waits at the server now.
    pub online: bool,
    /// What it is assigned.
    pub assigned: Option<ReleaseName>,
    /// How far it is with that.
    pub progress: Progress,
}

/// A release by name and number.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, schemars::JsonSchema)]
pub struct ReleaseName {
    /// The configuration.
    pub configuration: ConfigurationName,
    /// The number of the release.
    pub release: u64,
}

/// How far a node is with what it is assigned, from its events.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Progress {
    /// The state.
    pub state: NodeState,
    /// The step that runs.
    pub step: Option<StepId>,
    /// How the steps ended, once all have.
    pub recap: Option<Recap>,
    /// Bytes that were here already.
    pub held_bytes: u64,
    /// Bytes from peers.
    pub peer_bytes: u64,
    /// Bytes from the server.
    pub origin_bytes: u64,
    /// Seconds from the request for the list to the end.
    pub millis: Option<u64>,
    /// The last trouble, if it came after the last success.
    pub trouble: Option<String>,
    /// What it ignored of what came over the network, since its agent started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ignored: Option<Ignored>,
}

/// States of a node, in order of progress.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum NodeState {
    /// Nothing is assigned.
    #[default]
    Unassigned,
    /// Assigned, and not begun.
    Waiting,
    /// Files are being fetched.
    Fetching,
    /// Steps are being executed.
    Executing,
    /// A halt keeps steps from starting.
    Halted,
    /// All steps ended well.
    Converged,
    /// A step did not.
    Failed,
}

/// `GET /v1/nodes/NODE/events?after=N&list=DIGEST&limit=M`: events in the order in which the server got them.
#[derive(Clone, Debug, Serialize, Deserialize, schemars::JsonSchema)]
pub struct NodeEvents {
    /// The events.
    pub events: Vec<Event>,
    /// To be given as `after` for the rest; absent if this was all.
    pub next: Option<u64>,
    /// Number of the last of these: to be given as `after` later, for what has come since. Absent if there are none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last: Option<u64>,
}

/// `GET /v1/status`.
#[derive(Clone, Debug, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Status {
    /// Version of the server.
    pub version: String,
    /// The server's clock.
    pub time: UnixSeconds,
    /// Whether the fleet is halted.
    pub halted: bool,
    /// Who holds the key that decides what may be executed, in a sentence for people.
    pub trust: String,
    /// Assignments in force.
    pub assignments: Vec<AssignmentInfo>,
    /// Nodes: all of them, by id.
    pub nodes: Vec<NodeInfo>,
    /// Bytes of chunks that the server stores.
    pub stored_bytes: u64,
}

/// The body of every answer that is an error.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, schemars::JsonSchema)]
pub struct ApiError {
    /// The kind, for programs.
    pub error: ErrorKind,
    /// What was asked, why it failed, what to do: for people.
    pub message: String,
}

/// Kinds of errors.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ErrorKind {
    /// The request itself is wrong. 400.
    BadRequest,
    /// No certificate, or not one that may do this. 403.
    Forbidden,
    /// The node waits until an operator approves it. 403.
    Pending,
    /// The node was revoked. 403.
    Revoked,
    /// The certificate has expired: it is good for renewal alone. 403.
    Expired,
    /// The token is unknown, expired or used up. 403.
    Token,
    /// There is no such thing. 404.
    NotFound,
    /// Somebody else was faster, or two assignments tie. 409.
    Conflict,
    /// More than the limit. 413.
    TooLarge,
    /// Content that a list names has not been uploaded. 422.
    ContentMissing,
    /// The server's disk is full. 507.
    NoSpace,
    /// The server is at fault. 500.
    Internal,
    /// Too much to do; come back later. 503.
    Busy,
}
