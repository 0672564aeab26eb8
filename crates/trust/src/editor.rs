//! Making metadata: what publishers and the server sign.

use potluck_model::UnixSeconds;
use serde_json::Value;

use crate::metadata::{Common, Document, FileMeta, Role, RoleKeys, Root, Signed, Snapshot, Target, Targets, Timestamp};
use crate::{Fault, PublicKey, SecretKey, canonical};

const DAY: u64 = 86_400;

/// For how many seconds new metadata of a role is valid.
pub const fn lifetime(role: Role) -> u64 {
    match role {
        Role::Root => 10 * 365 * DAY,
        Role::Targets => 2 * 365 * DAY,
        Role::Snapshot => 30 * DAY,
        Role::Timestamp => 7 * DAY,
    }
}

/// The version that follows `last` for a role that a server signs by itself: its own restored backup must not make it sign
/// versions that nodes have seen already.
pub fn next_online(last: u64, now: UnixSeconds) -> u64 {
    (last + 1).max(now.0)
}

impl<T: Document> Signed<T> {
    /// A document that nobody has signed yet.
    pub fn unsigned(document: T) -> Self {
        let value = serde_json::to_value(&document).expect("documents of this crate are plain data");
        Self {
            message: canonical::to_bytes(&value).expect("documents of this crate hold integers only"),
            document,
            value,
            signatures: std::collections::BTreeMap::new(),
        }
    }

    /// Adds a signature, or makes it anew.
    pub fn sign(&mut self, key: &SecretKey) {
        self.signatures.insert(key.public().id(), key.sign(&self.message));
    }

    /// Takes the signatures of another copy of the same document. Fails if it is another one.
    pub fn merge(&mut self, other: &Self) -> Result<(), Fault> {
        if self.message != other.message {
            return Err(Fault::MixAndMatch {
                role: T::ROLE,
                why: "the signatures are of another document".into(),
            });
        }
        let more = other.signatures.iter();
        self.signatures.extend(more.map(|(id, sig)| (id.clone(), sig.clone())));
        Ok(())
    }

    /// A copy with the next version and a fresh expiry, to be changed and signed.
    fn next(&self, now: UnixSeconds) -> T
    where
        T: Clone,
    {
        let mut document = self.document.clone();
        let common = document.common_mut();
        *common = Common::new(T::ROLE, common.version + 1, UnixSeconds(now.0 + lifetime(T::ROLE)));
        document
    }
}

/// Changes of a root. Each gives a new version that the holders of the old and of the new keys have to sign.
#[derive(Clone, Debug)]
pub struct RootEditor(Root);

impl RootEditor {
    /// A first root.
    pub fn first(now: UnixSeconds) -> Self {
        Self(Root::new(1, UnixSeconds(now.0 + lifetime(Role::Root))))
    }

    /// The one that follows `root`.
    pub fn after(root: &Signed<Root>, now: UnixSeconds) -> Self {
        Self(root.next(now))
    }

    /// Adds a signer. A role that had none takes one signature from now on.
    pub fn add(&mut self, role: Role, key: &PublicKey) -> &mut Self {
        let id = key.id();
        let keys = self.0.roles.entry(role).or_insert_with(|| RoleKeys::new(Vec::new(), 1));
        if !keys.keyids.contains(&id) {
            keys.keyids.push(id.clone());
        }
        self.0.keys.insert(id, key.clone());
        self
    }

    /// Removes a signer.
    pub fn remove(&mut self, role: Role, id: &str) -> &mut Self {
        if let Some(keys) = self.0.roles.get_mut(&role) {
            keys.keyids.retain(|known| known != id);
        }
        let roles = &self.0.roles;
        self.0
            .keys
            .retain(|id, _| roles.values().any(|keys| keys.keyids.contains(id)));
        self
    }

    /// Removes all signers of a role.
    pub fn clear(&mut self, role: Role) -> &mut Self {
        let ids = self
            .0
            .roles
            .get(&role)
            .map_or_else(Vec::new, |keys| keys.keyids.clone());
        for id in ids {
            self.remove(role, &id);
        }
        self
    }

    /// How many signers it takes.
    pub fn threshold(&mut self, role: Role, threshold: usize) -> &mut Self {
        if let Some(keys) = self.0.roles.get_mut(&role) {
            keys.threshold = threshold;
        }
        self
    }

    /// The new root, without signatures. Fails if a role has no keys, or fewer than it takes: nobody could sign for it.
    pub fn finish(self) -> Result<Signed<Root>, Fault> {
        self.0.check()?;
        for role in Role::ALL {
            let keys = self.0.role(role);
            if keys.threshold > keys.keyids.len() {
                return Err(Fault::Malformed(format!(
                    "{role} would take {} signers and have {}: nobody could sign any more",
                    keys.threshold,
                    keys.keyids.len()
                )));
            }
        }
        Ok(Signed::unsigned(self.0))
    }
}

/// Changes of the targets.
#[derive(Clone, Debug)]
pub struct TargetsEditor(pub(crate) Targets);

impl TargetsEditor {
    /// First targets: none.
    pub fn first(now: UnixSeconds) -> Self {
        Self(Targets::new(1, UnixSeconds(now.0 + lifetime(Role::Targets))))
    }

    /// The ones that follow `targets`.
    pub fn after(targets: &Signed<Targets>, now: UnixSeconds) -> Self {
        Self(targets.next(now))
    }

    /// Adds a target, or replaces it.
    pub fn add(&mut self, path: &str, bytes: &[u8], custom: Option<Value>) -> &mut Self {
        self.0.targets.insert(path.to_owned(), Target::of(bytes, custom));
        self
    }

    /// Gives it a higher version than the next one, if that is lower: for targets that a server signs by itself.
    pub fn at_least(&mut self, version: u64) -> &mut Self {
        let common = self.0.common_mut();
        common.version = common.version.max(version);
        self
    }

    /// Removes all that `keep` does not want.
    pub fn prune(&mut self, mut keep: impl FnMut(&str) -> bool) -> &mut Self {
        self.0.targets.retain(|path, _| keep(path));
        self
    }

    /// Whether another release is permitted than by `targets`, or in another way.
    pub fn differs(&self, targets: &Targets) -> bool {
        self.0.targets != targets.targets
    }

    /// The new targets, without signatures.
    pub fn finish(self) -> Result<Signed<Targets>, Fault> {
        self.0.check()?;
        Ok(Signed::unsigned(self.0))
    }
}

/// A snapshot of targets, without signatures.
pub fn snapshot(targets: &Signed<Targets>, version: u64, now: UnixSeconds) -> Signed<Snapshot> {
    let meta = FileMeta::of(targets.version(), &targets.to_bytes());
    let expires = UnixSeconds(now.0 + lifetime(Role::Snapshot));
    Signed::unsigned(Snapshot::new(version, expires, meta))
}

/// A timestamp of a snapshot, without signatures.
pub fn timestamp(snapshot: &Signed<Snapshot>, version: u64, now: UnixSeconds) -> Signed<Timestamp> {
    let meta = FileMeta::of(snapshot.version(), &snapshot.to_bytes());
    let expires = UnixSeconds(now.0 + lifetime(Role::Timestamp));
    Signed::unsigned(Timestamp::new(version, expires, meta))
}
