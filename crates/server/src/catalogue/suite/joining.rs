//! Tokens, and nodes that join with them.

use std::sync::{Arc, Barrier};

use potluck_model::api::{Labels, Standing, Target};
use potluck_model::{Digest, NodeId, UnixSeconds};

use super::{NOW, assign, label, publish, redemption, token};
use crate::catalogue::{Catalogue, NewToken, Redeemed};

pub(super) fn tokens_are_used_up_and_expire(c: &dyn Catalogue) {
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

pub(super) fn one_of_many_gets_a_single_use(c: &dyn Catalogue) {
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

pub(super) fn the_same_key_joins_once(c: &dyn Catalogue) {
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

pub(super) fn labels_need_permission(c: &dyn Catalogue) {
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

pub(super) fn a_node_waits_for_approval(c: &dyn Catalogue) {
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
