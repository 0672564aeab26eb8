//! Nodes that were admitted and mean harm: the greedy and the flooding. (Those who lie or stall are in `flow`.)

use std::rc::Rc;
use std::time::Duration;

use potluck_model::NodeId;
use potluck_proto::datagram::{self, Asking, Header, Lacks};
use potluck_proto::identifier::Identifier;
use potluck_proto::{DATAGRAM_BYTES_MAX, Message, Want};

use crate::node::{Behaviour, NodeIx, port};
use crate::world::{Event, KEY, World};

/// How often a greedy node asks each of its peers, and numbers of requests that its core does not use.
const GREEDY_EVERY: Duration = Duration::from_millis(50);
const GREEDY_STREAMS: u32 = 1 << 31;
/// How often a flooding node sends, and how many datagrams at a time.
const FLOOD_EVERY: Duration = Duration::from_millis(10);
const FLOOD_DATAGRAMS: u64 = 10;
/// How many datagrams of others a flooding node keeps.
const OVERHEARD_MAX: usize = 64;

impl World {
    /// A node begins to do harm, if it is of that kind.
    pub(crate) fn begin_harm(&mut self, ix: NodeIx) {
        let boot = self.nodes[ix.at()].boot;
        match self.nodes[ix.at()].behaviour {
            Behaviour::Greedy => self.at(self.now + GREEDY_EVERY, Event::Greed { ix, boot }),
            Behaviour::Flooding => self.at(self.now + FLOOD_EVERY, Event::Flood { ix, boot }),
            _ => {}
        }
    }

    /// Asks every peer for something large, whatever it was asked for before.
    pub(crate) fn greed(&mut self, ix: NodeIx, boot: u32) {
        if !self.nodes[ix.at()].alive || self.nodes[ix.at()].boot != boot {
            return;
        }
        let peers: Vec<NodeIx> = self.nodes[ix.at()].links.keys().copied().collect();
        for peer in peers {
            let part = &self.release.parts[self.random.below(self.release.parts.len() as u64) as usize];
            let want = Want {
                content: part.digest,
                first: 0,
                count: (part.lengths.len() as u32).min(32),
            };
            self.requests += 1;
            let stream = GREEDY_STREAMS | self.requests;
            let wants = vec![want];
            self.send(ix, peer, Message::Get { stream, wants });
        }
        self.at(self.now + GREEDY_EVERY, Event::Greed { ix, boot });
    }

    /// Sends nonsense, what was heard before, and requests that seem to come from somebody else.
    pub(crate) fn flood(&mut self, ix: NodeIx, boot: u32) {
        if !self.nodes[ix.at()].alive || self.nodes[ix.at()].boot != boot {
            return;
        }
        let count = self.nodes.len() as u64;
        for _ in 0..FLOOD_DATAGRAMS {
            let to = NodeIx(self.random.below(count) as u32);
            let (from, bytes) = match self.random.below(3) {
                0 => (ix, self.nonsense()),
                1 => (ix, self.replay()),
                _ => {
                    let victim = NodeIx(self.random.below(count) as u32);
                    (victim, self.forged_request())
                }
            };
            if to != ix && to != from {
                self.send_datagram(ix, from, to, &bytes);
            }
        }
        self.at(self.now + FLOOD_EVERY, Event::Flood { ix, boot });
    }

    fn nonsense(&mut self) -> Rc<[u8]> {
        let len = self.random.below(DATAGRAM_BYTES_MAX as u64) as usize;
        let mut bytes: Vec<u8> = (0..len).map(|_| self.random.u64() as u8).collect();
        // Most of it has a head that is right, so that what follows is read.
        if self.random.chance((3, 4)) && len > 2 {
            bytes[0] = 1;
            bytes[1] = 1 + self.random.below(4) as u8;
        }
        bytes.into()
    }

    fn replay(&mut self) -> Rc<[u8]> {
        if self.overheard.is_empty() {
            return self.nonsense();
        }
        let which = self.random.below(self.overheard.len() as u64) as usize;
        Rc::clone(&self.overheard[which])
    }

    /// What a request looks like that asks for everything, from a node that does not exist.
    fn forged_request(&mut self) -> Rc<[u8]> {
        let asking = Asking {
            number: self.random.u64() >> 1,
            part: 0,
            wanted: u16::MAX,
            threshold: u16::MAX,
        };
        let list = self.release.part(self.release.lists[0].part).digest;
        let list = Identifier::of_list(&KEY, &list);
        let mut datagrams = datagram::encode_requests(asking, list, true, &Lacks::Everything, 1);
        let Some((mut bytes, _)) = datagrams.pop() else {
            return self.nonsense();
        };
        let header = Header {
            sender: NodeId(self.random.u64()),
            boot: 1,
            seq: 1,
            port: port(0),
        };
        datagram::seal_header(&mut bytes, &header);
        bytes.into()
    }

    /// A node that means harm keeps what it hears, to say it again.
    pub(crate) fn overhear(&mut self, bytes: &[u8]) {
        if self.overheard.len() >= OVERHEARD_MAX {
            self.overheard.pop_front();
        }
        self.overheard.push_back(bytes.into());
    }
}
