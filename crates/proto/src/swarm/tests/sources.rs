use std::collections::BTreeSet;
use std::time::Duration;

use potluck_model::NodeId;
use potluck_model::trace::{Source, Why};

use super::harness::{Harness, address, digest, files, list, millis};
use crate::interface::{Action, Input, TransferEnd};
use crate::message::{HaveItem, Message, Runs};

/// One big file of `stripes` stripes of two chunks; returns its index in the list.
fn big(us: &mut Harness, stripes: u32, held: &[u32]) {
    us.want(&files(&[u64::from(stripes) << 20]));
    let held: Vec<bool> = (0..stripes * 2).map(|chunk| held.contains(&chunk)).collect();
    us.give(Input::ChunkList {
        content: digest(1_000),
        chunks: vec![512 << 10; stripes as usize * 2],
        held,
    });
}

#[test]
fn who_answered_is_asked_and_not_the_origin() {
    let mut us = Harness::among(&[1]);
    us.want(&files(&[100, 200]));
    us.pass(millis(5));
    us.answer(1, Runs::all(2), Runs::default());
    us.pass(millis(100));
    assert_eq!(us.count(|action| matches!(action, Action::Connect { .. })), 1);
    assert!(
        us.fetches().is_empty(),
        "the origin is not asked while a holder is dialled"
    );
    us.connect(1);
    let fetch = us.fetches().remove(0);
    assert_eq!((fetch.source, fetch.why), (Source::Peer(NodeId(1)), Why::Answered));
    assert_eq!(fetch.wants.len(), 2, "small files travel together");
    us.deliver(&fetch);
    assert_eq!(us.completes(), 1);
    assert!(us.fetches().is_empty());
}

#[test]
fn what_a_peer_failed_to_deliver_comes_from_another_and_then_from_the_origin() {
    let mut us = Harness::among(&[]);
    us.want(&files(&[100]));
    us.holder(1, Runs::all(1));
    us.holder(2, Runs::all(1));
    let first = us.fetches().remove(0);
    us.end(&first, TransferEnd::Failed("cut".into()));
    let second = us.fetches().remove(0);
    assert_ne!(first.source, second.source);
    assert_eq!(second.why, Why::Answered);
    us.end(&second, TransferEnd::Missing(vec![0]));
    us.pass(millis(60));
    let third = us.fetches().remove(0);
    assert_eq!((third.source, third.why), (Source::Origin, Why::PeerFailed));
    assert_eq!(us.failures(), 2);
}

#[test]
fn a_peer_that_stalls_costs_one_short_deadline() {
    let mut us = Harness::among(&[]);
    us.want(&files(&[100]));
    us.holder(1, Runs::all(1));
    let fetch = us.fetches().remove(0);
    us.pass(millis(3_000));
    assert_eq!(
        us.count(|action| matches!(action, Action::Cancel { transfer } if *transfer == fetch.transfer)),
        1
    );
    assert_eq!(us.failures(), 1);
    let next = us.fetches().remove(0);
    assert_eq!((next.source, next.why), (Source::Origin, Why::PeerFailed));
}

#[test]
fn a_peer_that_sends_wrong_bytes_is_left_for_good() {
    let mut us = Harness::among(&[]);
    us.want(&files(&[100]));
    us.holder(1, Runs::all(1));
    let fetch = us.fetches().remove(0);
    us.end(&fetch, TransferEnd::Corrupt);
    assert_eq!(us.count(|action| matches!(action, Action::Disconnect { .. })), 1);
    us.pass(millis(60));
    assert_eq!(us.fetches().remove(0).source, Source::Origin);
}

#[test]
fn a_busy_peer_is_asked_again_and_the_origin_is_not() {
    let mut us = Harness::among(&[]);
    us.want(&files(&[100]));
    us.holder(1, Runs::all(1));
    let fetch = us.fetches().remove(0);
    us.end(
        &fetch,
        TransferEnd::Busy {
            instead: vec![],
            retry_after: None,
        },
    );
    us.pass(millis(500));
    let again = us.fetches().remove(0);
    assert_eq!(again.source, Source::Peer(NodeId(1)));
    assert_eq!(us.failures(), 0);
}

#[test]
fn a_peer_that_is_busy_for_ever_does_not_keep_anything_from_the_origin() {
    let mut us = Harness::among(&[]);
    us.want(&files(&[100]));
    us.holder(1, Runs::all(1));
    let mut sources = BTreeSet::new();
    for _ in 0..40 {
        for fetch in us.fetches() {
            sources.insert(fetch.source);
            if fetch.source == Source::Peer(NodeId(1)) {
                us.end(
                    &fetch,
                    TransferEnd::Busy {
                        instead: vec![],
                        retry_after: None,
                    },
                );
            }
        }
        us.pass(millis(200));
    }
    assert!(sources.contains(&Source::Origin), "{sources:?}");
}

#[test]
fn a_busy_origin_is_left_alone_for_as_long_as_it_asks_and_a_random_while_more() {
    let mut us = Harness::new();
    us.want(&files(&[100]));
    let fetch = us.fetches().remove(0);
    assert_eq!(fetch.source, Source::Origin);
    us.end(
        &fetch,
        TransferEnd::Busy {
            instead: vec![],
            retry_after: Some(millis(5_000)),
        },
    );
    us.pass(millis(5_000));
    assert!(us.fetches().is_empty(), "it asked for more time");
    us.pass(millis(5_000));
    assert_eq!(us.fetches().remove(0).source, Source::Origin);
    assert_eq!(us.failures(), 0, "being busy is no failure");
}

#[test]
fn many_parts_of_one_file_come_from_many_peers_at_once() {
    let mut us = Harness::among(&[]);
    big(&mut us, 16, &[]);
    us.out.clear();
    for n in 1..=4 {
        us.holder(n, Runs::all(1));
    }
    let fetches = us.fetches();
    let sources: BTreeSet<Source> = fetches.iter().map(|fetch| fetch.source).collect();
    assert_eq!(sources.len(), 4);
    let stripes: BTreeSet<u32> = fetches.iter().map(|fetch| fetch.wants[0].first).collect();
    assert_eq!(stripes.len(), fetches.len(), "no part twice");
}

#[test]
fn only_missing_chunks_are_asked_for() {
    let mut us = Harness::among(&[]);
    big(&mut us, 3, &[0, 1, 3, 4]);
    us.holder(1, Runs::all(1));
    let mut wants: Vec<(u32, u32)> = us
        .fetches()
        .iter()
        .flat_map(|fetch| fetch.wants.iter().map(|want| (want.first, want.count)))
        .collect();
    wants.sort_unstable();
    assert_eq!(wants, [(2, 1), (5, 1)]);
}

#[test]
fn a_peer_with_part_of_a_file_is_asked_for_that_part() {
    let mut us = Harness::among(&[]);
    big(&mut us, 2, &[]);
    us.connect(1);
    us.message(
        1,
        Message::Have {
            items: vec![HaveItem {
                content: digest(1_000),
                chunks: Runs(vec![(2, 2)]),
            }],
        },
    );
    let fetches = us.fetches();
    assert_eq!(fetches.len(), 1);
    assert_eq!((fetches[0].wants[0].first, fetches[0].wants[0].count), (2, 2));
}

#[test]
fn the_chunk_list_comes_first_and_from_whoever_has_any_of_the_file() {
    let mut us = Harness::among(&[]);
    us.want(&files(&[4 << 20]));
    us.connect(1);
    us.message(
        1,
        Message::Have {
            items: vec![HaveItem {
                content: digest(1_000),
                chunks: Runs(vec![(0, 1)]),
            }],
        },
    );
    let fetch = us.fetches().remove(0);
    assert_eq!(fetch.wants[0].content, digest(2_000));
    assert_eq!(fetch.source, Source::Peer(NodeId(1)));
}

#[test]
fn thousands_of_small_files_take_few_requests() {
    let mut us = Harness::among(&[]);
    us.want(&files(&vec![500; 4_000]));
    us.holder(1, Runs::all(4_000));
    us.holder(2, Runs::all(4_000));
    let mut requests = 0;
    while us.completes() == 0 {
        let fetches = us.fetches();
        assert!(!fetches.is_empty());
        requests += fetches.len();
        for fetch in fetches {
            us.deliver(&fetch);
        }
    }
    assert!(requests <= 8, "{requests} requests");
}

#[test]
fn complete_is_said_once_and_again_when_something_was_lost_and_fetched() {
    let mut us = Harness::new();
    us.want(&files(&[100, 200]));
    let fetch = us.fetches().remove(0);
    us.deliver(&fetch);
    assert_eq!(us.completes(), 1);
    us.give(Input::Lost {
        content: digest(1_000),
        chunk: 0,
    });
    us.pass(millis(100));
    let fetch = us.fetches().remove(0);
    assert_eq!(fetch.wants.len(), 1);
    us.deliver(&fetch);
    assert_eq!(us.completes(), 2);
    us.pass(Duration::from_secs(100));
    assert_eq!(us.completes(), 2);
}

#[test]
fn the_origin_is_tried_for_ever_at_growing_intervals() {
    let mut us = Harness::new();
    us.want(&files(&[100]));
    let mut tries = 0;
    for _ in 0..3_000 {
        for fetch in us.fetches() {
            tries += 1;
            us.end(&fetch, TransferEnd::Failed("refused".into()));
        }
        us.pass(millis(100));
    }
    assert!((12..40).contains(&tries), "{tries} tries in five minutes");
}

#[test]
fn connections_to_the_origin_that_break_off_again_and_again_are_no_reason_to_wait_for_long() {
    let mut us = Harness::new();
    us.want(&files(&[100; 16]));
    let (mut breaks, mut waited) = (0, 0);
    while us.completes() == 0 {
        for fetch in us.fetches() {
            // One more arrives each time, and the others have no part in that the next does not.
            us.give(Input::Stored {
                transfer: fetch.transfer,
                content: fetch.wants[0].content,
                chunk: 0,
            });
            us.end(&fetch, TransferEnd::Failed("cut".into()));
            breaks += 1;
        }
        us.pass(millis(100));
        waited += 1;
        assert!(waited < 200, "{breaks} parts in twenty seconds");
    }
    assert_eq!(breaks, 16);
}

#[test]
fn a_transfer_from_the_origin_that_stops_is_begun_again_less_and_less_often() {
    let mut us = Harness::new();
    big(&mut us, 2, &[]);
    let fetches = us.fetches();
    us.pass(millis(400));
    for fetch in &fetches[..2] {
        us.deliver(fetch);
    }
    let transfer = fetches[2].transfer;
    us.give(Input::Progress { transfer, bytes: 1_000 });
    let cancelled = |us: &Harness| us.count(|action| matches!(action, Action::Cancel { .. }));
    let (before, mut rest) = (cancelled(&us), 0);
    for (quiet, times) in [(900, 0), (600, 1), (1_000, 1), (1_400, 2), (2_000, 2), (2_400, 3)] {
        us.pass(millis(quiet));
        assert_eq!(cancelled(&us) - before, times, "after {quiet} ms more");
        rest += us.fetches().len();
    }
    assert_eq!(rest, 3, "it is asked for again each time");
    assert_eq!(us.failures(), 0, "no fault of the origin");
}

#[test]
fn one_content_that_the_origin_lacks_does_not_stop_the_others() {
    let mut us = Harness::new();
    us.want(&files(&[100, 200]));
    let fetch = us.fetches().remove(0);
    let (bad, good) = (fetch.wants[0], fetch.wants[1]);
    us.give(Input::Stored {
        transfer: fetch.transfer,
        content: good.content,
        chunk: 0,
    });
    us.end(&fetch, TransferEnd::Missing(vec![0]));
    us.pass(Duration::from_secs(1));
    let again = us.fetches().remove(0);
    assert_eq!(again.wants, [bad]);
}

#[test]
fn with_the_origin_away_what_a_peer_gets_later_is_fetched_from_it() {
    let mut us = Harness::among(&[]);
    us.want(&files(&[100]));
    us.connect(1);
    us.pass(millis(60));
    for fetch in us.fetches() {
        us.end(&fetch, TransferEnd::Failed("refused".into()));
    }
    us.message(
        1,
        Message::HaveOfList {
            list: list(),
            contents: Runs::all(1),
        },
    );
    assert_eq!(us.fetches().remove(0).source, Source::Peer(NodeId(1)));
}

#[test]
fn the_slow_end_is_asked_of_a_second_peer() {
    let mut us = Harness::among(&[]);
    big(&mut us, 1, &[]);
    us.holder(1, Runs::all(1));
    let slow = us.fetches().remove(0);
    us.holder(2, Runs::all(1));
    for _ in 0..12 {
        us.pass(millis(200));
        us.give(Input::Progress {
            transfer: slow.transfer,
            bytes: 100,
        });
    }
    let hedge = us.fetches().remove(0);
    assert_eq!((hedge.source, hedge.why), (Source::Peer(NodeId(2)), Why::Hedge));
    us.deliver(&hedge);
    assert_eq!(us.completes(), 1);
    assert_eq!(
        us.count(|action| matches!(action, Action::Cancel { transfer } if *transfer == slow.transfer)),
        1
    );
}

#[test]
fn another_list_ends_what_the_one_before_was_fetching() {
    let mut us = Harness::new();
    us.want(&files(&[100]));
    let fetch = us.fetches().remove(0);
    us.give(Input::Designated { list: None });
    assert_eq!(
        us.count(|action| matches!(action, Action::Cancel { transfer } if *transfer == fetch.transfer)),
        1
    );
    us.end(&fetch, TransferEnd::Failed("cancelled".into()));
    us.pass(Duration::from_secs(5));
    assert!(us.fetches().is_empty());
    assert_eq!(us.swarm.deadline(), None);
}

#[test]
fn idle_connections_are_closed() {
    let mut us = Harness::among(&[]);
    us.hold(&files(&[100]));
    us.connect(1);
    us.pass(Duration::from_secs(59));
    assert_eq!(us.count(|action| matches!(action, Action::Disconnect { .. })), 0);
    us.pass(Duration::from_secs(3));
    assert_eq!(us.count(|action| matches!(action, Action::Disconnect { .. })), 1);
    us.give(Input::Disconnected { peer: NodeId(1) });
    us.pass(Duration::from_secs(60));
    assert_eq!(us.swarm.deadline(), None);
}

#[test]
fn a_silent_peer_is_found_out_while_something_is_wanted() {
    let mut us = Harness::among(&[]);
    us.want(&files(&[100]));
    us.connect(1);
    // How far away it is was asked at once.
    us.out.clear();
    us.pass(Duration::from_secs(11));
    let pings = us.count(|action| {
        matches!(
            action,
            Action::Send {
                message: Message::Ping { .. },
                ..
            }
        )
    });
    assert_eq!(pings, 1);
    us.pass(Duration::from_secs(4));
    assert_eq!(us.count(|action| matches!(action, Action::Disconnect { .. })), 1);
}

#[test]
fn a_forgotten_list_is_not_offered_any_more() {
    let mut us = Harness::among(&[]);
    let contents = files(&[100]);
    us.hold(&contents);
    us.give(Input::Designated { list: None });
    us.give(Input::Forget { list: list() });
    us.connect(1);
    us.out.clear();
    us.message(
        1,
        Message::Get {
            stream: 1,
            wants: vec![crate::interface::Want {
                content: digest(1_000),
                first: 0,
                count: 1,
            }],
        },
    );
    assert_eq!(us.count(|action| matches!(action, Action::Decline { .. })), 1);
    assert_eq!(address(NodeId(1)).port(), 7443);
}

#[test]
fn the_same_seed_and_inputs_give_the_same_actions() {
    let run = || {
        let mut us = Harness::among(&[1, 2]);
        big(&mut us, 20, &[]);
        us.holder(1, Runs::all(1));
        us.holder(2, Runs::all(1));
        us.pass(Duration::from_secs(10));
        us.out
    };
    assert_eq!(run(), run());
}

#[test]
fn nobody_waits_for_what_one_says_that_it_holds_who_never_sent_anything() {
    let mut us = Harness::among(&[]);
    us.want(&files(&[100, 200]));
    us.holder(1, Runs::all(2));
    let asked = us.fetches();
    assert_eq!(asked[0].source, Source::Peer(NodeId(1)));
    us.pass(millis(700));
    assert!(us.fetches().is_empty(), "all of it is on its way");
    us.pass(millis(500));
    let fetches = us.fetches();
    assert!(
        fetches.iter().all(|fetch| fetch.source == Source::Origin),
        "{fetches:?}"
    );
    assert!(!fetches.is_empty());
}

#[test]
fn a_holder_that_failed_is_tried_again_and_believed_when_it_delivers() {
    let mut us = Harness::among(&[]);
    us.want(&files(&[100, 200]));
    us.holder(1, Runs::all(2));
    let asked = us.fetches().remove(0);
    us.end(&asked, TransferEnd::Failed("broke".into()));
    // The origin fails as well.
    let mut tried = None;
    for nonce in 0..40 {
        us.pass(Duration::from_secs(1));
        us.message(1, Message::Pong { nonce });
        for fetch in us.fetches() {
            match fetch.source {
                Source::Peer(_) => tried = Some(fetch),
                _ => us.end(&fetch, TransferEnd::Failed("away".into())),
            }
        }
        if tried.is_some() {
            break;
        }
    }
    let tried = tried.expect("there is nobody else");
    assert!(tried.wants.len() == 1, "one thing to begin with");
    us.deliver(&tried);
    us.pass(Duration::from_secs(1));
    for fetch in us.fetches() {
        assert_eq!(fetch.source, Source::Peer(NodeId(1)));
        us.deliver(&fetch);
    }
    assert_eq!(us.completes(), 1);
}
