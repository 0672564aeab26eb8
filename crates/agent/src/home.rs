//! The node's data directory: who it is, what it was told, and what it has not yet reported.
//!
//! ```text
//! format          version of this layout
//! lock            held while an agent runs
//! node.json       identity: id, key, certificate, CA, trusted root, servers (secret, mode 0600)
//! boot            number of starts
//! head.json       the server's last head (secret: it holds keys)
//! revocations.json  the newest list of revoked nodes
//! audit.json      the newest end of the server's audit log that was told
//! joining.json    the key of a node that has not been let in yet (secret)
//! lists.json      lists in the store, with their sizes
//! events.jsonl    events that the server has not acknowledged
//! recent.json     lists that were executed last
//! reported.json   how far the executing process's journal was reported
//! store/          content (crates/store)
//! execute/        the executing process (crates/provision); not the agent's to read where it has a user of its own
//! ```

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use potluck_model::api::Head;
use potluck_model::assignment::{Root, Signed};
use potluck_model::audit::Checkpoint;
use potluck_model::revocations::Revocations;
use potluck_model::{Digest, NodeId};
use rustix::fs::FlockOperation;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::machine::Machine;

/// The layout that this version writes, and the newest it reads.
const FORMAT: u64 = 1;
/// An agent whose keeper was killed ends at once, but a little later.
const LOCK_WAIT_MAX: Duration = Duration::from_secs(1);
const LOCK_RETRY: Duration = Duration::from_millis(10);

/// Why the data directory cannot be used. It has not been changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HomeError {
    /// Another agent runs on it.
    #[error(
        "the data directory {dir} is in use by another agent: stop that one, or give this one a directory of its own with --data"
    )]
    InUse {
        /// The directory.
        dir: PathBuf,
    },
    /// A newer version wrote it.
    #[error(
        "the data directory {dir} has format {found}, written by a newer version; this one reads up to {FORMAT}: update potluck, or use another --data"
    )]
    Newer {
        /// The directory.
        dir: PathBuf,
        /// Its format.
        found: String,
    },
    /// A file in it is damaged.
    #[error("{path} is damaged ({why}): restore it, or remove the data directory and join again")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What does not fit.
        why: String,
    },
    /// The operating system refused.
    #[error("cannot {doing} {path}: {source}")]
    Io {
        /// What was being done.
        doing: &'static str,
        /// With which file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

/// The node's identity, made once, when it joined.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct Joined {
    /// The id that the server assigned.
    pub(crate) node: NodeId,
    /// `HOST:PORT` of the server.
    pub(crate) servers: Vec<String>,
    /// The CA's certificate, PEM.
    pub(crate) ca: String,
    /// BLAKE3 of the CA's certificate, DER: names the fleet.
    pub(crate) ca_digest: Digest,
    /// The node's certificate, PEM.
    pub(crate) certificate: String,
    /// The node's private key, PEM. It never leaves this file.
    pub(crate) key: String,
    /// The trusted root.
    pub(crate) root: Root,
    /// Marks of the machine that joined; none: it was not asked for them.
    #[serde(default)]
    pub(crate) machine: Machine,
}

/// A node that has asked to be let in.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct Joining {
    /// Hash of the token that it used.
    pub(crate) token: Digest,
    /// Its private key, PEM.
    pub(crate) key: String,
    /// Marks of the machine that asked.
    pub(crate) machine: Machine,
}

/// An open data directory, locked until dropped.
pub(crate) struct Home {
    dir: PathBuf,
    _lock: File,
}

impl Home {
    /// Opens the directory, and makes it if it is not there.
    pub(crate) fn open(dir: &Path) -> Result<Self, HomeError> {
        let io = |doing, path: &Path| {
            let path = path.to_owned();
            move |source| HomeError::Io { doing, path, source }
        };
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(dir)
            .map_err(io("create the data directory", dir))?;
        let dir = dir.canonicalize().map_err(io("open the data directory", dir))?;
        let path = dir.join("lock");
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(&path)
            .map_err(io("open the lock", &path))?;
        let began = Instant::now();
        while rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
            if began.elapsed() > LOCK_WAIT_MAX {
                return Err(HomeError::InUse { dir });
            }
            std::thread::sleep(LOCK_RETRY);
        }
        let home = Self { dir, _lock: lock };
        home.check_format()?;
        Ok(home)
    }

    fn check_format(&self) -> Result<(), HomeError> {
        let path = self.dir.join("format");
        match fs::read_to_string(&path) {
            Ok(text) if text.trim().parse::<u64>().is_ok_and(|found| found <= FORMAT) => Ok(()),
            Ok(text) => Err(HomeError::Newer {
                dir: self.dir.clone(),
                found: text.trim().chars().take(20).collect(),
            }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.write("format", format!("{FORMAT}\n").as_bytes())
            }
            Err(source) => Err(HomeError::Io {
                doing: "read",
                path,
                source,
            }),
        }
    }

    /// A path in the directory.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// The identity; none before joining.
    pub(crate) fn joined(&self) -> Result<Option<Joined>, HomeError> {
        self.read("node.json")
    }

    /// Keeps the identity.
    pub(crate) fn save_joined(&self, joined: &Joined) -> Result<(), HomeError> {
        self.write_json("node.json", joined)
    }

    /// The last head, if there was one. A damaged one counts as none: the server has it still.
    pub(crate) fn head(&self) -> Option<Head> {
        self.read("head.json").ok().flatten()
    }

    /// Keeps the head.
    pub(crate) fn save_head(&self, head: &Head) -> Result<(), HomeError> {
        self.write_json("head.json", head)
    }

    /// The newest list of revoked nodes. A damaged one counts as none: the server and peers have it still.
    pub(crate) fn revocations(&self) -> Option<Signed<Revocations>> {
        self.read("revocations.json").ok().flatten()
    }

    /// Keeps it.
    pub(crate) fn save_revocations(&self, list: &Signed<Revocations>) -> Result<(), HomeError> {
        self.write_json("revocations.json", list)
    }

    /// The newest end of the server's audit log. A damaged one counts as none.
    pub(crate) fn checkpoint(&self) -> Option<Checkpoint> {
        self.read("audit.json").ok().flatten()
    }

    /// Keeps it.
    pub(crate) fn save_checkpoint(&self, checkpoint: &Checkpoint) -> Result<(), HomeError> {
        self.write_json("audit.json", checkpoint)
    }

    /// The key with which the node asked to be let in. A damaged one counts as none: then it asks with another.
    pub(crate) fn joining(&self) -> Option<Joining> {
        self.read("joining.json").ok().flatten()
    }

    /// Keeps it, so that the answer is for the same node after a restart.
    pub(crate) fn save_joining(&self, joining: &Joining) -> Result<(), HomeError> {
        self.write_json("joining.json", joining)
    }

    /// It was let in.
    pub(crate) fn forget_joining(&self) -> Result<(), HomeError> {
        self.remove("joining.json")
    }

    /// Forgets what was said to, by and about the node that this data directory was copied from.
    pub(crate) fn forget_node(&self) -> Result<(), HomeError> {
        for name in ["head.json", "events.jsonl"] {
            self.remove(name)?;
        }
        Ok(())
    }

    fn remove(&self, name: &str) -> Result<(), HomeError> {
        let path = self.dir.join(name);
        match fs::remove_file(&path) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => Err(HomeError::Io {
                doing: "remove",
                path,
                source,
            }),
            _ => Ok(()),
        }
    }

    /// The lists that the store holds, with their sizes. A damaged file counts as none: lists can be fetched again.
    pub(crate) fn lists(&self) -> BTreeMap<Digest, u64> {
        self.read("lists.json").ok().flatten().unwrap_or_default()
    }

    /// Keeps the lists.
    pub(crate) fn save_lists(&self, lists: &BTreeMap<Digest, u64>) -> Result<(), HomeError> {
        self.write_json("lists.json", lists)
    }

    /// Counts this start: higher than at any start before.
    pub(crate) fn next_boot(&self) -> Result<u64, HomeError> {
        // Seconds since 1970 as the floor: a directory that was restored from a backup does not go back.
        let before: u64 = self.read("boot")?.unwrap_or_default();
        let boot = (before + 1).max(potluck_model::UnixSeconds::now().0);
        self.write_json("boot", &boot)?;
        Ok(boot)
    }

    fn read<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>, HomeError> {
        let path = self.dir.join(name);
        match fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes)
                .map(Some)
                .map_err(|error| HomeError::Damaged {
                    path,
                    why: error.to_string(),
                }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(HomeError::Io {
                doing: "read",
                path,
                source,
            }),
        }
    }

    fn write_json<T: Serialize>(&self, name: &str, document: &T) -> Result<(), HomeError> {
        let bytes = serde_json::to_vec(document).expect("documents of the agent are plain data");
        self.write(name, &bytes)
    }

    /// Old or new, never half: a temporary file, synced, takes the name.
    pub(crate) fn write(&self, name: &str, bytes: &[u8]) -> Result<(), HomeError> {
        let path = self.dir.join(name);
        let temporary = self.dir.join(format!("{name}.tmp"));
        let write = || -> io::Result<()> {
            let mut file = OpenOptions::new()
                .create(true)
                .truncate(true)
                .write(true)
                .mode(0o600)
                .open(&temporary)?;
            file.write_all(bytes)?;
            file.sync_data()?;
            fs::rename(&temporary, &path)?;
            File::open(&self.dir)?.sync_all()
        };
        write().map_err(|source| HomeError::Io {
            doing: "write",
            path: path.clone(),
            source,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_has_one_agent() {
        let dir = tempfile::tempdir().unwrap();
        let first = Home::open(dir.path()).unwrap();
        assert!(matches!(Home::open(dir.path()), Err(HomeError::InUse { .. })));
        drop(first);
        assert!(Home::open(dir.path()).is_ok());
    }

    #[test]
    fn a_directory_of_a_newer_version_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("format"), "2\n").unwrap();
        assert!(matches!(Home::open(dir.path()), Err(HomeError::Newer { .. })));
        assert_eq!(fs::read_to_string(dir.path().join("format")).unwrap(), "2\n");
    }

    /// Written by version 0.1, kept for ever.
    #[test]
    fn a_directory_of_version_1_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/home-1");
        for entry in fs::read_dir(fixture).unwrap() {
            let path = entry.unwrap().path();
            fs::copy(&path, dir.path().join(path.file_name().unwrap())).unwrap();
        }
        let home = Home::open(dir.path()).unwrap();
        let joined = home.joined().unwrap().unwrap();
        assert_eq!(joined.node.to_string(), "89524c32aa5817f6");
        assert_eq!(joined.servers, ["potluck.example:7440", "127.0.0.1:7996"]);
        let head = home.head().unwrap();
        let assignment = joined.root.verify(&head.assignment, joined.node, 0).unwrap();
        let list = assignment.release.as_ref().unwrap().list;
        assert_eq!(home.lists()[&list], 827);
        assert!(home.next_boot().unwrap() > 1_795_416_955);
        let outbox = crate::outbox::Outbox::open(home.path("events.jsonl"), 2_000_000_000);
        let waiting = outbox.batch();
        assert_eq!(waiting.len(), 16);
        assert!(waiting.iter().all(|event| event.boot == 1_795_416_955));
    }

    #[test]
    fn boots_grow() {
        let dir = tempfile::tempdir().unwrap();
        let home = Home::open(dir.path()).unwrap();
        let first = home.next_boot().unwrap();
        assert!(home.next_boot().unwrap() > first);
    }

    #[test]
    fn a_damaged_identity_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let home = Home::open(dir.path()).unwrap();
        fs::write(dir.path().join("node.json"), "{").unwrap();
        assert!(matches!(home.joined(), Err(HomeError::Damaged { path, .. }) if path.ends_with("node.json")));
    }
}
