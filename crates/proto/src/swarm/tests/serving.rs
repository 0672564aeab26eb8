use potluck_model::NodeId;

use super::harness::{Harness, digest, files, list, millis};
use crate::interface::{Action, Input, Want};
use crate::message::{End, Message, Runs};

fn want(n: u64) -> Want {
    Want {
        content: digest(n),
        first: 0,
        count: 1,
    }
}

fn get(us: &mut Harness, peer: u64, stream: u32, wants: Vec<Want>) {
    us.message(peer, Message::Get { stream, wants });
}

fn serves(us: &Harness) -> usize {
    us.count(|action| matches!(action, Action::Serve { .. }))
}

fn declined(us: &Harness) -> Vec<End> {
    us.out
        .iter()
        .filter_map(|action| match action {
            Action::Decline { end, .. } => Some(end.clone()),
            _ => None,
        })
        .collect()
}

#[test]
fn what_is_held_is_served_lists_included() {
    let mut us = Harness::among(&[]);
    us.hold(&files(&[100]));
    us.connect(1);
    get(&mut us, 1, 1, vec![want(1_000), want(1)]);
    assert_eq!(serves(&us), 1);
}

#[test]
fn what_no_list_names_is_missing() {
    let mut us = Harness::among(&[]);
    us.hold(&files(&[100]));
    us.connect(1);
    get(&mut us, 1, 1, vec![want(77), want(78)]);
    assert_eq!(declined(&us), [End::Missing(vec![0, 1])]);
}

#[test]
fn beyond_the_limit_requests_wait_and_then_others_are_named() {
    let mut us = Harness::with(|config| config.serving_max = 1);
    us.hold(&files(&[100]));
    us.connect(1);
    us.holder(2, Runs::all(1));
    get(&mut us, 1, 1, vec![want(1_000)]);
    get(&mut us, 1, 2, vec![want(1_000)]);
    get(&mut us, 1, 3, vec![want(1_000)]);
    assert_eq!(serves(&us), 1);
    us.give(Input::Served {
        peer: NodeId(1),
        stream: 1,
        bytes: 100,
    });
    assert_eq!(serves(&us), 2, "the next in line");
    us.pass(millis(600));
    assert_eq!(declined(&us), [End::Busy(vec![NodeId(2)])]);
}

#[test]
fn who_fills_the_queue_gives_way_to_who_asks_for_little() {
    let mut us = Harness::with(|config| config.serving_max = 1);
    us.hold(&files(&[100]));
    us.connect(1);
    us.connect(2);
    for stream in 1..=6 {
        get(&mut us, 1, stream, vec![want(1_000)]);
    }
    assert_eq!(
        declined(&us).len(),
        1,
        "one is being sent, four wait, and there is no room for the sixth"
    );
    us.out.clear();
    get(&mut us, 2, 1, vec![want(1_000)]);
    get(&mut us, 2, 2, vec![want(1_000)]);
    let to: Vec<(NodeId, u32)> = us
        .out
        .iter()
        .filter_map(|action| match action {
            Action::Decline { peer, stream, .. } => Some((*peer, *stream)),
            _ => None,
        })
        .collect();
    assert_eq!(
        to,
        [(NodeId(1), 5), (NodeId(1), 4)],
        "what the greedy one asked for last"
    );
    us.out.clear();
    get(&mut us, 2, 3, vec![want(1_000)]);
    assert_eq!(declined(&us).len(), 1, "they have equally much now");
    for stream in 1..=3 {
        us.give(Input::Served {
            peer: NodeId(1),
            stream,
            bytes: 100,
        });
    }
    let served = us.count(|action| matches!(action, Action::Serve { peer: NodeId(2), .. }));
    assert!(served > 0, "its turn comes");
}

#[test]
fn what_is_on_its_way_here_is_waited_for_and_served() {
    let mut us = Harness::new();
    us.want(&files(&[100]));
    let fetch = us.fetches().remove(0);
    us.connect(1);
    get(&mut us, 1, 1, vec![want(1_000)]);
    us.pass(millis(1_000));
    assert_eq!(serves(&us), 0);
    us.deliver(&fetch);
    assert_eq!(serves(&us), 1);
    get(&mut us, 1, 2, vec![want(77)]);
    assert_eq!(declined(&us), [End::Missing(vec![0])]);
}

#[test]
fn what_does_not_come_in_time_is_missing() {
    let mut us = Harness::new();
    us.want(&files(&[100]));
    us.connect(1);
    get(&mut us, 1, 1, vec![want(1_000)]);
    us.pass(millis(2_100));
    assert_eq!(declined(&us), [End::Missing(vec![0])]);
}

#[test]
fn a_cancelled_request_ends_all_the_same() {
    let mut us = Harness::new();
    us.want(&files(&[100]));
    us.connect(1);
    get(&mut us, 1, 1, vec![want(1_000)]);
    us.message(1, Message::Cancel { stream: 1 });
    assert_eq!(declined(&us), [End::Missing(vec![0])]);
    let mut us = Harness::new();
    us.hold(&files(&[100]));
    us.connect(1);
    get(&mut us, 1, 1, vec![want(1_000)]);
    us.message(1, Message::Cancel { stream: 1 });
    assert_eq!(us.count(|action| matches!(action, Action::StopServing { .. })), 1);
}

#[test]
fn a_follower_is_told_what_is_held_and_what_comes() {
    let mut us = Harness::new();
    let mut contents = files(&[100, 200]);
    contents[1].held = true;
    us.want(&contents);
    us.connect(1);
    us.out.clear();
    us.message(1, Message::Follow { list: list() });
    let told = |us: &Harness| -> Vec<Runs> {
        us.out
            .iter()
            .filter_map(|action| match action {
                Action::Send {
                    message: Message::HaveOfList { contents, .. },
                    ..
                } => Some(contents.clone()),
                _ => None,
            })
            .collect()
    };
    assert_eq!(told(&us), [Runs(vec![(1, 1)])]);
    us.out.clear();
    us.give(Input::Stored {
        transfer: crate::interface::TransferId(1),
        content: contents[0].content.digest,
        chunk: 0,
    });
    us.pass(millis(20));
    assert_eq!(told(&us), [Runs(vec![(0, 1)])]);
}

#[test]
fn a_follower_of_a_list_that_is_not_here_yet_is_told_when_it_is() {
    let mut us = Harness::new();
    us.connect(1);
    us.message(1, Message::Follow { list: list() });
    us.out.clear();
    let mut contents = files(&[100]);
    contents[0].held = true;
    us.want(&contents);
    let told = us.count(|action| {
        matches!(
            action,
            Action::Send {
                message: Message::HaveOfList { .. },
                ..
            }
        )
    });
    assert_eq!(told, 1);
}
