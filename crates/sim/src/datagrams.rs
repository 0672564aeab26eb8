//! Datagrams: to a group or to one, lost, late, twice, and kept back by firewalls and cuts.

use std::rc::Rc;
use std::time::Duration;

use potluck_proto::Input;

use crate::cost;
use crate::node::{Behaviour, NodeIx};
use crate::world::{Event, World};

/// A group's datagram reaches its hearers in so many batches, one after the other.
pub(crate) const BATCHES: u32 = 4;
/// How long a firewall lets in what comes from an address that was written to.
const FIREWALL_OPEN: Duration = Duration::from_secs(30);
/// What stands in front of a datagram's body, and the kinds that are answers.
const KIND_AT: usize = 1;
const ANSWERS: [u8; 2] = [3, 4];

impl World {
    /// A node sends a datagram that says it is from `from`.
    pub(crate) fn send_datagram(&mut self, sender: NodeIx, from: NodeIx, to: NodeIx, bytes: &Rc<[u8]>) {
        if to.at() >= self.nodes.len() {
            return;
        }
        let honest = self.nodes[sender.at()].behaviour == Behaviour::Honest;
        if honest
            && is_answer(bytes)
            && let Some(echo) = &mut self.watch.echo
        {
            echo.answered(sender, to, bytes.len());
        }
        let wire = cost::of_datagram(bytes.len());
        let out = self.charge_datagram(sender, wire);
        if self.nodes[sender.at()].traits.firewalled {
            self.nodes[sender.at()].wrote_to.insert(to, self.now);
        }
        if self.cut_from(sender, to) || self.random.chance((self.links.loss, 1_000)) {
            return;
        }
        let out = self.cross_sites(sender, to, out, 0, wire);
        let copies = 1 + u32::from(self.random.chance((self.links.duplicated, 1_000)));
        for _ in 0..copies {
            let mut at = out + self.latency(sender, to) + self.jitter();
            if self.random.chance((self.links.reordered, 1_000)) {
                at = at + self.latency(sender, to) * (1 + self.random.below(10) as u32);
            }
            let bytes = Rc::clone(bytes);
            self.at(at, Event::Datagram { to, from, bytes });
        }
    }

    /// A node sends a datagram to the group, as far as its site goes.
    pub(crate) fn send_multicast(&mut self, from: NodeIx, bytes: &Rc<[u8]>) {
        let out = self.charge_datagram(from, cost::of_datagram(bytes.len()));
        if !self.links.multicast {
            return;
        }
        let copies = 1 + u32::from(self.random.chance((self.links.duplicated, 1_000)));
        for batch in (0..BATCHES).cycle().take((BATCHES * copies) as usize) {
            let at = out + self.links.node_latency + self.jitter();
            let bytes = Rc::clone(bytes);
            self.at(at, Event::Multicast { from, batch, bytes });
        }
    }

    fn charge_datagram(&mut self, from: NodeIx, wire: u64) -> potluck_model::Time {
        let rate = self.rate_up(from);
        let now = self.now;
        let node = &mut self.nodes[from.at()];
        node.tally.datagrams_sent += 1;
        node.tally.control_sent += wire;
        node.port.put_small(now, cost::time_of(wire, rate))
    }

    /// A group's datagram reaches a part of those who hear it.
    pub(crate) fn multicast(&mut self, from: NodeIx, batch: u32, bytes: &Rc<[u8]>) {
        let site = self.nodes[from.at()].traits.site as usize;
        let places = (batch as usize..self.sites[site].nodes.len()).step_by(BATCHES as usize);
        for place in places {
            let to = NodeIx(self.sites[site].nodes[place]);
            let traits = &self.nodes[to.at()].traits;
            if to == from || !traits.hears_multicast || traits.firewalled || self.cut_from(from, to) {
                continue;
            }
            if !self.random.chance((self.links.loss, 1_000)) {
                self.datagram(to, from, true, bytes);
            }
        }
    }

    /// A datagram has arrived that says it is from `from`.
    pub(crate) fn datagram(&mut self, to: NodeIx, from: NodeIx, multicast: bool, bytes: &[u8]) {
        let now = self.now;
        let node = &mut self.nodes[to.at()];
        if !node.alive || node.asleep {
            return;
        }
        let let_in = |at: &potluck_model::Time| now.since(*at) < FIREWALL_OPEN;
        if node.traits.firewalled && !node.wrote_to.get(&from).is_some_and(let_in) {
            return;
        }
        let wire = cost::of_datagram(bytes.len());
        node.tally.datagrams_heard += 1;
        node.tally.control_heard += wire;
        if is_answer(bytes) {
            node.tally.answers_heard += 1;
        }
        let takes = cost::time_of(wire, self.rate_down(to));
        let node = &mut self.nodes[to.at()];
        node.down_free = node.down_free.max(now) + takes;
        if let Some(echo) = &mut self.watch.echo {
            echo.heard(to, from, bytes.len());
            self.overhear(bytes);
        }
        let from = self.nodes[from.at()].address;
        self.give(to, Input::Datagram { from, multicast, bytes });
    }
}

fn is_answer(bytes: &[u8]) -> bool {
    bytes.get(KIND_AT).is_some_and(|kind| ANSWERS.contains(kind))
}
