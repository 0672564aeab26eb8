//! A repository that does what a test makes it do, and a client of it.
#![expect(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::convert::Infallible;
use std::path::Path;

use potluck_model::UnixSeconds;
use potluck_trust::{
    Client, ClientError, Fault, PublicKey, Role, Root, RootEditor, SecretKey, Signed, Snapshot, Source, Target,
    Targets, TargetsEditor, Timestamp, Trusted, snapshot, timestamp,
};
use serde_json::Value;
use tempfile::TempDir;

pub(crate) const NOW: UnixSeconds = UnixSeconds(1_800_000_000);

/// What the repository sends.
#[derive(Clone)]
pub(crate) struct Sent {
    pub(crate) roots: Vec<Vec<u8>>,
    pub(crate) timestamp: Vec<u8>,
    pub(crate) snapshot: Vec<u8>,
    pub(crate) targets: Vec<u8>,
}

impl Sent {
    pub(crate) fn timestamp_version(&self) -> u64 {
        Signed::<Timestamp>::from_bytes(&self.timestamp).unwrap().version()
    }

    pub(crate) fn snapshot_version(&self) -> u64 {
        Signed::<Snapshot>::from_bytes(&self.snapshot).unwrap().version()
    }
}

pub(crate) struct Repository {
    pub(crate) now: UnixSeconds,
    /// Of root, targets, snapshot and timestamp.
    pub(crate) keys: [SecretKey; 4],
    /// They sign targets too.
    pub(crate) more: Vec<SecretKey>,
    pub(crate) sent: Sent,
    /// What clients asked for, with its limit.
    pub(crate) asked: Vec<(Role, u64)>,
}

fn index(role: Role) -> usize {
    Role::ALL.iter().position(|other| *other == role).unwrap()
}

impl Repository {
    pub(crate) fn new() -> Self {
        let keys = [(); 4].map(|()| SecretKey::generate());
        let mut root = RootEditor::first(NOW);
        for role in Role::ALL {
            root.add(role, &keys[index(role)].public());
        }
        let mut root = root.finish().unwrap();
        root.sign(&keys[0]);
        let mut targets = TargetsEditor::first(NOW).finish().unwrap();
        targets.sign(&keys[1]);
        let mut new = Self {
            now: NOW,
            keys,
            more: Vec::new(),
            sent: Sent {
                roots: vec![root.to_bytes()],
                timestamp: Vec::new(),
                snapshot: Vec::new(),
                targets: targets.to_bytes(),
            },
            asked: Vec::new(),
        };
        new.sign_snapshot(1);
        new.sign_timestamp(1);
        new
    }

    fn targets(&self) -> Signed<Targets> {
        Signed::from_bytes(&self.sent.targets).unwrap()
    }

    pub(crate) fn targets_version(&self) -> u64 {
        self.targets().version()
    }

    fn last_root(&self) -> Signed<Root> {
        Signed::from_bytes(self.sent.roots.last().unwrap()).unwrap()
    }

    pub(crate) fn publish(&mut self, path: &str, bytes: &[u8]) {
        let mut editor = TargetsEditor::after(&self.targets(), self.now);
        editor.add(path, bytes, None);
        let mut targets = editor.finish().unwrap();
        for key in [&self.keys[1]].into_iter().chain(&self.more) {
            targets.sign(key);
        }
        self.sent.targets = targets.to_bytes();
        self.sign_online();
    }

    pub(crate) fn publish_by_hand(&mut self, change: impl FnOnce(&mut Value)) {
        let mut value = serde_json::from_slice(&self.sent.targets).unwrap();
        change(&mut value);
        self.sent.targets = serde_json::to_vec(&value).unwrap();
        self.sign_online();
    }

    pub(crate) fn sign_online(&mut self) {
        let last = (self.sent.snapshot_version(), self.sent.timestamp_version());
        self.sign_snapshot(potluck_trust::next_online(last.0, self.now));
        self.sign_timestamp(potluck_trust::next_online(last.1, self.now));
    }

    pub(crate) fn sign_snapshot(&mut self, version: u64) {
        let mut file = snapshot(&self.targets(), version, self.now);
        file.sign(&self.keys[2]);
        self.sent.snapshot = file.to_bytes();
    }

    pub(crate) fn sign_timestamp(&mut self, version: u64) {
        let snapshot = Signed::<Snapshot>::from_bytes(&self.sent.snapshot).unwrap();
        let mut file = timestamp(&snapshot, version, self.now);
        file.sign(&self.keys[3]);
        self.sent.timestamp = file.to_bytes();
    }

    /// The next root, signed by the root's key.
    pub(crate) fn root(&mut self, change: impl FnOnce(&mut RootEditor)) {
        let mut editor = RootEditor::after(&self.last_root(), self.now);
        change(&mut editor);
        let mut root = editor.finish().unwrap();
        root.sign(&self.keys[0]);
        self.sent.roots.push(root.to_bytes());
    }

    pub(crate) fn rotate(&mut self, roles: &[Role]) {
        for role in roles {
            self.keys[index(*role)] = SecretKey::generate();
        }
        let keys: Vec<_> = roles
            .iter()
            .map(|role| (*role, self.keys[index(*role)].public()))
            .collect();
        self.root(|root| {
            for (role, key) in &keys {
                root.clear(*role).add(*role, key);
            }
        });
    }

    /// A root whose only root key is `keys[0]`, which signs with `others`.
    pub(crate) fn replace_root(&mut self, others: &[&SecretKey]) {
        let key = self.keys[0].public();
        self.root(|root| {
            root.clear(Role::Root).add(Role::Root, &key);
        });
        let mut root = self.last_root();
        for other in others {
            root.sign(other);
        }
        *self.sent.roots.last_mut().unwrap() = root.to_bytes();
    }

    /// A root whose only root key is `key`, signed by `keys[0]` alone.
    pub(crate) fn name_in_root(&mut self, key: &PublicKey) {
        self.root(|root| {
            root.clear(Role::Root).add(Role::Root, key);
        });
    }

    /// A next root that no editor would make.
    pub(crate) fn root_by_hand(&mut self, change: impl FnOnce(&mut Value)) {
        let mut editor: Value = serde_json::from_slice(self.sent.roots.last().unwrap()).unwrap();
        let version = editor["signed"]["version"].as_u64().unwrap();
        editor["signed"]["version"] = (version + 1).into();
        change(&mut editor["signed"]);
        editor["signatures"] = serde_json::json!([]);
        let mut root = Signed::<Root>::from_bytes(&serde_json::to_vec(&editor).unwrap()).unwrap();
        root.sign(&self.keys[0]);
        self.sent.roots.push(root.to_bytes());
    }

    pub(crate) fn unsigned_root(&self) -> Vec<u8> {
        let mut value: Value = serde_json::from_slice(&self.sent.roots[0]).unwrap();
        value["signatures"] = serde_json::json!([]);
        serde_json::to_vec(&value).unwrap()
    }

    /// A client that knows the first root.
    pub(crate) fn fresh_client(&self) -> TestClient {
        let dir = tempfile::tempdir().unwrap();
        let client = Client::begin::<Infallible>(dir.path(), &self.sent.roots[0]).unwrap();
        TestClient {
            dir,
            client,
            now: self.now,
        }
    }

    /// A client that believes what the repository sends.
    pub(crate) fn client(&mut self) -> TestClient {
        let mut client = self.fresh_client();
        client.refresh(self).unwrap();
        client
    }
}

impl Source for Repository {
    type Error = Infallible;

    fn fetch(&mut self, role: Role, version: Option<u64>, bytes_max: u64) -> Result<Option<Vec<u8>>, Infallible> {
        self.asked.push((role, bytes_max));
        let bytes = match role {
            Role::Root => self.sent.roots.get(version.unwrap() as usize - 1).cloned(),
            Role::Timestamp => Some(self.sent.timestamp.clone()),
            Role::Snapshot => Some(self.sent.snapshot.clone()),
            Role::Targets => Some(self.sent.targets.clone()),
        };
        Ok(bytes.filter(|bytes| !bytes.is_empty()))
    }
}

pub(crate) struct TestClient {
    dir: TempDir,
    client: Client,
    pub(crate) now: UnixSeconds,
}

impl TestClient {
    pub(crate) fn refresh(&mut self, repository: &mut Repository) -> Result<(), Fault> {
        self.try_refresh(repository).map_err(|error| match error {
            ClientError::Fault(fault) => fault,
            other => panic!("{other}"),
        })
    }

    pub(crate) fn try_refresh(&mut self, repository: &mut Repository) -> Result<(), ClientError<Infallible>> {
        self.client.refresh(repository, self.now)
    }

    pub(crate) fn trusted(&self) -> &Trusted {
        self.client.trusted()
    }

    pub(crate) fn target(&self, path: &str) -> Result<Target, Fault> {
        self.client.trusted().target(path).cloned()
    }

    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// The client after a restart.
    pub(crate) fn reopen(self) -> Self {
        let client = Client::open::<Infallible>(self.dir.path()).unwrap().unwrap();
        Self { client, ..self }
    }
}

pub(crate) fn refused(result: Result<(), Fault>) -> Fault {
    result.expect_err("it was believed")
}
