use std::collections::BTreeMap;
use std::time::Duration;

use potluck_model::NodeId;
use potluck_model::trace::{Source, Why};

use super::harness::{Fetch, Harness, KEY, digest, files, list, millis};
use crate::datagram::{Asking, Lacks, encode_requests};
use crate::identifier::Identifier;
use crate::interface::Action;
use crate::message::{HaveItem, Message, Runs};
use crate::swarm::Swarm;

/// A node that wants everything of the list, and is connected.
pub(super) fn wanter(us: &mut Harness, n: u64) {
    let asking = Asking {
        number: 1,
        part: 0,
        wanted: 16,
        threshold: u16::MAX,
    };
    let id = Identifier::of_list(&KEY, &list());
    let (bytes, _) = encode_requests(asking, id, false, &Lacks::Everything, 1).remove(0);
    us.datagram(n, bytes);
    us.connect(n);
    us.message(
        n,
        Message::HaveOfList {
            list: list(),
            contents: Runs::default(),
        },
    );
}

fn origin_wants(us: &mut Harness) -> Vec<u32> {
    us.fetches()
        .iter()
        .filter(|fetch| fetch.source == Source::Origin)
        .flat_map(|fetch| fetch.wants.iter().map(|want| want.first))
        .collect()
}

pub(super) fn crowd_of(us: &mut Harness) {
    us.want(&files(&[64 << 20]));
    us.give(crate::interface::Input::ChunkList {
        content: digest(1_000),
        chunks: vec![1 << 20; 64],
        held: vec![false; 64],
    });
}

/// A node that lacks one file of 64 stripes, and nodes that want the same.
pub(super) fn crowd_with(wanters: &[u64]) -> Harness {
    let mut us = Harness::among(&[]);
    crowd_of(&mut us);
    us.out.clear();
    for n in wanters {
        wanter(&mut us, *n);
    }
    us
}

fn parts(runs: Runs) -> Vec<HaveItem> {
    vec![HaveItem {
        content: digest(1_000),
        chunks: runs,
    }]
}

/// A peer says that it is fetching stripes of the one file.
pub(super) fn fetching(us: &mut Harness, n: u64, runs: Runs) {
    us.message(n, Message::Fetching { items: parts(runs) });
}

/// A peer says that it has stripes of the one file.
pub(super) fn have(us: &mut Harness, n: u64, runs: Runs) {
    us.message(n, Message::Have { items: parts(runs) });
}

/// Serves what is fetched from the origin at once, and returns all of it.
pub(super) fn fetch_own_share(us: &mut Harness) -> BTreeMap<u32, Why> {
    let mut own = BTreeMap::new();
    loop {
        let fetches = us.fetches();
        if fetches.is_empty() {
            return own;
        }
        for fetch in fetches {
            assert_eq!(fetch.source, Source::Origin);
            own.extend(fetch.wants.iter().map(|want| (want.first, fetch.why)));
            us.deliver(&fetch);
        }
    }
}

#[test]
fn those_who_want_the_same_share_it_out() {
    let mut us = crowd_with(&[1, 2, 3]);
    us.pass(millis(60));
    let own = fetch_own_share(&mut us);
    assert!((8..26).contains(&own.len()), "{} of 64 among four", own.len());
    assert!(own.values().all(|why| *why == Why::MyShare));
}

#[test]
fn what_an_owner_stores_is_fetched_from_it() {
    let mut us = crowd_with(&[1]);
    us.pass(millis(60));
    let own = fetch_own_share(&mut us);
    let other = (0..64).find(|stripe| !own.contains_key(stripe)).unwrap();
    have(&mut us, 1, Runs(vec![(other, 1)]));
    let fetch = us.fetches().remove(0);
    assert_eq!((fetch.source, fetch.wants[0].first), (Source::Peer(NodeId(1)), other));
}

#[test]
fn an_owner_without_progress_loses_its_share() {
    let mut us = crowd_with(&[1]);
    us.pass(millis(60));
    let mut own = fetch_own_share(&mut us);
    assert!(own.len() < 64);
    us.pass(Duration::from_secs(3));
    own.extend(fetch_own_share(&mut us));
    assert_eq!(own.len(), 64);
}

#[test]
fn an_owner_that_says_it_is_fetching_gets_longer() {
    let mut us = crowd_with(&[1]);
    fetching(&mut us, 1, Runs(vec![(5, 1)]));
    us.pass(millis(60));
    let mut pending = us.fetches();
    for n in 0..4 {
        us.pass(Duration::from_secs(2));
        us.message(1, Message::Pong { nonce: n });
        pending.extend(us.fetches());
    }
    let wants = |fetch: &Fetch| fetch.wants.iter().any(|want| want.first == 5);
    assert!(
        !pending.iter().any(wants),
        "whoever's share it is by rank: the origin is slow for all"
    );
    for fetch in pending {
        us.deliver(&fetch);
    }
    for n in 0..40 {
        us.pass(Duration::from_secs(1));
        us.message(1, Message::Pong { nonce: n });
        fetch_own_share(&mut us);
    }
    assert_eq!(us.completes(), 1, "but not for ever");
}

#[test]
fn an_owner_that_was_not_waited_for_and_begins_after_all_is_believed_once() {
    let mut us = crowd_with(&[1]);
    let item = us.swarm.items.all().last().unwrap();
    let first = us.swarm.items.at(item).first;
    let says_so = |us: &mut Harness| {
        fetching(us, 1, Runs(vec![(first, 1)]));
        us.swarm.items.at(item).claim.map(|(node, _)| node)
    };
    us.swarm.lose_seat(us.now, NodeId(1), item, false);
    assert_eq!(says_so(&mut us), Some(NodeId(1)));
    us.swarm.lose_seat(us.now, NodeId(1), item, true);
    assert_eq!(says_so(&mut us), None);
}

#[test]
fn a_peer_that_leaves_leaves_its_share() {
    let mut us = crowd_with(&[1]);
    us.pass(millis(60));
    let mut own = fetch_own_share(&mut us);
    us.give(crate::interface::Input::Disconnected { peer: NodeId(1) });
    us.pass(millis(600));
    own.extend(fetch_own_share(&mut us));
    assert_eq!(own.len(), 64);
}

#[test]
fn others_are_told_what_is_being_fetched() {
    let mut us = crowd_with(&[1]);
    us.pass(millis(60));
    let wants = origin_wants(&mut us);
    let told: Vec<u32> = us
        .out
        .iter()
        .filter_map(|action| match action {
            Action::Send {
                peer: NodeId(1),
                message: Message::Fetching { items },
            } => Some(items.iter().flat_map(|item| item.chunks.iter()).collect::<Vec<_>>()),
            _ => None,
        })
        .flatten()
        .collect();
    assert!(wants.iter().all(|want| told.contains(want)), "{wants:?} {told:?}");
}

#[test]
fn of_two_that_fetch_the_same_the_one_that_ranks_lower_gives_up() {
    let mut us = Harness::new();
    crowd_of(&mut us);
    let fetches = us.fetches();
    us.out.clear();
    wanter(&mut us, 1);
    for fetch in &fetches {
        fetching(&mut us, 1, Runs::of(fetch.wants.iter().map(|want| want.first)));
    }
    let cancelled = us.count(|action| matches!(action, Action::Cancel { .. }));
    let lower = fetches
        .iter()
        .filter(|fetch| {
            fetch.wants.iter().all(|want| {
                let part = |node| crate::random::rank(&want.content, want.first, NodeId(node));
                part(1) > part(100)
            })
        })
        .count();
    assert_eq!(cancelled, lower);
}

#[test]
fn what_breaks_off_is_begun_again_although_one_that_ranks_lower_said_that_it_fetches_it() {
    let mut us = Harness::new();
    crowd_of(&mut us);
    let fetches = us.fetches();
    wanter(&mut us, 1);
    let lower = |fetch: &&Fetch| {
        let part = |want: &crate::interface::Want, node| crate::random::rank(&want.content, want.first, NodeId(node));
        fetch
            .wants
            .iter()
            .all(|want| want.count == 1 && part(want, 1) < part(want, 100))
    };
    let fetch = fetches
        .iter()
        .filter(|fetch| fetch.source == Source::Origin)
        .find(lower)
        .unwrap();
    let first = fetch.wants[0].first;
    fetching(&mut us, 1, Runs::of(fetch.wants.iter().map(|want| want.first)));
    us.end(fetch, crate::interface::TransferEnd::Failed("broken off".into()));
    us.pass(Duration::from_secs(1));
    let mut broken_off = us.swarm.items.all().filter(|item| {
        let item = us.swarm.items.at(*item);
        item.first == first && item.claim.is_some() && item.ours
    });
    let item = broken_off.next().unwrap();
    drop(broken_off);
    let turn = us.swarm.turn(us.now, item, &[], false);
    assert!(turn.is_ok(), "it waits for us, and we for it until {turn:?}");
}

#[test]
fn only_the_smaller_of_two_that_want_the_same_dials_at_once() {
    let dials = |us: &Harness| us.count(|action| matches!(action, Action::Connect { .. }));
    let mut us = Harness::among(&[]);
    us.want(&files(&[100]));
    let ask = |us: &mut Harness, n: u64| {
        let asking = Asking {
            number: 1,
            part: 0,
            wanted: 16,
            threshold: u16::MAX,
        };
        let id = Identifier::of_list(&KEY, &list());
        let (bytes, _) = encode_requests(asking, id, false, &Lacks::Everything, 1).remove(0);
        us.datagram(n, bytes);
    };
    ask(&mut us, 200);
    assert_eq!(dials(&us), 1, "we are smaller");
    ask(&mut us, 50);
    assert_eq!(dials(&us), 1, "it is smaller");
    us.pass(millis(400));
    assert_eq!(dials(&us), 2, "it did not dial");
    assert!(std::mem::size_of::<Swarm>() < 4_096);
}

#[test]
fn who_says_that_it_fetches_everything_is_not_believed_and_stops_nobody() {
    let mut us = crowd_with(&[1]);
    fetching(&mut us, 1, Runs::all(64));
    us.pass(millis(60));
    let own = fetch_own_share(&mut us);
    assert!(own.len() > 15, "{} of 64", own.len());
    for n in 0..20 {
        us.pass(Duration::from_secs(1));
        us.message(1, Message::Pong { nonce: n });
        fetch_own_share(&mut us);
    }
    assert_eq!(us.completes(), 1);
}
