//! A client with a memory: what it believes is on disk before anything that depends on it is used.
//!
//! The directory holds `root.json`, `timestamp.json`, `snapshot.json` and `targets.json`, as they were signed. They are the
//! floors: what is older is refused, also after a restart.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use potluck_model::UnixSeconds;

use crate::metadata::{Document, Role, Signed, Targets, Timestamp};
use crate::{Fault, Trusted, Update};

/// The most roots that one refresh steps over.
pub const ROOTS_PER_REFRESH_MAX: u64 = 1_024;

/// Where files come from: a server, a bundle in memory. Nothing that it gives is believed.
pub trait Source {
    /// What can go wrong on the way.
    type Error;

    /// A file of at most `bytes_max` bytes, or nothing if there is none. With a version if its name has one. More bytes must
    /// not be read; what is longer is an error of the source.
    fn fetch(&mut self, role: Role, version: Option<u64>, bytes_max: u64) -> Result<Option<Vec<u8>>, Self::Error>;
}

/// Why a refresh did not come to its end. What it had verified until then is believed and kept.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError<E> {
    /// What came is not to be believed.
    #[error(transparent)]
    Fault(#[from] Fault),
    /// It did not come.
    #[error(transparent)]
    Source(E),
    /// It cannot be kept.
    #[error("cannot use {}: {source}", path.display())]
    Io {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// A client of one repository.
#[derive(Debug)]
pub struct Client {
    dir: PathBuf,
    trusted: Trusted,
}

impl Client {
    /// The client of `dir`, or `None` if nothing is trusted there yet.
    pub fn open<E>(dir: &Path) -> Result<Option<Self>, ClientError<E>> {
        let Some(root) = read(dir, Role::Root)? else {
            return Ok(None);
        };
        Ok(Some(Self {
            dir: dir.to_owned(),
            trusted: Trusted::from_root(&root)?,
        }))
    }

    /// Begins to trust `root`, and keeps it in `dir`, which exists. Of other files there, those count that its keys have signed.
    pub fn begin<E>(dir: &Path, root: &[u8]) -> Result<Self, ClientError<E>> {
        let trusted = Trusted::from_root(root)?;
        keep(dir, Role::Root, root)?;
        Ok(Self {
            dir: dir.to_owned(),
            trusted,
        })
    }

    /// What is believed.
    pub fn trusted(&self) -> &Trusted {
        &self.trusted
    }

    /// The timestamp that was believed last, if the root still vouches for it.
    pub fn last_timestamp<E>(&self) -> Result<Option<Signed<Timestamp>>, ClientError<E>> {
        self.last()
    }

    /// The same of the targets.
    pub fn last_targets<E>(&self) -> Result<Option<Signed<Targets>>, ClientError<E>> {
        self.last()
    }

    fn last<T: Document, E>(&self) -> Result<Option<Signed<T>>, ClientError<E>> {
        let known = read(&self.dir, T::ROLE)?.and_then(|bytes| Signed::from_bytes(&bytes).ok());
        Ok(known.filter(|known| self.trusted.root().document.verify(known).is_ok()))
    }

    /// Follows `source` to its newest metadata, and checks it all against `now`.
    pub fn refresh<S: Source>(&mut self, source: &mut S, now: UnixSeconds) -> Result<(), ClientError<S::Error>> {
        self.follow_roots(source)?;
        self.refresh_timestamp(source, now)?;
        self.refresh_snapshot(source, now)?;
        self.refresh_targets(source, now)
    }

    fn follow_roots<S: Source>(&mut self, source: &mut S) -> Result<(), ClientError<S::Error>> {
        for _ in 0..ROOTS_PER_REFRESH_MAX {
            let next = self.trusted.root().version() + 1;
            let Some(bytes) = fetch(source, Role::Root, Some(next), Role::Root.bytes_max())? else {
                break;
            };
            self.trusted.update_root(&bytes)?;
            keep(&self.dir, Role::Root, &bytes)?;
        }
        Ok(())
    }

    fn refresh_timestamp<S: Source>(&mut self, source: &mut S, now: UnixSeconds) -> Result<(), ClientError<S::Error>> {
        if let Some(known) = read(&self.dir, Role::Timestamp)? {
            // One that the keys of today have not signed binds nobody: that is how a fleet recovers from a stolen key.
            let _ = self.trusted.recall_timestamp(&known);
        }
        let bytes = must(source, Role::Timestamp, None, Role::Timestamp.bytes_max())?;
        if self.trusted.update_timestamp(&bytes, now)? == Update::New {
            keep(&self.dir, Role::Timestamp, &bytes)?;
        }
        Ok(())
    }

    fn refresh_snapshot<S: Source>(&mut self, source: &mut S, now: UnixSeconds) -> Result<(), ClientError<S::Error>> {
        if let Some(known) = read(&self.dir, Role::Snapshot)? {
            let _ = self.trusted.recall_snapshot(&known);
        }
        if self.trusted.snapshot_is_current(now) {
            return Ok(());
        }
        let wanted = self.trusted.wanted_snapshot()?;
        let (version, max) = (self.named(wanted.version), wanted.bytes_max(Role::Snapshot));
        let bytes = must(source, Role::Snapshot, version, max)?;
        self.trusted.update_snapshot(&bytes, now)?;
        keep(&self.dir, Role::Snapshot, &bytes)
    }

    fn refresh_targets<S: Source>(&mut self, source: &mut S, now: UnixSeconds) -> Result<(), ClientError<S::Error>> {
        if let Some(known) = read(&self.dir, Role::Targets)?
            && self.trusted.update_targets(&known, now).is_ok()
        {
            return Ok(());
        }
        let wanted = self.trusted.wanted_targets(now)?;
        let (version, max) = (self.named(wanted.version), wanted.bytes_max(Role::Targets));
        let bytes = must(source, Role::Targets, version, max)?;
        self.trusted.update_targets(&bytes, now)?;
        keep(&self.dir, Role::Targets, &bytes)
    }

    fn named(&self, version: u64) -> Option<u64> {
        self.trusted.root().document.consistent_snapshot.then_some(version)
    }
}

fn fetch<S: Source>(
    source: &mut S,
    role: Role,
    version: Option<u64>,
    bytes_max: u64,
) -> Result<Option<Vec<u8>>, ClientError<S::Error>> {
    let bytes = source.fetch(role, version, bytes_max).map_err(ClientError::Source)?;
    if let Some(bytes) = &bytes
        && bytes.len() as u64 > bytes_max
    {
        return Err(ClientError::Fault(Fault::TooLarge {
            what: format!("{role} metadata"),
            max: bytes_max,
            unit: "bytes",
        }));
    }
    Ok(bytes)
}

fn must<S: Source>(
    source: &mut S,
    role: Role,
    version: Option<u64>,
    bytes_max: u64,
) -> Result<Vec<u8>, ClientError<S::Error>> {
    fetch(source, role, version, bytes_max)?
        .ok_or_else(|| ClientError::Fault(Fault::Missing(format!("{role} metadata"))))
}

fn path(dir: &Path, role: Role) -> PathBuf {
    dir.join(format!("{role}.json"))
}

fn read<E>(dir: &Path, role: Role) -> Result<Option<Vec<u8>>, ClientError<E>> {
    match fs::read(path(dir, role)) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(ClientError::Io {
            path: path(dir, role),
            source,
        }),
    }
}

/// Old or new, never half, and lasting: temporary file, sync, rename, sync of the directory.
fn keep<E>(dir: &Path, role: Role, bytes: &[u8]) -> Result<(), ClientError<E>> {
    let path = path(dir, role);
    let write = || {
        let temporary = path.with_extension("new");
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&temporary)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&temporary, &path)?;
        File::open(dir)?.sync_all()
    };
    write().map_err(|source| ClientError::Io {
        path: path.clone(),
        source,
    })
}
