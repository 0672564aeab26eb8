//! Who does not belong to the fleet any more: the signed, numbered list of revoked nodes.
//!
//! The server makes it, nodes keep the newest that they saw and pass it on. Canonical JSON, signed like an assignment.

use serde::{Deserialize, Serialize};

use crate::assignment::{Root, Signed, TrustError};
use crate::{NodeId, UnixSeconds};

/// The version of this document that this version writes and reads.
pub const REVOCATIONS_FORMAT: u32 = 1;
/// The most nodes that a list names: the latest ones. The server refuses the others all the same.
pub const REVOKED_MAX: usize = 10_000;
/// The most bytes of a signed list: `REVOKED_MAX` ids of 19 bytes, and what is around them.
pub const REVOCATIONS_BYTES_MAX: usize = 200 << 10;
/// A list with the number that is known already is taken once it was issued so much later: it proves for longer that the
/// server has nobody else to name.
pub const REISSUE_SECONDS: u64 = 3_600;

/// The list of revoked nodes.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Revocations {
    /// `revocations`, so that no other signed document can stand in for it.
    #[serde(rename = "_type")]
    pub kind: RevocationsKind,
    /// `REVOCATIONS_FORMAT`.
    pub format: u32,
    /// Grows with every change of the list; a lower one than before is refused.
    pub number: u64,
    /// When it was signed.
    pub issued: UnixSeconds,
    /// For so long after that it counts where no newer one can be had; without an end if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grace_seconds: Option<u64>,
    /// The nodes, ascending, at most `REVOKED_MAX`.
    pub nodes: Vec<NodeId>,
}

/// The one value of `_type` of a list of revoked nodes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum RevocationsKind {
    /// A list of revoked nodes.
    #[default]
    Revocations,
}

impl Revocations {
    /// Whether the node was revoked.
    pub fn revokes(&self, node: NodeId) -> bool {
        self.nodes.binary_search(&node).is_ok()
    }

    /// What tells it from others: number and time of issue.
    pub fn edition(&self) -> Edition {
        Edition {
            number: self.number,
            issued: self.issued,
        }
    }
}

/// Which one of the lists of revoked nodes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default, Serialize, Deserialize)]
pub struct Edition {
    /// The list's number; 0: none at all.
    pub number: u64,
    /// When it was signed.
    pub issued: UnixSeconds,
}

impl Edition {
    /// Whether who has `self` should get `other` instead: it is another list, or proves the same for much longer.
    pub fn is_outdated_by(self, other: Self) -> bool {
        other.number > self.number
            || other.number == self.number && other.issued.0 >= self.issued.0.saturating_add(REISSUE_SECONDS)
    }
}

impl Root {
    /// Checks that `list` is signed and well-formed. Whether it is newer than what is known is the caller's to see.
    pub fn verify_revocations<'a>(&self, list: &'a Signed<Revocations>) -> Result<&'a Revocations, TrustError> {
        self.verify_signature(list)?;
        let document = &list.signed;
        if document.format > REVOCATIONS_FORMAT {
            return Err(TrustError::Format(document.format));
        }
        if document.nodes.len() > REVOKED_MAX || !document.nodes.is_sorted_by(|a, b| a < b) {
            return Err(TrustError::Malformed(
                "it names too many nodes, or not in ascending order",
            ));
        }
        Ok(document)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::assignment::SigningKey;
    use crate::canonical;

    fn sample() -> Revocations {
        Revocations {
            kind: RevocationsKind::Revocations,
            format: REVOCATIONS_FORMAT,
            number: 7,
            issued: UnixSeconds(1_000),
            grace_seconds: Some(86_400),
            nodes: vec![NodeId(1), NodeId(255)],
        }
    }

    #[test]
    fn bytes_of_format_1_stay_as_they_are() {
        assert_eq!(
            String::from_utf8(canonical::to_bytes(&sample())).unwrap(),
            r#"{"_type":"revocations","format":1,"grace_seconds":86400,"issued":1000,"nodes":["0000000000000001","00000000000000ff"],"number":7}"#
        );
    }

    #[test]
    fn only_a_list_that_a_key_of_the_root_signed_is_believed() {
        let key = SigningKey::from_pkcs8(&SigningKey::generate()).unwrap();
        let other = SigningKey::from_pkcs8(&SigningKey::generate()).unwrap();
        let root = Root::first(&key);
        let signed = key.sign(sample());
        let list = root.verify_revocations(&signed).unwrap();
        assert!(list.revokes(NodeId(255)) && !list.revokes(NodeId(2)));
        assert_eq!(
            root.verify_revocations(&other.sign(sample())),
            Err(TrustError::Unsigned)
        );
        let mut shorter = signed;
        shorter.signed.nodes.pop();
        assert_eq!(root.verify_revocations(&shorter), Err(TrustError::Unsigned));
    }

    #[test]
    fn a_list_that_is_not_in_order_or_too_long_is_refused_although_it_is_signed() {
        let key = SigningKey::from_pkcs8(&SigningKey::generate()).unwrap();
        let root = Root::first(&key);
        for nodes in [
            vec![NodeId(2), NodeId(1)],
            vec![NodeId(1), NodeId(1)],
            (0..=REVOKED_MAX as u64).map(NodeId).collect(),
        ] {
            let signed = key.sign(Revocations { nodes, ..sample() });
            assert!(matches!(
                root.verify_revocations(&signed),
                Err(TrustError::Malformed(_))
            ));
        }
    }

    #[test]
    fn the_longest_list_is_within_the_limit_of_bytes() {
        let key = SigningKey::from_pkcs8(&SigningKey::generate()).unwrap();
        let nodes = (0..REVOKED_MAX as u64).map(|n| NodeId(u64::MAX - n)).rev().collect();
        let bytes = serde_json::to_vec(&key.sign(Revocations { nodes, ..sample() })).unwrap();
        assert!(bytes.len() <= REVOCATIONS_BYTES_MAX, "{}", bytes.len());
    }

    #[test]
    fn a_list_is_outdated_by_a_higher_number_or_by_a_much_later_one() {
        let edition = |number, issued| Edition {
            number,
            issued: UnixSeconds(issued),
        };
        let known = edition(7, 10_000);
        assert!(known.is_outdated_by(edition(8, 0)));
        assert!(known.is_outdated_by(edition(7, 10_000 + REISSUE_SECONDS)));
        assert!(!known.is_outdated_by(edition(7, 10_001)));
        assert!(!known.is_outdated_by(edition(6, 99_999)));
    }
}
