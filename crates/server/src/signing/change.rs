//! What publishers have signed elsewhere: taken in when enough have signed, kept until then.

use std::collections::BTreeSet;
use std::path::Path;

use potluck_model::api::{OnlineKeys, TrustChange, TrustInfo};
use potluck_model::{Digest, UnixSeconds};
use potluck_trust::{Change, Lacking, Role, Root, SecretKey, Signed};
use serde::{Deserialize, Serialize};

use super::files::{self, damaged, key_path, next_key_path, root_path, waiting_path};
use super::{SigningError, Turn, text};
use crate::{ServerError, data};

/// The roles that the server signs for by itself.
const ONLINE: [Role; 2] = [Role::Snapshot, Role::Timestamp];

/// A change that waits for signatures, or is being carried out.
pub(super) struct Waiting {
    change: Change,
    releases: Vec<Digest>,
}

/// The same as a file.
#[derive(Serialize, Deserialize)]
struct WaitingFile {
    format: u32,
    change: TrustChange,
}

/// The version of `waiting.json`.
const WAITING_FORMAT: u32 = 1;

impl Waiting {
    /// Reads it, if there is one.
    pub(super) fn read(keys: &Path) -> Result<Option<Self>, ServerError> {
        let path = waiting_path(keys);
        let Some(bytes) = data::read(&path)? else {
            return Ok(None);
        };
        let file: WaitingFile = serde_json::from_slice(&bytes).map_err(|fault| damaged(&path, &fault))?;
        if file.format > WAITING_FORMAT {
            return Err(damaged(&path, &"a newer version of Potluck wrote it: update this one"));
        }
        let change = parse(&file.change).map_err(|fault| damaged(&path, &fault))?;
        Ok(Some(Self {
            change,
            releases: file.change.releases,
        }))
    }

    fn told(&self) -> TrustChange {
        TrustChange {
            root: self.change.root.as_ref().map(text),
            targets: self.change.targets.as_ref().map(text),
            releases: self.releases.clone(),
        }
    }
}

fn parse(change: &TrustChange) -> Result<Change, potluck_trust::Fault> {
    let root = change.root.as_ref().map(|text| Signed::from_bytes(text.as_bytes()));
    let targets = change.targets.as_ref().map(|text| Signed::from_bytes(text.as_bytes()));
    Ok(Change {
        root: root.transpose()?,
        targets: targets.transpose()?,
    })
}

impl Turn<'_> {
    /// What has been signed, and what waits for signatures. `lists` are those of the catalogue.
    pub(crate) fn info(&self, lists: BTreeSet<Digest>) -> TrustInfo {
        TrustInfo {
            roots: self.state.roots.clone(),
            targets: self.state.targets.as_ref().map(text),
            held: self.state.held.keys().map(|role| role.name().to_owned()).collect(),
            lists: lists.into_iter().collect(),
            waiting: self.state.waiting.as_ref().map(Waiting::told),
        }
    }

    /// Takes in a change, or signatures for the one that waits, and keeps it. `known` says which lists there are. Returns what
    /// it lacks: if nothing, `carry_out` puts it in force.
    pub(crate) fn propose(
        &mut self,
        proposal: &TrustChange,
        known: impl Fn(&Digest) -> bool,
    ) -> Result<Vec<Lacking>, SigningError> {
        let mut change = parse(proposal)?;
        if change.root.is_none() && change.targets.is_none() {
            return Err(SigningError::Refused(
                "nothing is changed: it holds neither a root nor targets".into(),
            ));
        }
        // An operator may have the server sign away what it holds.
        if let (Some(root), Some(key)) = (&mut change.root, self.state.held.get(&Role::Root)) {
            root.sign(key);
        }
        if let Some(waiting) = &self.state.waiting {
            let same = waiting.releases == proposal.releases && change.merge(&waiting.change).is_ok();
            if !same {
                return Err(SigningError::Conflict(
                    "another change waits for signatures: `potluck key sign` signs it, `potluck key drop` drops it"
                        .into(),
                ));
            }
        }
        let lacking = change
            .lacks(&self.state.root, self.state.targets.as_ref())
            .map_err(|fault| SigningError::Conflict(format!("what is in force has changed meanwhile: {fault}")))?;
        let demands = 2 * usize::from(change.root.is_some()) + usize::from(change.targets.is_some());
        if lacking.iter().filter(|lacking| lacking.valid == 0).count() == demands {
            return Err(SigningError::Refused("no key that the root names has signed it".into()));
        }
        if let Some(root) = &change.root {
            self.check_online(&root.document)?;
        }
        if let Some(targets) = &change.targets {
            for release in targets.document.releases() {
                let (configuration, release, permission) = release?;
                if !known(&permission.list) && permission.minimum.is_none() {
                    return Err(SigningError::Refused(format!(
                        "it names release {release} of {configuration}, which is not on this server"
                    )));
                }
            }
        }
        let waiting = Waiting {
            change,
            releases: proposal.releases.clone(),
        };
        let file = WaitingFile {
            format: WAITING_FORMAT,
            change: waiting.told(),
        };
        let bytes = serde_json::to_vec(&file).expect("a change is plain data");
        data::replace(&waiting_path(self.keys), &bytes)?;
        self.state.waiting = Some(waiting);
        Ok(lacking)
    }

    /// Lists of releases that wait for signatures.
    pub(crate) fn waiting(&self) -> Vec<Digest> {
        let waiting = self.state.waiting.as_ref();
        waiting.map_or_else(Vec::new, |waiting| waiting.releases.clone())
    }

    /// Whether a change waits that has all its signatures: the server ended before it was carried out.
    pub(super) fn is_accepted(&self) -> bool {
        let Some(waiting) = &self.state.waiting else {
            return false;
        };
        // What is half in force already does not follow itself, but is signed as it should be.
        let mut change = waiting.change.clone();
        if change
            .root
            .as_ref()
            .is_some_and(|root| root.version() == self.state.root.version())
        {
            change.root = None;
        }
        let known = self.state.targets.as_ref();
        if change.targets.as_ref() == known {
            change.targets = None;
        }
        let lacking = change.lacks(&self.state.root, known);
        lacking.is_ok_and(|lacking| lacking.is_empty())
    }

    /// Puts the change that waits in force. It has all its signatures.
    pub(crate) fn carry_out(&mut self) -> Result<(), SigningError> {
        let Some(waiting) = &self.state.waiting else {
            return Ok(());
        };
        let Change { root, targets } = waiting.change.clone();
        if let Some(root) = root.filter(|root| root.version() > self.state.root.version()) {
            data::replace(&root_path(self.keys, root.version()), &root.to_bytes())?;
            self.state.roots.push(text(&root));
            self.state.root = root;
        }
        self.settle_keys()?;
        if let Some(targets) = targets {
            self.use_targets(targets)?;
        }
        self.refresh(UnixSeconds::now(), false)
    }

    /// Forgets the change that waits: it has been carried out to its end, or is not wanted. Whether there was one.
    pub(crate) fn finish(&mut self) -> Result<bool, SigningError> {
        data::remove(&waiting_path(self.keys))?;
        Ok(self.state.waiting.take().is_some())
    }

    /// Makes keys for the roles that the server signs for, for the next root to name.
    pub(crate) fn make_online_keys(&mut self) -> Result<OnlineKeys, SigningError> {
        let mut made = Vec::new();
        for role in ONLINE {
            let key = SecretKey::generate();
            data::replace(&next_key_path(self.keys, role), key.to_pkcs8())?;
            made.push(key.public().to_text().unwrap_or_default());
        }
        let [snapshot, timestamp] = <[String; 2]>::try_from(made).unwrap_or_default();
        Ok(OnlineKeys { snapshot, timestamp })
    }

    /// Refuses a root with which this server could not sign snapshot and timestamp any more.
    fn check_online(&self, root: &Root) -> Result<(), SigningError> {
        for role in ONLINE {
            let named = root.role(role);
            let next = files::read_key(&next_key_path(self.keys, role))?;
            let ours = [self.state.held.get(&role), next.as_ref()];
            let signs = |key: &SecretKey| named.keyids.contains(&key.public().id());
            if named.threshold > 1 || !ours.into_iter().flatten().any(signs) {
                return Err(SigningError::Refused(format!(
                    "the root does not name a key of this server for {role}: nodes would not believe it any more"
                )));
            }
        }
        Ok(())
    }

    /// Uses the keys that the newest root names, and removes from the disk those that it does not name.
    fn settle_keys(&mut self) -> Result<(), ServerError> {
        for role in Role::ALL {
            let named = self.state.root.document.role(role).keyids.clone();
            let (path, next_path) = (key_path(self.keys, role), next_key_path(self.keys, role));
            if let Some(next) = files::read_key(&next_path)?
                && named.contains(&next.public().id())
            {
                data::replace(&path, next.to_pkcs8())?;
                data::remove(&next_path)?;
                self.state.held.insert(role, next);
            }
            let held = self.state.held.get(&role);
            if held.is_none_or(|key| !named.contains(&key.public().id())) {
                self.state.held.remove(&role);
                data::remove(&path)?;
            }
        }
        Ok(())
    }
}

/// What a change lacks, in sentences for people.
pub(crate) fn sentences(lacking: &[Lacking]) -> Vec<String> {
    let sentence = |lacking: &Lacking| {
        let whose = match (lacking.file, lacking.previous) {
            (Role::Root, true) => "those who sign the root so far",
            (Role::Root, false) => "those who sign the root from now on",
            _ => "publishers",
        };
        format!("{} of {} signatures by {whose}", lacking.valid, lacking.threshold)
    };
    lacking.iter().map(sentence).collect()
}
