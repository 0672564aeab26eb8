//! What publishers have signed, and the keys of it that are on this server.
//!
//! In `keys/`: `1.root.json` and those that follow, `targets.json`, `snapshot.json`, `timestamp.json`, and for each role a key
//! (`root.key` …), as far as it is here. Where the key of the targets is on this server, a release is signed in the moment in
//! which it becomes visible; else publishers sign, and `change` takes in what they have signed.

mod change;
mod files;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use potluck_model::api::ReleaseTrust;
use potluck_model::list::List;
use potluck_model::{Digest, UnixSeconds};
use potluck_trust::{
    Document, Fault, Permission, Role, Root, RootEditor, SecretKey, Signed, Snapshot, Targets, TargetsEditor,
    Timestamp, lifetime, next_online, snapshot, timestamp,
};

use crate::blobs::Blobs;
use crate::catalogue::Catalogue;
use crate::gc::{self, GcError};
use crate::{ServerError, data};
use change::Waiting;
pub(crate) use change::sentences;
pub(crate) use files::restored_path;
use files::{damaged, keep, key_path, read, root_path};

/// Why releases could not be signed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SigningError {
    /// The catalogue or the packs failed.
    #[error(transparent)]
    Content(#[from] GcError),
    /// A file in `keys/` could not be used.
    #[error(transparent)]
    Data(#[from] ServerError),
    /// What was to be signed breaks a limit, or what was signed is not to be believed.
    #[error("[{kind}] {0}", kind = .0.kind())]
    Metadata(#[from] Fault),
    /// The key is not on this server.
    #[error(
        "releases of this fleet are signed with publishers' keys, which are not on the server: publish where such a key is, \
         see `potluck key`"
    )]
    Elsewhere,
    /// Another change was faster, or waits.
    #[error("{0}")]
    Conflict(String),
    /// What somebody signed would harm the fleet.
    #[error("{0}")]
    Refused(String),
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
    /// The newest of them.
    root: Signed<Root>,
    held: BTreeMap<Role, SecretKey>,
    waiting: Option<Waiting>,
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
        let root = newest.ok_or_else(|| damaged(&root_path(keys, 1), &"it is not there"))?;
        let mut held = BTreeMap::new();
        for role in Role::ALL {
            // One that the newest root does not name is of no use any more, or not yet.
            if let Some(key) = files::read_key(&key_path(keys, role))?
                && root.document.role(role).keyids.contains(&key.public().id())
            {
                held.insert(role, key);
            }
        }
        let sent = Arc::default();
        let state = State {
            roots,
            root,
            held,
            waiting: Waiting::read(keys)?,
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
    pub(crate) fn sentence(&self) -> String {
        let turn = self.turn();
        if turn.state.held.contains_key(&Role::Targets) {
            return "The keys that decide what nodes execute are on this server: whoever controls the server controls the \
                    fleet. `potluck key move` takes them away."
                .to_owned();
        }
        let role = turn.state.root.document.role(Role::Targets);
        let signers = match (role.threshold, role.keyids.len()) {
            (1, 1) => "one publisher's key decides".to_owned(),
            (1, all) => format!("any one of {all} publishers' keys decides"),
            (threshold, all) => format!("{threshold} of {all} publishers' keys together decide"),
        };
        let waiting = match turn.state.waiting {
            None => "",
            Some(_) => " A change waits for signatures: `potluck key list`.",
        };
        format!("Who owns this fleet: {signers} what nodes execute; none is on this server.{waiting}")
    }

    /// Numbers that differ when nodes have to hear of what was signed: of the root and of the targets.
    pub(crate) fn versions(&self) -> (u64, u64) {
        let turn = self.turn();
        let targets = turn.state.targets.as_ref().map_or(0, Signed::version);
        (turn.state.root.version(), targets)
    }

    /// Digests of all roots, the newest last.
    pub(crate) fn roots(&self) -> Vec<Digest> {
        let turn = self.turn();
        turn.state
            .roots
            .iter()
            .map(|root| Digest::of(root.as_bytes()))
            .collect()
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
    /// Signs that a release may be executed, before it becomes visible. Whoever is told of the release finds it signed.
    pub(crate) fn permit(&mut self, list: &List, bytes: &[u8], permission: Permission) -> Result<(), SigningError> {
        let now = UnixSeconds::now();
        let mut editor = self.editor(now);
        editor.permit(&list.configuration, list.release, bytes, permission)?;
        self.sign_targets(editor)?;
        self.refresh(now, false)
    }

    /// What publishers say of a release, if it is signed.
    pub(crate) fn permission(&self, list: &Digest) -> Result<Option<Permission>, Fault> {
        for release in self
            .state
            .targets
            .iter()
            .flat_map(|targets| targets.document.releases())
        {
            let (_, _, permission) = release?;
            if permission.list == *list {
                return Ok(Some(permission));
            }
        }
        Ok(None)
    }

    /// Takes out releases that the catalogue does not have any more, and signs those that are not signed: after a crash, or
    /// with another database. Where that is for publishers to do, nothing of it.
    pub(crate) fn reconcile(&mut self, catalogue: &dyn Catalogue, blobs: &dyn Blobs) -> Result<(), SigningError> {
        let now = UnixSeconds::now();
        if self.state.held.contains_key(&Role::Targets) {
            let (_, lists) = catalogue.lists().map_err(GcError::from)?;
            let mut signed = BTreeSet::new();
            for release in self
                .state
                .targets
                .iter()
                .flat_map(|targets| targets.document.releases())
            {
                signed.insert(release?.2.list);
            }
            let mut editor = self.editor(now);
            editor.keep_releases(|list| lists.contains(list))?;
            for digest in lists.iter().filter(|list| !signed.contains(*list)) {
                let bytes = gc::list_bytes(catalogue, blobs, digest)?;
                let list = List::from_bytes(&bytes).map_err(|_| gc::unreadable_list(digest))?;
                match editor.permit(&list.configuration, list.release, &bytes, Permission::of(*digest)) {
                    // It is below the minimum: nobody executes it, and it need not be signed.
                    Ok(_) | Err(Fault::Narrowed(_)) => {}
                    Err(other) => return Err(other.into()),
                }
            }
            let restored = files::restored_path(self.keys).exists();
            if restored
                || self
                    .state
                    .targets
                    .as_ref()
                    .is_none_or(|known| editor.differs(&known.document))
            {
                self.sign_targets(editor)?;
            }
        }
        self.refresh(now, false)
    }

    /// Does what was begun before the server ended: a change that had been accepted, signing after a restoration.
    pub(crate) fn take_up(&mut self, catalogue: &dyn Catalogue, blobs: &dyn Blobs) -> Result<(), SigningError> {
        if self.is_accepted() {
            self.carry_out()?;
            self.finish()?;
        }
        self.reconcile(catalogue, blobs)?;
        let restored = files::restored_path(self.keys);
        if restored.exists() {
            // Nodes may know later versions than those in the backup.
            self.refresh(UnixSeconds::now(), true)?;
            data::remove(&restored)?;
        }
        Ok(())
    }

    fn editor(&self, now: UnixSeconds) -> TargetsEditor {
        let mut editor = match &self.state.targets {
            Some(targets) => TargetsEditor::after(targets, now),
            None => TargetsEditor::first(now),
        };
        editor.at_least(now.0);
        editor
    }

    fn sign_targets(&mut self, editor: TargetsEditor) -> Result<(), SigningError> {
        let key = self.state.held.get(&Role::Targets).ok_or(SigningError::Elsewhere)?;
        let mut targets = editor.finish()?;
        targets.sign(key);
        self.use_targets(targets)
    }

    fn use_targets(&mut self, targets: Signed<Targets>) -> Result<(), SigningError> {
        keep(self.keys, &targets)?;
        self.state.targets = Some(targets);
        self.state.note_sent();
        Ok(())
    }

    /// Signs snapshot and timestamp where they are missing, do not fit or have lived half their life; with `anew` in any case.
    fn refresh(&mut self, now: UnixSeconds, anew: bool) -> Result<(), SigningError> {
        let State {
            root,
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
        let current = known_snapshot.as_ref().is_some_and(|known| {
            known.document.targets().version == targets.version()
                && !ages(known, now)
                && root.document.verify(known).is_ok()
        });
        if anew || !current {
            let last = known_snapshot.as_ref().map_or(0, Signed::version);
            let mut new = snapshot(targets, next_online(last, now), now);
            new.sign(snapshot_key);
            keep(self.keys, &new)?;
            *known_snapshot = Some(new);
        }
        let Some(of) = known_snapshot else { return Ok(()) };
        let current = known_timestamp.as_ref().is_some_and(|known| {
            known.document.snapshot().version == of.version()
                && !ages(known, now)
                && root.document.verify(known).is_ok()
        });
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
        self.refresh(now, false)?;
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
