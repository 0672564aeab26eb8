//! What the executing process believes: what it pinned at its first job, and only what is signed by that since.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use potluck_model::assignment::{AssignedRelease, TrustError};
use potluck_model::units::print_duration;
use potluck_model::{Digest, NodeId, UnixSeconds};
use potluck_trust::{Fault, Target};
use serde::{Deserialize, Serialize};

use crate::file;
use crate::job::Job;
use crate::releases::{Releases, ReleasesError};

/// A clock that is off by more than this is named where something has expired.
const CLOCK_OFF_MAX: Duration = Duration::from_secs(86_400);
/// The version of `trust.json` that this version writes and reads.
pub const TRUST_FORMAT: u32 = 1;

/// Why a job is not done. Nothing of it was executed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RefusedError {
    /// The root in the job is not the one whose digest the job gives.
    #[error("the trusted root has digest {found}, but {expected} was expected: join this node again")]
    RootDigest {
        /// The root's.
        found: Digest,
        /// The job's.
        expected: Digest,
    },
    /// The agent speaks for another fleet than before.
    #[error(
        "this node trusts the root {pinned}, but the job names {offered}: a node stays in the fleet it joined; \
         to move it, remove its data directory and join it again"
    )]
    OtherRoot {
        /// Pinned by the first job.
        pinned: Digest,
        /// The job's.
        offered: Digest,
    },
    /// The agent speaks for another node than before.
    #[error("this node is {pinned}, but the job is for {offered}: remove its data directory and join it again")]
    OtherNode {
        /// Pinned by the first job.
        pinned: NodeId,
        /// The job's.
        offered: NodeId,
    },
    /// The assignment is not to be believed or adopted.
    #[error(transparent)]
    Trust(#[from] TrustError),
    /// Two different lists under one sequence number.
    #[error(
        "the assignment with sequence number {sequence} named the list {known}, and now names {offered}: \
         the server must raise the number when it changes what is assigned"
    )]
    TwoLists {
        /// The sequence number.
        sequence: u64,
        /// The list that it named first.
        known: Digest,
        /// The list that it names now.
        offered: Digest,
    },
    /// No publisher has signed it, or what publishers say cannot be believed.
    #[error(transparent)]
    Releases(#[from] ReleasesError),
    /// It has expired, and this machine's clock is more than a day off what was signed last.
    #[error(
        "{because}. This machine's clock is {} {direction} what the server signed last: if it is the clock that is wrong, set it \
         right (NTP)",
        print_duration(*off)
    )]
    Clock {
        /// What was refused.
        because: Box<RefusedError>,
        /// By how much the clock is off.
        off: Duration,
        /// `ahead of` or `behind`.
        direction: &'static str,
    },
    /// Nothing is assigned, so nothing can be executed.
    #[error("the assignment names no release: there is nothing to execute")]
    Unassigned,
    /// What is believed cannot be read or kept.
    #[error("cannot use {path}: {source}")]
    Io {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Written by a newer version.
    #[error("{path} has format {format}; this version of Potluck reads up to {TRUST_FORMAT}: update it")]
    Newer {
        /// Which file.
        path: PathBuf,
        /// Its format.
        format: u64,
    },
}

impl RefusedError {
    /// The same; if something has expired and the clock is far off what was signed last, with the difference.
    fn at(self, clock: UnixSeconds, signed: UnixSeconds) -> Self {
        let expired = matches!(
            self,
            Self::Trust(TrustError::Expired { .. }) | Self::Releases(ReleasesError::Fault(Fault::Expired { .. }))
        );
        let off = Duration::from_secs(clock.0.abs_diff(signed.0));
        if !expired || off <= CLOCK_OFF_MAX {
            return self;
        }
        Self::Clock {
            because: Box::new(self),
            off,
            direction: if clock > signed { "ahead of" } else { "behind" },
        }
    }
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
struct Trust {
    format: u32,
    root: Digest,
    node: NodeId,
    /// No assignment below it is believed any more.
    sequence: u64,
    /// The list that this sequence number named.
    list: Digest,
    /// The release that it is of; 0 in files of versions that did not note it.
    #[serde(default)]
    release: u64,
}

/// What may be executed.
#[derive(Debug)]
pub(crate) struct Admitted<'a> {
    /// As it is assigned.
    pub(crate) release: &'a AssignedRelease,
    /// As a publisher signed it. Absent where the root demands none, or where this list was admitted before and the metadata
    /// of today cannot be believed.
    pub(crate) target: Option<Target>,
    /// Why the metadata of today is not believed. What was adopted stays in force all the same.
    pub(crate) refused: Option<RefusedError>,
}

/// Whether a job has pinned a root in `dir` already.
pub(crate) fn is_pinned(dir: &Path) -> bool {
    dir.join("trust.json").exists()
}

/// Verifies what a job says of itself, and notes it (synced) before anything is done with it.
pub(crate) fn admit<'a>(dir: &Path, job: &'a Job, clock: UnixSeconds) -> Result<Admitted<'a>, RefusedError> {
    let path = dir.join("trust.json");
    let known = read(&path)?;
    let found = job.root.digest();
    if found != job.root_digest {
        return Err(RefusedError::RootDigest {
            found,
            expected: job.root_digest,
        });
    }
    if let Some(known) = &known {
        if known.root != found {
            return Err(RefusedError::OtherRoot {
                pinned: known.root,
                offered: found,
            });
        }
        if known.node != job.node {
            return Err(RefusedError::OtherNode {
                pinned: known.node,
                offered: job.node,
            });
        }
    }
    let floor = known.as_ref().map_or(0, |known| known.sequence);
    let assignment = job.root.verify(&job.assignment, job.node, floor)?;
    let release = assignment.release.as_ref().ok_or(RefusedError::Unassigned)?;
    let pinned = job.root.releases;
    let mut releases = pinned.map(|pinned| Releases::open(dir, pinned, job, known.is_none()));
    let last = match &releases {
        Some(Ok(releases)) => releases.last_signed()?,
        _ => UnixSeconds(0),
    };
    // Time does not go back, whatever the clock says.
    let now = clock.max(last);
    let signed = assignment.issued.max(last);
    let same = known.as_ref().filter(|known| known.sequence == assignment.sequence);
    match same {
        Some(known) if known.list != release.list => {
            return Err(RefusedError::TwoLists {
                sequence: assignment.sequence,
                known: known.list,
                offered: release.list,
            });
        }
        // What was adopted stays in force after it expired.
        Some(_) => {}
        None => assignment
            .adoptable(now)
            .map_err(|error| RefusedError::from(error).at(clock, signed))?,
    }
    let permitted = releases.as_mut().map(|releases| match releases {
        Ok(releases) => releases.permitted(job, release, now),
        Err(error) => Err(std::mem::replace(error, ReleasesError::Keep(String::new()))),
    });
    let (target, refused) = match permitted {
        None => (None, None),
        Some(Ok(target)) => (Some(target), None),
        Some(Err(error)) => {
            // What was adopted stays in force, whatever the metadata of today is like.
            let adopted = known
                .as_ref()
                .is_some_and(|known| known.list == release.list && [0, release.release].contains(&known.release));
            let narrowed = error.is_narrowed();
            let refused = RefusedError::from(error).at(clock, signed);
            if !adopted || narrowed {
                return Err(refused);
            }
            (None, Some(refused))
        }
    };
    let trust = Trust {
        format: TRUST_FORMAT,
        root: found,
        node: job.node,
        sequence: assignment.sequence,
        list: release.list,
        release: release.release,
    };
    if known.as_ref() != Some(&trust) {
        serde_json::to_vec(&trust)
            .map_err(io::Error::from)
            .and_then(|bytes| file::replace(&path, &bytes))
            .map_err(|source| RefusedError::Io { path, source })?;
    }
    Ok(Admitted {
        release,
        target,
        refused,
    })
}

fn read(path: &Path) -> Result<Option<Trust>, RefusedError> {
    #[derive(Deserialize)]
    struct Format {
        format: u64,
    }
    let io = |source| RefusedError::Io {
        path: path.to_owned(),
        source,
    };
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(io(error)),
    };
    let format = serde_json::from_slice::<Format>(&bytes)
        .map_err(|error| io(error.into()))?
        .format;
    if format > u64::from(TRUST_FORMAT) {
        return Err(RefusedError::Newer {
            path: path.to_owned(),
            format,
        });
    }
    serde_json::from_slice(&bytes)
        .map(Some)
        .map_err(|error| io(error.into()))
}

#[cfg(test)]
mod tests {
    use potluck_model::Location;
    use potluck_model::assignment::{ASSIGNMENT_FORMAT, Assignment, AssignmentKind, Root, SigningKey};

    use super::*;

    fn key() -> SigningKey {
        SigningKey::from_pkcs8(&SigningKey::generate()).unwrap()
    }

    fn job(key: &SigningKey, sequence: u64, list: &[u8]) -> Job {
        let root = Root::first(key);
        Job {
            root_digest: root.digest(),
            root,
            node: NodeId(1),
            assignment: key.sign(Assignment {
                kind: AssignmentKind::Assignment,
                format: ASSIGNMENT_FORMAT,
                node: NodeId(1),
                sequence,
                issued: UnixSeconds(0),
                expires: UnixSeconds(100),
                release: Some(AssignedRelease {
                    configuration: "web".parse().unwrap(),
                    release: 1,
                    list: Digest::of(list),
                    list_size: list.len() as u64,
                }),
            }),
            trust: None,
            list: Location {
                path: "/nowhere".into(),
                offset: 0,
                len: 0,
            },
            contents: Vec::new(),
            machine_root: "/".into(),
            halted: false,
        }
    }

    #[test]
    fn the_first_job_pins_the_root_and_the_node() {
        let dir = tempfile::tempdir().unwrap();
        let now = UnixSeconds(50);
        let ours = key();
        admit(dir.path(), &job(&ours, 1, b"a"), now).unwrap();
        assert!(matches!(
            admit(dir.path(), &job(&key(), 2, b"a"), now),
            Err(RefusedError::OtherRoot { .. })
        ));
        let mut other = job(&ours, 2, b"a");
        other.node = NodeId(2);
        assert!(matches!(
            admit(dir.path(), &other, now),
            Err(RefusedError::OtherNode { .. })
        ));
        let mut other = job(&ours, 2, b"a");
        other.root_digest = Digest::of(b"");
        assert!(matches!(
            admit(dir.path(), &other, now),
            Err(RefusedError::RootDigest { .. })
        ));
        let mut other = job(&ours, 2, b"a");
        other.assignment = job(&key(), 2, b"a").assignment;
        assert!(matches!(
            admit(dir.path(), &other, now),
            Err(RefusedError::Trust(TrustError::Unsigned))
        ));
    }

    #[test]
    fn a_job_that_was_refused_pins_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let mut unsigned = job(&key(), 1, b"a");
        unsigned.assignment.signatures.clear();
        admit(dir.path(), &unsigned, UnixSeconds(50)).unwrap_err();
        admit(dir.path(), &job(&key(), 1, b"a"), UnixSeconds(50)).unwrap();
    }

    #[test]
    fn an_older_assignment_is_refused_even_if_it_was_good_once() {
        let dir = tempfile::tempdir().unwrap();
        let key = key();
        let now = UnixSeconds(50);
        admit(dir.path(), &job(&key, 5, b"a"), now).unwrap();
        admit(dir.path(), &job(&key, 6, b"b"), now).unwrap();
        assert!(matches!(
            admit(dir.path(), &job(&key, 5, b"a"), now),
            Err(RefusedError::Trust(TrustError::Rollback { got: 5, known: 6 }))
        ));
        assert!(matches!(
            admit(dir.path(), &job(&key, 6, b"a"), now),
            Err(RefusedError::TwoLists { sequence: 6, .. })
        ));
    }

    #[test]
    fn expiry_stops_what_is_new_and_not_what_was_adopted() {
        let dir = tempfile::tempdir().unwrap();
        let key = key();
        admit(dir.path(), &job(&key, 5, b"a"), UnixSeconds(50)).unwrap();
        admit(dir.path(), &job(&key, 5, b"a"), UnixSeconds(500)).unwrap();
        assert!(matches!(
            admit(dir.path(), &job(&key, 6, b"b"), UnixSeconds(500)),
            Err(RefusedError::Trust(TrustError::Expired { .. }))
        ));
    }

    #[test]
    fn an_assignment_of_nothing_executes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let key = key();
        let mut nothing = job(&key, 5, b"a");
        nothing.assignment.signed.release = None;
        nothing.assignment = key.sign(nothing.assignment.signed);
        assert!(matches!(
            admit(dir.path(), &nothing, UnixSeconds(50)),
            Err(RefusedError::Unassigned)
        ));
    }
}
