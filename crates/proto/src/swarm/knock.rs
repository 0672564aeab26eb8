//! Nodes that cannot be dialled: who needs what they hold asks them by datagram to dial, and so they give all the same.
//!
//! Goal: a firewall that lets nobody in costs a round trip and a moment. Limit: the holder must hear the request, and only
//! who was answered lately is dialled, so nobody can make this node dial whom it pleases.

use potluck_model::{NodeId, Time};

use super::Swarm;
use super::peers::Link;
use crate::datagram;

impl Swarm {
    /// Asks a holder that could not be reached, or not soon, to dial: once for each time that it is dialled.
    pub(super) fn knock(&mut self, now: Time, node: NodeId) {
        if !self.is_lacking() {
            return;
        }
        let lacking = self.items.lacking();
        let Some(peer) = self.peers.table.get(&node) else {
            return;
        };
        let since = match peer.link {
            Link::Dialling { since } => since,
            Link::None => now,
            Link::Up { .. } => return,
        };
        if peer.knocked.is_some_and(|at| at >= since) || !peer.holds.intersects(lacking) {
            return;
        }
        let (Some(number), Some(address)) = (peer.answer, peer.addresses.first().copied()) else {
            return;
        };
        self.peers.set_knocked(node, now);
        self.send_datagram(address, datagram::encode_dial_me(number));
    }

    /// A node that was given an answer cannot connect to this one.
    pub(super) fn handle_dial_me(&mut self, now: Time, node: NodeId, number: u64) {
        if !self.gives() || self.peers.links >= self.config.connections_max {
            return;
        }
        let Some(peer) = self.peers.table.get_mut(&node) else {
            return;
        };
        if peer.link != Link::None
            || peer.dial_after > now
            || peer.shunned.is_some()
            || peer.addresses.is_empty()
            || !peer.was_answered(number)
        {
            return;
        }
        peer.used = now;
        self.connect(now, node);
    }
}
