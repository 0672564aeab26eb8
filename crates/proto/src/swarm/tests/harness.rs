//! One core, and hands to feed it.

use std::net::SocketAddr;
use std::time::Duration;

use potluck_model::list::Content;
use potluck_model::trace::{Source, What, Why};
use potluck_model::{Digest, NodeId, Time};

use crate::datagram::{Answer, Body, Datagram, Header, encode_answers, seal_header};
use crate::identifier::Identifier;
use crate::interface::{Action, Config, Input, ListContent, Neighbour, Path, PathId, TransferEnd, TransferId, Want};
use crate::message::{Message, Runs};
use crate::swarm::Swarm;

pub(super) const KEY: [u8; 32] = [5; 32];
pub(super) const US: NodeId = NodeId(100);

pub(super) fn digest(n: u64) -> Digest {
    Digest::of(&n.to_be_bytes())
}

pub(super) fn address(node: NodeId) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, node.0 as u8], 7443))
}

pub(super) fn millis(n: u64) -> Duration {
    Duration::from_millis(n)
}

/// A list with files of the given sizes; those larger than 64 KiB have a chunk list.
pub(super) fn files(sizes: &[u64]) -> Vec<ListContent> {
    let mut contents: Vec<ListContent> = sizes
        .iter()
        .enumerate()
        .map(|(n, size)| ListContent {
            content: Content {
                digest: digest(1_000 + n as u64),
                size: *size,
                chunks: (*size > 65_536).then(|| digest(2_000 + n as u64)),
            },
            needed: true,
            held: false,
        })
        .collect();
    contents.sort_by_key(|item| item.content.digest);
    contents
}

pub(super) fn list() -> Digest {
    digest(1)
}

/// A `Fetch`, taken apart.
#[derive(Clone, Debug)]
pub(super) struct Fetch {
    pub(super) transfer: TransferId,
    pub(super) source: Source,
    pub(super) wants: Vec<Want>,
    pub(super) why: Why,
}

pub(super) struct Harness {
    pub(super) swarm: Swarm,
    pub(super) now: Time,
    /// What came out and was not looked at.
    pub(super) out: Vec<Action>,
    seq: u64,
}

impl Harness {
    pub(super) fn new() -> Self {
        Self::with(|_| {})
    }

    pub(super) fn with(change: impl FnOnce(&mut Config)) -> Self {
        let mut config = Config::new(US, 1, 7443);
        change(&mut config);
        let mut harness = Self {
            swarm: Swarm::new(config, [1; 32], Time::ZERO),
            now: Time::ZERO,
            out: Vec::new(),
            seq: 0,
        };
        harness.give(Input::Audience { key: KEY });
        harness
    }

    /// With one multicast path and these neighbours.
    pub(super) fn among(nodes: &[u64]) -> Self {
        let mut harness = Self::new();
        harness.paths();
        harness.neighbours(nodes);
        harness
    }

    pub(super) fn paths(&mut self) {
        self.give(Input::Paths(vec![Path {
            id: PathId(3),
            interface: "eth0".into(),
            group: SocketAddr::from(([239, 255, 74, 43], 7443)),
        }]));
    }

    pub(super) fn neighbours(&mut self, nodes: &[u64]) {
        let neighbours = nodes
            .iter()
            .map(|n| Neighbour {
                node: NodeId(*n),
                addresses: vec![address(NodeId(*n))],
            })
            .collect();
        self.give(Input::Neighbours {
            neighbours,
            population: nodes.len() as u32 + 1,
        });
    }

    pub(super) fn give(&mut self, input: Input<'_>) {
        self.swarm.handle(self.now, input);
        while let Some(action) = self.swarm.poll() {
            self.out.push(action);
        }
        if let Some(deadline) = self.swarm.deadline() {
            assert!(deadline > self.now, "a deadline that has passed");
        }
    }

    /// Lets time pass, waking the core whenever it wants to be woken.
    pub(super) fn pass(&mut self, span: Duration) {
        let end = self.now + span;
        while let Some(at) = self.swarm.deadline().filter(|at| *at <= end) {
            self.now = at;
            self.give(Input::Wake);
        }
        self.now = end;
    }

    /// Designates a list that is here already.
    pub(super) fn want(&mut self, contents: &[ListContent]) {
        self.give(Input::List {
            list: list(),
            size: 500,
            contents: contents.to_vec(),
        });
        self.give(Input::Designated {
            list: Some((list(), 500)),
        });
    }

    /// Everything of it is held.
    pub(super) fn hold(&mut self, contents: &[ListContent]) {
        let held: Vec<ListContent> = contents
            .iter()
            .map(|item| ListContent { held: true, ..*item })
            .collect();
        self.want(&held);
        self.out.clear();
    }

    pub(super) fn connect(&mut self, n: u64) {
        self.give(Input::Connected {
            peer: NodeId(n),
            address: address(NodeId(n)),
        });
    }

    pub(super) fn message(&mut self, n: u64, message: Message) {
        self.give(Input::Message {
            peer: NodeId(n),
            message,
        });
    }

    /// A connected peer that holds these contents of the list.
    pub(super) fn holder(&mut self, n: u64, contents: Runs) {
        self.connect(n);
        self.message(n, Message::HaveOfList { list: list(), contents });
    }

    /// A datagram of another node.
    pub(super) fn datagram(&mut self, n: u64, bytes: Vec<u8>) {
        self.datagram_to(n, false, bytes);
    }

    /// A datagram of another node, to a group or to this one.
    pub(super) fn datagram_to(&mut self, n: u64, multicast: bool, mut bytes: Vec<u8>) {
        self.seq += 1;
        let header = Header {
            sender: NodeId(n),
            boot: 1,
            seq: self.seq,
            port: 7443,
        };
        seal_header(&mut bytes, &header);
        self.give(Input::Datagram {
            from: address(NodeId(n)),
            multicast,
            bytes: &bytes,
        });
    }

    pub(super) fn answer(&mut self, n: u64, held: Runs, fetching: Runs) {
        let number = self.last_request();
        let answer = Answer {
            number,
            list: Identifier::of_list(&KEY, &list()),
            list_held: true,
            list_lacked: false,
            fetching_everything: false,
            held,
            fetching,
        };
        let bytes = encode_answers(&answer, 1_340, 1).remove(0);
        self.datagram(n, bytes);
    }

    /// Number of the last request that went out.
    pub(super) fn last_request(&self) -> u64 {
        self.out
            .iter()
            .rev()
            .find_map(|action| match action {
                Action::Trace(What::Asked { request, .. }) => Some(*request),
                _ => None,
            })
            .expect("something was asked")
    }

    /// Takes all fetches that came out.
    pub(super) fn fetches(&mut self) -> Vec<Fetch> {
        let mut fetches = Vec::new();
        self.out.retain(|action| {
            if let Action::Fetch {
                transfer,
                source,
                wants,
                why,
            } = action
            {
                fetches.push(Fetch {
                    transfer: *transfer,
                    source: *source,
                    wants: wants.clone(),
                    why: *why,
                });
                return false;
            }
            true
        });
        fetches
    }

    /// Delivers what a transfer wants, and ends it.
    pub(super) fn deliver(&mut self, fetch: &Fetch) {
        for want in &fetch.wants {
            for chunk in want.first..want.first + want.count {
                self.give(Input::Stored {
                    transfer: fetch.transfer,
                    content: want.content,
                    chunk,
                });
            }
        }
        self.end(fetch, TransferEnd::Done);
    }

    pub(super) fn end(&mut self, fetch: &Fetch, end: TransferEnd) {
        self.give(Input::TransferEnded {
            transfer: fetch.transfer,
            end,
        });
    }

    pub(super) fn datagrams(&self) -> Vec<(Option<SocketAddr>, Datagram)> {
        self.out
            .iter()
            .filter_map(|action| match action {
                Action::Datagram { to, bytes } => Some((Some(*to), Datagram::decode(bytes).unwrap())),
                Action::Multicast { bytes, .. } => Some((None, Datagram::decode(bytes).unwrap())),
                _ => None,
            })
            .collect()
    }

    pub(super) fn answers(&self) -> Vec<Answer> {
        self.datagrams()
            .into_iter()
            .filter_map(|(_, datagram)| match datagram.body {
                Body::Answer(answer) => Some(answer),
                _ => None,
            })
            .collect()
    }

    pub(super) fn count(&self, which: impl Fn(&Action) -> bool) -> usize {
        self.out.iter().filter(|action| which(action)).count()
    }

    pub(super) fn completes(&self) -> usize {
        self.count(|action| matches!(action, Action::Complete { .. }))
    }

    pub(super) fn failures(&self) -> usize {
        self.count(|action| matches!(action, Action::Trace(What::SourceFailed { .. })))
    }
}
