//! Every decoder of bytes that come from the network. Archives are in `provision`, whose reader is its own affair.
#![expect(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use potluck_fuzz::{fuzz, samples};
use potluck_model::api::{
    AssignRequest, Events, GcRequest, HaltRequest, Head, JoinAnswer, JoinRequest, OperatorRequest, Presence,
    PublishRequest, ReleaseTrust, RenewAnswer, RenewRequest, RevokeRequest, Status, TokenRequest,
};
use potluck_model::assignment::{Assignment, Root, Signed};
use potluck_model::chunk_list::ChunkList;
use potluck_model::condition::Condition;
use potluck_model::join::JoinString;
use potluck_model::list::List;
use potluck_model::revocations::Revocations;
use potluck_model::{Digest, NodeId, Time, UnixSeconds, template};
use potluck_net::datagram::{SealKey, Sealer};
use potluck_proto::datagram::Datagram;
use potluck_proto::frame::{self, Frame};
use potluck_proto::{Config, Input, Message, Swarm};
use potluck_trust::{Snapshot, Targets, Timestamp, Trusted};
use serde::de::DeserializeOwned;

const NOW: UnixSeconds = UnixSeconds(1_800_000_000);

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap_or_default()
}

#[test]
fn lists() {
    fuzz("list", |bytes| {
        if let Ok(list) = List::from_bytes(bytes) {
            assert_eq!(list.to_bytes(), bytes, "there is one way to write a list");
        }
    });
}

#[test]
fn chunk_lists() {
    fuzz("chunk-list", |bytes| {
        if let Ok(list) = ChunkList::from_bytes(bytes) {
            assert_eq!(list.to_bytes(), bytes);
        }
    });
}

#[test]
fn join_strings() {
    fuzz("join", |bytes| {
        if let Ok(join) = text(bytes).parse::<JoinString>() {
            assert_eq!(join.to_string(), text(bytes).trim());
        }
    });
}

#[test]
fn conditions() {
    fuzz("condition", |bytes| drop(Condition::parse(text(bytes))));
}

#[test]
fn templates() {
    fuzz("template", |bytes| drop(template::check(text(bytes))));
}

#[test]
fn assignments_are_believed_only_as_they_were_signed() {
    let root: Root = serde_json::from_slice(&samples("root")[0]).unwrap();
    let good: Signed<Assignment> = serde_json::from_slice(&samples("assignment")[0]).unwrap();
    fuzz("assignment", |bytes| {
        if let Ok(read) = serde_json::from_slice::<Signed<Assignment>>(bytes)
            && let Ok(believed) = root.verify(&read, good.signed.node, 0)
        {
            assert_eq!(*believed, good.signed);
        }
    });
}

#[test]
fn roots() {
    let known = |bytes: &[u8]| serde_json::from_slice::<Root>(bytes).ok().map(|root| root.digest());
    let good = known(&samples("root")[0]).unwrap();
    fuzz("root", |bytes| {
        if known(bytes) == Some(good) {
            let read: Root = serde_json::from_slice(bytes).unwrap();
            assert_eq!(read, serde_json::from_slice(&samples("root")[0]).unwrap());
        }
    });
}

#[test]
fn revocations_of_others_are_not_believed() {
    let root: Root = serde_json::from_slice(&samples("root")[0]).unwrap();
    fuzz("revocations", |bytes| {
        if let Ok(read) = serde_json::from_slice::<Signed<Revocations>>(bytes) {
            assert!(root.verify_revocations(&read).is_err());
        }
    });
}

#[test]
fn datagrams() {
    fuzz("datagram", |bytes| drop(Datagram::decode(bytes)));
}

#[test]
fn frames() {
    fuzz("frame", |bytes| {
        if let Ok(Frame::Message(message)) = frame::decode(bytes) {
            assert_eq!(
                Message::decode(&message.encode()),
                Ok(message),
                "what was read can be written"
            );
        }
    });
}

const STRANGER: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 0, 0, 9)), 7443);

/// A node that wants a list and is connected to another.
fn swarm() -> Swarm {
    let mut swarm = Swarm::new(Config::new(NodeId(1), 1, 7443), [7; 32], Time::ZERO);
    feed(&mut swarm, Input::Audience { key: [5; 32] });
    let list = Digest::of(b"list");
    feed(
        &mut swarm,
        Input::Designated {
            list: Some((list, 1_000)),
        },
    );
    let peer = NodeId(9);
    feed(
        &mut swarm,
        Input::Connected {
            peer,
            address: STRANGER,
        },
    );
    swarm
}

fn feed(swarm: &mut Swarm, input: Input<'_>) {
    swarm.handle(Time::ZERO, input);
    let mut actions = 0;
    while swarm.poll().is_some() {
        actions += 1;
        assert!(actions < 10_000, "it does not come to an end");
    }
}

#[test]
fn the_core_survives_every_datagram() {
    fuzz("datagram", |bytes| {
        for multicast in [false, true] {
            let from = STRANGER;
            feed(&mut swarm(), Input::Datagram { from, multicast, bytes });
        }
    });
}

#[test]
fn the_core_survives_every_message_of_a_peer() {
    fuzz("frame", |bytes| {
        if let Ok(Frame::Message(message)) = frame::decode(bytes) {
            let peer = NodeId(9);
            feed(&mut swarm(), Input::Message { peer, message });
        }
    });
}

#[test]
fn sealed_datagrams_open_only_as_they_were_sealed() {
    let key = SealKey { epoch: 1, key: [9; 32] };
    let sealer = Sealer::new(&[key]);
    let good = sealer.seal(b"hello").unwrap();
    fuzz("sealed", |bytes| {
        let opened = sealer.open(bytes);
        assert!(opened.is_none(), "sealed under a key that nobody has");
        // And near the real thing.
        let mut near = good.clone();
        for (at, byte) in bytes.iter().enumerate().take(4) {
            let at = (at * 31 + usize::from(*byte)) % near.len();
            near[at] ^= byte | 1;
        }
        assert!(near == good || sealer.open(&near).is_none());
    });
}

/// What the publishers' repository says, as it was signed.
fn signed(target: &str) -> Vec<u8> {
    samples(target).swap_remove(0)
}

/// Knows the root, and as many of the others as there are.
fn trusted(others: &[&str]) -> Trusted {
    let mut trusted = Trusted::from_root(&signed("tuf-root")).unwrap();
    for other in others {
        match *other {
            "tuf-timestamp" => drop(trusted.update_timestamp(&signed(other), NOW).unwrap()),
            _ => trusted.update_snapshot(&signed(other), NOW).unwrap(),
        }
    }
    trusted
}

#[test]
fn roots_of_publishers() {
    let known = trusted(&[]);
    fuzz("tuf-root", |bytes| {
        drop(Trusted::from_root(bytes));
        assert!(
            known.clone().update_root(bytes).is_err(),
            "nobody has signed a second root"
        );
    });
}

#[test]
fn timestamps_of_the_server() {
    let known = trusted(&[]);
    let good = potluck_trust::Signed::<Timestamp>::from_bytes(&signed("tuf-timestamp")).unwrap();
    fuzz("tuf-timestamp", |bytes| {
        if known.clone().update_timestamp(bytes, NOW).is_ok() {
            let read = potluck_trust::Signed::<Timestamp>::from_bytes(bytes).unwrap();
            assert_eq!(read.version(), good.version());
        }
    });
}

#[test]
fn snapshots_of_the_server() {
    let (known, good) = (trusted(&["tuf-timestamp"]), signed("tuf-snapshot"));
    fuzz("tuf-snapshot", |bytes| {
        drop(potluck_trust::Signed::<Snapshot>::from_bytes(bytes));
        assert!(known.clone().update_snapshot(bytes, NOW).is_err() || bytes == good);
    });
}

#[test]
fn targets_of_publishers() {
    let (known, good) = (trusted(&["tuf-timestamp", "tuf-snapshot"]), signed("tuf-targets"));
    fuzz("tuf-targets", |bytes| {
        drop(potluck_trust::Signed::<Targets>::from_bytes(bytes));
        assert!(known.clone().update_targets(bytes, NOW).is_err() || bytes == good);
    });
}

fn json<T: DeserializeOwned>(bytes: &[u8]) -> bool {
    serde_json::from_slice::<T>(bytes).is_ok()
}

/// Gives every sample to all readers: each is there for one of them.
fn documents(target: &str, readers: &[fn(&[u8]) -> bool]) {
    let read = |bytes: &[u8]| readers.iter().filter(|read| read(bytes)).count();
    for sample in samples(target) {
        assert!(read(&sample) > 0, "nobody reads the sample {}", text(&sample));
    }
    fuzz(target, |bytes| {
        read(bytes);
    });
}

#[test]
fn requests_to_the_server() {
    documents(
        "request",
        &[
            json::<AssignRequest>,
            json::<Events>,
            json::<GcRequest>,
            json::<HaltRequest>,
            json::<JoinRequest>,
            json::<OperatorRequest>,
            json::<Presence>,
            json::<PublishRequest>,
            json::<RenewRequest>,
            json::<RevokeRequest>,
            json::<TokenRequest>,
        ],
    );
}

#[test]
fn answers_of_the_server() {
    documents(
        "answer",
        &[
            json::<Head>,
            json::<JoinAnswer>,
            json::<ReleaseTrust>,
            json::<RenewAnswer>,
            json::<Status>,
        ],
    );
}
