//! Who belongs to the fleet: renewing certificates, approving and revoking nodes, operators.

use serde::{Deserialize, Serialize};

use crate::assignment::Root;
use crate::revocations::Edition;
use crate::{NodeId, UnixSeconds};

/// The most nodes that one request may revoke.
pub const REVOKED_PER_REQUEST_MAX: usize = 1_000;
/// The most bytes of the reason for a revocation.
pub const REASON_BYTES_MAX: usize = 256;

/// `POST /v1/node/renew`: also with a certificate that has expired, if its node was not revoked.
#[derive(Clone, Debug, Serialize, Deserialize, schemars::JsonSchema)]
pub struct RenewRequest {
    /// Certificate signing request, PEM, for the key that the node joined with. Nothing else in it is used.
    pub csr: String,
}

/// Answer to a `RenewRequest`.
#[derive(Clone, Debug, Serialize, Deserialize, schemars::JsonSchema)]
pub struct RenewAnswer {
    /// The node's new certificate, PEM.
    pub certificate: String,
}

/// Whether a node belongs to the fleet.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Standing {
    /// It does.
    #[default]
    Admitted,
    /// It waits for an operator: it has no certificate, no keys and no assignment.
    Pending,
    /// It does not any more.
    Revoked,
}

impl Standing {
    /// Whether the node belongs to the fleet.
    pub fn is_admitted(&self) -> bool {
        *self == Self::Admitted
    }
}

/// `POST /v1/revocations`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, schemars::JsonSchema)]
pub struct RevokeRequest {
    /// Nodes by id, by an unambiguous beginning of it, or by host name: 1 to `REVOKED_PER_REQUEST_MAX`.
    pub nodes: Vec<String>,
    /// Why, for people: at most `REASON_BYTES_MAX` bytes.
    #[serde(default)]
    pub reason: String,
}

/// Answer to a `RevokeRequest`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, schemars::JsonSchema)]
pub struct RevokeAnswer {
    /// Those that were not revoked before.
    pub revoked: Vec<NodeId>,
}

/// The query of `GET /v1/node/head`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct HeadQuery {
    /// `cursor` of the answer before; 0: answer at once.
    pub cursor: u64,
    /// Seconds to wait, at most `POLL_SECONDS_MAX`, for something that differs from the answer before.
    pub wait: u64,
    /// The list of revoked nodes that the node has.
    pub revocations: Edition,
    /// A number that this start of the agent drew by lot: two that come by turns are two machines with one identity.
    pub instance: u64,
}

/// The most characters of an operator's name: lower-case letters, digits and `-`, not at the ends.
pub const OPERATOR_NAME_MAX: usize = 40;

/// `POST /v1/operators`: answered with a `TokenAnswer`, whose join string is for `potluck operator join`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, schemars::JsonSchema)]
pub struct OperatorRequest {
    /// The operator's name. If there is one of that name, it gets another key, and the one of before is good for nothing.
    pub name: String,
    /// Seconds for which the join string is valid.
    pub ttl_seconds: u64,
}

/// Answer to a `JoinRequest` with the join string of an operator.
#[derive(Clone, Debug, Serialize, Deserialize, schemars::JsonSchema)]
pub struct OperatorAnswer {
    /// The operator's name.
    pub operator: String,
    /// The operator's certificate, PEM.
    pub certificate: String,
    /// The CA's certificate, PEM.
    pub ca: String,
    /// The trusted root, whose digest is in the join string.
    pub root: Root,
}

/// An operator, as the server knows it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, schemars::JsonSchema)]
pub struct OperatorInfo {
    /// The name.
    pub name: String,
    /// What the operator's key is recognised by, for people.
    pub fingerprint: String,
    /// When it got its key.
    pub added: UnixSeconds,
    /// When it was removed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub removed: Option<UnixSeconds>,
}

/// Whether a text is a name for an operator.
pub fn is_operator_name(text: &str) -> bool {
    let good = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    !text.is_empty()
        && text.len() <= OPERATOR_NAME_MAX
        && text.bytes().all(good)
        && !text.starts_with('-')
        && !text.ends_with('-')
}
