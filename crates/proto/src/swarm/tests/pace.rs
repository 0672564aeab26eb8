//! How much is under way at a time, and from whom.

use potluck_model::NodeId;
use potluck_model::trace::Source;

use super::harness::{Fetch, Harness, digest, files, list, millis};
use crate::interface::{Action, Input, Want};
use crate::message::{End, Message, Runs};

/// A file of so many stripes that all these hold.
fn held_by(us: &mut Harness, stripes: u32, holders: &[u64]) {
    us.want(&files(&[u64::from(stripes) << 20]));
    for holder in holders {
        us.holder(*holder, Runs::all(1));
    }
    us.give(Input::ChunkList {
        content: digest(1_000),
        chunks: vec![1 << 20; stripes as usize],
        held: vec![false; stripes as usize],
    });
}

/// Bytes of a fetch come at a rate, in pieces, while others wait.
fn come(us: &mut Harness, fetch: &Fetch, bytes_per_ms: u64, span: u64) {
    for _ in 0..span / 50 {
        us.pass(millis(50));
        us.give(Input::Progress {
            transfer: fetch.transfer,
            bytes: bytes_per_ms * 50,
        });
    }
}

fn sources(fetches: &[Fetch]) -> Vec<u64> {
    let mut nodes: Vec<u64> = fetches
        .iter()
        .filter_map(|fetch| match fetch.source {
            Source::Peer(NodeId(node)) => Some(node),
            _ => None,
        })
        .collect();
    nodes.sort_unstable();
    nodes
}

#[test]
fn on_a_slow_link_little_is_under_way() {
    let mut us = Harness::among(&[]);
    held_by(&mut us, 64, &[1, 2, 3, 4, 5, 6, 7, 8]);
    let first = us.fetches();
    assert!(
        (12..=18).contains(&first.len()),
        "{} MiB of an unknown link",
        first.len()
    );
    // One MiB a second.
    come(&mut us, &first[0], 1 << 10, 1_000);
    us.deliver(&first[0]);
    for fetch in &first[1..14] {
        us.deliver(fetch);
    }
    let next = us.fetches();
    let under_way = first.len() - 14 + next.len();
    assert!(under_way <= 7, "{under_way} MiB of a link of 1 MiB/s");
}

#[test]
fn a_slow_peer_is_asked_for_one_thing_at_a_time_and_only_for_what_no_fast_one_has() {
    let mut us = Harness::among(&[]);
    held_by(&mut us, 64, &[1, 2]);
    let first = us.fetches();
    assert_eq!(sources(&first), [1, 1, 1, 2, 2, 2]);
    let of = |fetches: &[Fetch], node| -> Vec<Fetch> {
        fetches
            .iter()
            .filter(|fetch| fetch.source == Source::Peer(NodeId(node)))
            .cloned()
            .collect()
    };
    let (slow, fast) = (of(&first, 1), of(&first, 2));
    for _ in 0..4 {
        us.pass(millis(60));
        for (fetch, bytes) in [(&slow[0], 20 << 10), (&fast[0], 200 << 10)] {
            us.give(Input::Progress {
                transfer: fetch.transfer,
                bytes,
            });
        }
    }
    for _ in 0..3 {
        us.pass(millis(60));
        us.give(Input::Progress {
            transfer: fast[1].transfer,
            bytes: 1 << 20,
        });
        us.give(Input::Progress {
            transfer: slow[0].transfer,
            bytes: 60 << 10,
        });
    }
    for fetch in &slow {
        us.deliver(fetch);
    }
    assert!(!sources(&us.fetches()).contains(&1), "the other has it all");
    // What only the slow one has.
    us.give(Input::Disconnected { peer: NodeId(2) });
    assert_eq!(sources(&us.fetches()), [1], "one thing at a time");
}

fn get(us: &mut Harness, peer: u64, stream: u32, first: u32) {
    let wants = vec![Want {
        content: digest(1_000),
        first,
        count: 1,
    }];
    us.message(peer, Message::Get { stream, wants });
}

fn served(us: &Harness) -> Vec<(u64, u32)> {
    us.out
        .iter()
        .filter_map(|action| match action {
            Action::Serve { peer, stream, .. } => Some((peer.0, *stream)),
            _ => None,
        })
        .collect()
}

#[test]
fn of_one_stripe_a_few_answers_are_sent_at_a_time_and_others_are_named() {
    let mut us = Harness::among(&[]);
    us.hold(&files(&[8 << 20]));
    for peer in 1..=6 {
        us.connect(peer);
        get(&mut us, peer, 1, 3);
    }
    assert_eq!(served(&us).len(), 4);
    get(&mut us, 6, 2, 4);
    assert_eq!(served(&us).len(), 5, "another stripe");
    us.give(Input::Served {
        peer: NodeId(1),
        stream: 1,
        bytes: 1 << 20,
    });
    assert_eq!(served(&us).len(), 6, "the next in turn");
    us.message(
        1,
        Message::HaveOfList {
            list: list(),
            contents: Runs::all(1),
        },
    );
    us.pass(millis(600));
    let busy = |action: &Action| matches!(action, Action::Decline { peer: NodeId(6), end: End::Busy(others), .. } if *others == [NodeId(1)]);
    assert_eq!(us.count(busy), 1);
}

#[test]
fn who_is_sent_least_comes_first() {
    let mut us = Harness::with(|config| config.serving_max = 2);
    us.hold(&files(&[8 << 20]));
    us.connect(1);
    us.connect(2);
    for stream in 1..=4 {
        get(&mut us, 1, stream, stream);
    }
    get(&mut us, 2, 9, 1);
    assert_eq!(served(&us), [(1, 1), (1, 2)]);
    us.give(Input::Served {
        peer: NodeId(1),
        stream: 1,
        bytes: 1 << 20,
    });
    assert_eq!(served(&us)[2], (2, 9));
}
