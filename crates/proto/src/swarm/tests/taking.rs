//! Nodes that take and do not give.

use potluck_model::NodeId;
use potluck_model::trace::Source;

use super::harness::{Harness, KEY, address, digest, files, list, millis};
use crate::datagram::{Asking, Header, Lacks, encode_requests, seal_header};
use crate::identifier::Identifier;
use crate::interface::{Action, Input, Want};
use crate::message::{End, Message, Runs};

fn taker() -> Harness {
    Harness::with(|config| config.serving_max = 0)
}

/// Another node asks for everything of the list; port 0 says that it takes only.
fn asks(us: &mut Harness, n: u64, seq: u64, port: u16) {
    let asking = Asking {
        number: seq,
        part: 0,
        wanted: 16,
        threshold: u16::MAX,
    };
    let id = Identifier::of_list(&KEY, &list());
    let (mut bytes, _) = encode_requests(asking, id, true, &Lacks::Everything, 1).remove(0);
    let header = Header {
        sender: NodeId(n),
        boot: 1,
        seq,
        port,
    };
    seal_header(&mut bytes, &header);
    us.give(Input::Datagram {
        from: address(NodeId(n)),
        multicast: false,
        bytes: &bytes,
    });
}

fn told(us: &Harness) -> Vec<Runs> {
    let of = |action: &Action| match action {
        Action::Send {
            message: Message::HaveOfList { contents, .. },
            ..
        } => Some(contents.clone()),
        _ => None,
    };
    us.out.iter().filter_map(of).collect()
}

#[test]
fn it_answers_no_request_and_names_no_port_in_its_own() {
    let mut us = taker();
    us.hold(&files(&[100]));
    asks(&mut us, 1, 1, 7443);
    assert!(us.datagrams().is_empty());
    let mut us = taker();
    us.paths();
    us.want(&files(&[100]));
    us.pass(millis(300));
    let sent = us.datagrams();
    assert!(!sent.is_empty());
    assert!(sent.iter().all(|(_, datagram)| datagram.header.port == 0));
}

#[test]
fn it_tells_nobody_what_it_has_and_declines_what_it_is_asked_for() {
    let mut us = taker();
    us.hold(&files(&[100]));
    us.connect(1);
    us.message(1, Message::Follow { list: list() });
    assert_eq!(
        told(&us),
        [Runs::default()],
        "so that nobody waits for it to say what it has"
    );
    let wants = vec![Want {
        content: digest(1_000),
        first: 0,
        count: 1,
    }];
    us.message(1, Message::Get { stream: 1, wants });
    assert_eq!(us.count(|action| matches!(action, Action::Serve { .. })), 0);
    let declined = |action: &Action| {
        matches!(
            action,
            Action::Decline {
                end: End::Missing(_),
                ..
            }
        )
    };
    assert_eq!(us.count(declined), 1);
}

#[test]
fn when_it_gives_again_who_follows_is_told_what_it_has() {
    let mut us = taker();
    us.hold(&files(&[100]));
    us.connect(1);
    us.message(1, Message::Follow { list: list() });
    us.out.clear();
    us.give(Input::ServingMax(4));
    assert_eq!(told(&us), [Runs::all(1)]);
    asks(&mut us, 2, 1, 7443);
    assert_eq!(us.answers().len(), 1);
}

#[test]
fn others_answer_it_and_wait_for_none_of_its_share() {
    let mut us = Harness::new();
    us.want(&files(&[100; 40]));
    asks(&mut us, 1, 1, 0);
    assert_eq!(us.answers().len(), 1);
    us.connect(1);
    us.message(
        1,
        Message::HaveOfList {
            list: list(),
            contents: Runs::default(),
        },
    );
    us.pass(millis(1_000));
    let fetched: u32 = origin(&mut us);
    assert_eq!(fetched, 40, "all of it is our share");
}

#[test]
fn it_leaves_to_others_what_they_will_pass_on() {
    let mut us = taker();
    us.paths();
    us.want(&files(&[100; 40]));
    asks(&mut us, 1, 1, 7443);
    us.connect(1);
    us.message(
        1,
        Message::HaveOfList {
            list: list(),
            contents: Runs::default(),
        },
    );
    us.pass(millis(1_000));
    assert_eq!(origin(&mut us), 0, "nothing is its share");
    // Nobody passes anything on, so it does not wait for ever.
    us.pass(millis(60_000));
    assert!(origin(&mut us) > 0);
}

fn origin(us: &mut Harness) -> u32 {
    let fetches = us.fetches();
    let wants = fetches
        .iter()
        .filter(|fetch| fetch.source == Source::Origin)
        .flat_map(|fetch| &fetch.wants);
    wants.map(|want| want.count).sum()
}
