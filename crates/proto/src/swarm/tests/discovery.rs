use potluck_model::NodeId;
use potluck_model::trace::{Source, What, Why};

use super::harness::{Harness, KEY, US, address, digest, files, list, millis};
use crate::datagram::{Asking, Body, Lacks, encode_prefix_requests, encode_requests};
use crate::identifier::Identifier;
use crate::interface::{Action, Input};
use crate::message::Runs;

fn asking(number: u64) -> Asking {
    Asking {
        number,
        part: 0,
        wanted: 16,
        threshold: u16::MAX,
    }
}

fn list_id() -> Identifier {
    Identifier::of_list(&KEY, &list())
}

#[test]
fn requests_go_out_over_every_path_and_to_every_neighbour_at_once() {
    let mut us = Harness::among(&[1, 2, 3]);
    us.want(&files(&[100, 200]));
    let datagrams = us.datagrams();
    assert!(datagrams.iter().any(|(to, _)| to.is_none()), "to the group");
    for n in [1, 2, 3] {
        assert!(
            datagrams.iter().any(|(to, _)| *to == Some(address(NodeId(n)))),
            "to neighbour {n}"
        );
    }
    let lacks = Lacks::These(Runs::all(2));
    assert!(datagrams.iter().any(|(_, datagram)| matches!(&datagram.body,
        Body::Request(request) if request.lacks == lacks && !request.lacks_list && request.list == list_id())));
    assert!(us.fetches().is_empty(), "nothing is fetched before answers can come");
    let asked = us.count(|action| matches!(action, Action::Trace(What::Asked { .. })));
    assert_eq!(asked, datagrams.len());
}

#[test]
fn a_list_that_is_not_known_is_asked_for_itself() {
    let mut us = Harness::among(&[1]);
    us.give(Input::Designated {
        list: Some((list(), 500)),
    });
    assert!(us.datagrams().iter().any(|(_, datagram)| matches!(&datagram.body,
        Body::Request(request) if request.lacks_list && request.lacks == Lacks::Everything)));
    us.answer(1, Runs::default(), Runs::default());
    assert_eq!(
        us.count(|action| matches!(action, Action::Connect { peer: NodeId(1), .. })),
        1
    );
    us.connect(1);
    let fetch = us.fetches().remove(0);
    assert_eq!((fetch.source, fetch.why), (Source::Peer(NodeId(1)), Why::Answered));
    assert_eq!(fetch.wants[0].content, list());
}

#[test]
fn a_node_alone_asks_the_origin_after_a_short_wait() {
    let mut us = Harness::among(&[]);
    us.want(&files(&[100]));
    us.pass(millis(49));
    assert!(us.fetches().is_empty());
    us.pass(millis(2));
    let fetch = us.fetches().remove(0);
    assert_eq!((fetch.source, fetch.why), (Source::Origin, Why::NobodyAnswered));
}

#[test]
fn where_nobody_can_be_asked_nothing_is_waited_for() {
    let mut us = Harness::new();
    us.want(&files(&[100]));
    assert_eq!(us.fetches().len(), 1);
}

#[test]
fn the_wait_shrinks_where_nobody_answers() {
    let mut us = Harness::among(&[]);
    us.give(Input::Designated {
        list: Some((list(), 500)),
    });
    us.pass(millis(51));
    let fetch = us.fetches().remove(0);
    us.deliver(&fetch);
    us.give(Input::List {
        list: list(),
        size: 500,
        contents: files(&[100]),
    });
    us.pass(millis(26));
    assert_eq!(us.fetches().len(), 1, "half as long as the first time");
}

#[test]
fn few_holders_among_many_nodes_are_found_before_the_origin_is_asked() {
    let mut us = Harness::new();
    us.paths();
    us.give(Input::Neighbours {
        neighbours: vec![],
        population: 10_000,
    });
    us.want(&files(&[100]));
    let thresholds = |us: &Harness| -> Vec<u16> {
        us.datagrams()
            .iter()
            .filter_map(|(_, datagram)| match &datagram.body {
                Body::Request(request) => Some(request.asking.threshold),
                _ => None,
            })
            .collect()
    };
    assert!(thresholds(&us).iter().all(|threshold| *threshold < 1_000));
    us.out.clear();
    us.pass(millis(71));
    assert!(us.fetches().is_empty(), "not yet");
    assert!(thresholds(&us).contains(&u16::MAX), "now everybody is to answer");
    us.pass(millis(51));
    assert_eq!(us.fetches().len(), 1);
}

#[test]
fn a_holder_answers_with_what_it_holds_and_is_fetching() {
    let mut us = Harness::among(&[]);
    let mut contents = files(&[100, 200, 300]);
    contents[0].held = true;
    contents[1].needed = false;
    us.want(&contents);
    us.out.clear();
    let (bytes, _) = encode_requests(asking(7), list_id(), true, &Lacks::Everything, 1).remove(0);
    us.datagram(9, bytes);
    let answer = us.answers().remove(0);
    assert_eq!(answer.number, 7);
    assert!(answer.list_held);
    assert_eq!(answer.held, Runs(vec![(0, 1)]));
    assert_eq!(answer.fetching, Runs(vec![(2, 1)]));
}

#[test]
fn each_part_of_a_request_is_answered_once() {
    let mut us = Harness::among(&[]);
    us.hold(&files(&[100]));
    for _ in 0..3 {
        let (bytes, _) = encode_requests(asking(7), list_id(), false, &Lacks::Everything, 1).remove(0);
        us.datagram(9, bytes);
    }
    assert_eq!(us.answers().len(), 1);
}

#[test]
fn an_address_that_is_not_proven_gets_no_more_than_it_sent() {
    let mut us = Harness::among(&[]);
    us.hold(&files(&vec![100; 9_000]));
    // Everything is asked about in few bytes, and every other one would be answered in many.
    let (bytes, _) = encode_requests(asking(7), list_id(), true, &Lacks::Everything, 1).remove(0);
    us.datagram(9, bytes.clone());
    let sent: usize = us
        .out
        .iter()
        .filter_map(|action| match action {
            Action::Datagram { bytes, .. } => Some(bytes.len()),
            _ => None,
        })
        .sum();
    assert!(0 < sent && sent <= bytes.len(), "{sent} for {}", bytes.len());
}

#[test]
fn peers_of_other_lists_are_found_by_prefixes() {
    let mut us = Harness::among(&[]);
    us.hold(&files(&[100, 200]));
    let prefixes: Vec<_> = [digest(77), digest(1_001)]
        .iter()
        .map(|content| Identifier::of_content(&KEY, content).prefix())
        .collect();
    let other = Identifier::of_list(&KEY, &digest(99));
    let bytes = encode_prefix_requests(asking(7), other, &prefixes, 1).remove(0);
    us.datagram(9, bytes);
    let held = us
        .datagrams()
        .into_iter()
        .find_map(|(_, datagram)| match datagram.body {
            Body::PrefixAnswer(answer) => Some(answer.held),
            _ => None,
        });
    assert_eq!(held, Some(Runs(vec![(1, 1)])));
}

#[test]
fn a_request_by_prefixes_finds_the_same_file_in_another_list() {
    let mut us = Harness::among(&[]);
    us.want(&files(&[100]));
    let sent: Vec<_> = us
        .datagrams()
        .into_iter()
        .filter_map(|(_, datagram)| match datagram.body {
            Body::PrefixRequest(request) => Some(request.prefixes),
            _ => None,
        })
        .collect();
    assert_eq!(sent, [vec![Identifier::of_content(&KEY, &digest(1_000)).prefix()]]);
    let answer = crate::datagram::PrefixAnswer {
        number: us.last_request(),
        held: Runs(vec![(0, 1)]),
        fetching: Runs::default(),
    };
    let bytes = crate::datagram::encode_prefix_answers(&answer, 1_340, 1).remove(0);
    us.datagram(9, bytes);
    us.connect(9);
    let fetch = us.fetches().remove(0);
    assert_eq!(fetch.source, Source::Peer(NodeId(9)));
}

#[test]
fn what_is_missing_is_asked_for_again_at_growing_intervals() {
    let mut us = Harness::among(&[1]);
    us.want(&files(&[100]));
    us.pass(millis(60));
    let mut gaps = Vec::new();
    let mut last = us.now;
    for _ in 0..600 {
        us.out.clear();
        us.pass(millis(100));
        if !us.datagrams().is_empty() {
            gaps.push(us.now.since(last).as_secs());
            last = us.now;
        }
    }
    assert!(gaps.len() >= 4, "{gaps:?}");
    assert!(gaps.windows(2).all(|pair| pair[0] <= pair[1] + 1), "{gaps:?}");
    assert!(gaps.iter().all(|gap| *gap <= 31), "{gaps:?}");
}

#[test]
fn new_neighbours_are_asked_when_they_become_known() {
    let mut us = Harness::among(&[]);
    us.want(&files(&[100]));
    us.pass(millis(300));
    us.out.clear();
    us.neighbours(&[4]);
    us.pass(millis(1));
    assert!(us.datagrams().iter().any(|(to, _)| *to == Some(address(NodeId(4)))));
}

#[test]
fn nothing_is_sent_and_nothing_is_due_when_nothing_is_wanted() {
    let mut us = Harness::among(&[1, 2]);
    assert!(us.out.is_empty());
    assert_eq!(us.swarm.deadline(), None);
    us.hold(&files(&[100]));
    assert_eq!(us.swarm.deadline(), None);
    assert_ne!(US, NodeId(1));
}
