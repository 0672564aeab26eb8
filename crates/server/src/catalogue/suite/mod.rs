//! The tests that every catalogue must pass.

mod assignments;
mod content;
mod events;
mod joining;
mod membership;
mod places;

use std::path::Path;

use potluck_model::api::{Labels, Release, Target};
use potluck_model::{Digest, NodeId, UnixSeconds};

use super::{Assigned, Catalogue, NewAssignment, NewRelease, NewToken, Published, Redeemed, Redemption};

const NOW: UnixSeconds = UnixSeconds(1_000);

type Test = fn(&dyn Catalogue);

/// Runs every test against catalogues that `open` opens or makes at a path.
pub(crate) fn catalogue_suite(open: impl Fn(&Path) -> Box<dyn Catalogue>) {
    let tests: [(&str, Test); 23] = [
        (
            "chunks stay where they were first",
            content::chunks_stay_where_they_were_first,
        ),
        ("releases follow one another", assignments::releases_follow_one_another),
        (
            "a release's files are known with it",
            content::files_are_known_with_their_release,
        ),
        ("tokens are used up and expire", joining::tokens_are_used_up_and_expire),
        ("one of many gets a single use", joining::one_of_many_gets_a_single_use),
        ("the same key joins once", joining::the_same_key_joins_once),
        ("labels need permission", joining::labels_need_permission),
        ("a node waits for approval", joining::a_node_waits_for_approval),
        (
            "a revoked node has nothing any more",
            membership::a_revoked_node_has_nothing_any_more,
        ),
        (
            "a revocation makes a new fleet key",
            membership::a_revocation_makes_a_new_fleet_key,
        ),
        ("operators come and go", membership::operators_come_and_go),
        ("the audit log is a chain", membership::the_audit_log_is_a_chain),
        ("nodes are found", places::nodes_are_found),
        (
            "the newest release is followed",
            assignments::the_newest_release_is_followed,
        ),
        (
            "sequences grow with what is assigned",
            assignments::sequences_grow_with_what_is_assigned,
        ),
        ("a target has one assignment", assignments::a_target_has_one_assignment),
        (
            "events count once and are bounded",
            events::events_count_once_and_are_bounded,
        ),
        (
            "long events are bounded in bytes",
            events::long_events_are_bounded_in_bytes,
        ),
        (
            "removing and publishing never overlap",
            content::removing_and_publishing_never_overlap,
        ),
        (
            "neighbours are of the site, and of sites that share with it",
            places::neighbours_are_of_the_site,
        ),
        (
            "who enrols many times on one machine is few neighbours",
            places::who_enrols_many_times_is_few_neighbours,
        ),
        (
            "those nearest behind a list's place are of the site and have the list",
            places::those_nearest_have_the_list,
        ),
        (
            "another site map makes nodes say again where they are",
            places::another_site_map_makes_nodes_say_again_where_they_are,
        ),
    ];
    for (name, test) in tests {
        println!("{name}");
        let dir = tempfile::tempdir().unwrap();
        test(open(&dir.path().join("catalogue")).as_ref());
    }
    everything_survives_a_restart(&open);
}

fn label(key: &str, value: &str) -> Labels {
    Labels::from([(key.parse().unwrap(), value.to_owned())])
}

fn token(c: &dyn Catalogue, name: &[u8], uses: u32, labels: Labels) -> Digest {
    let hash = Digest::of(name);
    let new = NewToken {
        hash,
        uses,
        expires: UnixSeconds(NOW.0 + 100),
        labels,
        approval: false,
        operator: None,
    };
    assert!(c.add_token(new).unwrap());
    hash
}

fn redemption(token: Digest, node: u64) -> Redemption {
    Redemption {
        token,
        key: Digest::of(&node.to_be_bytes()),
        ids: vec![NodeId(node)],
        facts: label("hostname", &format!("host-{node}")),
        labels: Labels::new(),
        replaces: None,
        now: NOW,
    }
}

fn join(c: &dyn Catalogue, node: u64, labels: Labels) -> NodeId {
    let token = token(c, &node.to_be_bytes(), 1, labels);
    match c.redeem(redemption(token, node)).unwrap() {
        Redeemed::Admitted { node, .. } => node,
        other => panic!("{other:?}"),
    }
}

fn release(name: &str, number: u64) -> NewRelease {
    NewRelease {
        release: Release {
            configuration: name.parse().unwrap(),
            release: number,
            version: None,
            list: Digest::of(format!("{name} {number}").as_bytes()),
            list_size: 10,
            files: 1,
            bytes: 20,
            published: NOW,
        },
        files: Vec::new(),
        sweeps: 0,
    }
}

fn publish(c: &dyn Catalogue, name: &str, number: u64) {
    let published = c.publish(release(name, number)).unwrap();
    assert!(matches!(published, Published::New(_)), "{published:?}");
}

fn assign(c: &dyn Catalogue, name: &str, release: Option<u64>, target: Target) -> u64 {
    let new = NewAssignment {
        configuration: name.parse().unwrap(),
        release,
        target,
        now: NOW,
    };
    match c.assign(new).unwrap() {
        Assigned::Made(record) => record.id,
        other => panic!("{other:?}"),
    }
}

fn assigned(c: &dyn Catalogue, node: NodeId) -> Option<(String, u64)> {
    let assigned = c.node(node).unwrap().unwrap().assigned?;
    Some((assigned.configuration.to_string(), assigned.release))
}

fn everything_survives_a_restart(open: &impl Fn(&Path) -> Box<dyn Catalogue>) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("catalogue");
    let before = open(&path);
    let keys = before.keys(UnixSeconds(0)).unwrap();
    assert_eq!(keys.audiences.len(), 1);
    assert_eq!(keys.fleet[0].epoch, 1);
    publish(before.as_ref(), "web", 1);
    let node = join(before.as_ref(), 7, label("role", "web"));
    assign(before.as_ref(), "web", None, Target::All);
    let (record, change) = (before.node(node).unwrap(), before.change().unwrap());
    drop(before);
    let after = open(&path);
    assert_eq!(after.keys(UnixSeconds(0)).unwrap(), keys);
    assert_eq!(after.node(node).unwrap(), record);
    assert_eq!(after.change().unwrap(), change);
    let other = open(&dir.path().join("other"));
    assert_ne!(
        other.keys(UnixSeconds(0)).unwrap(),
        keys,
        "each fleet has keys of its own"
    );
}
