//! Connections between nodes: dialling, messages in order, breaking.

use std::net::SocketAddr;
use std::time::Duration;

use potluck_model::trace::Source;
use potluck_model::{NodeId, Time};
use potluck_proto::{End, Input, Message, TransferEnd, TransferId};

use crate::cost;
use crate::node::{self, NodeIx};
use crate::slab::Key;
use crate::world::{Event, World};

/// Number of a connection.
pub(crate) type ConnId = Key;

/// After how long dialling one fails who does not answer.
const DIAL_FAILS: Duration = Duration::from_secs(3);

#[derive(Debug)]
pub(crate) struct Conn {
    ends: [NodeIx; 2],
    open: [bool; 2],
    /// When the last frame to each end arrives: frames keep their order.
    last: [Time; 2],
}

impl Conn {
    fn side(&self, ix: NodeIx) -> usize {
        usize::from(self.ends[0] != ix)
    }
}

impl World {
    pub(crate) fn connect(&mut self, ix: NodeIx, peer: NodeId, addresses: &[SocketAddr]) {
        self.nodes[ix.at()].tally.dials += 1;
        let there = addresses.iter().filter_map(|address| node::at(*address)).find(|other| {
            self.nodes
                .get(other.at())
                .is_some_and(|node| node.id == peer && node.alive && !node.traits.firewalled && !node.asleep)
        });
        let there = there.filter(|other| !self.cut(ix, *other));
        let boot = self.nodes[ix.at()].boot;
        let Some(other) = there else {
            self.at(self.now + DIAL_FAILS, Event::DialFailed { ix, boot, peer });
            return;
        };
        self.charge(ix, Some(other), cost::of_stream(cost::HANDSHAKE_DIALS));
        self.charge(other, Some(ix), cost::of_stream(cost::HANDSHAKE_DIALLED));
        let work = Duration::from_micros(self.random.below(1_000)) + cost::HANDSHAKE_WORK;
        let at = self.now + self.latency(ix, other) * 2 * cost::HANDSHAKE_TRIPS + work;
        self.at(at, Event::Dialled { ix, boot, other });
    }

    /// The handshake is over.
    pub(crate) fn dialled(&mut self, a: NodeIx, boot: u32, b: NodeIx) {
        let (peer_a, peer_b) = (self.nodes[a.at()].id, self.nodes[b.at()].id);
        if !self.nodes[a.at()].alive || self.nodes[a.at()].boot != boot {
            return;
        }
        if !self.nodes[b.at()].alive || self.cut(a, b) {
            self.give(a, Input::ConnectFailed { peer: peer_b });
            return;
        }
        for (ix, other) in [(a, b), (b, a)] {
            // One end forgot a connection that the other still has.
            let stale = self.nodes[ix.at()].links.get(&other).copied();
            if let Some(id) = stale.filter(|id| self.is_half(*id)) {
                self.closed(id, ix);
            }
        }
        if self.nodes[a.at()].links.contains_key(&b) {
            // Both dialled: one connection stays, and it is there already.
            return;
        }
        let id = self.conns.insert(Conn {
            ends: [a, b],
            open: [true; 2],
            last: [self.now; 2],
        });
        self.nodes[a.at()].links.insert(b, id);
        self.nodes[b.at()].links.insert(a, id);
        if let Some(echo) = &mut self.watch.echo {
            echo.prove(a, b);
        }
        for (ix, peer, other) in [(a, peer_b, b), (b, peer_a, a)] {
            let address = self.nodes[other.at()].address;
            self.give(ix, Input::Connected { peer, address });
        }
    }

    fn is_half(&self, id: ConnId) -> bool {
        self.conns.get(id).is_none_or(|conn| conn.open != [true; 2])
    }

    /// A node closes its connection to another.
    pub(crate) fn disconnect(&mut self, ix: NodeIx, other: NodeIx) {
        if let Some(id) = self.nodes[ix.at()].links.get(&other).copied() {
            self.at(self.now, Event::Closed { id, ix });
            let at = self.in_order(ix, other, self.now + self.latency(ix, other));
            self.at(at, Event::Closed { id, ix: other });
        }
    }

    /// An end of a connection is gone, and its node finds out.
    pub(crate) fn closed(&mut self, id: ConnId, ix: NodeIx) {
        let Some(conn) = self.conns.get_mut(id) else { return };
        let side = conn.side(ix);
        let other = conn.ends[1 - side];
        if !std::mem::replace(&mut conn.open[side], false) {
            return;
        }
        if !conn.open[1 - side] {
            self.conns.remove(id);
        }
        self.nodes[ix.at()].links.remove(&other);
        let serving: Vec<_> = self.nodes[ix.at()]
            .serving
            .range((other, 0)..=(other, u32::MAX))
            .map(|(_, flow)| *flow)
            .collect();
        for flow in serving {
            self.drop_flow(flow);
        }
        let peer = self.nodes[other.at()].id;
        let broken: Vec<TransferId> = self.nodes[ix.at()]
            .transfers
            .iter()
            .filter(|(_, transfer)| transfer.source == Source::Peer(peer))
            .map(|(id, _)| *id)
            .collect();
        for id in broken {
            self.ended(ix, id, TransferEnd::Failed("the connection broke".into()));
        }
        self.give(ix, Input::Disconnected { peer });
    }

    /// A node lost its power: the ends of its connections are gone, and nobody is told.
    pub(crate) fn forget_links(&mut self, ix: NodeIx) {
        for (_, id) in std::mem::take(&mut self.nodes[ix.at()].links) {
            if let Some(conn) = self.conns.get_mut(id) {
                let side = conn.side(ix);
                conn.open[side] = false;
                if conn.open == [false; 2] {
                    self.conns.remove(id);
                }
            }
        }
    }

    /// A frame arrives after those that were sent before it. When it does.
    pub(crate) fn in_order(&mut self, from: NodeIx, to: NodeIx, at: Time) -> Time {
        let Some(id) = self.nodes[from.at()].links.get(&to) else {
            return at;
        };
        let Some(conn) = self.conns.get_mut(*id) else { return at };
        let side = conn.side(to);
        conn.last[side] = conn.last[side].max(at);
        conn.last[side]
    }

    pub(crate) fn send(&mut self, from: NodeIx, to: NodeIx, message: Message) {
        let Some(id) = self.nodes[from.at()].links.get(&to).copied() else {
            return;
        };
        self.nodes[from.at()].tally.messages_sent += 1;
        let frame = potluck_proto::frame::encode_message(&message);
        self.trace.fold_bytes(&frame);
        let out = self.charge(from, Some(to), cost::of_stream(frame.len() as u64));
        let at = out + self.latency(from, to) + self.jitter();
        let at = self.in_order(from, to, at);
        let message = Box::new(message);
        self.at(at, Event::Message { id, to, message });
    }

    /// A message has arrived.
    pub(crate) fn message(&mut self, id: ConnId, to: NodeIx, message: Box<Message>) {
        let Some(conn) = self.conns.get(id) else { return };
        let side = conn.side(to);
        let (from, open) = (conn.ends[1 - side], conn.open[side]);
        if !open {
            if self.nodes[to.at()].alive {
                // It knows nothing of this connection, and says so.
                let at = self.now + self.latency(to, from);
                self.at(at, Event::Closed { id, ix: from });
            }
            return;
        }
        let mut message = Some(message);
        if self.put_off(Some(from), to, || Event::Message {
            id,
            to,
            message: message.take().expect("it is put off once"),
        }) {
            return;
        }
        let message = *message.expect("it was not put off");
        let peer = self.nodes[from.at()].id;
        let Message::End { stream, end } = message else {
            self.give(to, Input::Message { peer, message });
            return;
        };
        let transfer = TransferId(u64::from(stream));
        let ours = self.nodes[to.at()]
            .transfers
            .get(&transfer)
            .is_some_and(|transfer| transfer.source == Source::Peer(peer));
        if ours {
            let end = match end {
                End::Done => TransferEnd::Done,
                End::Missing(wants) => TransferEnd::Missing(wants),
                End::Busy(instead) => TransferEnd::Busy {
                    instead,
                    retry_after: None,
                },
                End::Refused => TransferEnd::Failed("refused".into()),
            };
            self.end_at(self.now, to, transfer, end);
        }
    }

    /// Something small goes from a node to another or to the origin: its bytes take their time on the links, before bulk
    /// data. When it is out.
    pub(crate) fn charge(&mut self, from: NodeIx, to: Option<NodeIx>, wire: u64) -> Time {
        let now = self.now;
        let rate = self.rate_up(from);
        let node = &mut self.nodes[from.at()];
        node.tally.control_sent += wire;
        let mut out = node.port.put_small(now, cost::time_of(wire, rate));
        match to {
            Some(to) => {
                out = self.cross_sites(from, to, out, 0, wire);
                self.take_in(to, wire);
            }
            None => {
                let takes = cost::time_of(wire, self.links.origin_rate);
                let site = self.nodes[from.at()].traits.site;
                let site = &mut self.sites[site as usize];
                site.wire_up += wire;
                site.up_free = site.up_free.max(out) + takes;
                out = site.up_free;
            }
        }
        out
    }

    /// Something small comes from the origin. When it has come.
    pub(crate) fn charge_from_origin(&mut self, to: NodeIx, wire: u64) -> Time {
        let takes = cost::time_of(wire, self.links.origin_rate);
        let site = self.nodes[to.at()].traits.site;
        let site = &mut self.sites[site as usize];
        site.wire_down += wire;
        self.history.origin(self.now, wire);
        let out = site.port.put_small(self.now, takes);
        self.take_in(to, wire);
        out + self.links.origin_latency
    }

    fn take_in(&mut self, to: NodeIx, wire: u64) {
        let takes = cost::time_of(wire, self.rate_down(to));
        let node = &mut self.nodes[to.at()];
        node.tally.control_heard += wire;
        node.down_free = node.down_free.max(self.now) + takes;
    }
}
