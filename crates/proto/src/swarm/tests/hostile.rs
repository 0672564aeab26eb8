use potluck_model::NodeId;
use proptest::prelude::*;

use super::harness::{Harness, address, digest, files, list};
use crate::interface::{Action, Input, TransferEnd, TransferId, Want};
use crate::message::{End, HaveItem, Message, Runs};

fn disconnects(us: &Harness) -> usize {
    us.count(|action| matches!(action, Action::Disconnect { .. }))
}

#[test]
fn random_datagrams_are_ignored_and_counted() {
    let mut us = Harness::among(&[]);
    us.hold(&files(&[100]));
    us.give(Input::Datagram {
        from: address(NodeId(1)),
        multicast: true,
        bytes: b"not a datagram",
    });
    assert_eq!(us.swarm.counters().datagrams_malformed, 1);
    assert!(us.out.is_empty());
}

#[test]
fn a_repeated_datagram_is_ignored_and_counted() {
    let mut us = Harness::among(&[]);
    us.want(&files(&[100]));
    let request = us
        .out
        .iter()
        .find_map(|action| match action {
            Action::Multicast { bytes, .. } => Some(bytes.clone()),
            _ => None,
        })
        .unwrap();
    let mut other = Harness::with(|config| config.node = NodeId(7));
    other.hold(&files(&[100]));
    for _ in 0..3 {
        other.give(Input::Datagram {
            from: address(NodeId(100)),
            multicast: true,
            bytes: &request,
        });
    }
    assert_eq!(other.swarm.counters().datagrams_repeated, 2);
    assert_eq!(other.answers().len(), 1);
}

#[test]
fn an_end_that_was_not_asked_for_ends_the_connection() {
    let mut us = Harness::among(&[]);
    us.connect(1);
    us.message(
        1,
        Message::End {
            stream: 1,
            end: End::Done,
        },
    );
    assert_eq!(disconnects(&us), 1);
    assert_eq!(us.swarm.counters().peers_at_fault, 1);
}

#[test]
fn more_of_a_list_than_it_has_ends_the_connection() {
    let mut us = Harness::among(&[]);
    us.want(&files(&[100]));
    us.holder(1, Runs(vec![(0, 2)]));
    assert_eq!(disconnects(&us), 1);
}

#[test]
fn one_number_for_two_requests_ends_the_connection() {
    let mut us = Harness::with(|config| config.serving_max = 1);
    us.hold(&files(&[100]));
    us.connect(1);
    let wants = vec![Want {
        content: digest(1_000),
        first: 0,
        count: 1,
    }];
    for _ in 0..2 {
        us.message(
            1,
            Message::Get {
                stream: 1,
                wants: wants.clone(),
            },
        );
    }
    assert_eq!(disconnects(&us), 1);
}

#[test]
fn requests_without_end_are_declined() {
    let mut us = Harness::with(|config| config.serving_max = 1);
    us.hold(&files(&[100]));
    us.connect(1);
    for stream in 0..1_000 {
        us.message(
            1,
            Message::Get {
                stream,
                wants: vec![Want {
                    content: digest(1_000),
                    first: 0,
                    count: 1,
                }],
            },
        );
    }
    assert!(us.count(|action| matches!(action, Action::Decline { .. })) > 900);
}

#[test]
fn connections_beyond_the_limit_are_closed() {
    let mut us = Harness::with(|config| config.connections_max = 8);
    for n in 0..20 {
        us.connect(n);
    }
    assert_eq!(disconnects(&us), 12);
}

#[test]
fn the_table_of_peers_is_bounded() {
    let mut us = Harness::with(|config| config.peers_max = 16);
    us.hold(&files(&[100]));
    let asking = crate::datagram::Asking {
        number: 1,
        part: 0,
        wanted: 1,
        threshold: 1,
    };
    let id = crate::identifier::Identifier::of_list(&super::harness::KEY, &list());
    for n in 200..400 {
        let (bytes, _) =
            crate::datagram::encode_requests(asking, id, false, &crate::datagram::Lacks::Everything, 1).remove(0);
        us.datagram(n, bytes);
    }
    assert!(us.swarm.peers.table.len() <= 16);
}

#[test]
fn everything_arrives_although_every_peer_lies() {
    let mut us = Harness::among(&[]);
    us.want(&files(&[100, 200, 300]));
    let ends = [
        TransferEnd::Done,
        TransferEnd::Missing(vec![0, 1, 2, 9]),
        TransferEnd::Corrupt,
        TransferEnd::Failed("x".into()),
    ];
    for n in 1..=8 {
        us.holder(n, Runs::all(3));
    }
    for round in 0..1_000 {
        for fetch in us.fetches() {
            if matches!(fetch.source, potluck_model::trace::Source::Peer(_)) {
                us.end(&fetch, ends[round % ends.len()].clone());
            } else {
                us.deliver(&fetch);
            }
        }
        if us.completes() > 0 {
            return;
        }
        us.pass(super::harness::millis(50));
    }
    panic!("not complete");
}

fn any_runs() -> impl Strategy<Value = Runs> {
    prop::collection::btree_set(0u32..70, 0..8).prop_map(Runs::of)
}

fn any_content() -> impl Strategy<Value = potluck_model::Digest> {
    prop_oneof![
        Just(list()),
        (1_000u64..1_004).prop_map(digest),
        (2_000u64..2_004).prop_map(digest),
        Just(digest(9)),
    ]
}

fn any_items() -> impl Strategy<Value = Vec<HaveItem>> {
    prop::collection::vec(
        (any_content(), any_runs()).prop_map(|(content, chunks)| HaveItem { content, chunks }),
        0..4,
    )
}

fn any_message() -> impl Strategy<Value = Message> {
    let want = (any_content(), 0u32..70, 1u32..5).prop_map(|(content, first, count)| Want { content, first, count });
    prop_oneof![
        (0u32..6, prop::collection::vec(want, 1..4)).prop_map(|(stream, wants)| Message::Get { stream, wants }),
        (0u32..6).prop_map(|stream| Message::Cancel { stream }),
        any_content().prop_map(|list| Message::Follow { list }),
        (any_content(), any_runs()).prop_map(|(list, contents)| Message::HaveOfList { list, contents }),
        any_items().prop_map(|items| Message::Have { items }),
        any_items().prop_map(|items| Message::Fetching { items }),
        any::<u64>().prop_map(|nonce| Message::Ping { nonce }),
    ]
}

#[derive(Clone, Debug)]
enum Happening {
    Connected(u64),
    Disconnected(u64),
    ConnectFailed(u64),
    Message(u64, Message),
    Stored(u64, potluck_model::Digest, u32),
    Progress(u64, u64),
    Ended(u64, TransferEnd),
    Lost(potluck_model::Digest, u32),
    List(bool),
    Designated(bool),
    ChunkList,
    Forget,
    Pass(u64),
}

fn any_happening() -> impl Strategy<Value = Happening> {
    let end = prop_oneof![
        Just(TransferEnd::Done),
        prop::collection::vec(0u16..5, 0..3).prop_map(TransferEnd::Missing),
        Just(TransferEnd::Corrupt),
        Just(TransferEnd::Failed("x".into())),
        Just(TransferEnd::Busy {
            instead: vec![NodeId(3)],
            retry_after: None
        }),
    ];
    prop_oneof![
        (0u64..5).prop_map(Happening::Connected),
        (0u64..5).prop_map(Happening::Disconnected),
        (0u64..5).prop_map(Happening::ConnectFailed),
        (0u64..5, any_message()).prop_map(|(n, message)| Happening::Message(n, message)),
        (0u64..5, any_message()).prop_map(|(n, message)| Happening::Message(n, message)),
        (0u64..20, any_content(), 0u32..70).prop_map(|(t, content, chunk)| Happening::Stored(t, content, chunk)),
        (0u64..20, any_content(), 0u32..70).prop_map(|(t, content, chunk)| Happening::Stored(t, content, chunk)),
        (0u64..20, 0u64..2_000_000).prop_map(|(t, bytes)| Happening::Progress(t, bytes)),
        (0u64..20, end).prop_map(|(t, end)| Happening::Ended(t, end)),
        (any_content(), 0u32..70).prop_map(|(content, chunk)| Happening::Lost(content, chunk)),
        any::<bool>().prop_map(Happening::List),
        any::<bool>().prop_map(Happening::Designated),
        Just(Happening::ChunkList),
        Just(Happening::Forget),
        (0u64..5_000).prop_map(Happening::Pass),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Whatever happens in whatever order: no panic, no deadline that has passed (the harness looks), and when all is
    /// over the origin delivers what is wanted.
    #[test]
    fn whatever_happens_everything_arrives_in_the_end(happenings in prop::collection::vec(any_happening(), 0..60)) {
        let mut us = Harness::among(&[1, 2, 3]);
        let contents = files(&[100, 70 << 20, 300, 5 << 20]);
        for happening in happenings {
            match happening {
                Happening::Connected(n) => us.connect(n),
                Happening::Disconnected(n) => us.give(Input::Disconnected { peer: NodeId(n) }),
                Happening::ConnectFailed(n) => us.give(Input::ConnectFailed { peer: NodeId(n) }),
                Happening::Message(n, message) => us.message(n, message),
                Happening::Stored(t, content, chunk) => {
                    us.give(Input::Stored { transfer: TransferId(t), content, chunk });
                }
                Happening::Progress(t, bytes) => us.give(Input::Progress { transfer: TransferId(t), bytes }),
                Happening::Ended(t, end) => us.give(Input::TransferEnded { transfer: TransferId(t), end }),
                Happening::Lost(content, chunk) => us.give(Input::Lost { content, chunk }),
                Happening::List(held) => {
                    let mut contents = contents.clone();
                    contents[0].held = held;
                    us.give(Input::List { list: list(), size: 500, contents });
                }
                Happening::Designated(some) => {
                    us.give(Input::Designated { list: some.then(|| (list(), 500)) });
                }
                Happening::ChunkList => chunk_list(&mut us, 1_001),
                Happening::Forget => us.give(Input::Forget { list: list() }),
                Happening::Pass(millis) => us.pass(super::harness::millis(millis)),
            }
        }
        for n in 0..5 {
            us.give(Input::Disconnected { peer: NodeId(n) });
        }
        us.give(Input::Designated { list: None });
        us.give(Input::List { list: list(), size: 500, contents });
        us.out.clear();
        us.give(Input::Designated { list: Some((list(), 500)) });
        for _ in 0..4_000 {
            for fetch in us.fetches() {
                us.deliver(&fetch);
                for want in &fetch.wants {
                    for n in [1_001, 1_003] {
                        if want.content == digest(n + 1_000) {
                            chunk_list(&mut us, n);
                        }
                    }
                }
            }
            if us.completes() > 0 {
                break;
            }
            us.pass(super::harness::millis(100));
        }
        prop_assert_eq!(us.completes(), 1);
    }
}

fn chunk_list(us: &mut Harness, n: u64) {
    let mib: usize = if n == 1_001 { 70 } else { 5 };
    us.give(Input::ChunkList {
        content: digest(n),
        chunks: vec![1 << 20; mib],
        held: vec![false; mib],
    });
}
