//! Where peers are left alone until somebody vouches for the network, and the server is away: a neighbour from before that
//! proves itself here, by mutual TLS and at an address of this network, vouches as well. The server's word outweighs it.

use std::net::SocketAddr;

use potluck_model::{Network, NodeId};

use super::{Driver, Event};
use crate::manners::Peering;

/// Neighbours that are tried, one after another.
const NEIGHBOURS_MAX: usize = 8;

impl Driver {
    /// Looks for a neighbour that vouches for this network, if one is needed; `handle_vouched` follows if there is one.
    pub(super) fn seek_voucher(&mut self) {
        self.forget_voucher();
        if self.tools.manners.peering == Peering::Everywhere || self.tools.gate.is_open() {
            return;
        }
        // In a network that was not in the map either, nobody was told of neighbours for its sake.
        let Some(head) = self.head.as_ref().filter(|head| head.site.is_some()) else {
            return;
        };
        let here = potluck_net::watch::networks(self.tools.bind);
        let known: Vec<(NodeId, Vec<SocketAddr>)> = head
            .neighbours
            .iter()
            .filter(|neighbour| !self.tools.revocations.revokes(neighbour.node))
            .map(|neighbour| (neighbour.node, on_link(&neighbour.addresses, &here)))
            .filter(|(_, addresses)| !addresses.is_empty())
            .take(NEIGHBOURS_MAX)
            .collect();
        let (endpoint, events) = (self.tools.peers.endpoint(), self.tools.events.clone());
        let task = tokio::spawn(async move {
            for (node, addresses) in known {
                match endpoint.proves_itself(node, &addresses).await {
                    Ok(()) => return drop(events.send(Event::Vouched { by: node }).await),
                    Err(fault) => tracing::debug!(%node, %fault, "a neighbour does not vouch for this network"),
                }
            }
        });
        self.voucher = Some(task.abort_handle());
    }

    /// Nobody needs to vouch any more, or for another network.
    pub(super) fn forget_voucher(&mut self) {
        if let Some(task) = self.voucher.take() {
            task.abort();
        }
    }

    pub(super) fn handle_vouched(&mut self, by: NodeId) {
        // What was on its way when the search ended does not count.
        let believed = self.alone.is_none() && !self.tools.revocations.revokes(by);
        if self.voucher.take().is_none() || self.tools.gate.is_open() || !believed {
            return;
        }
        tracing::info!(%by, "a neighbour has proven itself on this network: looking for peers");
        self.open_up();
        if let Some(head) = self.head.clone() {
            self.adopt(head);
        }
    }
}

/// The addresses that are in one of the networks, at most 16.
fn on_link(addresses: &[SocketAddr], networks: &[Network]) -> Vec<SocketAddr> {
    addresses
        .iter()
        .filter(|address| networks.iter().any(|network| network.contains(address.ip())))
        .take(16)
        .copied()
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_who_is_on_this_very_link_can_vouch_for_it() {
        let networks = ["10.1.2.0/24".parse().unwrap()];
        let addresses = ["10.1.3.7:7443".parse().unwrap(), "10.1.2.7:7443".parse().unwrap()];
        assert_eq!(on_link(&addresses, &networks), ["10.1.2.7:7443".parse().unwrap()]);
        assert_eq!(on_link(&addresses, &[]), []);
    }
}
