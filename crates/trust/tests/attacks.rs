//! The attacks of The Update Framework's list, each against the client with a repository that is hostile.

mod common;

use common::{Repository, Sent, refused};
use potluck_trust::{Client, ClientError, Fault, Role, SecretKey, TARGETS_BYTES_MAX};
use serde_json::json;

const DAY: u64 = 86_400;

#[test]
fn arbitrary_software_is_refused_whoever_signs_it_but_the_publisher() {
    let mut repository = Repository::new();
    let mut client = repository.client();
    // Whoever has the server has these two keys, and not the publisher's.
    repository.keys[1] = SecretKey::generate();
    repository.publish("web/2", b"evil");
    assert!(matches!(
        refused(client.refresh(&mut repository)),
        Fault::Unsigned {
            role: Role::Targets,
            valid: 0,
            threshold: 1
        }
    ));
    assert!(matches!(
        client.target("web/2"),
        Err(Fault::NotListed(_) | Fault::Missing(_))
    ));
}

#[test]
fn wrong_software_is_told_by_its_digest_and_length() {
    let mut repository = Repository::new();
    repository.publish("web/1", b"good");
    let client = repository.client();
    let target = client.target("web/1").unwrap();
    target.check("web/1", b"good").unwrap();
    assert_eq!(target.check("web/1", b"evil").unwrap_err().kind(), "mix-and-match");
    assert_eq!(target.check("web/1", b"goods").unwrap_err().kind(), "mix-and-match");
}

#[test]
fn an_older_timestamp_snapshot_or_targets_is_a_rollback() {
    let mut repository = Repository::new();
    repository.publish("web/1", b"one");
    let old = repository.sent.clone();
    repository.publish("web/2", b"two");
    let mut client = repository.client();
    let new = std::mem::replace(&mut repository.sent, old.clone());
    assert!(matches!(
        refused(client.refresh(&mut repository)),
        Fault::Rollback {
            role: Role::Timestamp,
            ..
        }
    ));
    // The same with a new timestamp over the old snapshot, as one who has the timestamp's key can make it.
    repository.sent = old.clone();
    repository.sign_timestamp(new.timestamp_version() + 1);
    assert!(matches!(
        refused(client.refresh(&mut repository)),
        Fault::Rollback {
            role: Role::Snapshot,
            ..
        }
    ));
    // And with a new snapshot over the old targets.
    repository.sent = old;
    repository.sign_snapshot(new.snapshot_version() + 1);
    repository.sign_timestamp(new.timestamp_version() + 1);
    assert!(matches!(
        refused(client.refresh(&mut repository)),
        Fault::Rollback {
            role: Role::Targets,
            ..
        }
    ));
}

#[test]
fn a_restart_forgets_no_floor() {
    let mut repository = Repository::new();
    let old = repository.sent.clone();
    repository.publish("web/1", b"one");
    let client = repository.client();
    let mut again = client.reopen();
    let new = std::mem::replace(&mut repository.sent, old);
    assert!(matches!(
        refused(again.refresh(&mut repository)),
        Fault::Rollback {
            role: Role::Timestamp,
            ..
        }
    ));
    repository.sent = new;
    again.refresh(&mut repository).unwrap();
    again.target("web/1").unwrap();
}

#[test]
fn versions_driven_up_with_a_stolen_key_are_undone_by_rotating_it() {
    let mut repository = Repository::new();
    let mut client = repository.client();
    let honest = (repository.sent.timestamp_version(), repository.sent.snapshot_version());
    repository.sign_snapshot(u64::MAX / 2);
    repository.sign_timestamp(u64::MAX / 2);
    client.refresh(&mut repository).unwrap();
    repository.rotate(&[Role::Snapshot, Role::Timestamp]);
    repository.sign_snapshot(honest.1 + 1);
    repository.sign_timestamp(honest.0 + 1);
    client.refresh(&mut repository).unwrap();
    assert_eq!(client.trusted().timestamp().unwrap().version(), honest.0 + 1);
}

#[test]
fn a_frozen_repository_is_noticed_when_its_timestamp_expires() {
    let mut repository = Repository::new();
    let mut client = repository.client();
    client.now.0 += 6 * DAY;
    client.refresh(&mut repository).unwrap();
    client.now.0 += 2 * DAY;
    assert!(matches!(
        refused(client.refresh(&mut repository)),
        Fault::Expired {
            role: Role::Timestamp,
            ..
        }
    ));
}

#[test]
fn each_role_expires() {
    for (days, role) in [(31, Role::Snapshot), (731, Role::Targets), (3_651, Role::Root)] {
        let mut repository = Repository::new();
        let mut client = repository.client();
        client.now.0 += days * DAY;
        repository.now = client.now;
        if role == Role::Targets {
            repository.sign_snapshot(repository.sent.snapshot_version() + 1);
        }
        repository.sign_timestamp(repository.sent.timestamp_version() + 1);
        match refused(client.refresh(&mut repository)) {
            Fault::Expired { role: found, .. } => assert_eq!(found, role),
            other => panic!("{role}: {other}"),
        }
    }
}

#[test]
fn endless_data_ends_at_the_limit_of_each_file() {
    let mut repository = Repository::new();
    repository.publish("web/1", b"one");
    let mut client = repository.fresh_client();
    let targets = repository.sent.targets.clone();
    repository.sent.targets.push(b' ');
    assert!(
        matches!(refused(client.refresh(&mut repository)), Fault::TooLarge { max, .. } if max == targets.len() as u64)
    );
    repository.sent.targets = targets;
    repository.sent.timestamp = vec![b' '; 1 << 20];
    assert!(matches!(
        refused(client.refresh(&mut repository)),
        Fault::TooLarge { .. }
    ));
    assert!(
        repository.asked.iter().all(|(_, max)| *max <= TARGETS_BYTES_MAX),
        "nothing is asked for without a limit: {:?}",
        repository.asked
    );
}

#[test]
fn files_of_different_days_are_not_mixed() {
    let mut repository = Repository::new();
    repository.publish("web/1", b"one");
    let old = repository.sent.clone();
    repository.publish("web/2", b"two");
    let new = repository.sent.clone();
    for mixed in [
        Sent {
            targets: old.targets.clone(),
            ..new.clone()
        },
        Sent {
            snapshot: old.snapshot.clone(),
            ..new.clone()
        },
        Sent {
            snapshot: old.snapshot.clone(),
            targets: old.targets.clone(),
            ..new.clone()
        },
    ] {
        let mut client = repository.fresh_client();
        repository.sent = mixed;
        assert_eq!(refused(client.refresh(&mut repository)).kind(), "mix-and-match");
    }
}

#[test]
fn a_mirror_can_only_withhold() {
    let mut repository = Repository::new();
    repository.publish("web/1", b"one");
    let good = repository.sent.clone();
    for byte in (0..good.targets.len()).step_by(7) {
        let mut client = repository.fresh_client();
        repository.sent = good.clone();
        repository.sent.targets[byte] ^= 1;
        assert!(client.refresh(&mut repository).is_err(), "byte {byte}");
    }
    for file in 0..3 {
        let mut client = repository.fresh_client();
        repository.sent = good.clone();
        [
            &mut repository.sent.timestamp,
            &mut repository.sent.snapshot,
            &mut repository.sent.targets,
        ][file]
            .clear();
        assert_eq!(refused(client.refresh(&mut repository)).kind(), "missing");
    }
}

#[test]
fn a_stolen_key_is_worth_nothing_below_the_threshold() {
    let mut repository = Repository::new();
    let second = SecretKey::generate();
    repository.root(|root| {
        root.add(Role::Targets, &second.public()).threshold(Role::Targets, 2);
    });
    let mut client = repository.fresh_client();
    repository.publish("web/2", b"evil");
    assert!(matches!(
        refused(client.refresh(&mut repository)),
        Fault::Unsigned {
            role: Role::Targets,
            valid: 1,
            threshold: 2
        }
    ));
    repository.more = vec![second];
    repository.publish("web/3", b"agreed");
    client.refresh(&mut repository).unwrap();
    client.target("web/3").unwrap();
}

#[test]
fn one_key_under_two_ids_counts_once() {
    let mut repository = Repository::new();
    let key = repository.keys[1].public();
    let mut twin = serde_json::to_value(&key).unwrap();
    twin["x-note"] = json!("the same key by another name");
    repository.root_by_hand(|root| {
        root["keys"]["twin"] = twin;
        root["roles"]["targets"]["keyids"] = json!([key.id(), "twin"]);
        root["roles"]["targets"]["threshold"] = json!(2);
    });
    let mut client = repository.fresh_client();
    repository.publish_by_hand(|targets| {
        let again = targets["signatures"][0]["sig"].clone();
        targets["signatures"]
            .as_array_mut()
            .unwrap()
            .push(json!({"keyid": "twin", "sig": again}));
    });
    assert!(matches!(
        refused(client.refresh(&mut repository)),
        Fault::Unsigned {
            valid: 1,
            threshold: 2,
            ..
        }
    ));
}

#[test]
fn a_root_needs_the_old_signers_and_its_own() {
    let mut repository = Repository::new();
    let thief = SecretKey::generate();
    let honest = std::mem::replace(&mut repository.keys[0], thief);
    // The thief names itself, and signs alone.
    let mut client = repository.client();
    repository.replace_root(&[]);
    assert!(matches!(
        refused(client.refresh(&mut repository)),
        Fault::Unsigned { role: Role::Root, .. }
    ));
    repository.sent.roots.pop();
    // The old signer alone cannot hand over to one who did not agree.
    let newcomer = std::mem::replace(&mut repository.keys[0], honest);
    repository.name_in_root(&newcomer.public());
    assert!(matches!(
        refused(client.refresh(&mut repository)),
        Fault::Unsigned { role: Role::Root, .. }
    ));
    repository.sent.roots.pop();
    // Both together can.
    let old = std::mem::replace(&mut repository.keys[0], newcomer);
    repository.replace_root(&[&old]);
    client.refresh(&mut repository).unwrap();
    assert_eq!(client.trusted().root().version(), 2);
}

#[test]
fn no_root_is_skipped_or_repeated() {
    let mut repository = Repository::new();
    repository.root(|_| {});
    repository.root(|_| {});
    let mut client = repository.fresh_client();
    let roots = repository.sent.roots.clone();
    repository.sent.roots.remove(1);
    assert_eq!(
        refused(client.refresh(&mut repository)),
        Fault::NotTheNext { got: 3, known: 1 }
    );
    repository.sent.roots = vec![roots[0].clone(), roots[0].clone()];
    assert_eq!(
        refused(client.refresh(&mut repository)),
        Fault::NotTheNext { got: 1, known: 1 }
    );
    repository.sent.roots = roots;
    client.refresh(&mut repository).unwrap();
    assert_eq!(client.reopen().trusted().root().version(), 3);
}

#[test]
fn a_server_restored_from_an_old_backup_is_believed_again() {
    let mut repository = Repository::new();
    let backup = repository.sent.clone();
    repository.publish("web/1", b"one");
    let mut client = repository.client();
    repository.sent = backup;
    repository.now.0 += 60;
    client.now = repository.now;
    // Versions follow the clock: the restored server signs higher ones than those that it has forgotten.
    let targets = client.trusted().targets().unwrap().version();
    repository.publish("web/1", b"one");
    assert_eq!(repository.targets_version(), targets);
    repository.sign_online();
    client.refresh(&mut repository).unwrap();
}

#[test]
fn a_client_whose_disk_fails_says_so_and_believes_nothing_new() {
    let mut repository = Repository::new();
    let mut client = repository.fresh_client();
    let path = client.dir().join("timestamp.new");
    std::fs::create_dir(path).unwrap();
    assert!(matches!(
        client.try_refresh(&mut repository),
        Err(ClientError::Io { .. })
    ));
}

#[test]
fn garbage_is_refused_and_never_a_panic() {
    let mut repository = Repository::new();
    for garbage in [
        &b"[]"[..],
        b"{",
        b"{\"signatures\":[],\"signed\":{}}",
        b"{\"signatures\":[],\"signed\":{\"_type\":\"timestamp\"}}",
        br#"{"signatures":[{"keyid":"a","sig":"zz"}],"signed":{"_type":"timestamp","spec_version":"1.0.31","version":0,"expires":"2030-01-01T00:00:00Z","meta":{"snapshot.json":{"version":1}}}}"#,
        br#"{"signatures":[],"signed":{"_type":"timestamp","spec_version":"2.0.0","version":1,"expires":"2030-01-01T00:00:00Z","meta":{"snapshot.json":{"version":1}}}}"#,
        br#"{"signatures":[],"signed":{"_type":"timestamp","spec_version":"1.0.31","version":1,"expires":"soon","meta":{}}}"#,
        br#"{"signatures":[],"signed":{"_type":"timestamp","spec_version":"1.0.31","version":1.5,"expires":"2030-01-01T00:00:00Z","meta":{}}}"#,
    ] {
        let mut client = repository.fresh_client();
        repository.sent.timestamp = garbage.to_vec();
        assert_eq!(refused(client.refresh(&mut repository)).kind(), "malformed");
    }
    let deep = format!("{}{}", "[".repeat(8_000), "]".repeat(8_000));
    let mut client = repository.fresh_client();
    repository.sent.timestamp = deep.into_bytes();
    assert_eq!(refused(client.refresh(&mut repository)).kind(), "malformed");
}

#[test]
fn a_directory_without_a_root_trusts_nobody() {
    let dir = tempfile::tempdir().unwrap();
    assert!(Client::open::<()>(dir.path()).unwrap().is_none());
    let unsigned = Repository::new().unsigned_root();
    assert!(matches!(
        Client::begin::<()>(dir.path(), &unsigned),
        Err(ClientError::Fault(Fault::Unsigned { .. }))
    ));
    assert!(Client::open::<()>(dir.path()).unwrap().is_none());
}
