//! Who cannot be dialled, and who is far away.

use potluck_model::NodeId;
use potluck_model::trace::Source;

use super::harness::{Harness, KEY, address, digest, files, list, millis};
use crate::datagram::{Asking, Body, Datagram, Lacks, encode_dial_me, encode_requests};
use crate::identifier::Identifier;
use crate::interface::{Action, Input};
use crate::message::{Message, Runs};

fn knocks(harness: &mut Harness) -> Vec<std::net::SocketAddr> {
    let out = std::mem::take(&mut harness.out);
    out.iter()
        .filter_map(|action| match action {
            Action::Datagram { to, bytes } => Datagram::decode(bytes)
                .is_ok_and(|datagram| matches!(datagram.body, Body::DialMe { .. }))
                .then_some(*to),
            _ => None,
        })
        .collect()
}

fn dials(harness: &mut Harness) -> Vec<NodeId> {
    let out = std::mem::take(&mut harness.out);
    out.iter()
        .filter_map(|action| match action {
            Action::Connect { peer, .. } => Some(*peer),
            _ => None,
        })
        .collect()
}

#[test]
fn a_holder_that_cannot_be_dialled_is_asked_once_to_dial() {
    let mut us = Harness::among(&[7]);
    us.want(&files(&[1_000]));
    us.answer(7, Runs::all(1), Runs::default());
    assert_eq!(knocks(&mut us), [], "it is dialled first");
    us.pass(millis(1_000));
    assert_eq!(knocks(&mut us), [address(NodeId(7))]);
    us.pass(millis(1_500));
    assert_eq!(knocks(&mut us), [], "once");
    us.connect(7);
    us.message(
        7,
        Message::HaveOfList {
            list: list(),
            contents: Runs::all(1),
        },
    );
    let fetches = us.fetches();
    assert!(
        fetches.iter().any(|fetch| fetch.source == Source::Peer(NodeId(7))),
        "{fetches:?}"
    );
}

#[test]
fn a_holder_that_refuses_connections_is_asked_to_dial_at_once() {
    let mut us = Harness::among(&[7]);
    us.want(&files(&[1_000]));
    us.answer(7, Runs::all(1), Runs::default());
    us.out.clear();
    us.give(Input::ConnectFailed { peer: NodeId(7) });
    assert_eq!(knocks(&mut us), [address(NodeId(7))]);
    let soon = us.fetches();
    assert!(soon.is_empty(), "the origin is held off until it may have dialled");
    us.pass(millis(5_000));
    assert!(us.fetches().iter().any(|fetch| fetch.source == Source::Origin));
}

fn request(number: u64) -> Vec<u8> {
    let asking = Asking {
        number,
        part: 0,
        wanted: 16,
        threshold: u16::MAX,
    };
    let id = Identifier::of_list(&KEY, &list());
    encode_requests(asking, id, true, &Lacks::Everything, 1).remove(0).0
}

#[test]
fn only_who_was_answered_is_dialled_and_only_once() {
    let mut us = Harness::among(&[]);
    us.hold(&files(&[1_000]));
    us.datagram(7, encode_dial_me(300));
    assert_eq!(dials(&mut us), [], "it asked for nothing");
    us.datagram(7, request(300));
    us.datagram(7, encode_dial_me(299));
    assert_eq!(dials(&mut us), [], "that was not answered");
    us.datagram(7, encode_dial_me(300));
    assert_eq!(dials(&mut us), [NodeId(7)]);
    us.datagram(7, encode_dial_me(300));
    us.give(Input::ConnectFailed { peer: NodeId(7) });
    us.datagram(7, encode_dial_me(300));
    assert_eq!(dials(&mut us), [], "it cannot be reached, and was tried lately");
}

#[test]
fn a_node_that_takes_only_dials_nobody() {
    let mut us = Harness::with(|config| config.serving_max = 0);
    us.hold(&files(&[1_000]));
    us.datagram(7, request(300));
    us.datagram(7, encode_dial_me(300));
    assert_eq!(dials(&mut us), []);
}

/// Answers pings of these peers, each after its round trip, for as long as anything is asked.
fn answer_pings(us: &mut Harness, round_trips: &[(u64, u64)], seconds: u64) {
    for _ in 0..seconds * 20 {
        let out = std::mem::take(&mut us.out);
        let mut pongs = Vec::new();
        for action in out {
            match action {
                Action::Send {
                    peer,
                    message: Message::Ping { nonce },
                } => {
                    let trip = round_trips.iter().find(|(n, _)| NodeId(*n) == peer);
                    pongs.extend(trip.map(|(n, trip)| (*trip, *n, nonce)));
                }
                other => us.out.push(other),
            }
        }
        pongs.sort_unstable();
        let begun = us.now;
        for (trip, n, nonce) in pongs {
            let waited = us.now.since(begun);
            us.pass(millis(trip).saturating_sub(waited));
            us.message(n, Message::Pong { nonce });
        }
        us.pass(millis(50));
    }
}

fn asked(us: &Harness) -> Vec<u64> {
    let mut asked: Vec<u64> = us
        .out
        .iter()
        .filter_map(|action| match action {
            Action::Fetch {
                source: Source::Peer(peer),
                ..
            } => Some(peer.0),
            _ => None,
        })
        .collect();
    asked.sort_unstable();
    asked.dedup();
    asked
}

/// Three peers are connected and measured, and then say that they hold everything.
fn measured(round_trips: &[(u64, u64)], before: impl FnOnce(&mut Harness)) -> Vec<u64> {
    let mut us = Harness::with(|config| config.origin_transfers_max = 0);
    before(&mut us);
    us.want(&files(&[60_000; 60]));
    for (n, _) in round_trips {
        us.connect(*n);
    }
    answer_pings(&mut us, round_trips, 3);
    us.out.clear();
    for (n, _) in round_trips {
        us.message(
            *n,
            Message::Have {
                items: (0..60)
                    .map(|file| crate::message::HaveItem {
                        content: digest(1_000 + file),
                        chunks: Runs::all(1),
                    })
                    .collect(),
            },
        );
    }
    us.pass(millis(100));
    asked(&us)
}

#[test]
fn a_peer_much_further_away_than_the_others_is_not_asked() {
    let asked = measured(&[(7, 1), (8, 2), (9, 60)], |_| ());
    assert!(!asked.contains(&9) && !asked.is_empty(), "{asked:?}");
}

#[test]
fn where_all_are_equally_far_away_nobody_is_far() {
    let asked = measured(&[(7, 60), (8, 65), (9, 70)], |_| ());
    assert!(!asked.is_empty());
    let alone = measured(&[(9, 60)], |_| ());
    assert_eq!(alone, [9], "there is nobody to compare with");
}

#[test]
fn a_far_peer_of_a_site_that_shares_is_asked() {
    let asked = measured(&[(9, 60), (7, 1), (8, 2)], |us| {
        us.give(Input::Sharing(vec![NodeId(9)]));
    });
    assert!(asked.contains(&9), "{asked:?}");
}
