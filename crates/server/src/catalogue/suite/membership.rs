//! Revoked nodes, operators, and the log of what these did.

use potluck_model::api::{Labels, Standing, Target};
use potluck_model::audit::Checkpoint;
use potluck_model::{Digest, NodeId, UnixSeconds};

use super::places::here_again;
use super::{NOW, assign, join, publish, redemption, token};
use crate::catalogue::{
    Catalogue, FLEET_KEY_GRACE_SECONDS, FLEET_KEYS_MAX, NewAuditEntry, NewToken, Redeemed, RedeemedOperator, Revocation,
};

fn revoke(c: &dyn Catalogue, node: NodeId, now: UnixSeconds) -> Vec<NodeId> {
    let revocation = Revocation {
        nodes: vec![node],
        reason: "stolen".into(),
        now,
    };
    c.revoke(revocation).unwrap()
}

pub(super) fn a_revoked_node_has_nothing_any_more(c: &dyn Catalogue) {
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

pub(super) fn a_revocation_makes_a_new_fleet_key(c: &dyn Catalogue) {
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

pub(super) fn operators_come_and_go(c: &dyn Catalogue) {
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

pub(super) fn the_audit_log_is_a_chain(c: &dyn Catalogue) {
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
