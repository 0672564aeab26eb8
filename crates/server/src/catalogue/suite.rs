//! The tests that every catalogue must pass.

use std::path::Path;
use std::sync::{Arc, Barrier};

use potluck_model::api::{Labels, NodeState, Release, Standing, Target};
use potluck_model::audit::Checkpoint;
use potluck_model::list::Content;
use potluck_model::trace::{Cause, Event, Recap, What};
use potluck_model::{Digest, NodeId, UnixMicros, UnixSeconds, ring};

use super::{
    Assigned, Catalogue, EVENT_BYTES_PER_NODE_MAX, EVENTS_PER_NODE_MAX, FLEET_KEY_GRACE_SECONDS, FLEET_KEYS_MAX, Moved,
    NewAssignment, NewAuditEntry, NewRelease, NewToken, PresenceRecord, Published, Redeemed, RedeemedOperator,
    Redemption, Revocation, Sweep, Unassign,
};
use crate::blobs::{PackId, Stored};
use crate::site::SiteKey;

const NOW: UnixSeconds = UnixSeconds(1_000);

type Test = fn(&dyn Catalogue);

/// Runs every test against catalogues that `open` opens or makes at a path.
pub(crate) fn catalogue_suite(open: impl Fn(&Path) -> Box<dyn Catalogue>) {
    let tests: [(&str, Test); 23] = [
        ("chunks stay where they were first", chunks_stay_where_they_were_first),
        ("releases follow one another", releases_follow_one_another),
        (
            "a release's files are known with it",
            files_are_known_with_their_release,
        ),
        ("tokens are used up and expire", tokens_are_used_up_and_expire),
        ("one of many gets a single use", one_of_many_gets_a_single_use),
        ("the same key joins once", the_same_key_joins_once),
        ("labels need permission", labels_need_permission),
        ("a node waits for approval", a_node_waits_for_approval),
        (
            "a revoked node has nothing any more",
            a_revoked_node_has_nothing_any_more,
        ),
        ("a revocation makes a new fleet key", a_revocation_makes_a_new_fleet_key),
        ("operators come and go", operators_come_and_go),
        ("the audit log is a chain", the_audit_log_is_a_chain),
        ("nodes are found", nodes_are_found),
        ("the newest release is followed", the_newest_release_is_followed),
        (
            "sequences grow with what is assigned",
            sequences_grow_with_what_is_assigned,
        ),
        ("a target has one assignment", a_target_has_one_assignment),
        ("events count once and are bounded", events_count_once_and_are_bounded),
        ("long events are bounded in bytes", long_events_are_bounded_in_bytes),
        (
            "removing and publishing never overlap",
            removing_and_publishing_never_overlap,
        ),
        (
            "neighbours are of the site, and of sites that share with it",
            neighbours_are_of_the_site,
        ),
        (
            "who enrols many times on one machine is few neighbours",
            who_enrols_many_times_is_few_neighbours,
        ),
        (
            "those nearest behind a list's place are of the site and have the list",
            those_nearest_have_the_list,
        ),
        (
            "another site map makes nodes say again where they are",
            another_site_map_makes_nodes_say_again_where_they_are,
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

fn chunks_stay_where_they_were_first(c: &dyn Catalogue) {
    let at = |pack, offset| Stored {
        pack: PackId(pack),
        offset,
        len: 5,
    };
    let (a, b) = (Digest::of(b"a"), Digest::of(b"b"));
    let high = u64::MAX;
    c.add_pack(PackId(high), vec![(a, at(high, 8))]).unwrap();
    c.add_pack(PackId(2), vec![(a, at(2, 8)), (b, at(2, 49))]).unwrap();
    assert_eq!(
        c.chunks(&[b, Digest::of(b"c"), a]).unwrap(),
        [Some(at(2, 49)), None, Some(at(high, 8))]
    );
    assert_eq!(c.stored_bytes().unwrap(), 10, "a chunk counts once");
    assert_eq!(
        c.packs().unwrap().into_iter().collect::<Vec<_>>(),
        [PackId(2), PackId(high)]
    );
}

fn releases_follow_one_another(c: &dyn Catalogue) {
    let web = "web".parse().unwrap();
    assert_eq!(c.publish(release("web", 2)).unwrap(), Published::Conflict { newest: 0 });
    assert_eq!(c.configuration(&web).unwrap(), None);
    publish(c, "web", 1);
    let first = release("web", 1);
    assert_eq!(c.publish(first.clone()).unwrap(), Published::Same(first.release));
    let mut other = release("web", 1);
    other.release.list = Digest::of(b"another");
    assert_eq!(c.publish(other).unwrap(), Published::Conflict { newest: 1 });
    let mut named = release("web", 2);
    named.release.version = Some("2026.1".parse().unwrap());
    assert!(matches!(c.publish(named).unwrap(), Published::New(_)));
    let mut again = release("web", 3);
    again.release.version = Some("2026.1".parse().unwrap());
    assert!(matches!(
        c.publish(again).unwrap(),
        Published::VersionTaken { release: 2, .. }
    ));
    publish(c, "db", 1);
    let told: Vec<(String, Vec<u64>)> = c
        .configurations()
        .unwrap()
        .into_iter()
        .map(|one| (one.name.to_string(), one.releases.iter().map(|r| r.release).collect()))
        .collect();
    assert_eq!(told, [("db".to_owned(), vec![1]), ("web".to_owned(), vec![2, 1])]);
    let numbers = |text| -> Vec<u64> {
        let found = c.releases(&web, text).unwrap();
        found.iter().map(|release| release.release).collect()
    };
    assert_eq!(numbers("2026.1"), [2]);
    assert_eq!(numbers("1"), [1]);
    assert!(numbers("3").is_empty() && numbers("-1").is_empty());
}

fn files_are_known_with_their_release(c: &dyn Catalogue) {
    let content = Content {
        digest: Digest::of(b"big"),
        size: 1 << 40,
        chunks: Some(Digest::of(b"chunk list")),
    };
    let mut new = release("web", 2);
    new.files.push(content);
    assert!(matches!(c.publish(new.clone()).unwrap(), Published::Conflict { .. }));
    assert_eq!(
        c.file(&content.digest).unwrap(),
        None,
        "nothing of a release that was refused stays"
    );
    new.release.release = 1;
    assert!(matches!(c.publish(new).unwrap(), Published::New(_)));
    assert_eq!(c.file(&content.digest).unwrap(), Some(content));
}

fn tokens_are_used_up_and_expire(c: &dyn Catalogue) {
    let token = token(c, b"token", 2, Labels::new());
    assert_eq!(c.redeem(redemption(Digest::of(b"x"), 1)).unwrap(), Redeemed::Unknown);
    for node in [1, 2] {
        assert!(matches!(
            c.redeem(redemption(token, node)).unwrap(),
            Redeemed::Admitted { .. }
        ));
    }
    assert_eq!(c.redeem(redemption(token, 3)).unwrap(), Redeemed::UsedUp);
    let mut late = redemption(token, 3);
    late.now = UnixSeconds(NOW.0 + 101);
    assert_eq!(c.redeem(late).unwrap(), Redeemed::Expired);
    assert_eq!(c.nodes().unwrap().len(), 2);
}

fn one_of_many_gets_a_single_use(c: &dyn Catalogue) {
    let token = token(c, b"token", 1, Labels::new());
    let barrier = Arc::new(Barrier::new(8));
    let admitted = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8)
            .map(|node| {
                let barrier = barrier.clone();
                scope.spawn(move || {
                    barrier.wait();
                    matches!(c.redeem(redemption(token, node)).unwrap(), Redeemed::Admitted { .. })
                })
            })
            .collect();
        threads
            .into_iter()
            .filter_map(|thread| thread.join().unwrap().then_some(()))
            .count()
    });
    assert_eq!(admitted, 1);
    assert_eq!(c.nodes().unwrap().len(), 1);
}

fn the_same_key_joins_once(c: &dyn Catalogue) {
    let token = token(c, b"token", 1, Labels::new());
    let first = c.redeem(redemption(token, 1)).unwrap();
    let mut again = redemption(token, 1);
    again.ids = vec![NodeId(77)];
    assert_eq!(
        c.redeem(again).unwrap(),
        first,
        "the answer to the first may have been lost"
    );
    let other = self::token(c, b"other", 2, Labels::new());
    let mut taken = redemption(other, 2);
    taken.ids = vec![NodeId(1), NodeId(5)];
    assert!(matches!(
        c.redeem(taken).unwrap(),
        Redeemed::Admitted { node: NodeId(5), .. }
    ));
}

fn labels_need_permission(c: &dyn Catalogue) {
    let mut permitted = label("role", "web");
    permitted.extend(label("rack", "*"));
    permitted.extend(label("row", "*"));
    let token = token(c, b"token", 1, permitted);
    let mut request = redemption(token, 1);
    request.labels = label("role", "db");
    request.labels.extend(label("rack", "7"));
    request.labels.extend(label("site", "hq"));
    let mut wanted = label("role", "web");
    wanted.extend(label("rack", "7"));
    let admitted = c.redeem(request).unwrap();
    assert_eq!(
        admitted,
        Redeemed::Admitted {
            node: NodeId(1),
            labels: wanted.clone()
        }
    );
    assert_eq!(c.node(NodeId(1)).unwrap().unwrap().labels, wanted);
}

fn a_node_waits_for_approval(c: &dyn Catalogue) {
    publish(c, "web", 1);
    assign(c, "web", None, Target::All);
    let hash = Digest::of(b"wait");
    c.add_token(NewToken {
        hash,
        uses: 2,
        expires: UnixSeconds(NOW.0 + 100),
        labels: Labels::new(),
        approval: true,
        operator: None,
    })
    .unwrap();
    let waits = Redeemed::Pending { node: NodeId(1) };
    assert_eq!(c.redeem(redemption(hash, 1)).unwrap(), waits);
    let record = c.node(NodeId(1)).unwrap().unwrap();
    assert_eq!((record.standing, record.assigned), (Standing::Pending, None));
    // It goes on asking, also after the token has expired, and costs no second use of it.
    let mut later = redemption(hash, 1);
    later.now = UnixSeconds(NOW.0 + 1_000);
    assert_eq!(c.redeem(later.clone()).unwrap(), waits);
    let change = c.change().unwrap();
    assert_eq!(c.approve(NodeId(1), NOW).unwrap(), Some(Standing::Pending));
    assert_eq!(c.approve(NodeId(1), NOW).unwrap(), Some(Standing::Admitted));
    assert_eq!(c.approve(NodeId(9), NOW).unwrap(), None);
    assert!(c.change().unwrap() > change);
    assert!(matches!(
        c.redeem(later).unwrap(),
        Redeemed::Admitted { node: NodeId(1), .. }
    ));
    assert_eq!(c.node(NodeId(1)).unwrap().unwrap().assigned.unwrap().release, 1);
    // A machine with the state of another waits whatever its token says.
    let mut clone = redemption(token(c, b"clone", 1, Labels::new()), 2);
    clone.replaces = Some(NodeId(1));
    assert_eq!(c.redeem(clone).unwrap(), Redeemed::Pending { node: NodeId(2) });
    assert_eq!(c.node(NodeId(2)).unwrap().unwrap().replaces, Some(NodeId(1)));
}

fn revoke(c: &dyn Catalogue, node: NodeId, now: UnixSeconds) -> Vec<NodeId> {
    let revocation = Revocation {
        nodes: vec![node],
        reason: "stolen".into(),
        now,
    };
    c.revoke(revocation).unwrap()
}

fn a_revoked_node_has_nothing_any_more(c: &dyn Catalogue) {
    let (one, two) = (join(c, 1, Labels::new()), join(c, 2, Labels::new()));
    let hash = token(c, b"again", 1, Labels::new());
    publish(c, "web", 1);
    assign(c, "web", None, Target::All);
    for node in [1, 2] {
        here_again(c, node, &format!("10.0.7.{node}:7443"));
    }
    assert_eq!(c.population(two).unwrap(), 2);
    let before = (c.change().unwrap(), c.revoked(UnixSeconds(0), 10).unwrap());
    let sequence = c.node(one).unwrap().unwrap().sequence;
    assert_eq!(revoke(c, one, NOW), [one]);
    assert_eq!(revoke(c, one, NOW), [], "once is enough");
    let record = c.node(one).unwrap().unwrap();
    assert_eq!(record.standing, Standing::Revoked);
    assert_eq!((record.assigned, record.reason.as_str()), (None, "stolen"));
    assert!(record.sequence > sequence);
    assert_eq!(c.population(two).unwrap(), 1);
    assert!(c.neighbours(two, Vec::new(), UnixSeconds(0), 9).unwrap().is_empty());
    let revoked = c.revoked(UnixSeconds(0), 10).unwrap();
    assert!(c.change().unwrap() > before.0 && revoked.number > before.1.number);
    assert_eq!(revoked.nodes, [one]);
    assert!(
        c.revoked(UnixSeconds(NOW.0 + 1), 10).unwrap().nodes.is_empty(),
        "too long ago"
    );
    // Neither a new release nor its old token brings it back.
    publish(c, "web", 2);
    assert_eq!(c.node(one).unwrap().unwrap().assigned, None);
    assert_eq!(c.node(two).unwrap().unwrap().assigned.unwrap().release, 2);
    let mut again = redemption(Digest::of(&1_u64.to_be_bytes()), 1);
    again.ids = vec![NodeId(77)];
    assert_eq!(c.redeem(again).unwrap(), Redeemed::Revoked);
    assert!(matches!(
        c.redeem(redemption(hash, 3)).unwrap(),
        Redeemed::Admitted { .. }
    ));
}

fn a_revocation_makes_a_new_fleet_key(c: &dyn Catalogue) {
    let nodes: Vec<NodeId> = (1..=6).map(|node| join(c, node, Labels::new())).collect();
    let first = c.keys(NOW).unwrap();
    assert_eq!(first.fleet.len(), 1);
    revoke(c, nodes[0], NOW);
    let both = c.keys(NOW).unwrap();
    assert_eq!(both.audiences, first.audiences);
    assert_eq!(both.fleet.len(), 2);
    assert!(both.fleet[0].epoch > first.fleet[0].epoch);
    assert_eq!(both.fleet[1], first.fleet[0], "still opened for a while");
    let later = UnixSeconds(NOW.0 + FLEET_KEY_GRACE_SECONDS);
    assert_eq!(c.keys(later).unwrap().fleet, both.fleet[..1]);
    for node in &nodes[1..] {
        revoke(c, *node, NOW);
    }
    assert_eq!(c.keys(NOW).unwrap().fleet.len(), FLEET_KEYS_MAX);
}

fn operators_come_and_go(c: &dyn Catalogue) {
    let hash = Digest::of(b"alice");
    let make = |hash| {
        c.add_token(NewToken {
            hash,
            uses: 1,
            expires: UnixSeconds(NOW.0 + 100),
            labels: Labels::new(),
            approval: false,
            operator: Some("alice".into()),
        })
        .unwrap();
    };
    make(hash);
    let (key, other) = (Digest::of(b"key"), Digest::of(b"other"));
    let added = RedeemedOperator::Added("alice".into());
    let redeem = |hash, key| c.redeem_operator(hash, key, NOW).unwrap();
    assert_eq!(redeem(Digest::of(b"nobody"), key), RedeemedOperator::Unknown);
    let late = c.redeem_operator(hash, key, UnixSeconds(NOW.0 + 101)).unwrap();
    assert_eq!(late, RedeemedOperator::Expired);
    assert_eq!(redeem(hash, key), added);
    assert_eq!(redeem(hash, key), added, "the answer may have been lost");
    assert_eq!(redeem(hash, other), RedeemedOperator::UsedUp);
    // Neither is a token for the other.
    assert_eq!(c.redeem(redemption(hash, 1)).unwrap(), Redeemed::Unknown);
    let for_nodes = token(c, b"nodes", 1, Labels::new());
    assert_eq!(redeem(for_nodes, key), RedeemedOperator::Unknown);
    let [alice] = c.operators().unwrap().try_into().unwrap();
    assert_eq!((alice.key, alice.removed), (key, None));
    let unused = Digest::of(b"unused");
    make(unused);
    assert!(c.remove_operator("alice", NOW).unwrap());
    assert!(!c.remove_operator("alice", NOW).unwrap());
    assert!(!c.remove_operator("bob", NOW).unwrap());
    assert_eq!(c.operators().unwrap()[0].removed, Some(NOW));
    assert_eq!(
        redeem(unused, key),
        RedeemedOperator::Unknown,
        "it must not bring her back"
    );
    c.set_operator("alice", other, NOW).unwrap();
    assert_eq!(
        (c.operators().unwrap()[0].key, c.operators().unwrap()[0].removed),
        (other, None)
    );
}

fn the_audit_log_is_a_chain(c: &dyn Catalogue) {
    assert_eq!(c.audit_log(0, 10).unwrap().newest, Checkpoint::START);
    for number in 1..=25 {
        let entry = NewAuditEntry {
            operator: "alice".into(),
            request: "POST /v1/halt".into(),
            body: String::new(),
            refused: (number == 5).then_some(4),
            now: NOW,
        };
        assert_eq!(c.audit(entry).unwrap(), number);
    }
    let (mut end, mut read) = (Checkpoint::START, 0);
    while read < 25 {
        let page = c.audit_log(read, 10).unwrap();
        end = page.entries.iter().try_fold(end, Checkpoint::then).unwrap();
        read = end.number;
        assert_eq!(page.newest.number, 25);
    }
    assert_eq!(c.audit_log(25, 10).unwrap().newest, end);
}

fn nodes_are_found(c: &dyn Catalogue) {
    for node in [0xab00_0000_0000_0001, 0xab00_0000_0000_0002, 0x0c00_0000_0000_0003] {
        join(c, node, Labels::new());
    }
    let find = |text: &str| {
        c.find_nodes(text)
            .unwrap()
            .iter()
            .map(|node| node.0)
            .collect::<Vec<_>>()
    };
    assert_eq!(find("ab").len(), 2);
    assert_eq!(find("ab00000000000002"), [0xab00_0000_0000_0002]);
    assert_eq!(find("0"), [0x0c00_0000_0000_0003]);
    assert_eq!(
        find(&format!("host-{}", 0x0c00_0000_0000_0003_u64)),
        [0x0c00_0000_0000_0003]
    );
    assert!(find("").is_empty() && find("zz").is_empty() && find("ab000000000000000").is_empty());
    let ids: Vec<u64> = c.nodes().unwrap().iter().map(|node| node.node.0).collect();
    assert!(ids.is_sorted());
    assert!(!c.set_labels(NodeId(9), Labels::new()).unwrap());
}

fn the_newest_release_is_followed(c: &dyn Catalogue) {
    publish(c, "web", 1);
    publish(c, "db", 1);
    let node = join(c, 1, label("role", "web"));
    assert_eq!(assigned(c, node), None);
    assign(c, "web", None, Target::All);
    assert_eq!(assigned(c, node), Some(("web".into(), 1)));
    let late = join(c, 2, Labels::new());
    assert_eq!(assigned(c, late), Some(("web".into(), 1)), "who joins later as well");
    let change = c.change().unwrap();
    publish(c, "web", 2);
    assert!(c.change().unwrap() > change);
    assert_eq!(assigned(c, node), Some(("web".into(), 2)));
    assign(c, "web", Some(1), Target::Where("role=web".into()));
    assert_eq!(assigned(c, node), Some(("web".into(), 1)));
    publish(c, "web", 3);
    assert_eq!(assigned(c, node), Some(("web".into(), 1)), "a pinned release stays");
    assert_eq!(assigned(c, late), Some(("web".into(), 3)));
    assert!(c.set_labels(late, label("role", "web")).unwrap());
    assert_eq!(assigned(c, late), Some(("web".into(), 1)));
    assign(c, "db", None, Target::Node(late));
    assert_eq!(assigned(c, late), Some(("db".into(), 1)));
    let taken = c.unassign(Unassign::Configuration("web".parse().unwrap())).unwrap();
    assert_eq!(taken.len(), 2);
    assert_eq!(assigned(c, node), None);
    assert_eq!(assigned(c, late), Some(("db".into(), 1)));
}

fn sequences_grow_with_what_is_assigned(c: &dyn Catalogue) {
    let node = join(c, 1, Labels::new());
    let sequence = || c.node(node).unwrap().unwrap().sequence;
    publish(c, "web", 1);
    assert_eq!(sequence(), NOW.0, "that of joining");
    assign(c, "web", None, Target::All);
    let first = sequence();
    assert!(
        first >= NOW.0,
        "never below the time, so that a restored copy is not behind"
    );
    publish(c, "db", 1);
    assign(c, "web", Some(1), Target::All);
    assert_eq!(sequence(), first, "the same release by another assignment is no change");
    publish(c, "web", 2);
    assert_eq!(sequence(), first, "pinned");
    let id = assign(c, "web", None, Target::All);
    let second = sequence();
    assert!(second > first);
    assert_eq!(c.unassign(Unassign::Id(id)).unwrap().len(), 1);
    assert!(sequence() > second, "being unassigned is a change as well");
    assert!(c.unassign(Unassign::Id(id)).unwrap().is_empty());
    let change = c.change().unwrap();
    c.set_halted(true).unwrap();
    assert!(c.halted().unwrap() && c.change().unwrap() > change);
}

fn a_target_has_one_assignment(c: &dyn Catalogue) {
    publish(c, "web", 1);
    let first = assign(c, "web", None, Target::All);
    let other = assign(c, "web", None, Target::Where("a=b".into()));
    let second = assign(c, "web", Some(1), Target::All);
    assert!(second > other && other > first);
    let all = c.assignments().unwrap();
    assert_eq!(all.iter().map(|one| one.id).collect::<Vec<_>>(), [other, second]);
    assert_eq!(all[1].release, Some(1));
    assert!(all[1].waves[0].started && all[1].waves[0].percent == 100);
}

fn event(seq: u64, list: Option<Digest>, what: What) -> Event {
    Event {
        boot: 1,
        seq,
        at: UnixMicros(seq),
        list,
        what,
    }
}

fn events_count_once_and_are_bounded(c: &dyn Catalogue) {
    let node = join(c, 1, Labels::new());
    publish(c, "web", 1);
    assign(c, "web", None, Target::All);
    let progress = || c.node(node).unwrap().unwrap().progress;
    assert_eq!(progress().state, NodeState::Waiting);
    let list = c.node(node).unwrap().unwrap().assigned.unwrap().list;
    let asked = || What::ListRequested { cause: Cause::Start };
    let executed = What::Executed {
        recap: Recap::default(),
    };
    let report = vec![event(1, None, asked()), event(2, Some(list), executed)];
    assert!(c.add_events(NodeId(99), report.clone()).unwrap().is_none());
    let transition = c.add_events(node, report.clone()).unwrap().unwrap();
    assert_eq!(
        (transition.before, transition.after.state),
        (NodeState::Waiting, NodeState::Converged)
    );
    let again = c.add_events(node, report.clone()).unwrap().unwrap();
    assert_eq!(again.before, NodeState::Converged);
    assert_eq!(
        c.events(node, 0, None, 10).unwrap(),
        [(1, report[0].clone()), (2, report[1].clone())]
    );
    assert_eq!(c.events(node, 0, Some(list), 10).unwrap(), [(2, report[1].clone())]);
    assert_eq!(c.events(node, 1, None, 10).unwrap().len(), 1);
    assert_eq!(c.events(node, 0, None, 1).unwrap().len(), 1);
    assert_eq!(progress().state, NodeState::Converged);
    let more = (3..EVENTS_PER_NODE_MAX + 103).map(|seq| event(seq, None, asked()));
    for part in more.collect::<Vec<_>>().chunks(20_000) {
        c.add_events(node, part.to_vec()).unwrap();
    }
    let kept = c.events(node, 0, None, usize::MAX >> 1).unwrap();
    assert_eq!(kept.len() as u64, EVENTS_PER_NODE_MAX, "the oldest made room");
    assert_eq!(kept.last().unwrap().1.seq, EVENTS_PER_NODE_MAX + 102);
    publish(c, "web", 2);
    assert_eq!(progress().state, NodeState::Waiting, "a new release begins anew");
}

fn removing_and_publishing_never_overlap(c: &dyn Catalogue) {
    let (old, new) = (PackId(1), PackId(2));
    let at = |pack, offset| Stored { pack, offset, len: 3 };
    let (needed, unused) = (Digest::of(b"needed"), Digest::of(b"unused"));
    c.add_pack(old, vec![(needed, at(old, 40)), (unused, at(old, 80))])
        .unwrap();
    let now = UnixSeconds::now();
    let cutoff = UnixSeconds(now.0 + 1);
    let sweep = |published, cutoff| Sweep {
        published,
        cutoff,
        now,
        packs: vec![old],
        moved: vec![Moved {
            digest: needed,
            from: at(old, 40),
            to: at(new, 40),
        }],
        unused: vec![(unused, at(old, 80))],
    };
    // A release came after it was found out what is in use.
    let (published, _) = c.lists().unwrap();
    publish(c, "web", 1);
    assert_eq!(c.sweep(sweep(published, cutoff)).unwrap(), None);
    assert_eq!(c.retain_files(published, Arc::default()).unwrap(), None);
    let (published, lists) = c.lists().unwrap();
    assert_eq!(lists.len(), 1);
    // A publisher was told that one of the chunks is there.
    assert_eq!(
        c.rely(&[needed, Digest::of(b"absent")], UnixSeconds(now.0 + 1_000))
            .unwrap(),
        [Some(at(old, 40)), None]
    );
    assert_eq!(c.packs_unused_since(cutoff).unwrap().len(), 0);
    assert_eq!(c.sweep(sweep(published, cutoff)).unwrap(), Some(vec![]));
    assert_eq!(
        c.chunks(&[needed, unused]).unwrap(),
        [Some(at(old, 40)), Some(at(old, 80))]
    );
    // A publisher checked its content before some of it was removed.
    let later = UnixSeconds(now.0 + 2_000);
    let checked = NewRelease {
        sweeps: c.sweeps().unwrap(),
        ..release("web", 2)
    };
    assert_eq!(c.sweep(sweep(published, later)).unwrap(), Some(vec![old]));
    assert_eq!(c.chunks(&[needed, unused]).unwrap(), [Some(at(new, 40)), None]);
    assert_eq!(c.packs().unwrap().into_iter().collect::<Vec<_>>(), [new]);
    assert_eq!(c.stored_bytes().unwrap(), 3);
    assert_eq!(c.publish(checked.clone()).unwrap(), Published::Swept);
    let again = NewRelease {
        sweeps: c.sweeps().unwrap(),
        ..checked
    };
    assert!(matches!(c.publish(again).unwrap(), Published::New(_)));
    // What is not there any more cannot be assigned.
    assert_eq!(c.remove_releases(1).unwrap().len(), 1);
    let gone = NewAssignment {
        configuration: "web".parse().unwrap(),
        release: Some(1),
        target: Target::All,
        now: NOW,
    };
    assert_eq!(c.assign(gone).unwrap(), Assigned::NoRelease);
}

fn long_events_are_bounded_in_bytes(c: &dyn Catalogue) {
    let node = join(c, 1, Labels::new());
    let line = "x".repeat(2_000);
    let long = |seq| {
        let output = What::StepOutput {
            step: "talk".parse().unwrap(),
            line: line.clone(),
        };
        event(seq, None, output)
    };
    for part in 0..12 {
        let events = (0..1_000).map(|seq| long(part * 1_000 + seq)).collect();
        c.add_events(node, events).unwrap();
    }
    let kept = c.events(node, 0, None, usize::MAX >> 1).unwrap();
    let bytes: u64 = kept
        .iter()
        .map(|(_, event)| serde_json::to_vec(event).unwrap().len() as u64)
        .sum();
    assert!(
        (EVENT_BYTES_PER_NODE_MAX - 3_000..=EVENT_BYTES_PER_NODE_MAX).contains(&bytes),
        "{bytes}"
    );
    assert_eq!(kept.last().unwrap().1.seq, 11_999, "the newest are kept");
    // Short ones again: nothing is counted twice.
    let before = kept.len();
    c.add_events(
        node,
        vec![event(20_000, None, What::ListRequested { cause: Cause::Start })],
    )
    .unwrap();
    let after = c.events(node, 0, None, usize::MAX >> 1).unwrap().len();
    assert!(after.abs_diff(before) <= 1, "{before} {after}");
}

fn who_enrols_many_times_is_few_neighbours(c: &dyn Catalogue) {
    let here = |node: u64, address: String| {
        join(c, node, Labels::new());
        let record = PresenceRecord {
            addresses: vec![address.parse().unwrap()],
            facts: Labels::new(),
            version: "1".into(),
            sites: link("10.0.2.0/24"),
            now: UnixSeconds(5_000),
        };
        assert!(c.set_presence(NodeId(node), record).unwrap());
    };
    for node in 1..=40 {
        here(node, format!("10.0.2.99:{}", 7_000 + node));
    }
    for node in 41..=44 {
        here(node, format!("10.0.2.{node}:7443"));
    }
    let found = c.neighbours(NodeId(44), Vec::new(), UnixSeconds(4_500), 16).unwrap();
    let mut found: Vec<u64> = found.iter().map(|neighbour| neighbour.node.0).collect();
    found.sort_unstable();
    assert_eq!(found.len(), 4 + 3, "{found:?}");
    assert_eq!(found[4..], [41, 42, 43], "each other machine is heard of");
}

fn neighbours_are_of_the_site(c: &dyn Catalogue) {
    let here = |node: u64, site: u8, now: u64| {
        join(c, node, Labels::new());
        let address = format!("10.0.{site}.{node}:7443");
        let record = PresenceRecord {
            addresses: vec![address.parse().unwrap()],
            facts: Labels::new(),
            version: "1".into(),
            sites: link(&format!("10.0.{site}.0/24")),
            now: UnixSeconds(now),
        };
        assert!(c.set_presence(NodeId(node), record).unwrap());
    };
    for node in 1..=20 {
        here(node, 1, 5_000);
    }
    for node in 21..=24 {
        here(node, 2, 5_000);
    }
    here(25, 2, 4_000);
    join(c, 26, Labels::new());
    let since = UnixSeconds(4_500);
    let of = |node: u64, limit| -> Vec<u64> {
        let found = c.neighbours(NodeId(node), Vec::new(), since, limit).unwrap();
        found.iter().map(|neighbour| neighbour.node.0).collect()
    };
    let first = of(1, 8);
    assert_eq!(first.len(), 8);
    assert!(first.iter().all(|node| (2..=20).contains(node)), "{first:?}");
    assert_eq!(first, of(1, 8), "the same question gets the same answer");
    let choices: std::collections::BTreeSet<Vec<u64>> = (1..=20).map(|node| of(node, 8)).collect();
    assert!(choices.len() > 5, "nodes get different neighbours");
    let mut second = of(21, 16);
    assert_eq!(second.pop(), Some(25), "who was not heard of lately comes last");
    second.sort_unstable();
    assert_eq!(second, [22, 23, 24], "the site alone, be it small");
    assert!(of(26, 40).is_empty(), "nobody knows where it is");
    let shared = link("10.0.1.0/24").into_iter().collect();
    let found = c.neighbours(NodeId(21), shared, since, 16).unwrap();
    assert_eq!(found.len(), 16);
    let own = |neighbour: &potluck_model::api::Neighbour| (22..=25).contains(&neighbour.node.0);
    assert!(
        found[..4].iter().all(own) && !found[4..].iter().any(own) && found[4..].iter().all(|one| one.shared),
        "the own site before those that share with it"
    );
    assert_eq!(
        c.node(NodeId(21)).unwrap().unwrap().site.as_deref(),
        Some("10.0.2.0/24")
    );
    assert_eq!(c.sites(NodeId(21)).unwrap(), link("10.0.2.0/24"));
    assert_eq!(c.population(NodeId(1)).unwrap(), 20);
    assert_eq!(c.population(NodeId(26)).unwrap(), 1);
    here_again(c, 1, "10.0.2.1:7443");
    assert_eq!(
        (c.population(NodeId(2)).unwrap(), c.population(NodeId(21)).unwrap()),
        (19, 6)
    );
    here_again(c, 1, "10.0.1.1:7443");
    assert_eq!(
        (c.population(NodeId(2)).unwrap(), c.population(NodeId(21)).unwrap()),
        (20, 5)
    );
    c.set_seen(vec![(NodeId(25), UnixSeconds(4_600)), (NodeId(24), UnixSeconds(1))])
        .unwrap();
    assert_eq!(c.node(NodeId(25)).unwrap().unwrap().seen, UnixSeconds(4_600));
    assert_eq!(
        c.node(NodeId(24)).unwrap().unwrap().seen,
        UnixSeconds(5_000),
        "never backwards"
    );
}

fn those_nearest_have_the_list(c: &dyn Catalogue) {
    publish(c, "web", 1);
    assign(c, "web", Some(1), Target::All);
    let list = Digest::of(b"web 1");
    let place = ring::place(&list);
    let at = |distance: u64| place.0.wrapping_add(distance);
    let here = |node: u64, site: u8, now: u64| {
        join(c, node, Labels::new());
        let record = PresenceRecord {
            addresses: vec![format!("10.0.{site}.{}:7443", node % 251).parse().unwrap()],
            facts: Labels::new(),
            version: "1".into(),
            sites: link(&format!("10.0.{site}.0/24")),
            now: UnixSeconds(now),
        };
        assert!(c.set_presence(NodeId(node), record).unwrap());
    };
    // Beyond where ids change their sign, and round the ring.
    let distances = [3, 1 << 62, 1 << 63, u64::MAX - 5, 9];
    for distance in distances {
        here(at(distance), 1, 5_000);
    }
    here(at(1), 2, 5_000);
    here(at(2), 1, 4_000);
    let of = |node: u64, list: &Digest, limit: usize| -> Vec<u64> {
        let found = c.nearest(NodeId(node), *list, UnixSeconds(4_500), limit).unwrap();
        found.iter().map(|node| ring::distance(place, node.node)).collect()
    };
    assert_eq!(of(at(9), &list, 32), [3, 1 << 62, 1 << 63, u64::MAX - 5]);
    assert_eq!(of(at(3), &list, 2), [9, 1 << 62], "the nearest of them");
    assert!(of(at(1), &list, 32).is_empty(), "alone in its site");
    assert!(of(at(9), &Digest::of(b"other"), 32).is_empty());
}

fn link(text: &str) -> std::collections::BTreeSet<SiteKey> {
    std::collections::BTreeSet::from([SiteKey::Link(text.parse().unwrap())])
}

fn another_site_map_makes_nodes_say_again_where_they_are(c: &dyn Catalogue) {
    assert!(c.use_site_map(u64::MAX).unwrap());
    join(c, 1, Labels::new());
    here_again(c, 1, "10.0.1.1:7443");
    assert!(!c.use_site_map(u64::MAX).unwrap());
    assert_eq!(c.population(NodeId(1)).unwrap(), 1);
    assert_eq!(c.sites(NodeId(1)).unwrap(), link("10.0.1.0/24"));
    assert!(c.use_site_map(7).unwrap());
    assert!(c.sites(NodeId(1)).unwrap().is_empty());
    here_again(c, 1, "10.0.1.1:7443");
    assert_eq!(c.sites(NodeId(1)).unwrap(), link("10.0.1.0/24"));
}

/// Moves a node to another address.
fn here_again(c: &dyn Catalogue, node: u64, address: &str) {
    let address: std::net::SocketAddr = address.parse().unwrap();
    let record = PresenceRecord {
        addresses: vec![address],
        facts: Labels::new(),
        version: "1".into(),
        sites: link(&format!("{}/24", address.ip())),
        now: UnixSeconds(5_000),
    };
    assert!(c.set_presence(NodeId(node), record).unwrap());
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
