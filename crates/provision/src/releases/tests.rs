//! What is admitted of what a server says that may have been broken into.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

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
    /// Of somebody else.
    thief: SecretKey,
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
            thief: SecretKey::generate(),
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
        Err(RefusedError::Clock { because, .. }) => kind(Err(*because)),
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
        let mut releases = Releases::open(dir.path(), job.root.releases.unwrap(), &job, false);
        let permitted = releases
            .as_mut()
            .map(|releases| releases.permitted(&job, job_release(&job), NOW));
        if let Ok(Ok(target)) = permitted {
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
fn what_was_adopted_stays_in_force_and_says_that_its_metadata_is_refused() {
    let mut fleet = Fleet::new();
    fleet.publish(1, b"one", |_| {});
    let good = fleet.job(5, 1, b"one");
    assert!(admit(fleet.dir.path(), &good, NOW).unwrap().refused.is_none());
    let mut old = fleet.job(4, 1, b"one");
    old.assignment = good.assignment.clone();
    let refused = admit(fleet.dir.path(), &old, NOW).unwrap().refused.unwrap();
    assert!(refused.to_string().starts_with("[rollback]"), "{refused}");
}

#[test]
fn what_was_forbidden_once_is_not_executed_because_later_metadata_is_refused() {
    let mut fleet = Fleet::new();
    fleet.publish(1, b"one", |_| {});
    let job = fleet.job(5, 1, b"one");
    assert!(fleet.admit(&job).unwrap());
    fleet.publish(2, b"two", |permission| permission.minimum = Some(2));
    let job = fleet.job(6, 1, b"one");
    assert_eq!(kind(fleet.admit(&job)), "narrowed");
    let mut rubbish = fleet.job(7, 1, b"one");
    rubbish.trust.as_mut().unwrap().timestamp = "rubbish".into();
    assert_eq!(kind(fleet.admit(&rubbish)), "narrowed");
    // Nor under another number.
    let renamed = fleet.job(4, 9, b"one");
    assert!(fleet.admit(&renamed).is_err());
}

#[test]
fn time_never_falls_below_the_last_timestamp_that_was_believed() {
    let mut fleet = Fleet::new();
    fleet.publish(1, b"one", |_| {});
    let job = fleet.job(5, 1, b"one");
    assert!(fleet.admit(&job).unwrap());
    fleet.publish(2, b"two", |_| {});
    // Signed long ago; a clock that was set back would believe it.
    let mut stale = fleet.job(6, 2, b"two");
    let mut old = snapshot(&fleet.targets, 6, UnixSeconds(NOW.0 - 40 * DAY));
    old.sign(&fleet.online);
    let mut newest = timestamp(&old, 6, UnixSeconds(NOW.0 - 40 * DAY));
    newest.sign(&fleet.online);
    let trust = stale.trust.as_mut().unwrap();
    (trust.snapshot, trust.timestamp) = (text(&old), text(&newest));
    let set_back = UnixSeconds(NOW.0 - 39 * DAY);
    assert_eq!(kind(fleet.admit_at(&stale, set_back)), "expired");
    let refused = fleet.admit_at(&stale, set_back).unwrap_err().to_string();
    assert!(refused.contains("clock is 39d behind"), "{refused}");
}

#[test]
fn a_machine_that_became_a_node_of_another_fleet_forgets_the_floors_of_the_old_one() {
    let mut old = Fleet::new();
    old.publish(1, b"one", |_| {});
    let job = old.job(9, 1, b"one");
    assert!(old.admit(&job).unwrap());
    let mut new = Fleet::new();
    new.publish(1, b"other", |_| {});
    let job = new.job(1, 1, b"other");
    fs::remove_file(old.dir.path().join("trust.json")).unwrap();
    assert!(old.admit(&job).unwrap());
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
    let refused = fleet.admit_at(&job, later).unwrap_err().to_string();
    assert!(refused.contains("60d ahead"), "{refused}");
    // And an older timestamp than was seen is a rollback.
    let job = fleet.job(4, 2, b"two");
    assert_eq!(kind(fleet.admit(&job)), "rollback");
}

/// What an attacker has who broke into the server: every file that ever was on its disk, and the keys that are there.
struct Loot {
    timestamps: Vec<String>,
    snapshots: Vec<String>,
    targets: Vec<String>,
    jobs: Vec<Job>,
}

/// A sequence that is the same for the same seed (xorshift).
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % bound as u64).unwrap()
    }

    fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.below(from.len())]
    }
}

impl Loot {
    fn take(&mut self, job: &Job) {
        let trust = job.trust.as_ref().unwrap();
        self.timestamps.push(trust.timestamp.clone());
        self.snapshots.push(trust.snapshot.clone());
        self.targets.extend(trust.targets.clone());
        self.jobs.push(job.clone());
    }

    /// Anything that can be made of it: files of different days, signed anew with the server's keys, forged, or changed.
    fn forge(&self, fleet: &mut Fleet, dice: &mut Dice, lists: &[(u64, &[u8])]) -> Job {
        let mut job = dice.pick(&self.jobs).clone();
        let (release, list) = *dice.pick(lists);
        // Mostly one that nodes have not seen.
        let version = 10 + 2 * fleet.sequence + dice.below(3) as u64;
        let trust = job.trust.as_mut().unwrap();
        trust.timestamp = dice.pick(&self.timestamps).clone();
        trust.snapshot = dice.pick(&self.snapshots).clone();
        trust.targets = Some(dice.pick(&self.targets).clone());
        if dice.below(3) > 0 {
            // Targets of any day, or ones that nobody but the attacker signed, vouched for by the server's own keys.
            let mut chosen = Signed::<Targets>::from_bytes(trust.targets.as_ref().unwrap().as_bytes()).unwrap();
            if dice.below(2) == 0 {
                chosen = fleet.targets.clone();
            }
            if dice.below(3) == 0 {
                let mut editor = TargetsEditor::after(&chosen, NOW);
                let path = target_path(&"web".parse().unwrap(), release);
                editor.add(&path, list, Some(Permission::of(Digest::of(list)).to_value()));
                chosen = editor.finish().unwrap();
                chosen.sign(if dice.below(2) == 0 {
                    &fleet.online
                } else {
                    &fleet.thief
                });
            }
            let mut resigned = snapshot(&chosen, version, NOW);
            resigned.sign(&fleet.online);
            let mut stamp = timestamp(&resigned, version, NOW);
            stamp.sign(&fleet.online);
            *trust = ReleaseTrust {
                roots: trust.roots.clone(),
                timestamp: text(&stamp),
                snapshot: text(&resigned),
                targets: Some(text(&chosen)),
            };
        }
        if dice.below(8) == 0 {
            let field = match dice.below(4) {
                0 => trust.targets.as_mut().unwrap(),
                1 => &mut trust.snapshot,
                2 => &mut trust.timestamp,
                _ => &mut trust.roots[0],
            };
            let at = dice.below(field.len());
            if field.is_char_boundary(at) && field.is_char_boundary(at + 1) {
                field.replace_range(at..=at, "7");
            }
        }
        if dice.below(4) > 0 {
            fleet.sequence += 1;
            job.assignment = fleet.assignments.sign(Assignment {
                sequence: fleet.sequence,
                release: Some(AssignedRelease {
                    configuration: "web".parse().unwrap(),
                    release,
                    list: Digest::of(list),
                    list_size: list.len() as u64,
                }),
                ..job.assignment.signed.clone()
            });
        }
        job
    }
}

/// What this node has noted.
fn files(dir: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut files = vec![(dir.join("trust.json"), fs::read(dir.join("trust.json")).unwrap())];
    for entry in fs::read_dir(dir.join("releases")).unwrap() {
        let path = entry.unwrap().path();
        files.push((path.clone(), fs::read(&path).unwrap()));
    }
    files
}

#[test]
fn with_all_that_is_on_the_server_nothing_can_be_executed_that_no_publisher_signed_for_this_node() {
    let mut fleet = Fleet::new();
    let mut loot = Loot {
        timestamps: Vec::new(),
        snapshots: Vec::new(),
        targets: Vec::new(),
        jobs: Vec::new(),
    };
    // Releases 1 to 5: the third is for another node, the fourth ends the first two.
    let lists: Vec<(u64, Vec<u8>)> = (1..=5)
        .map(|number| (number, format!("list {number}").into_bytes()))
        .collect();
    for (number, list) in &lists {
        fleet.publish(*number, list, |permission| match number {
            3 => permission.only = Some(BTreeSet::from([NodeId(2)])),
            4 => permission.minimum = Some(4),
            _ => {}
        });
        let job = fleet.job(*number, *number, list);
        loot.take(&job);
        if [1, 2, 4, 5].contains(number) {
            assert!(fleet.admit(&job).unwrap());
        }
    }
    let evil: &[u8] = b"evil";
    let mut offered: Vec<(u64, &[u8])> = lists.iter().map(|(number, list)| (*number, list.as_slice())).collect();
    offered.extend([(1, evil), (4, evil), (5, evil), (6, evil), (7, b"list 5")]);
    let permitted = [(4, Digest::of(b"list 4")), (5, Digest::of(b"list 5"))];
    let mut dice = Dice(0x9e37_79b9_7f4a_7c15);
    let (mut admitted, mut refused) = (0, BTreeSet::new());
    let honest = files(fleet.dir.path());
    for round in 0..1_000 {
        // Versions that were driven up would keep out all that follows; here the node has not met the attacker yet.
        if round % 10 == 0 {
            for (path, bytes) in &honest {
                fs::write(path, bytes).unwrap();
            }
        }
        let job = loot.forge(&mut fleet, &mut dice, &offered);
        match admit(fleet.dir.path(), &job, NOW) {
            Ok(_) => {
                let release = job_release(&job);
                assert!(
                    permitted.contains(&(release.release, release.list)),
                    "round {round}: {release:?}"
                );
                admitted += 1;
            }
            Err(RefusedError::Releases(ReleasesError::Fault(fault))) => {
                refused.insert(fault.kind());
            }
            Err(_) => {
                refused.insert("other");
            }
        }
    }
    // It would prove nothing if all were refused for one reason.
    assert!(admitted > 20, "{admitted} of what is signed and assigned");
    for kind in [
        "unsigned",
        "rollback",
        "not-listed",
        "narrowed",
        "mix-and-match",
        "malformed",
    ] {
        assert!(refused.contains(kind), "{kind}: {refused:?}");
    }
}
