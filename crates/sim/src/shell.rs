//! What a node's shell does for its core: datagrams, connections, transfers, serving.

use potluck_model::Time;
use potluck_model::trace::Source;
use potluck_proto::{Action, Input, Message, TransferEnd, TransferId, Want};

use crate::node::{self, Behaviour, NodeIx, Transfer};
use crate::world::{Event, World};

impl World {
    pub(crate) fn act(&mut self, ix: NodeIx, action: Action) {
        match action {
            Action::Datagram { to, bytes } => {
                if let Some(to) = node::at(to) {
                    self.send_datagram(ix, ix, to, &bytes.into());
                }
            }
            Action::Multicast { bytes, .. } => self.send_multicast(ix, &bytes.into()),
            Action::Connect { peer, addresses } => self.connect(ix, peer, &addresses),
            Action::Disconnect { peer } => {
                if let Some(other) = self.peer(peer) {
                    self.disconnect(ix, other);
                }
            }
            Action::Send { peer, message } => {
                if let Some(other) = self.peer(peer) {
                    self.send(ix, other, message);
                }
            }
            Action::Fetch {
                transfer,
                source,
                wants,
                ..
            } => self.fetch(ix, transfer, source, wants),
            Action::Cancel { transfer } => self.cancel(ix, transfer),
            Action::Serve { peer, stream, wants } => {
                if let Some(other) = self.peer(peer) {
                    self.serve(ix, other, stream, &wants);
                }
            }
            Action::StopServing { peer, stream } => {
                if let Some(to) = self.peer(peer)
                    && let Some(flow) = self.nodes[ix.at()].serving.get(&(to, stream)).copied()
                {
                    self.drop_flow(flow);
                    self.at(self.now, Event::Served { ix, to, stream });
                }
            }
            Action::Decline { peer, stream, end } => {
                if let Some(other) = self.peer(peer) {
                    self.send(ix, other, Message::End { stream, end });
                }
            }
            Action::Trace(_) => {}
            Action::Complete { .. } => self.complete(ix),
        }
    }

    fn complete(&mut self, ix: NodeIx) {
        let node = &self.nodes[ix.at()];
        let honest = node.behaviour == Behaviour::Honest;
        if honest {
            let lacking = self.lacking(node);
            self.watch.complete(self.now, &self.nodes[ix.at()], lacking);
        }
        let node = &mut self.nodes[ix.at()];
        if node.complete.is_none() {
            let was = node.is_pending();
            node.complete = Some(self.now);
            self.count_pending(ix, was);
            if honest {
                self.history.complete(self.now);
            }
        }
    }

    fn fetch(&mut self, ix: NodeIx, id: TransferId, source: Source, wants: Vec<Want>) {
        let bytes = self.bytes_of(&wants);
        let chunks = wants.iter().map(|want| u64::from(want.count)).sum();
        let linked = match source {
            Source::Peer(peer) => self
                .peer(peer)
                .filter(|other| self.nodes[ix.at()].links.contains_key(other)),
            _ => None,
        };
        match (source, linked) {
            (Source::Peer(_), Some(other)) => {
                let wants = wants.clone();
                let stream = id.0 as u32;
                self.send(ix, other, Message::Get { stream, wants });
            }
            (Source::Peer(_), None) => {
                let end = TransferEnd::Failed("not connected".into());
                self.end_at(self.now, ix, id, end);
            }
            _ => self.fetch_from_origin(ix, id, chunks),
        }
        let transfer = Transfer {
            source,
            wants,
            flow: None,
            bytes,
            cancelled: false,
        };
        self.nodes[ix.at()].transfers.insert(id, transfer);
    }

    fn cancel(&mut self, ix: NodeIx, id: TransferId) {
        let Some(transfer) = self.nodes[ix.at()].transfers.get_mut(&id) else {
            return;
        };
        transfer.cancelled = true;
        match (transfer.source, transfer.flow) {
            (Source::Peer(peer), _) => {
                let stream = id.0 as u32;
                if let Some(other) = self.peer(peer) {
                    self.send(ix, other, Message::Cancel { stream });
                }
            }
            (_, Some(flow)) => self.drop_flow(flow),
            _ => {}
        }
        let end = TransferEnd::Failed("cancelled".into());
        self.end_at(self.now, ix, id, end);
    }

    pub(crate) fn end_at(&mut self, at: Time, ix: NodeIx, transfer: TransferId, end: TransferEnd) {
        let boot = self.nodes[ix.at()].boot;
        let end = Box::new(end);
        self.at(
            at,
            Event::Ended {
                ix,
                boot,
                transfer,
                end,
            },
        );
    }

    pub(crate) fn ended_at(&mut self, ix: NodeIx, boot: u32, transfer: TransferId, end: Box<TransferEnd>) {
        if !self.is_up(ix, boot) || !self.knows(ix, transfer) {
            return;
        }
        // What has come is stored before the end counts.
        let disk_free = self.nodes[ix.at()].disk_free;
        if disk_free > self.now {
            return self.end_at(disk_free, ix, transfer, *end);
        }
        let mut end = Some(end);
        let from_origin = self.nodes[ix.at()]
            .transfers
            .get(&transfer)
            .is_some_and(|transfer| transfer.source == Source::Origin);
        let mut event = || Event::Ended {
            ix,
            boot,
            transfer,
            end: end.take().expect("it is put off once"),
        };
        let off = if from_origin {
            self.put_off(None, ix, &mut event)
        } else {
            self.sleeps_through(ix, &mut event)
        };
        if !off && let Some(end) = end {
            self.ended(ix, transfer, *end);
        }
    }

    pub(crate) fn ended(&mut self, ix: NodeIx, transfer: TransferId, end: TransferEnd) {
        if self.nodes[ix.at()].transfers.remove(&transfer).is_some() {
            self.give(ix, Input::TransferEnded { transfer, end });
        }
    }
}
