use std::time::Duration;

use potluck_model::ring::{SEATS_MAX, place};
use potluck_model::trace::Source;
use potluck_model::{NodeId, Time};

use super::harness::{Harness, KEY, US, digest, files, list, millis};
use crate::datagram::{Asking, Lacks, encode_requests};
use crate::identifier::Identifier;
use crate::interface::{Action, Input};
use crate::message::{Member, Message, Runs};

/// Ids that stand nearest behind the list's place, nearest first.
fn nearest() -> impl Iterator<Item = u64> {
    (1..).map(|n| place(&list()).0.wrapping_add(n))
}

fn members(count: usize, age: u8) -> Vec<Member> {
    nearest()
        .take(count)
        .map(|node| Member {
            node: NodeId(node),
            age,
        })
        .collect()
}

fn says(us: &mut Harness, n: u64, members: Vec<Member>) {
    us.message(
        n,
        Message::Crowd {
            list: list(),
            lacks: Some(Lacks::Everything),
            members,
        },
    );
}

/// The next two after us.
const FURTHER: [u64; 2] = [US.0 + 1, US.0 + 2];

/// Both of them say who sits.
fn say(us: &mut Harness, members: &[Member]) {
    for n in FURTHER {
        says(us, n, members.to_vec());
    }
}

/// Connected to two nodes that want the same and stand further off than we do.
fn among_two() -> Harness {
    let mut us = Harness::among(&[]);
    us.now = Time::from_millis(20_000);
    us.want(&files(&[100]));
    for n in FURTHER {
        us.connect(n);
        us.message(
            n,
            Message::HaveOfList {
                list: list(),
                contents: Runs::default(),
            },
        );
    }
    us
}

/// The same, and both say who sits.
fn told_of(count: usize, age: u8) -> Harness {
    let mut us = among_two();
    say(&mut us, &members(count, age));
    us
}

/// So many seconds pass, in which both are there and say who sits.
fn hear_of_seats(us: &mut Harness, seconds: u64) {
    for nonce in 0..seconds {
        us.pass(Duration::from_secs(1));
        for n in FURTHER {
            us.message(n, Message::Pong { nonce });
        }
        say(us, &members(SEATS_MAX, 0));
    }
}

fn from_origin(us: &mut Harness) -> usize {
    us.fetches()
        .iter()
        .filter(|fetch| fetch.source == Source::Origin)
        .count()
}

#[test]
fn who_does_not_sit_leaves_the_origin_to_those_who_do() {
    let mut us = told_of(SEATS_MAX, 0);
    hear_of_seats(&mut us, 9);
    assert_eq!(from_origin(&mut us), 0);
    hear_of_seats(&mut us, 12);
    assert!(from_origin(&mut us) > 0, "but not for ever, if nothing comes");
}

#[test]
fn one_alone_makes_up_no_seats() {
    let mut us = among_two();
    for _ in 0..3 {
        says(&mut us, FURTHER[0], members(SEATS_MAX, 0));
        us.pass(millis(300));
        assert!(us.swarm.seats.ours, "nobody else has heard of them");
    }
    says(&mut us, FURTHER[1], members(SEATS_MAX, 0));
    us.pass(millis(300));
    assert!(!us.swarm.seats.ours);
}

#[test]
fn who_named_seats_that_did_nothing_is_heeded_no_more() {
    let mut us = told_of(SEATS_MAX, 0);
    hear_of_seats(&mut us, 21);
    assert!(from_origin(&mut us) > 0, "they were waited for");
    // The time for which one that waited in vain sits is over.
    hear_of_seats(&mut us, 70);
    assert!(us.swarm.seats.ours, "they say the same again, and nobody waits");
}

#[test]
fn who_is_among_the_nearest_sits() {
    let mut us = told_of(SEATS_MAX - 1, 0);
    us.pass(millis(200));
    assert!(us.swarm.seats.ours);
    assert_eq!(
        us.swarm.seats.nodes.len(),
        SEATS_MAX - 1,
        "the one further off does not sit"
    );
}

#[test]
fn hearsay_of_nodes_that_nobody_hears_any_more_is_worth_nothing() {
    let mut us = told_of(SEATS_MAX, 100);
    assert!(us.swarm.seats.ours, "too old to begin with");
    say(&mut us, &members(SEATS_MAX, 90));
    us.pass(millis(20));
    assert!(!us.swarm.seats.ours);
    us.pass(millis(3_200));
    assert!(us.swarm.seats.ours, "it grew too old");
}

#[test]
fn newly_known_seats_are_passed_on_with_their_age() {
    let mut us = Harness::among(&[]);
    us.now = Time::from_millis(20_000);
    us.want(&files(&[100]));
    us.connect(1);
    says(&mut us, 1, Vec::new());
    for n in [2, 3] {
        us.connect(n);
        says(&mut us, n, members(3, 20));
    }
    us.out.clear();
    us.pass(millis(100));
    let told: Vec<Member> = us
        .out
        .iter()
        .find_map(|action| match action {
            Action::Send {
                peer: NodeId(1),
                message: Message::Crowd {
                    members, lacks: None, ..
                },
            } => Some(members.clone()),
            _ => None,
        })
        .expect("news are told");
    for member in members(3, 20) {
        let told = told.iter().find(|told| told.node == member.node).expect("all of them");
        assert!((20..25).contains(&told.age), "{told:?}");
    }
    assert!(told.iter().all(|told| told.node != NodeId(1)), "it knows of itself");
}

#[test]
fn hearsay_leads_to_no_dialling() {
    let mut us = told_of(SEATS_MAX, 0);
    us.pass(Duration::from_secs(3));
    assert_eq!(us.count(|action| matches!(action, Action::Connect { .. })), 0);
}

#[test]
fn a_peer_that_says_it_lacks_more_than_there_is_breaks_the_protocol() {
    let mut us = Harness::among(&[]);
    us.want(&files(&[100, 200]));
    us.connect(1);
    us.message(
        1,
        Message::Crowd {
            list: list(),
            lacks: Some(Lacks::These(Runs::all(3))),
            members: Vec::new(),
        },
    );
    assert_eq!(us.swarm.counters().peers_at_fault, 1);
}

#[test]
fn a_crowd_of_another_list_changes_nothing() {
    let mut us = Harness::among(&[]);
    us.want(&files(&[100]));
    us.connect(1);
    us.message(
        1,
        Message::Crowd {
            list: digest(77),
            lacks: Some(Lacks::Everything),
            members: members(SEATS_MAX, 0),
        },
    );
    assert!(us.swarm.seats.ours && us.swarm.seats.nodes.is_empty());
    assert_eq!(us.swarm.peers.table.len(), 1);
}

#[test]
fn who_sits_has_room_for_others_that_sit() {
    let mut us = Harness::with(|config| config.connections_max = 8);
    us.paths();
    us.want(&files(&[100]));
    for n in 0..8 {
        us.connect(FURTHER[0] + n);
        says(&mut us, FURTHER[0] + n, Vec::new());
    }
    assert_eq!(us.swarm.peers.up().count(), 8, "in a small crowd all sit");
    // Nearer ones become known, so that those connected sit no more.
    say(&mut us, &members(SEATS_MAX - 1, 0));
    let nearer = nearest().next().unwrap();
    us.give(Input::Connected {
        peer: NodeId(nearer),
        address: "10.0.1.1:7443".parse().unwrap(),
    });
    assert!(us.swarm.peers.table[&NodeId(nearer)].is_up());
    assert_eq!(us.swarm.peers.up().count(), 8, "another went");
    us.connect(200);
    assert!(!us.swarm.peers.table[&NodeId(200)].is_up(), "and for nobody else");
}

/// A request for everything of the list, to the group.
fn asks_the_group(us: &mut Harness, n: u64) {
    let asking = Asking {
        number: 1,
        part: 0,
        wanted: 16,
        threshold: 0,
    };
    let id = Identifier::of_list(&KEY, &list());
    let (bytes, _) = encode_requests(asking, id, true, &Lacks::Everything, 1).remove(0);
    us.datagram_to(n, true, bytes);
}

#[test]
fn what_a_group_has_heard_often_enough_is_not_said_again() {
    let multicasts = |us: &Harness| us.count(|action| matches!(action, Action::Multicast { .. }));
    let mut us = Harness::new();
    us.paths();
    us.give(Input::Neighbours {
        neighbours: vec![],
        population: 10_000,
    });
    us.want(&files(&[100]));
    assert_eq!(multicasts(&us), 0, "it listens first");
    for n in 1..=8 {
        asks_the_group(&mut us, n);
    }
    us.pass(millis(21));
    assert_eq!(multicasts(&us), 0);
    let asked = us.datagrams().iter().filter(|(to, _)| to.is_some()).count();
    assert!(asked > 0, "those who were heard are asked singly");
    us.pass(Duration::from_secs(8));
    assert!(multicasts(&us) > 0, "when nobody says it any more");
}

#[test]
fn a_node_of_a_large_site_that_hears_nobody_asks_soon_and_all_the_same() {
    let mut us = Harness::new();
    us.paths();
    us.give(Input::Neighbours {
        neighbours: vec![],
        population: 10_000,
    });
    us.want(&files(&[100]));
    us.pass(millis(19));
    assert!(us.fetches().is_empty(), "nothing is fetched before it was asked for");
    us.pass(millis(2));
    assert!(us.count(|action| matches!(action, Action::Multicast { .. })) > 0);
}
