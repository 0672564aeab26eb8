//! Who takes what share of a crowd, and when somebody else does.

use potluck_model::NodeId;
use potluck_model::trace::Source;

use super::crowds::{crowd_of, crowd_with, fetch_own_share, fetching, have, wanter};
use super::harness::{Fetch, Harness, digest, files, list, millis};
use crate::interface::{Action, Input, TransferEnd};
use crate::message::{HaveItem, Message, Runs};

fn firsts(fetches: &[Fetch]) -> Vec<u32> {
    fetches
        .iter()
        .flat_map(|fetch| fetch.wants.iter().map(|want| want.first))
        .collect()
}

#[test]
fn whoever_connects_hears_at_once_which_list_is_lacked_and_who_has_it_says_so() {
    let mut us = Harness::among(&[]);
    us.give(Input::Designated {
        list: Some((list(), 500)),
    });
    us.out.clear();
    us.connect(1);
    let follow = Message::Follow { list: list() };
    assert_eq!(
        us.count(|action| matches!(action, Action::Send { peer: NodeId(1), message } if *message == follow)),
        1
    );
    us.fetches();
    us.message(
        1,
        Message::Have {
            items: vec![HaveItem {
                content: list(),
                chunks: Runs::all(1),
            }],
        },
    );
    us.pass(millis(100));
    assert!(us.fetches().iter().any(|fetch| fetch.source == Source::Peer(NodeId(1))));

    let mut holder = Harness::new();
    holder.hold(&files(&[100]));
    holder.connect(2);
    holder.message(2, follow);
    assert_eq!(
        holder.count(|action| matches!(
            action,
            Action::Send { message: Message::Have { items }, .. } if items[0].content == list()
        )),
        1
    );
}

#[test]
fn an_owner_that_has_come_to_fetch_nothing_leaves_its_share_after_a_moment() {
    let mut us = crowd_with(&[1]);
    us.pass(millis(60));
    let mut own = fetch_own_share(&mut us);
    let other = (0..64).find(|stripe| !own.contains_key(stripe)).unwrap();
    let mut all = |us: &mut Harness| {
        for fetch in us.fetches() {
            own.extend(fetch.wants.iter().map(|want| (want.first, fetch.why)));
            us.deliver(&fetch);
        }
        own.len()
    };
    us.pass(millis(600));
    assert!(all(&mut us) < 64, "it may be about to begin");
    fetching(&mut us, 1, Runs(vec![(other, 1)]));
    have(&mut us, 1, Runs(vec![(other, 1)]));
    us.pass(millis(200));
    assert!(all(&mut us) < 64);
    us.pass(millis(400));
    for _ in 0..64 {
        all(&mut us);
    }
    assert_eq!(all(&mut us), 64);
}

#[test]
fn what_others_were_told_to_be_fetched_here_is_fetched_here_whoever_comes() {
    let mut us = Harness::among(&[]);
    crowd_of(&mut us);
    us.pass(millis(60));
    let alone = us.fetches();
    let begun: Vec<u32> = firsts(&alone);
    assert!(begun.len() >= 2);
    for n in 1..16 {
        wanter(&mut us, n);
    }
    for fetch in &alone {
        us.end(fetch, TransferEnd::Done);
    }
    us.pass(millis(500));
    let mut again = Vec::new();
    for _ in 0..64 {
        let fetches = us.fetches();
        again.extend(firsts(&fetches));
        for fetch in &fetches {
            us.deliver(fetch);
        }
    }
    assert!(begun.iter().all(|part| again.contains(part)), "{begun:?} {again:?}");
}

#[test]
fn an_idle_node_takes_what_a_busy_owner_has_not_begun_and_nothing_that_it_has() {
    let mut us = crowd_with(&[1]);
    let begun = Runs(vec![(0, 1), (5, 1), (9, 1)]);
    fetching(&mut us, 1, begun.clone());
    us.pass(millis(60));
    let mut own = fetch_own_share(&mut us);
    let before = own.len();
    assert!(before < 61);
    for nonce in 0..15 {
        us.pass(millis(100));
        us.message(1, Message::Pong { nonce });
        own.extend(fetch_own_share(&mut us));
    }
    assert_eq!(own.len(), 61);
    assert!(begun.iter().all(|part| !own.contains_key(&part)));
}

#[test]
fn claims_of_parts_that_are_not_known_yet_add_up() {
    let mut us = Harness::among(&[]);
    us.want(&files(&[64 << 20]));
    us.connect(1);
    fetching(&mut us, 1, Runs(vec![(3, 1)]));
    fetching(&mut us, 1, Runs(vec![(7, 1)]));
    us.give(Input::ChunkList {
        content: digest(1_000),
        chunks: vec![1 << 20; 64],
        held: vec![false; 64],
    });
    us.pass(millis(200));
    let fetched = fetch_own_share(&mut us);
    assert!(!fetched.is_empty());
    assert!(!fetched.contains_key(&3) && !fetched.contains_key(&7), "{fetched:?}");
}

#[test]
fn a_crowd_that_has_just_begun_waits_for_nobody_to_connect_and_a_latecomer_does() {
    let begin = |held: Runs| {
        let mut us = Harness::among(&[]);
        us.want(&files(&[100; 40]));
        us.pass(millis(5));
        us.answer(200, held, Runs::all(40));
        us.pass(millis(200));
        us.fetches().len()
    };
    assert!(begin(Runs::default()) > 0, "nobody can have fetched anything");
    assert_eq!(begin(Runs::all(20)), 0, "what the other is fetching is not known yet");
}

#[test]
fn what_a_peer_has_by_now_is_not_fetched_from_the_origin_to_the_end() {
    let mut us = crowd_with(&[1]);
    us.pass(millis(60));
    let fetches = us.fetches();
    let (kept, left) = (&fetches[0], &fetches[1]);
    us.give(Input::Progress {
        transfer: kept.transfer,
        bytes: 1_000 << 10,
    });
    let both = [firsts(std::slice::from_ref(kept)), firsts(std::slice::from_ref(left))].concat();
    let mut both: Vec<u32> = both;
    both.sort_unstable();
    have(&mut us, 1, Runs::of(both));
    us.pass(millis(150));
    let cancelled =
        |fetch: &Fetch| us.count(|action| matches!(action, Action::Cancel { transfer } if *transfer == fetch.transfer));
    assert_eq!((cancelled(kept), cancelled(left)), (0, 1));
    assert!(us.fetches().iter().any(|fetch| fetch.source == Source::Peer(NodeId(1))));
}
