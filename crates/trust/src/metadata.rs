//! The four files, as section 4 of the specification (1.0) describes them.
//!
//! What is verified and what is used come from one parsed value, so that no second reading of the bytes can differ.

use std::collections::BTreeMap;
use std::fmt;

use potluck_model::UnixSeconds;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;

use crate::key::has_hash;
use crate::{Fault, PublicKey, canonical};

/// The most bytes of a root.
pub const ROOT_BYTES_MAX: u64 = 512_000;
/// The most bytes of a timestamp.
pub const TIMESTAMP_BYTES_MAX: u64 = 16_384;
/// The most bytes of a snapshot.
pub const SNAPSHOT_BYTES_MAX: u64 = 2_000_000;
/// The most bytes of targets, unless the snapshot says less.
pub const TARGETS_BYTES_MAX: u64 = 16 << 20;
/// The most keys in a root.
pub const KEYS_MAX: usize = 256;
/// The most signatures on a file.
pub const SIGNATURES_MAX: usize = 256;
/// The most targets.
pub const TARGETS_MAX: usize = 50_000;
/// The version of the specification that is written. Any 1.x is read.
pub const SPEC_VERSION: &str = "1.0.31";

/// What a file is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Names the keys of all roles.
    Root,
    /// Names what may be executed.
    Targets,
    /// Names the version of the targets.
    Snapshot,
    /// Names the snapshot of the day.
    Timestamp,
}

impl Role {
    /// All, in the order in which they are of use to a person.
    pub const ALL: [Self; 4] = [Self::Root, Self::Targets, Self::Snapshot, Self::Timestamp];

    /// `root`, `targets`, `snapshot` or `timestamp`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Root => "root",
            Self::Targets => "targets",
            Self::Snapshot => "snapshot",
            Self::Timestamp => "timestamp",
        }
    }

    /// The most bytes of such a file.
    pub fn bytes_max(self) -> u64 {
        match self {
            Self::Root => ROOT_BYTES_MAX,
            Self::Targets => TARGETS_BYTES_MAX,
            Self::Snapshot => SNAPSHOT_BYTES_MAX,
            Self::Timestamp => TIMESTAMP_BYTES_MAX,
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A moment, written as `YYYY-MM-DDTHH:MM:SSZ`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Moment(pub UnixSeconds);

impl Serialize for Moment {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let time = i64::try_from(self.0.0)
            .ok()
            .and_then(|seconds| jiff::Timestamp::from_second(seconds).ok())
            .ok_or_else(|| serde::ser::Error::custom("a time after the year 9999"))?;
        serializer.serialize_str(&time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string())
    }
}

impl<'de> Deserialize<'de> for Moment {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let time: jiff::Timestamp = text.parse().map_err(serde::de::Error::custom)?;
        Ok(Self(UnixSeconds(u64::try_from(time.as_second()).unwrap_or(0))))
    }
}

type Other = serde_json::Map<String, Value>;

/// What the parts of all roles have in common.
pub trait Document: for<'de> Deserialize<'de> + Serialize {
    /// Which role it is of.
    const ROLE: Role;
    /// What all roles carry.
    fn common(&self) -> &Common;
    /// The same, to be changed.
    fn common_mut(&mut self) -> &mut Common;
    /// What the types alone do not rule out.
    fn check(&self) -> Result<(), Fault> {
        Ok(())
    }
}

/// What all roles carry.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Common {
    /// The role.
    #[serde(rename = "_type")]
    pub role: Role,
    /// Of the specification.
    pub spec_version: String,
    /// Grows.
    pub version: u64,
    /// Until when it is valid.
    pub expires: Moment,
}

impl Common {
    pub(crate) fn new(role: Role, version: u64, expires: UnixSeconds) -> Self {
        Self {
            role,
            spec_version: SPEC_VERSION.into(),
            version,
            expires: Moment(expires),
        }
    }
}

/// Keys of a role, and how many of them it takes.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct RoleKeys {
    /// Ids.
    pub keyids: Vec<String>,
    /// At least 1.
    pub threshold: usize,
    #[serde(flatten)]
    other: Other,
}

impl RoleKeys {
    /// So many of these.
    pub fn new(keyids: Vec<String>, threshold: usize) -> Self {
        Self {
            keyids,
            threshold,
            other: Other::new(),
        }
    }
}

/// `root.json`: whose signatures count.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Root {
    #[serde(flatten)]
    common: Common,
    /// Whether other files have their version in their name.
    #[serde(default)]
    pub consistent_snapshot: bool,
    /// By id.
    pub keys: BTreeMap<String, PublicKey>,
    /// Of the four roles.
    pub roles: BTreeMap<Role, RoleKeys>,
    #[serde(flatten)]
    other: Other,
}

/// What one file says of another.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct FileMeta {
    /// Its version.
    pub version: u64,
    /// Its bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub length: Option<u64>,
    /// By algorithm.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub hashes: BTreeMap<String, String>,
    /// The digest by which Potluck's nodes fetch it.
    #[serde(rename = "x-blake3", default, skip_serializing_if = "Option::is_none")]
    pub blake3: Option<potluck_model::Digest>,
    #[serde(flatten)]
    other: Other,
}

impl FileMeta {
    /// Describes a file.
    pub fn of(version: u64, bytes: &[u8]) -> Self {
        Self {
            version,
            length: Some(bytes.len() as u64),
            hashes: BTreeMap::from([("sha256".to_owned(), crate::key::sha256(bytes))]),
            blake3: Some(potluck_model::Digest::of(bytes)),
            other: Other::new(),
        }
    }

    /// The most bytes that the file can have.
    pub fn bytes_max(&self, role: Role) -> u64 {
        self.length
            .map_or(role.bytes_max(), |length| length.min(role.bytes_max()))
    }

    pub(crate) fn check(&self, role: Role, bytes: &[u8]) -> Result<(), Fault> {
        let other = |why: &str| Fault::MixAndMatch { role, why: why.into() };
        if self.length.is_some_and(|length| length != bytes.len() as u64) {
            return Err(other("its length is another than the one that was signed"));
        }
        for (algorithm, wanted) in &self.hashes {
            if !has_hash(bytes, algorithm, wanted)? {
                return Err(other("its digest is another than the one that was signed"));
            }
        }
        Ok(())
    }
}

/// `timestamp.json`: which snapshot is current.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Timestamp {
    #[serde(flatten)]
    common: Common,
    meta: BTreeMap<String, FileMeta>,
    #[serde(flatten)]
    other: Other,
}

/// `snapshot.json`: which targets belong together.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Snapshot {
    #[serde(flatten)]
    common: Common,
    /// By name of the file.
    pub meta: BTreeMap<String, FileMeta>,
    #[serde(flatten)]
    other: Other,
}

/// `targets.json`: what may be executed.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Targets {
    #[serde(flatten)]
    common: Common,
    /// By path.
    pub targets: BTreeMap<String, Target>,
    #[serde(flatten)]
    other: Other,
}

/// One target.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Target {
    /// Bytes.
    pub length: u64,
    /// By algorithm.
    pub hashes: BTreeMap<String, String>,
    /// What the publisher adds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub custom: Option<Value>,
    #[serde(flatten)]
    other: Other,
}

impl Target {
    /// Describes `bytes`.
    pub fn of(bytes: &[u8], custom: Option<Value>) -> Self {
        Self {
            length: bytes.len() as u64,
            hashes: BTreeMap::from([("sha256".to_owned(), crate::key::sha256(bytes))]),
            custom,
            other: Other::new(),
        }
    }

    /// Fails unless `bytes` are the target. `path` is for the message.
    pub fn check(&self, path: &str, bytes: &[u8]) -> Result<(), Fault> {
        let other = |what: &str| Fault::MixAndMatch {
            role: Role::Targets,
            why: format!("{path} has another {what} than the one that was signed"),
        };
        if self.length != bytes.len() as u64 {
            return Err(other("length"));
        }
        for (algorithm, wanted) in &self.hashes {
            if !has_hash(bytes, algorithm, wanted)? {
                return Err(other("digest"));
            }
        }
        if self.hashes.is_empty() {
            return Err(Fault::Malformed(format!("the target {path} has no digest")));
        }
        Ok(())
    }
}

macro_rules! document {
    ($name:ident, $role:expr, |$this:ident| $check:expr) => {
        impl Document for $name {
            const ROLE: Role = $role;

            fn common(&self) -> &Common {
                &self.common
            }

            fn common_mut(&mut self) -> &mut Common {
                &mut self.common
            }

            fn check(&self) -> Result<(), Fault> {
                let $this = self;
                $check
            }
        }
    };
}

document!(Root, Role::Root, |root| root.check_roles());
document!(Timestamp, Role::Timestamp, |timestamp| {
    let known = timestamp.meta.contains_key("snapshot.json");
    known
        .then_some(())
        .ok_or_else(|| Fault::Malformed("the timestamp names no snapshot.json".into()))
});
document!(Snapshot, Role::Snapshot, |snapshot| {
    let known = snapshot.meta.contains_key("targets.json");
    known
        .then_some(())
        .ok_or_else(|| Fault::Malformed("the snapshot names no targets.json".into()))
});
document!(Targets, Role::Targets, |targets| limit(
    "targets",
    targets.targets.len(),
    TARGETS_MAX,
    "entries"
));

impl Root {
    /// A root without keys.
    pub(crate) fn new(version: u64, expires: UnixSeconds) -> Self {
        Self {
            common: Common::new(Role::Root, version, expires),
            consistent_snapshot: true,
            keys: BTreeMap::new(),
            roles: BTreeMap::new(),
            other: Other::new(),
        }
    }

    /// Keys of a role.
    pub fn role(&self, role: Role) -> &RoleKeys {
        &self.roles[&role]
    }

    fn check_roles(&self) -> Result<(), Fault> {
        limit("a root", self.keys.len(), KEYS_MAX, "keys")?;
        for role in Role::ALL {
            let keys = self
                .roles
                .get(&role)
                .ok_or_else(|| Fault::Malformed(format!("the root names no keys for {role}")))?;
            limit("a role", keys.keyids.len(), KEYS_MAX, "keys")?;
            if keys.threshold == 0 {
                return Err(Fault::Malformed(format!("the threshold of {role} is 0")));
            }
        }
        Ok(())
    }

    /// Checks that enough different keys of a role have signed.
    pub fn verify<T: Document>(&self, file: &Signed<T>) -> Result<(), Fault> {
        let keys = self.role(T::ROLE);
        let mut valid: Vec<&str> = Vec::new();
        for id in &keys.keyids {
            let (Some(key), Some(signature)) = (self.keys.get(id), file.signatures.get(id)) else {
                continue;
            };
            // One key under two ids counts once.
            if !valid.contains(&key.material()) && key.verifies(&file.message, signature) {
                valid.push(key.material());
            }
        }
        if valid.len() < keys.threshold {
            return Err(Fault::Unsigned {
                role: T::ROLE,
                valid: valid.len(),
                threshold: keys.threshold,
            });
        }
        Ok(())
    }
}

impl Timestamp {
    pub(crate) fn new(version: u64, expires: UnixSeconds, snapshot: FileMeta) -> Self {
        Self {
            common: Common::new(Role::Timestamp, version, expires),
            meta: BTreeMap::from([("snapshot.json".to_owned(), snapshot)]),
            other: Other::new(),
        }
    }

    /// What it says of the snapshot.
    pub fn snapshot(&self) -> &FileMeta {
        &self.meta["snapshot.json"]
    }
}

impl Snapshot {
    pub(crate) fn new(version: u64, expires: UnixSeconds, targets: FileMeta) -> Self {
        Self {
            common: Common::new(Role::Snapshot, version, expires),
            meta: BTreeMap::from([("targets.json".to_owned(), targets)]),
            other: Other::new(),
        }
    }

    /// What it says of the targets.
    pub fn targets(&self) -> &FileMeta {
        &self.meta["targets.json"]
    }
}

impl Targets {
    pub(crate) fn new(version: u64, expires: UnixSeconds) -> Self {
        Self {
            common: Common::new(Role::Targets, version, expires),
            targets: BTreeMap::new(),
            other: Other::new(),
        }
    }
}

/// A file: what is signed, and the signatures. Nothing is verified by having one.
#[derive(Clone, Debug, PartialEq)]
pub struct Signed<T> {
    /// What is signed.
    pub document: T,
    /// What signatures are over.
    pub(crate) message: Vec<u8>,
    /// As it came, for what is not understood is signed as well.
    pub(crate) value: Value,
    /// By key id.
    pub(crate) signatures: BTreeMap<String, String>,
}

#[derive(Serialize, Deserialize)]
struct Envelope {
    signatures: Vec<Signature>,
    signed: Value,
}

#[derive(Serialize, Deserialize)]
struct Signature {
    keyid: String,
    sig: String,
}

impl<T: Document> Signed<T> {
    /// Reads a file, and verifies nothing but its form.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, Fault> {
        let malformed = |error: serde_json::Error| Fault::Malformed(format!("{} metadata: {error}", T::ROLE));
        if bytes.len() as u64 > T::ROLE.bytes_max() {
            return Err(Fault::TooLarge {
                what: format!("{} metadata", T::ROLE),
                max: T::ROLE.bytes_max(),
                unit: "bytes",
            });
        }
        let envelope: Envelope = serde_json::from_slice(bytes).map_err(malformed)?;
        limit("a file", envelope.signatures.len(), SIGNATURES_MAX, "signatures")?;
        let mut signatures = BTreeMap::new();
        for signature in envelope.signatures {
            if signatures.insert(signature.keyid.clone(), signature.sig).is_some() {
                return Err(Fault::Malformed(format!(
                    "the key {} has signed {} metadata twice",
                    signature.keyid,
                    T::ROLE
                )));
            }
        }
        // The role first: the message then says what is wrong, and not which field another role lacks.
        let role = envelope.signed.get("_type").and_then(Value::as_str);
        if role != Some(T::ROLE.name()) {
            return Err(Fault::Malformed(format!(
                "it is {} metadata, and {} metadata was expected",
                role.unwrap_or("no"),
                T::ROLE
            )));
        }
        let document = T::deserialize(&envelope.signed).map_err(malformed)?;
        let common = document.common();
        if !common.spec_version.starts_with("1.") {
            return Err(Fault::Malformed(format!(
                "it follows version {} of the specification, and 1.x is understood: update Potluck",
                common.spec_version
            )));
        }
        if common.version == 0 {
            return Err(Fault::Malformed(format!("{} metadata has version 0", T::ROLE)));
        }
        document.check()?;
        Ok(Self {
            document,
            message: canonical::to_bytes(&envelope.signed)?,
            value: envelope.signed,
            signatures,
        })
    }

    /// The file's bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        let envelope = Envelope {
            signatures: self
                .signatures
                .iter()
                .map(|(keyid, sig)| Signature {
                    keyid: keyid.clone(),
                    sig: sig.clone(),
                })
                .collect(),
            signed: self.value.clone(),
        };
        serde_json::to_vec(&envelope).expect("a value can be written")
    }

    /// Its version.
    pub fn version(&self) -> u64 {
        self.document.common().version
    }

    /// Until when it is valid.
    pub fn expires(&self) -> UnixSeconds {
        self.document.common().expires.0
    }

    /// Ids of the keys that claim to have signed.
    pub fn signers(&self) -> impl Iterator<Item = &str> {
        self.signatures.keys().map(String::as_str)
    }

    pub(crate) fn check_expiry(&self, now: UnixSeconds) -> Result<(), Fault> {
        let expired = self.expires();
        if now >= expired {
            return Err(Fault::Expired {
                role: T::ROLE,
                expired,
                now,
            });
        }
        Ok(())
    }
}

fn limit(what: &str, count: usize, max: usize, unit: &'static str) -> Result<(), Fault> {
    if count > max {
        return Err(Fault::TooLarge {
            what: what.into(),
            max: max as u64,
            unit,
        });
    }
    Ok(())
}
