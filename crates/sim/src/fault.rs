//! What goes wrong, and when.

use std::time::Duration;

use potluck_model::{NodeId, Time};
use potluck_proto::{Input, Swarm, TransferId};

use crate::network::{ORIGIN, PLACES};
use crate::node::NodeIx;
use crate::world::{Event, World};

/// Something that goes wrong, or is well again.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    /// A node loses its power, and stays off.
    Kill(NodeIx),
    /// A node loses its power, and is switched on again after so long, with what it had stored.
    Crash(NodeIx, Duration),
    /// A node sleeps for so long: nothing reaches it, and what others send over connections waits.
    Sleep(NodeIx, Duration),
    /// A node's store is emptied behind its back.
    Forget(NodeIx),
    /// Nothing goes from one place to another any more.
    Cut(u8, u8),
    /// It does again.
    Mend(u8, u8),
    /// The server's process ends.
    OriginDown,
    /// The server is there again.
    OriginUp,
}

impl World {
    /// Something goes wrong at a time.
    pub fn fault(&mut self, at: Time, fault: Fault) {
        self.faults_end = self.faults_end.max(match fault {
            Fault::Crash(_, span) | Fault::Sleep(_, span) => at + span,
            _ => at,
        });
        self.at(at, Event::Fault(fault));
    }

    /// Two places cannot reach each other, from a time on for so long; the other way they may.
    pub fn cut_one_way(&mut self, at: Time, span: Duration, from: u8, to: u8) {
        assert!(
            usize::from(from.max(to)) < PLACES,
            "there are {PLACES} places, the origin's is {ORIGIN}"
        );
        self.fault(at, Fault::Cut(from, to));
        self.fault(at + span, Fault::Mend(from, to));
    }

    /// Two places cannot reach each other in either direction, from a time on for so long.
    pub fn cut_both_ways(&mut self, at: Time, span: Duration, a: u8, b: u8) {
        self.cut_one_way(at, span, a, b);
        self.cut_one_way(at, span, b, a);
    }

    pub(crate) fn go_wrong(&mut self, fault: Fault) {
        match fault {
            Fault::Kill(ix) => {
                let was = self.nodes[ix.at()].is_pending();
                self.nodes[ix.at()].gone = true;
                self.count_pending(ix, was);
                self.lose_power(ix);
            }
            Fault::Crash(ix, span) => {
                if self.nodes[ix.at()].alive {
                    self.lose_power(ix);
                    self.at(self.now + span, Event::Start(ix));
                }
            }
            Fault::Sleep(ix, span) => {
                if self.nodes[ix.at()].alive {
                    self.nodes[ix.at()].asleep = true;
                    self.at(self.now + span, Event::WakeUp(ix));
                }
            }
            Fault::Forget(ix) => self.nodes[ix.at()].store.clear(),
            Fault::Cut(from, to) => self.cuts.set(from, to, true),
            Fault::Mend(from, to) => {
                self.cuts.set(from, to, false);
                for event in std::mem::take(&mut self.parked) {
                    self.at(self.now, event);
                }
            }
            Fault::OriginDown => self.set_origin_away(true),
            Fault::OriginUp => self.set_origin_away(false),
        }
    }

    /// Nobody is told: others find out by its silence.
    fn lose_power(&mut self, ix: NodeIx) {
        let node = &mut self.nodes[ix.at()];
        if !std::mem::replace(&mut node.alive, false) {
            return;
        }
        node.asleep = false;
        node.slept_through.clear();
        node.wake = None;
        node.transfers.clear();
        node.origin_boot = None;
        let site = node.traits.site as usize;
        self.sites[site].on -= 1;
        self.drop_flows(|flow| flow.from == Some(ix) || flow.to == ix);
        let node = &mut self.nodes[ix.at()];
        node.serving.clear();
        node.port.turn.clear();
        self.forget_links(ix);
    }

    /// A node that slept goes on, with what waited for it.
    pub(crate) fn wake_up(&mut self, ix: NodeIx) {
        if !std::mem::replace(&mut self.nodes[ix.at()].asleep, false) {
            return;
        }
        for event in std::mem::take(&mut self.nodes[ix.at()].slept_through) {
            self.at(self.now, event);
        }
        self.nodes[ix.at()].wake = None;
        self.give(ix, Input::Wake);
        self.kick(ix);
    }

    /// A node that has lost its power gets a core that knows nothing.
    pub(crate) fn new_core(&mut self, ix: NodeIx) {
        let seed = self.seed();
        let node = &mut self.nodes[ix.at()];
        let config = crate::world::config(node.id, u64::from(node.boot) + 1, node.traits.shared);
        *node.swarm = Swarm::new(config, seed, self.now);
    }

    /// What is between two nodes does not let connections through.
    pub(crate) fn cut(&self, a: NodeIx, b: NodeIx) -> bool {
        let (a, b) = (&self.nodes[a.at()].traits, &self.nodes[b.at()].traits);
        self.cuts.between(a.place, b.place)
    }

    /// Nothing goes from one node to the other.
    pub(crate) fn cut_from(&self, from: NodeIx, to: NodeIx) -> bool {
        let (from, to) = (&self.nodes[from.at()].traits, &self.nodes[to.at()].traits);
        self.cuts.has(from.place, to.place)
    }

    /// What comes over a connection waits while the receiver sleeps or there is a cut. Whether it does.
    pub(crate) fn put_off(&mut self, from: Option<NodeIx>, to: NodeIx, event: impl FnOnce() -> Event) -> bool {
        let place = from.map_or(ORIGIN, |from| self.nodes[from.at()].traits.place);
        if self.cuts.between(place, self.nodes[to.at()].traits.place) {
            let event = event();
            self.parked.push(event);
            return true;
        }
        if self.nodes[to.at()].asleep {
            let event = event();
            self.nodes[to.at()].slept_through.push(event);
            return true;
        }
        false
    }

    pub(crate) fn peer(&self, node: NodeId) -> Option<NodeIx> {
        self.by_id.get(&node).copied()
    }

    pub(crate) fn bytes_of(&self, wants: &[potluck_proto::Want]) -> u64 {
        let of = |want: &potluck_proto::Want| -> u64 {
            let Some(part) = self.release.find(&want.content) else {
                return 0;
            };
            let lengths = &self.release.part(part).lengths;
            let first = want.first as usize;
            let chunks = lengths.iter().skip(first).take(want.count as usize);
            chunks.map(|len| u64::from(*len)).sum()
        };
        wants.iter().map(of).sum()
    }

    pub(crate) fn knows(&self, ix: NodeIx, transfer: TransferId) -> bool {
        self.nodes[ix.at()].transfers.contains_key(&transfer)
    }
}
