//! Payload on its way: answers of peers and of the origin, a turn at a time.
//!
//! A flow puts no more on a link than its window before the other end has it, so that a slow receiver holds back its own
//! flows and no others. What a slow disk has not written yet is not in the store.

use std::time::Duration;

use potluck_model::Time;
use potluck_model::trace::Source;
use potluck_proto::{End, Input, Message, TransferEnd, TransferId, Want};

use crate::cost;
use crate::network::Port;
use crate::node::{Behaviour, NodeIx};
use crate::release::{PartIx, Role};
use crate::slab::Key;
use crate::world::{Event, World};

/// Number of a flow.
pub(crate) type FlowId = Key;

/// The least window of a flow, in bytes; else twice what fits on the way.
const WINDOW_MIN: u64 = 128 << 10;

#[derive(Debug)]
pub(crate) struct Flow {
    /// None: the origin.
    pub(crate) from: Option<NodeIx>,
    pub(crate) to: NodeIx,
    pub(crate) transfer: TransferId,
    stream: u32,
    pieces: Vec<Piece>,
    /// Where it is: piece, chunk in the piece, bytes of the chunk.
    cursor: (usize, u32, u32),
    end: TransferEnd,
    good: bool,
    stalled: bool,
    window: u64,
    /// On the link.
    under_way: u64,
    /// Of a chunk that has not come whole.
    partial: u64,
    waits: bool,
    sent: bool,
    /// When the last of it arrives.
    last: Time,
}

impl Flow {
    /// Bytes that have come of a chunk that has not come whole.
    pub(crate) const fn partial(&self) -> u64 {
        self.partial
    }
}

/// Chunks of a part, one after the other.
#[derive(Clone, Copy, Debug)]
struct Piece {
    part: PartIx,
    first: u32,
    count: u32,
}

/// Whose port it is.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Sender {
    Node(NodeIx),
    /// The origin, to a site.
    Origin(u16),
}

/// A part of a chunk, or all of it, that has arrived.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Arrived {
    pub(crate) flow: FlowId,
    /// Number of the chunk.
    pub(crate) chunk: u32,
    pub(crate) bytes: u32,
    /// The chunk ends with it.
    pub(crate) whole: bool,
}

impl World {
    /// A node answers a peer's request.
    pub(crate) fn serve(&mut self, ix: NodeIx, to: NodeIx, stream: u32, wants: &[Want]) {
        let node = &self.nodes[ix.at()];
        let lies = matches!(node.behaviour, Behaviour::Corrupt | Behaviour::Stalling);
        let mut missing = Vec::new();
        let mut pieces = Vec::new();
        for (index, want) in wants.iter().enumerate() {
            let held = self.piece(want).filter(|piece| {
                let first = self.release.part(piece.part).first + piece.first;
                lies || (first..first + piece.count).all(|chunk| node.store.has(chunk))
            });
            match held {
                Some(piece) => pieces.push(piece),
                None => missing.push(index as u16),
            }
        }
        let end = if missing.is_empty() {
            TransferEnd::Done
        } else {
            TransferEnd::Missing(missing)
        };
        let flow = Flow {
            from: Some(ix),
            to,
            transfer: TransferId(u64::from(stream)),
            stream,
            pieces,
            cursor: (0, 0, 0),
            end,
            good: node.behaviour != Behaviour::Corrupt,
            stalled: matches!(node.behaviour, Behaviour::Stalling | Behaviour::Sitting),
            window: self.window(Sender::Node(ix), to),
            under_way: 0,
            partial: 0,
            waits: false,
            sent: false,
            last: self.now,
        };
        let id = self.flows.insert(flow);
        self.nodes[ix.at()].serving.insert((to, stream), id);
        self.take_turn(id);
    }

    /// The origin answers a node's request.
    pub(crate) fn serve_from_origin(&mut self, to: NodeIx, transfer: TransferId) {
        let Some(under_way) = self.nodes[to.at()].transfers.get(&transfer) else {
            return;
        };
        let pieces = under_way.wants.iter().filter_map(|want| self.piece(want)).collect();
        let site = self.nodes[to.at()].traits.site;
        let flow = Flow {
            from: None,
            to,
            transfer,
            stream: 0,
            pieces,
            cursor: (0, 0, 0),
            end: TransferEnd::Done,
            good: true,
            stalled: false,
            window: self.window(Sender::Origin(site), to),
            under_way: 0,
            partial: 0,
            waits: false,
            sent: false,
            last: self.now,
        };
        let id = self.flows.insert(flow);
        if let Some(transfer) = self.nodes[to.at()].transfers.get_mut(&transfer) {
            transfer.flow = Some(id);
        }
        self.take_turn(id);
    }

    fn piece(&self, want: &Want) -> Option<Piece> {
        let part = self.release.find(&want.content)?;
        let chunks = self.release.part(part).lengths.len() as u64;
        let end = u64::from(want.first) + u64::from(want.count);
        (end <= chunks).then_some(Piece {
            part,
            first: want.first,
            count: want.count,
        })
    }

    fn window(&self, from: Sender, to: NodeIx) -> u64 {
        let (rate, latency) = match from {
            Sender::Node(ix) => (self.rate_up(ix), self.latency(ix, to)),
            Sender::Origin(_) => (self.links.origin_rate, self.links.origin_latency),
        };
        let on_the_way = u128::from(rate) * latency.as_micros() * 2 / 1_000_000;
        WINDOW_MIN.max(on_the_way as u64 * 2)
    }

    pub(crate) fn port(&mut self, sender: Sender) -> &mut Port {
        match sender {
            Sender::Node(ix) => &mut self.nodes[ix.at()].port,
            Sender::Origin(site) => &mut self.sites[site as usize].port,
        }
    }

    /// A flow has something to send.
    fn take_turn(&mut self, id: FlowId) {
        let Some(flow) = self.flows.get_mut(id) else { return };
        if flow.stalled {
            return;
        }
        flow.waits = false;
        let sender = match flow.from {
            Some(ix) => Sender::Node(ix),
            None => Sender::Origin(self.nodes[flow.to.at()].traits.site),
        };
        self.port(sender).turn.push_back(id);
        self.send_next(sender);
    }

    /// A port is free again.
    pub(crate) fn port_free(&mut self, sender: Sender) {
        self.port(sender).busy = false;
        self.send_next(sender);
    }

    /// Gives the next flow its turn.
    fn send_next(&mut self, sender: Sender) {
        if self.port(sender).busy || matches!(sender, Sender::Node(ix) if self.nodes[ix.at()].asleep) {
            return;
        }
        while let Some(id) = self.port(sender).turn.pop_front() {
            let Some(flow) = self.flows.get_mut(id) else { continue };
            if flow.under_way >= flow.window {
                flow.waits = true;
                continue;
            }
            match self.next_arrival(id) {
                Some(arrived) => return self.put_on_link(sender, arrived),
                None => self.finish(id),
            }
        }
    }

    /// Takes the next bytes of a flow: no more than a turn's, and no more than one chunk.
    fn next_arrival(&mut self, id: FlowId) -> Option<Arrived> {
        let turn = self.links.turn_bytes;
        let flow = self.flows.get_mut(id)?;
        let (piece_at, chunk_at, offset) = flow.cursor;
        let piece = *flow.pieces.get(piece_at)?;
        let part = self.release.part(piece.part);
        let index = piece.first + chunk_at;
        let len = part.lengths[index as usize];
        let bytes = (len - offset).min(turn);
        let whole = offset + bytes == len;
        flow.cursor = if !whole {
            (piece_at, chunk_at, offset + bytes)
        } else if chunk_at + 1 < piece.count {
            (piece_at, chunk_at + 1, 0)
        } else {
            (piece_at + 1, 0, 0)
        };
        Some(Arrived {
            flow: id,
            chunk: part.first + index,
            bytes,
            whole,
        })
    }

    fn put_on_link(&mut self, sender: Sender, arrived: Arrived) {
        let (id, bytes) = (arrived.flow, u64::from(arrived.bytes));
        let Some(flow) = self.flows.get_mut(id) else { return };
        flow.under_way += bytes;
        let to = flow.to;
        self.ledger.sent += bytes;
        self.ledger.under_way += bytes;
        let again = self.sent_again(bytes);
        let (wire, rate, latency) = match sender {
            Sender::Node(ix) => {
                self.nodes[ix.at()].tally.served_bytes += bytes;
                let wire = cost::of_peer_data(bytes + again);
                (wire, self.rate_up(ix), self.latency(ix, to))
            }
            Sender::Origin(site) => {
                let wire = cost::of_origin_data(bytes + again);
                let site = &mut self.sites[site as usize];
                site.origin_payload += bytes;
                site.wire_down += wire;
                self.history.origin(self.now, wire);
                (wire, self.links.origin_rate, self.links.origin_latency)
            }
        };
        let now = self.now;
        let mut out = self.port(sender).put_small(now, cost::time_of(wire, rate));
        if let Sender::Node(ix) = sender {
            // What it serves comes from its disk.
            let read = self.nodes[ix.at()].traits.disk_rate;
            out = out.max(read.map_or(out, |rate| self.now + cost::time_of(bytes, rate)));
            out = self.cross_sites(ix, to, out, bytes, wire);
        }
        let mut at = out + latency + self.jitter();
        if again > 0 {
            at = at + latency * 2;
        }
        let takes = cost::time_of(wire, self.rate_down(to));
        let receiver = &mut self.nodes[to.at()];
        // It is received as it arrives; what it waits for is others on the same link.
        at = at.max(receiver.down_free + takes);
        receiver.down_free = at;
        if let Sender::Node(ix) = sender {
            at = self.in_order(ix, to, at);
        }
        if let Some(flow) = self.flows.get_mut(id) {
            at = at.max(flow.last);
            flow.last = at;
        }
        self.at(at, Event::Arrived(arrived));
        let port = self.port(sender);
        port.busy = true;
        port.turn.push_back(id);
        let free = port.small_until;
        self.at(free, Event::PortFree(sender));
    }

    /// Of so many bytes, those that are lost and sent again.
    fn sent_again(&mut self, bytes: u64) -> u64 {
        if self.links.loss == 0 {
            return 0;
        }
        let segments = bytes.div_ceil(1_448);
        let lost = (0..segments)
            .filter(|_| self.random.chance((self.links.loss, 1_000)))
            .count();
        lost as u64 * 1_448
    }

    /// What goes to another site takes both uplinks. When it is there.
    pub(crate) fn cross_sites(&mut self, from: NodeIx, to: NodeIx, out: Time, payload: u64, wire: u64) -> Time {
        let (a, b) = (self.nodes[from.at()].traits.site, self.nodes[to.at()].traits.site);
        if a == b {
            return out;
        }
        let takes = cost::time_of(wire, self.links.origin_rate);
        let up = &mut self.sites[a as usize];
        up.up_free = up.up_free.max(out) + takes;
        up.wire_up += wire;
        let out = up.up_free;
        let down = &mut self.sites[b as usize];
        down.wire_down += wire;
        down.foreign_payload += payload;
        let free = down.port.put_small(self.now, takes);
        out.max(free)
    }

    /// Everything of a flow is sent.
    fn finish(&mut self, id: FlowId) {
        let Some(flow) = self.flows.get_mut(id) else { return };
        flow.sent = true;
        let (to, transfer, stream) = (flow.to, flow.transfer, flow.stream);
        let end = std::mem::replace(&mut flow.end, TransferEnd::Done);
        let (from, idle, last) = (flow.from, flow.under_way == 0, flow.last);
        if idle {
            self.flows.remove(id);
        }
        match from {
            Some(from) => {
                self.nodes[from.at()].serving.remove(&(to, stream));
                let end = match end {
                    TransferEnd::Missing(wants) => End::Missing(wants),
                    _ => End::Done,
                };
                self.send(from, to, Message::End { stream, end });
                self.at(self.now, Event::Served { ix: from, to, stream });
            }
            None => {
                let at = last.max(self.now + self.links.origin_latency);
                self.end_at(at, to, transfer, end);
            }
        }
    }

    /// Bytes have arrived.
    pub(crate) fn arrived(&mut self, arrived: Arrived) {
        let bytes = u64::from(arrived.bytes);
        let Some(flow) = self.flows.get(arrived.flow) else {
            // It was broken off; whoever waited for it does not any more.
            self.ledger.under_way -= bytes;
            self.ledger.lost += bytes;
            return;
        };
        let (from, to, transfer, good) = (flow.from, flow.to, flow.transfer, flow.good);
        if self.put_off(from, to, || Event::Arrived(arrived)) {
            return;
        }
        self.ledger.under_way -= bytes;
        let source = from.map_or(Source::Origin, |from| Source::Peer(self.nodes[from.at()].id));
        let mut done = false;
        if let Some(flow) = self.flows.get_mut(arrived.flow) {
            flow.under_way -= bytes;
            done = flow.sent && flow.under_way == 0;
        }
        let node = &self.nodes[to.at()];
        let expected = node.alive
            && node
                .transfers
                .get(&transfer)
                .is_some_and(|transfer| transfer.source == source);
        if !expected {
            // What was cancelled or never asked for is not looked at.
            self.ignore(to, arrived.flow, bytes);
        } else if !good {
            self.nodes[to.at()].tally.bad_bytes += bytes;
            self.progress(to, transfer, bytes);
            self.ended(to, transfer, TransferEnd::Corrupt);
        } else {
            let mut chunk_bytes = bytes;
            if let Some(flow) = self.flows.get_mut(arrived.flow) {
                chunk_bytes += flow.partial;
                flow.partial = if arrived.whole { 0 } else { chunk_bytes };
            }
            self.progress(to, transfer, bytes);
            if arrived.whole {
                self.nodes[to.at()].delivered.add(arrived.chunk);
                self.write(to, transfer, arrived.chunk, source, chunk_bytes);
            }
        }
        if done {
            self.drop_flow(arrived.flow);
        } else if self.flows.get(arrived.flow).is_some_and(|flow| flow.waits) {
            self.take_turn(arrived.flow);
        }
    }

    fn ignore(&mut self, to: NodeIx, flow: FlowId, bytes: u64) {
        let partial = self
            .flows
            .get_mut(flow)
            .map_or(0, |flow| std::mem::take(&mut flow.partial));
        self.nodes[to.at()].tally.ignored_bytes += bytes + partial;
    }

    fn progress(&mut self, to: NodeIx, transfer: TransferId, bytes: u64) {
        if let Some(transfer) = self.nodes[to.at()].transfers.get_mut(&transfer) {
            transfer.bytes = transfer.bytes.saturating_sub(bytes);
        }
        self.give(to, Input::Progress { transfer, bytes });
    }

    /// A chunk that is what it should be goes to the disk.
    fn write(&mut self, ix: NodeIx, transfer: TransferId, chunk: u32, source: Source, bytes: u64) {
        let node = &mut self.nodes[ix.at()];
        match source {
            Source::Origin => node.tally.origin_bytes += bytes,
            _ => node.tally.peer_bytes += bytes,
        }
        let Some(rate) = node.traits.disk_rate else {
            return self.stored(ix, transfer, chunk);
        };
        node.disk_free = node.disk_free.max(self.now) + cost::time_of(bytes, rate);
        let (at, boot) = (node.disk_free, node.boot);
        self.at(
            at,
            Event::Stored {
                ix,
                boot,
                transfer,
                chunk,
            },
        );
    }

    /// A chunk is on the disk.
    pub(crate) fn stored(&mut self, ix: NodeIx, transfer: TransferId, chunk: u32) {
        let (part, index) = self.release.chunk(chunk);
        let (digest, role) = (self.release.part(part).digest, self.release.part(part).role);
        let len = self.release.part(part).lengths[index as usize];
        let node = &mut self.nodes[ix.at()];
        if !node.store.add(chunk) {
            node.tally.wasted_bytes += u64::from(len);
        }
        self.give(
            ix,
            Input::Stored {
                transfer,
                content: digest,
                chunk: index,
            },
        );
        match role {
            Role::List => self.give_list(ix),
            Role::ChunkListOf(file) => self.give_chunk_list(ix, file),
            Role::File => {}
        }
    }

    /// A flow is of no use any more; what of it is on a link is lost.
    pub(crate) fn drop_flow(&mut self, id: FlowId) {
        if let Some(flow) = self.flows.remove(id) {
            self.nodes[flow.to.at()].tally.ignored_bytes += flow.partial;
            if let Some(from) = flow.from {
                self.nodes[from.at()].serving.remove(&(flow.to, flow.stream));
            }
        }
    }

    /// Drops the flows for which something holds.
    pub(crate) fn drop_flows(&mut self, which: impl Fn(&Flow) -> bool) -> Vec<(NodeIx, TransferId)> {
        let dropped: Vec<(FlowId, NodeIx, TransferId)> = self
            .flows
            .iter()
            .filter(|(_, flow)| which(flow))
            .map(|(id, flow)| (id, flow.to, flow.transfer))
            .collect();
        for (id, ..) in &dropped {
            self.drop_flow(*id);
        }
        dropped.into_iter().map(|(_, to, transfer)| (to, transfer)).collect()
    }

    /// One who slept, or could not be reached, can send again.
    pub(crate) fn kick(&mut self, ix: NodeIx) {
        self.send_next(Sender::Node(ix));
    }

    pub(crate) fn jitter(&mut self) -> Duration {
        let most = self.links.jitter.as_micros() as u64;
        if most == 0 {
            return Duration::ZERO;
        }
        Duration::from_micros(self.random.below(most))
    }
}
