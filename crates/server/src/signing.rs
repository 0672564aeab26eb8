//! What publishers have signed, and the keys of it that are on this server.
//!
//! In `keys/`: `1.root.json` and those that follow, `targets.json`, `snapshot.json`, `timestamp.json`, and for each role a key
//! (`root.key` …), as far as it is here. What is missing or old is signed anew from the catalogue, so that a crash between
//! a release and its signature, or a restored backup, does no harm.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use potluck_model::api::ReleaseTrust;
use potluck_model::list::List;
use potluck_model::{Digest, UnixSeconds};
use potluck_trust::{
    Document, Fault, Permission, Role, Root, RootEditor, SecretKey, Signed, Snapshot, Targets, TargetsEditor,
    Timestamp, lifetime, next_online, snapshot, target_path, timestamp,
};

use crate::blobs::Blobs;
use crate::catalogue::Catalogue;
use crate::gc::{self, GcError};
use crate::{ServerError, data};

/// Why releases could not be signed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SigningError {
    /// The catalogue or the packs failed.
    #[error(transparent)]
    Content(#[from] GcError),
    /// A file in `keys/` could not be used.
    #[error(transparent)]
    Data(#[from] ServerError),
    /// What was to be signed breaks a limit.
    #[error("the releases cannot be signed: {0}")]
    Metadata(#[from] Fault),
}

/// Makes the first root of the publishers, and the keys of all roles, unless they are there. Returns the root's digest.
pub(crate) fn first_root(keys: &Path) -> Result<Digest, ServerError> {
    let path = root_path(keys, 1);
    if let Some(bytes) = data::read(&path)? {
        return Ok(Digest::of(&bytes));
    }
    let mut editor = RootEditor::first(UnixSeconds::now());
    let mut root_key = None;
    for role in Role::ALL {
        let key = SecretKey::generate();
        data::replace(&key_path(keys, role), key.to_pkcs8())?;
        editor.add(role, &key.public());
        if role == Role::Root {
            root_key = Some(key);
        }
    }
    let mut root = editor.finish().map_err(|fault| damaged(&path, &fault))?;
    root.sign(&root_key.expect("the root is one of the roles"));
    let bytes = root.to_bytes();
    data::replace(&path, &bytes)?;
    Ok(Digest::of(&bytes))
}

/// What publishers have signed.
pub(crate) struct Signing {
    keys: PathBuf,
    state: Mutex<State>,
    sent: Arc<Mutex<Sent>>,
}

/// The targets as they are sent, and their digest. Apart from the rest: who asks for them does not wait for who signs.
type Sent = Option<(Digest, Bytes)>;

struct State {
    roots: Vec<String>,
    held: BTreeMap<Role, SecretKey>,
    targets: Option<Signed<Targets>>,
    snapshot: Option<Signed<Snapshot>>,
    timestamp: Option<Signed<Timestamp>>,
    sent: Arc<Mutex<Sent>>,
}

/// Nobody else signs, or reads what is signed, while this lives: a release and its signature become visible together.
pub(crate) struct Turn<'a> {
    keys: &'a Path,
    state: MutexGuard<'a, State>,
}

impl Signing {
    /// Reads what is there.
    pub(crate) fn open(keys: &Path) -> Result<Self, ServerError> {
        let mut roots = Vec::new();
        let mut newest = None;
        while let Some(bytes) = data::read(&root_path(keys, roots.len() as u64 + 1))? {
            let path = root_path(keys, roots.len() as u64 + 1);
            newest = Some(Signed::<Root>::from_bytes(&bytes).map_err(|fault| damaged(&path, &fault))?);
            roots.push(String::from_utf8(bytes).map_err(|fault| damaged(&path, &fault))?);
        }
        let newest = newest.ok_or_else(|| damaged(&root_path(keys, 1), &"it is not there"))?;
        let mut held = BTreeMap::new();
        for role in Role::ALL {
            let path = key_path(keys, role);
            if let Some(bytes) = data::read(&path)? {
                let key = SecretKey::from_pkcs8(&bytes).map_err(|fault| damaged(&path, &fault))?;
                // One that the newest root does not name is of no use any more.
                if newest.document.role(role).keyids.contains(&key.public().id()) {
                    held.insert(role, key);
                }
            }
        }
        let sent = Arc::default();
        let state = State {
            roots,
            held,
            targets: read(keys)?,
            snapshot: read(keys)?,
            timestamp: read(keys)?,
            sent: Arc::clone(&sent),
        };
        state.note_sent();
        Ok(Self {
            keys: keys.to_owned(),
            state: Mutex::new(state),
            sent,
        })
    }

    /// Waits until nobody else signs.
    pub(crate) fn turn(&self) -> Turn<'_> {
        Turn {
            keys: &self.keys,
            state: self.state.lock().unwrap_or_else(PoisonError::into_inner),
        }
    }

    /// The targets, if this is their digest.
    pub(crate) fn content(&self, digest: &Digest) -> Option<Bytes> {
        let sent = self.sent.lock().unwrap_or_else(PoisonError::into_inner);
        let (known, bytes) = sent.as_ref()?;
        (known == digest).then(|| bytes.clone())
    }

    /// Who can make nodes execute something, in a sentence for people.
    pub(crate) fn sentence(&self) -> &'static str {
        if self.turn().state.held.contains_key(&Role::Targets) {
            "The keys that decide what nodes execute are on this server: whoever controls the server controls the fleet."
        } else {
            "Publishers' keys decide what nodes execute; they are not on this server."
        }
    }
}

impl State {
    fn note_sent(&self) {
        let sent = self.targets.as_ref().map(|targets| {
            let bytes = targets.to_bytes();
            (Digest::of(&bytes), Bytes::from(bytes))
        });
        *self.sent.lock().unwrap_or_else(PoisonError::into_inner) = sent;
    }
}

impl Turn<'_> {
    /// Signs the releases of the catalogue that are not signed, and takes those out that are gone. With `anew` also if
    /// nothing has changed: a server that starts may come from a backup, and nodes may know a later version.
    pub(crate) fn reconcile(
        &mut self,
        catalogue: &dyn Catalogue,
        blobs: &dyn Blobs,
        anew: bool,
    ) -> Result<(), SigningError> {
        let now = UnixSeconds::now();
        if let Some(key) = self.state.held.get(&Role::Targets) {
            let (_, lists) = catalogue.lists().map_err(GcError::from)?;
            let mut editor = match &self.state.targets {
                Some(targets) => TargetsEditor::after(targets, now),
                None => TargetsEditor::first(now),
            };
            let mut signed: BTreeMap<Digest, &str> = BTreeMap::new();
            for (path, target) in self.state.targets.iter().flat_map(|targets| &targets.document.targets) {
                signed.insert(Permission::read(target)?.list, path);
            }
            let kept: BTreeSet<&str> = lists.iter().filter_map(|list| signed.get(list).copied()).collect();
            let gone = signed.len() > kept.len();
            editor.at_least(now.0).prune(|path| kept.contains(path));
            let new: Vec<&Digest> = lists.iter().filter(|list| !signed.contains_key(*list)).collect();
            for digest in &new {
                let bytes = gc::list_bytes(catalogue, blobs, digest)?;
                let list = List::from_bytes(&bytes).map_err(|_| gc::unreadable_list(digest))?;
                let path = target_path(&list.configuration, list.release);
                editor.add(&path, &bytes, Some(Permission::of(**digest).to_value()));
            }
            if anew || gone || !new.is_empty() {
                let mut targets = editor.finish()?;
                targets.sign(key);
                keep(self.keys, &targets)?;
                self.state.targets = Some(targets);
                self.state.note_sent();
            }
        }
        self.refresh(now)
    }

    /// Signs snapshot and timestamp where they are missing, do not fit or have lived half their life.
    fn refresh(&mut self, now: UnixSeconds) -> Result<(), SigningError> {
        let State {
            held,
            targets: Some(targets),
            snapshot: known_snapshot,
            timestamp: known_timestamp,
            ..
        } = &mut *self.state
        else {
            return Ok(());
        };
        let (Some(snapshot_key), Some(timestamp_key)) = (held.get(&Role::Snapshot), held.get(&Role::Timestamp)) else {
            return Ok(());
        };
        let current = known_snapshot
            .as_ref()
            .is_some_and(|known| known.document.targets().version == targets.version() && !ages(known, now));
        if !current {
            let last = known_snapshot.as_ref().map_or(0, Signed::version);
            let mut new = snapshot(targets, next_online(last, now), now);
            new.sign(snapshot_key);
            keep(self.keys, &new)?;
            *known_snapshot = Some(new);
        }
        let Some(of) = known_snapshot else { return Ok(()) };
        let current = known_timestamp
            .as_ref()
            .is_some_and(|known| known.document.snapshot().version == of.version() && !ages(known, now));
        if !current {
            let last = known_timestamp.as_ref().map_or(0, Signed::version);
            let mut new = timestamp(of, next_online(last, now), now);
            new.sign(timestamp_key);
            keep(self.keys, &new)?;
            *known_timestamp = Some(new);
        }
        Ok(())
    }

    /// What nodes are told. Nothing, as long as nothing has been signed.
    pub(crate) fn told(&mut self, now: UnixSeconds) -> Result<Option<ReleaseTrust>, SigningError> {
        self.refresh(now)?;
        let (Some(snapshot), Some(timestamp)) = (&self.state.snapshot, &self.state.timestamp) else {
            return Ok(None);
        };
        Ok(Some(ReleaseTrust {
            roots: self.state.roots.clone(),
            timestamp: text(timestamp),
            snapshot: text(snapshot),
            targets: None,
        }))
    }
}

fn text<T: Document>(file: &Signed<T>) -> String {
    String::from_utf8(file.to_bytes()).expect("JSON is UTF-8")
}

fn ages<T: Document>(file: &Signed<T>, now: UnixSeconds) -> bool {
    file.expires().0.saturating_sub(now.0) < lifetime(T::ROLE) / 2
}

fn root_path(keys: &Path, version: u64) -> PathBuf {
    keys.join(format!("{version}.root.json"))
}

fn key_path(keys: &Path, role: Role) -> PathBuf {
    keys.join(format!("{role}.key"))
}

fn file_path(keys: &Path, role: Role) -> PathBuf {
    keys.join(format!("{role}.json"))
}

fn read<T: Document>(keys: &Path) -> Result<Option<Signed<T>>, ServerError> {
    let path = file_path(keys, T::ROLE);
    let bytes = data::read(&path)?;
    let file = bytes.map(|bytes| Signed::from_bytes(&bytes)).transpose();
    file.map_err(|fault| damaged(&path, &fault))
}

fn keep<T: Document>(keys: &Path, file: &Signed<T>) -> Result<(), ServerError> {
    data::replace(&file_path(keys, T::ROLE), &file.to_bytes())
}

fn damaged(path: &Path, fault: &dyn std::fmt::Display) -> ServerError {
    ServerError::Damaged {
        path: path.to_owned(),
        fault: fault.to_string(),
    }
}
