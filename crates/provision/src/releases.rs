//! What publishers permit, as the executing process itself has verified it. Its floors are in `releases/` of its directory.

use std::convert::Infallible;
use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

use potluck_model::api::ReleaseTrust;
use potluck_model::assignment::AssignedRelease;
use potluck_model::{Digest, UnixSeconds};
use potluck_trust::{Client, ClientError, Fault, Role, Source, Target};

use crate::job::Job;

/// Why a release is not one that publishers permit.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReleasesError {
    /// The server gave no metadata, or not the root that is pinned.
    #[error(
        "[root] none of the publishers' roots has the digest {0} that this node's trusted root names: \
         the server was tampered with, or this node belongs to another fleet"
    )]
    Root(Digest),
    /// The metadata, or what it says. The word in brackets is its kind (docs/trust.md).
    #[error("[{kind}] {0}", kind = .0.kind())]
    Fault(#[from] Fault),
    /// What is believed cannot be kept.
    #[error("{0}")]
    Keep(String),
}

impl ReleasesError {
    /// Whether a publisher excludes this release or this node: that ends what was adopted, too.
    pub(crate) fn is_narrowed(&self) -> bool {
        matches!(self, Self::Fault(Fault::Narrowed(_)))
    }
}

impl From<ClientError<Infallible>> for ReleasesError {
    fn from(error: ClientError<Infallible>) -> Self {
        match error {
            ClientError::Fault(fault) => Self::Fault(fault),
            other => Self::Keep(other.to_string()),
        }
    }
}

/// The metadata of a job.
struct Bundle<'a>(&'a ReleaseTrust);

impl Source for Bundle<'_> {
    type Error = Infallible;

    fn fetch(&mut self, role: Role, version: Option<u64>, _: u64) -> Result<Option<Vec<u8>>, Infallible> {
        let text = match role {
            Role::Root => version
                .and_then(|version| usize::try_from(version).ok()?.checked_sub(1))
                .and_then(|index| self.0.roots.get(index)),
            Role::Timestamp => Some(&self.0.timestamp),
            Role::Snapshot => Some(&self.0.snapshot),
            Role::Targets => self.0.targets.as_ref(),
        };
        Ok(text.map(|text| text.clone().into_bytes()))
    }
}

/// The target of the release that a job is about, if publishers permit this node to execute it.
pub(crate) fn permitted(
    dir: &Path,
    pinned: Digest,
    job: &Job,
    release: &AssignedRelease,
    now: UnixSeconds,
) -> Result<Target, ReleasesError> {
    let trust = job.trust.as_ref().ok_or(ReleasesError::Root(pinned))?;
    let dir = dir.join("releases");
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&dir)
        .map_err(|error| ReleasesError::Keep(format!("cannot make {}: {error}", dir.display())))?;
    let mut client = match Client::open::<Infallible>(&dir)? {
        Some(client) => client,
        None => {
            // The first one, or the one that was the newest when the node joined.
            let mut roots = trust.roots.iter();
            let first = roots.find(|root| Digest::of(root.as_bytes()) == pinned);
            let first = first.ok_or(ReleasesError::Root(pinned))?;
            Client::begin::<Infallible>(&dir, first.as_bytes())?
        }
    };
    client.refresh(&mut Bundle(trust), now)?;
    Ok(client.trusted().permitted(job.node, release)?.clone())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use potluck_model::assignment::{ASSIGNMENT_FORMAT, Assignment, AssignmentKind, Root, SigningKey};
    use potluck_model::{Location, NodeId};
    use potluck_trust::{
        Document, Permission, RootEditor, SecretKey, Signed, Targets, TargetsEditor, snapshot, target_path, timestamp,
    };

    use super::*;
    use crate::trust::{RefusedError, admit};

    const NOW: UnixSeconds = UnixSeconds(1_800_000_000);
    const DAY: u64 = 86_400;

    /// A server that has everything but the publisher's keys, and a publisher.
    struct Fleet {
        dir: tempfile::TempDir,
        assignments: SigningKey,
        publisher: SecretKey,
        online: SecretKey,
        root: Signed<potluck_trust::Root>,
        targets: Signed<Targets>,
        sequence: u64,
    }

    fn text<T: Document>(file: &Signed<T>) -> String {
        String::from_utf8(file.to_bytes()).unwrap()
    }

    impl Fleet {
        fn new() -> Self {
            let (publisher, online) = (SecretKey::generate(), SecretKey::generate());
            let mut root = RootEditor::first(NOW);
            root.add(Role::Root, &publisher.public())
                .add(Role::Targets, &publisher.public())
                .add(Role::Snapshot, &online.public())
                .add(Role::Timestamp, &online.public());
            let mut root = root.finish().unwrap();
            root.sign(&publisher);
            let mut targets = TargetsEditor::first(NOW).finish().unwrap();
            targets.sign(&publisher);
            Self {
                dir: tempfile::tempdir().unwrap(),
                assignments: SigningKey::from_pkcs8(&SigningKey::generate()).unwrap(),
                publisher,
                online,
                root,
                targets,
                sequence: 0,
            }
        }

        /// The publisher signs a release of `web`, and narrows it.
        fn publish(&mut self, release: u64, list: &[u8], narrow: impl FnOnce(&mut Permission)) {
            let mut permission = Permission::of(Digest::of(list));
            narrow(&mut permission);
            let path = target_path(&"web".parse().unwrap(), release);
            let mut editor = TargetsEditor::after(&self.targets, NOW);
            editor.add(&path, list, Some(permission.to_value()));
            self.targets = editor.finish().unwrap();
            self.targets.sign(&self.publisher);
        }

        /// What the server says: the metadata of `version`, and that the node is to execute the release.
        fn job(&mut self, version: u64, release: u64, list: &[u8]) -> Job {
            let mut snapshot = snapshot(&self.targets, version, NOW);
            snapshot.sign(&self.online);
            let mut timestamp = timestamp(&snapshot, version, NOW);
            timestamp.sign(&self.online);
            self.sequence += 1;
            let root = Root::first(&self.assignments).with_releases(Digest::of(&self.root.to_bytes()));
            Job {
                root_digest: root.digest(),
                root,
                node: NodeId(1),
                assignment: self.assignments.sign(Assignment {
                    kind: AssignmentKind::Assignment,
                    format: ASSIGNMENT_FORMAT,
                    node: NodeId(1),
                    sequence: self.sequence,
                    issued: NOW,
                    expires: UnixSeconds(u64::from(u32::MAX)),
                    release: Some(AssignedRelease {
                        configuration: "web".parse().unwrap(),
                        release,
                        list: Digest::of(list),
                        list_size: list.len() as u64,
                    }),
                }),
                trust: Some(ReleaseTrust {
                    roots: vec![text(&self.root)],
                    timestamp: text(&timestamp),
                    snapshot: text(&snapshot),
                    targets: Some(text(&self.targets)),
                }),
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

        fn admit(&self, job: &Job) -> Result<bool, RefusedError> {
            self.admit_at(job, NOW)
        }

        /// Whether the metadata was believed; an error if nothing is executed.
        fn admit_at(&self, job: &Job, now: UnixSeconds) -> Result<bool, RefusedError> {
            admit(self.dir.path(), job, now).map(|admitted| admitted.target.is_some())
        }
    }

    fn kind(result: Result<bool, RefusedError>) -> &'static str {
        match result {
            Err(RefusedError::Releases(ReleasesError::Fault(fault))) => fault.kind(),
            Err(RefusedError::Releases(ReleasesError::Root(_))) => "root",
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_is_assigned_is_executed_only_if_a_publisher_signed_it() {
        let mut fleet = Fleet::new();
        fleet.publish(1, b"good", |_| {});
        let job = fleet.job(1, 1, b"evil");
        assert_eq!(kind(fleet.admit(&job)), "not-listed");
        let job = fleet.job(2, 2, b"good");
        assert_eq!(kind(fleet.admit(&job)), "not-listed");
        let job = fleet.job(3, 1, b"good");
        assert!(fleet.admit(&job).unwrap());
    }

    #[test]
    fn a_server_that_was_broken_into_cannot_sign_for_the_publisher() {
        let mut fleet = Fleet::new();
        fleet.publish(1, b"good", |_| {});
        let honest = std::mem::replace(&mut fleet.publisher, SecretKey::generate());
        fleet.publish(2, b"evil", |_| {});
        let job = fleet.job(1, 2, b"evil");
        assert_eq!(kind(fleet.admit(&job)), "unsigned");
        let mut without = fleet.job(2, 2, b"evil");
        without.trust = None;
        assert_eq!(kind(fleet.admit(&without)), "root");
        // A whole repository of the attacker's own.
        let mut own = Fleet::new();
        own.publish(2, b"evil", |_| {});
        let mut job = fleet.job(3, 2, b"evil");
        job.trust = own.job(3, 2, b"evil").trust;
        assert!(fleet.admit(&job).is_err());
        let fresh = Fleet {
            dir: tempfile::tempdir().unwrap(),
            publisher: honest,
            ..fleet
        };
        assert_eq!(kind(fresh.admit(&job)), "root");
    }

    #[test]
    fn a_thousand_changed_files_of_metadata_execute_nothing() {
        let mut fleet = Fleet::new();
        fleet.publish(1, b"good", |_| {});
        let good = fleet.job(1, 1, b"good");
        let whole = serde_json::to_string(good.trust.as_ref().unwrap()).unwrap();
        let mut tried = 0;
        for at in (0..whole.len()).step_by((whole.len() / 1_000).max(1)) {
            let mut bytes = whole.clone().into_bytes();
            bytes[at] = if bytes[at] == b'0' { b'1' } else { b'0' };
            let Ok(trust) = serde_json::from_slice::<ReleaseTrust>(&bytes) else {
                continue;
            };
            let mut job = good.clone();
            job.trust = Some(trust);
            let dir = tempfile::tempdir().unwrap();
            // Either it is refused, or it permits what was signed: never another list.
            if let Ok(target) = permitted(dir.path(), job.root.releases.unwrap(), &job, job_release(&job), NOW) {
                assert!(target.check("web/1", b"evil").is_err());
                assert_eq!(Permission::read(&target).unwrap().list, Digest::of(b"good"));
            }
            tried += 1;
        }
        assert!(tried > 500, "{tried}");
    }

    fn job_release(job: &Job) -> &AssignedRelease {
        job.assignment.signed.release.as_ref().unwrap()
    }

    #[test]
    fn what_publishers_narrowed_stays_narrow() {
        let mut fleet = Fleet::new();
        fleet.publish(1, b"one", |permission| {
            permission.only = Some(BTreeSet::from([NodeId(2)]));
        });
        let job = fleet.job(1, 1, b"one");
        assert_eq!(kind(fleet.admit(&job)), "narrowed");
        fleet.publish(2, b"two", |permission| {
            permission.only = Some(BTreeSet::from([NodeId(1), NodeId(2)]));
        });
        let job = fleet.job(2, 2, b"two");
        assert!(fleet.admit(&job).unwrap());
        // Not even what this node has adopted.
        fleet.publish(3, b"three", |permission| permission.minimum = Some(3));
        let job = fleet.job(3, 2, b"two");
        assert_eq!(kind(fleet.admit(&job)), "narrowed");
        let job = fleet.job(4, 3, b"three");
        assert!(fleet.admit(&job).unwrap());
    }

    #[test]
    fn old_metadata_stops_what_is_new_and_not_what_was_adopted() {
        let mut fleet = Fleet::new();
        fleet.publish(1, b"one", |_| {});
        fleet.publish(2, b"two", |_| {});
        let job = fleet.job(5, 1, b"one");
        assert!(fleet.admit(&job).unwrap());
        let later = UnixSeconds(NOW.0 + 60 * DAY);
        assert!(
            !fleet.admit_at(&job, later).unwrap(),
            "adopted, though nobody vouches for it now"
        );
        let job = fleet.job(6, 2, b"two");
        assert_eq!(kind(fleet.admit_at(&job, later)), "expired");
        // And an older timestamp than was seen is a rollback.
        let job = fleet.job(4, 2, b"two");
        assert_eq!(kind(fleet.admit(&job)), "rollback");
    }
}
