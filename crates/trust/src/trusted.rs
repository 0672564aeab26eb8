//! What a client believes: section 5 of the specification, without a disk, a network or a clock.

use potluck_model::UnixSeconds;

use crate::Fault;
use crate::metadata::{Document, FileMeta, Role, Root, Signed, Snapshot, Target, Targets, Timestamp};

/// Metadata that has been verified, from the root down. A file that is refused changes nothing.
#[derive(Clone, Debug)]
pub struct Trusted {
    root: Signed<Root>,
    timestamp: Option<Signed<Timestamp>>,
    snapshot: Option<Signed<Snapshot>>,
    targets: Option<Signed<Targets>>,
}

/// What became of a file that was not refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Update {
    /// It is believed now.
    New,
    /// It has the version that is believed already.
    Known,
}

impl Trusted {
    /// Begins with a root that the caller trusts for another reason: a digest that it knows, or its own disk.
    pub fn from_root(bytes: &[u8]) -> Result<Self, Fault> {
        let root = Signed::<Root>::from_bytes(bytes)?;
        root.document.verify(&root)?;
        Ok(Self {
            root,
            timestamp: None,
            snapshot: None,
            targets: None,
        })
    }

    /// The root.
    pub fn root(&self) -> &Signed<Root> {
        &self.root
    }

    /// The timestamp, if one is believed.
    pub fn timestamp(&self) -> Option<&Signed<Timestamp>> {
        self.timestamp.as_ref()
    }

    /// The snapshot, if one is believed.
    pub fn snapshot(&self) -> Option<&Signed<Snapshot>> {
        self.snapshot.as_ref()
    }

    /// The targets, if they are believed.
    pub fn targets(&self) -> Option<&Signed<Targets>> {
        self.targets.as_ref()
    }

    /// Takes the next root: version N + 1, signed as the present one demands and as it demands itself. Whether it has
    /// expired matters only for the last one of a chain (`timestamp` checks that).
    pub fn update_root(&mut self, bytes: &[u8]) -> Result<(), Fault> {
        let new = Signed::<Root>::from_bytes(bytes)?;
        self.root.document.verify(&new)?;
        new.document.verify(&new)?;
        let known = self.root.version();
        if new.version() != known + 1 {
            return Err(Fault::NotTheNext {
                got: new.version(),
                known,
            });
        }
        // What keys that are gone have signed is not believed any more, and its version binds nobody: so a fleet
        // recovers from versions that were driven up with a stolen key.
        if self
            .timestamp
            .as_ref()
            .is_some_and(|file| new.document.verify(file).is_err())
        {
            self.timestamp = None;
        }
        if self
            .snapshot
            .as_ref()
            .is_some_and(|file| new.document.verify(file).is_err())
        {
            self.snapshot = None;
        }
        self.targets = None;
        self.root = new;
        Ok(())
    }

    /// Takes a timestamp that was believed before (its expiry does not matter: it serves to recognise older ones).
    pub fn recall_timestamp(&mut self, bytes: &[u8]) -> Result<(), Fault> {
        let file = Signed::<Timestamp>::from_bytes(bytes)?;
        self.root.document.verify(&file)?;
        self.timestamp = Some(file);
        Ok(())
    }

    /// Takes a timestamp, after the last root.
    pub fn update_timestamp(&mut self, bytes: &[u8], now: UnixSeconds) -> Result<Update, Fault> {
        self.root.check_expiry(now)?;
        let new = Signed::<Timestamp>::from_bytes(bytes)?;
        self.root.document.verify(&new)?;
        if let Some(known) = &self.timestamp {
            not_older(Role::Timestamp, new.version(), known.version())?;
            if new.version() == known.version() {
                known.check_expiry(now)?;
                return Ok(Update::Known);
            }
            let (got, known) = (new.document.snapshot().version, known.document.snapshot().version);
            not_older(Role::Snapshot, got, known)?;
        }
        new.check_expiry(now)?;
        self.timestamp = Some(new);
        self.targets = None;
        Ok(Update::New)
    }

    /// Takes a snapshot that was believed before: to recognise older ones, and not to fetch it again if it is current.
    pub fn recall_snapshot(&mut self, bytes: &[u8]) -> Result<(), Fault> {
        let file = Signed::<Snapshot>::from_bytes(bytes)?;
        self.root.document.verify(&file)?;
        self.snapshot = Some(file);
        Ok(())
    }

    /// Whether the snapshot is the one that the timestamp names, and valid.
    pub fn snapshot_is_current(&self, now: UnixSeconds) -> bool {
        self.current_snapshot(now).is_ok()
    }

    /// Takes the snapshot that the timestamp names.
    pub fn update_snapshot(&mut self, bytes: &[u8], now: UnixSeconds) -> Result<(), Fault> {
        let wanted = self.wanted_snapshot()?;
        wanted.check(Role::Snapshot, bytes)?;
        let new = Signed::<Snapshot>::from_bytes(bytes)?;
        self.root.document.verify(&new)?;
        if let Some(known) = &self.snapshot {
            for (name, known) in &known.document.meta {
                let Some(got) = new.document.meta.get(name) else {
                    return Err(Fault::MixAndMatch {
                        role: Role::Snapshot,
                        why: format!("it no longer names {name}"),
                    });
                };
                not_older(Role::Targets, got.version, known.version)?;
            }
        }
        same_version(&new, wanted)?;
        new.check_expiry(now)?;
        self.snapshot = Some(new);
        self.targets = None;
        Ok(())
    }

    /// Takes the targets that the snapshot names.
    pub fn update_targets(&mut self, bytes: &[u8], now: UnixSeconds) -> Result<(), Fault> {
        let wanted = self.wanted_targets(now)?;
        wanted.check(Role::Targets, bytes)?;
        let new = Signed::<Targets>::from_bytes(bytes)?;
        self.root.document.verify(&new)?;
        same_version(&new, wanted)?;
        new.check_expiry(now)?;
        self.targets = Some(new);
        Ok(())
    }

    /// What the timestamp says of the snapshot.
    pub fn wanted_snapshot(&self) -> Result<&FileMeta, Fault> {
        let timestamp = self.timestamp.as_ref();
        timestamp
            .map(|timestamp| timestamp.document.snapshot())
            .ok_or_else(|| Fault::Missing("timestamp metadata that is believed".into()))
    }

    /// What the snapshot says of the targets.
    pub fn wanted_targets(&self, now: UnixSeconds) -> Result<&FileMeta, Fault> {
        Ok(self.current_snapshot(now)?.document.targets())
    }

    /// The target `path`.
    pub fn target(&self, path: &str) -> Result<&Target, Fault> {
        let targets = self
            .targets
            .as_ref()
            .ok_or_else(|| Fault::Missing("targets metadata that is believed".into()))?;
        targets
            .document
            .targets
            .get(path)
            .ok_or_else(|| Fault::NotListed(path.to_owned()))
    }

    fn current_snapshot(&self, now: UnixSeconds) -> Result<&Signed<Snapshot>, Fault> {
        let wanted = self.wanted_snapshot()?;
        let snapshot = self
            .snapshot
            .as_ref()
            .ok_or_else(|| Fault::Missing("snapshot metadata that is believed".into()))?;
        same_version(snapshot, wanted)?;
        snapshot.check_expiry(now)?;
        Ok(snapshot)
    }
}

fn not_older(role: Role, got: u64, known: u64) -> Result<(), Fault> {
    if got < known {
        return Err(Fault::Rollback { role, got, known });
    }
    Ok(())
}

fn same_version<T: Document>(file: &Signed<T>, wanted: &FileMeta) -> Result<(), Fault> {
    if file.version() != wanted.version {
        return Err(Fault::MixAndMatch {
            role: T::ROLE,
            why: format!("it has version {}, and {} was signed", file.version(), wanted.version),
        });
    }
    Ok(())
}
