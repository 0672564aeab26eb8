//! What comes and goes when nodes and operators do: tokens, what becomes of them, revocations, the audit log.

use potluck_model::api::Labels;
use potluck_model::{Digest, NodeId, UnixSeconds};

/// A token to be kept.
#[derive(Clone, Debug)]
pub(crate) struct NewToken {
    /// Its hash.
    pub(crate) hash: Digest,
    /// How many nodes may join with it.
    pub(crate) uses: u32,
    /// When it expires.
    pub(crate) expires: UnixSeconds,
    /// Labels for its nodes.
    pub(crate) labels: Labels,
    /// Whether its nodes wait for an operator.
    pub(crate) approval: bool,
    /// The operator that it is for, if it is not for nodes.
    pub(crate) operator: Option<String>,
}

/// What became of an operator's token.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum RedeemedOperator {
    /// This operator has the key now.
    Added(String),
    /// There is no such token.
    Unknown,
    /// It has expired.
    Expired,
    /// It has been used.
    UsedUp,
}

/// An operator as it is kept.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct OperatorRecord {
    /// Its name.
    pub(crate) name: String,
    /// Digest of its key.
    pub(crate) key: Digest,
    /// When it got it.
    pub(crate) added: UnixSeconds,
    /// When it was removed.
    pub(crate) removed: Option<UnixSeconds>,
}

/// What is to be added to the audit log; as in `AuditEntry`.
#[derive(Clone, Debug)]
pub(crate) struct NewAuditEntry {
    /// Who.
    pub(crate) operator: String,
    /// Method and path.
    pub(crate) request: String,
    /// With what.
    pub(crate) body: String,
    /// The entry whose request was not carried out.
    pub(crate) refused: Option<u64>,
    /// Now.
    pub(crate) now: UnixSeconds,
}

/// What a joining node presents.
#[derive(Clone, Debug)]
pub(crate) struct Redemption {
    /// Hash of its token.
    pub(crate) token: Digest,
    /// Digest of its key.
    pub(crate) key: Digest,
    /// Ids to try, in this order.
    pub(crate) ids: Vec<NodeId>,
    /// What it says of itself.
    pub(crate) facts: Labels,
    /// Labels that it wishes.
    pub(crate) labels: Labels,
    /// The node whose state it found on its disk; then it waits for an operator.
    pub(crate) replaces: Option<NodeId>,
    /// Now.
    pub(crate) now: UnixSeconds,
}

/// What became of a redemption.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Redeemed {
    /// Admitted.
    Admitted {
        /// Its id.
        node: NodeId,
        /// Its labels.
        labels: Labels,
    },
    /// Kept, and it waits for an operator.
    Pending {
        /// Its id.
        node: NodeId,
    },
    /// It joined before, and was revoked.
    Revoked,
    /// There is no such token.
    Unknown,
    /// It has expired.
    Expired,
    /// It has been used as often as it may.
    UsedUp,
    /// The server has `NODES_MAX` nodes.
    FleetFull,
}

/// Nodes to be put out of the fleet.
#[derive(Clone, Debug)]
pub(crate) struct Revocation {
    /// Which.
    pub(crate) nodes: Vec<NodeId>,
    /// Why, for people.
    pub(crate) reason: String,
    /// Now.
    pub(crate) now: UnixSeconds,
}

/// Who was revoked.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Revoked {
    /// Grows with each revocation.
    pub(crate) number: u64,
    /// The nodes, ascending.
    pub(crate) nodes: Vec<NodeId>,
}
