//! Who gets what: signed assignments, and the trusted root that names the keys.

use std::collections::BTreeMap;

use ring::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::canonical;
use crate::{ConfigurationName, Digest, NodeId, UnixSeconds};

/// The version of these documents that this version writes and reads.
pub const ASSIGNMENT_FORMAT: u32 = 1;

/// A signed statement: this node, this list, or none.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Assignment {
    /// `assignment`, so that no other signed document can stand in for it.
    #[serde(rename = "_type")]
    pub kind: AssignmentKind,
    /// `ASSIGNMENT_FORMAT`.
    pub format: u32,
    /// The node it is for.
    pub node: NodeId,
    /// Grows with every change of what this node is assigned; a lower one than before is refused.
    pub sequence: u64,
    /// When it was made.
    pub issued: UnixSeconds,
    /// After this it is not adopted any more; what was adopted stays.
    pub expires: UnixSeconds,
    /// What is assigned; nothing if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub release: Option<AssignedRelease>,
}

/// The one value of `_type` of an assignment.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum AssignmentKind {
    /// An assignment.
    #[default]
    Assignment,
}

/// The release that is assigned.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AssignedRelease {
    /// Its configuration.
    pub configuration: ConfigurationName,
    /// Its number.
    pub release: u64,
    /// Digest of its list.
    pub list: Digest,
    /// Bytes of its list.
    pub list_size: u64,
}

/// The document that names the keys; its digest is in the join string.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Root {
    /// `root`.
    #[serde(rename = "_type")]
    pub kind: RootKind,
    /// `ASSIGNMENT_FORMAT`.
    pub format: u32,
    /// 1, 2, 3…
    pub version: u64,
    /// Ed25519 public keys by key id, each 64 hexadecimal digits.
    pub keys: BTreeMap<String, String>,
    /// Ids of the keys of which one signs assignments.
    pub assignment_keys: Vec<String>,
    /// Digest of version 1 of the publishers' root (The Update Framework). Without it, as in fleets that were made before
    /// releases were signed, whatever is assigned may be executed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub releases: Option<Digest>,
}

/// The one value of `_type` of a root.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum RootKind {
    /// A root.
    #[default]
    Root,
}

/// A document with signatures over its canonical bytes.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Signed<T> {
    /// The document.
    pub signed: T,
    /// Signatures over its canonical bytes.
    pub signatures: Vec<Signature>,
}

/// One signature.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Signature {
    /// Id of the key: digest of the public key.
    pub keyid: String,
    /// Ed25519, 128 hexadecimal digits.
    pub sig: String,
}

/// An Ed25519 key that can sign.
pub struct SigningKey(Ed25519KeyPair);

/// Bytes that are not a private key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not an Ed25519 private key (PKCS#8)")]
pub struct KeyError;

/// Why a signed document is not believed. Nothing of it has been used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TrustError {
    /// No signature by a key that the root names.
    #[error("no valid signature by a key that the trusted root names")]
    Unsigned,
    /// Made by a newer version of Potluck.
    #[error("the document has format {0}; this version of Potluck reads up to {ASSIGNMENT_FORMAT}: update it")]
    Format(u32),
    /// It is signed, and yet not what it should be.
    #[error("the document is malformed: {0}")]
    Malformed(&'static str),
    /// It is for another node.
    #[error("the assignment is for node {0}, not for this one")]
    OtherNode(NodeId),
    /// Older than what is known already.
    #[error("the assignment has sequence number {got}, but {known} is known: it is old and was sent again")]
    Rollback {
        /// Of the document.
        got: u64,
        /// The floor.
        known: u64,
    },
    /// It is no longer valid for adoption.
    #[error(
        "the assignment expired at Unix time {expired:?}, and it is {now:?}: either the server could not renew it, or one of the clocks is wrong"
    )]
    Expired {
        /// When it expired.
        expired: UnixSeconds,
        /// This machine's time.
        now: UnixSeconds,
    },
}

impl SigningKey {
    /// Makes a key: PKCS#8 bytes to keep secret.
    pub fn generate() -> Vec<u8> {
        let random = ring::rand::SystemRandom::new();
        Ed25519KeyPair::generate_pkcs8(&random)
            .expect("the system gives random bytes")
            .as_ref()
            .to_vec()
    }

    /// Reads a key that `generate` made.
    pub fn from_pkcs8(bytes: &[u8]) -> Result<Self, KeyError> {
        Ed25519KeyPair::from_pkcs8(bytes).map(Self).map_err(|_| KeyError)
    }

    /// The public key, 64 hexadecimal digits.
    pub fn public(&self) -> String {
        data_encoding::HEXLOWER.encode(self.0.public_key().as_ref())
    }

    /// Id of the key.
    pub fn id(&self) -> String {
        key_id(self.0.public_key().as_ref())
    }

    /// Signs the canonical bytes of `document`.
    pub fn sign<T: Serialize>(&self, document: T) -> Signed<T> {
        let sig = data_encoding::HEXLOWER.encode(self.0.sign(&canonical::to_bytes(&document)).as_ref());
        Signed {
            signed: document,
            signatures: vec![Signature { keyid: self.id(), sig }],
        }
    }
}

fn key_id(public: &[u8]) -> String {
    Digest::of(public).to_string()
}

impl Root {
    /// A first root with one key for assignments.
    pub fn first(key: &SigningKey) -> Self {
        Self {
            kind: RootKind::Root,
            format: ASSIGNMENT_FORMAT,
            version: 1,
            keys: BTreeMap::from([(key.id(), key.public())]),
            assignment_keys: vec![key.id()],
            releases: None,
        }
    }

    /// The same, for a fleet that executes only what publishers have signed.
    #[must_use]
    pub fn with_releases(self, root: Digest) -> Self {
        Self {
            releases: Some(root),
            ..self
        }
    }

    /// What a join string carries.
    pub fn digest(&self) -> Digest {
        Digest::of(&canonical::to_bytes(self))
    }

    /// Checks that `assignment` is signed, for `node`, and not older than `floor`.
    ///
    /// Expiry is for adoption alone, hence apart: `Assignment::adoptable`.
    pub fn verify<'a>(
        &self,
        assignment: &'a Signed<Assignment>,
        node: NodeId,
        floor: u64,
    ) -> Result<&'a Assignment, TrustError> {
        if self.format > ASSIGNMENT_FORMAT {
            return Err(TrustError::Format(self.format));
        }
        self.verify_signature(assignment)?;
        let document = &assignment.signed;
        if document.format > ASSIGNMENT_FORMAT {
            return Err(TrustError::Format(document.format));
        }
        if document.node != node {
            return Err(TrustError::OtherNode(document.node));
        }
        if document.sequence < floor {
            return Err(TrustError::Rollback {
                got: document.sequence,
                known: floor,
            });
        }
        Ok(document)
    }

    pub(crate) fn verify_signature<T: Serialize + DeserializeOwned>(
        &self,
        document: &Signed<T>,
    ) -> Result<(), TrustError> {
        let bytes = canonical::to_bytes(&document.signed);
        let good = document.signatures.iter().take(16).any(|signature| {
            let Some(public) = self.keys.get(&signature.keyid) else {
                return false;
            };
            let named = self.assignment_keys.contains(&signature.keyid);
            let public = data_encoding::HEXLOWER.decode(public.as_bytes()).unwrap_or_default();
            let sig = data_encoding::HEXLOWER
                .decode(signature.sig.as_bytes())
                .unwrap_or_default();
            named
                && key_id(&public) == signature.keyid
                && UnparsedPublicKey::new(&ED25519, &public).verify(&bytes, &sig).is_ok()
        });
        if good { Ok(()) } else { Err(TrustError::Unsigned) }
    }
}

impl Assignment {
    /// Whether it may still be adopted at `now`.
    pub fn adoptable(&self, now: UnixSeconds) -> Result<(), TrustError> {
        if now > self.expires {
            Err(TrustError::Expired {
                expired: self.expires,
                now,
            })
        } else {
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Assignment {
        Assignment {
            kind: AssignmentKind::Assignment,
            format: ASSIGNMENT_FORMAT,
            node: NodeId(1),
            sequence: 5,
            issued: UnixSeconds(1_000),
            expires: UnixSeconds(2_000),
            release: Some(AssignedRelease {
                configuration: "web".parse().unwrap(),
                release: 3,
                list: Digest::of(b"list"),
                list_size: 4,
            }),
        }
    }

    #[test]
    fn bytes_of_format_1_stay_as_they_are() {
        assert_eq!(
            String::from_utf8(canonical::to_bytes(&sample())).unwrap(),
            r#"{"_type":"assignment","expires":2000,"format":1,"issued":1000,"node":"0000000000000001","release":{"configuration":"web","list":"0ffec6f74130be3227428d6017134054844b3119d901860a36dfb786940a9fa6","list_size":4,"release":3},"sequence":5}"#
        );
    }

    #[test]
    fn a_root_without_publishers_has_the_digest_that_it_always_had() {
        let key = SigningKey::from_pkcs8(&SigningKey::generate()).unwrap();
        let root = Root::first(&key);
        let text = serde_json::to_string(&root).unwrap();
        assert!(!text.contains("releases"), "{text}");
        let with = root.clone().with_releases(Digest::of(b"1.root.json"));
        assert_ne!(with.digest(), root.digest());
        assert_eq!(
            serde_json::from_str::<Root>(&serde_json::to_string(&with).unwrap()).unwrap(),
            with
        );
    }

    #[test]
    fn only_a_key_of_the_root_is_believed() {
        let key = SigningKey::from_pkcs8(&SigningKey::generate()).unwrap();
        let other = SigningKey::from_pkcs8(&SigningKey::generate()).unwrap();
        let root = Root::first(&key);
        assert_eq!(root.verify(&key.sign(sample()), NodeId(1), 5), Ok(&sample()));
        assert_eq!(
            root.verify(&other.sign(sample()), NodeId(1), 0),
            Err(TrustError::Unsigned)
        );
        let mut changed = key.sign(sample());
        changed.signed.sequence = 6;
        assert_eq!(root.verify(&changed, NodeId(1), 0), Err(TrustError::Unsigned));
        let mut renamed = other.sign(sample());
        renamed.signatures[0].keyid = key.id();
        assert_eq!(root.verify(&renamed, NodeId(1), 0), Err(TrustError::Unsigned));
    }

    #[test]
    fn another_nodes_and_an_older_assignment_are_refused() {
        let key = SigningKey::from_pkcs8(&SigningKey::generate()).unwrap();
        let root = Root::first(&key);
        let signed = key.sign(sample());
        assert_eq!(
            root.verify(&signed, NodeId(2), 0),
            Err(TrustError::OtherNode(NodeId(1)))
        );
        assert_eq!(
            root.verify(&signed, NodeId(1), 6),
            Err(TrustError::Rollback { got: 5, known: 6 })
        );
        assert!(sample().adoptable(UnixSeconds(2_000)).is_ok());
        assert!(sample().adoptable(UnixSeconds(2_001)).is_err());
    }
}
