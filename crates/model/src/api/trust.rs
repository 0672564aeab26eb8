//! What publishers and the server say to each other about keys and signatures.

use serde::{Deserialize, Serialize};

use super::Release;
use crate::Digest;

/// The most bytes of a `TrustChange`: targets of the largest size, written as a JSON string.
pub const TRUST_CHANGE_BYTES_MAX: usize = 40 << 20;

/// `GET /v1/trust`: what has been signed, for those who sign.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, schemars::JsonSchema)]
pub struct TrustInfo {
    /// `1.root.json`, `2.root.json`, and so on, as they were signed.
    pub roots: Vec<String>,
    /// `targets.json`, as it was signed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub targets: Option<String>,
    /// Roles (`root`, `targets`, `snapshot`, `timestamp`) whose keys are on the server.
    pub held: Vec<String>,
    /// Lists of all releases that the server has.
    pub lists: Vec<Digest>,
    /// A change that has not enough signatures yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waiting: Option<TrustChange>,
}

/// `PUT /v1/trust`: a change that somebody has signed, or a signature more for the one that waits.
///
/// 409 with an `ApiError` of kind `conflict` if it does not follow what is in force, or if another change waits.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, schemars::JsonSchema)]
pub struct TrustChange {
    /// The next root.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub root: Option<String>,
    /// The next targets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub targets: Option<String>,
    /// Lists of releases, uploaded with all that they name, that become visible with it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub releases: Vec<Digest>,
}

/// Answer to a `TrustChange`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, schemars::JsonSchema)]
pub struct TrustAnswer {
    /// Whether it is in force. If not, it waits for signatures.
    pub applied: bool,
    /// What it lacks, for people.
    pub lacking: Vec<String>,
    /// The releases that are visible now, or will be.
    pub releases: Vec<Release>,
}

/// Answer to `POST /v1/trust/online`: fresh keys that the server has made, for the next root to name.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, schemars::JsonSchema)]
pub struct OnlineKeys {
    /// `ed25519:` and 64 hexadecimal digits.
    pub snapshot: String,
    /// The same.
    pub timestamp: String,
}
