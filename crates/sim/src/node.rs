//! The model of a node's shell: its store, connections and transfers around the core.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use potluck_model::trace::Source;
use potluck_model::{Digest, NodeId, Time};
use potluck_proto::{Swarm, TransferId, Want};

use crate::network::{FlowId, Uplink};
use crate::world::NodeIx;

/// How a node behaves towards its peers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Behaviour {
    /// As it should.
    Honest,
    /// Says that it holds everything, and then has nothing.
    Empty,
    /// Says that it holds everything, and sends bytes that do not have their digest.
    Corrupt,
    /// Says that it holds everything, and sends nothing at all.
    Stalling,
}

#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) id: NodeId,
    pub(crate) swarm: Swarm,
    pub(crate) behaviour: Behaviour,
    pub(crate) alive: bool,
    pub(crate) started: Time,
    pub(crate) wake: Option<Time>,
    /// What is verified and kept.
    pub(crate) store: BTreeMap<Digest, BTreeSet<u32>>,
    pub(crate) links: BTreeSet<NodeIx>,
    pub(crate) transfers: BTreeMap<TransferId, Transfer>,
    pub(crate) serving: BTreeMap<(NodeIx, u32), FlowId>,
    pub(crate) uplink: Uplink,
    pub(crate) downlink_free: Time,
    pub(crate) complete: Option<Time>,
    pub(crate) origin_bytes: u64,
    pub(crate) peer_bytes: u64,
    pub(crate) served_bytes: u64,
    /// Chunks that came although they were here.
    pub(crate) wasted_bytes: u64,
    pub(crate) datagrams: u64,
    pub(crate) messages: u64,
}

#[derive(Debug)]
pub(crate) struct Transfer {
    pub(crate) source: Source,
    pub(crate) wants: Vec<Want>,
    pub(crate) stream: u32,
}

impl Node {
    pub(crate) fn holds(&self, digest: &Digest, chunk: u32) -> bool {
        self.store.get(digest).is_some_and(|chunks| chunks.contains(&chunk))
    }
}

/// The address of a node's peer port.
pub(crate) fn address(ix: NodeIx) -> SocketAddr {
    let n = ix.0 as u32 + 1;
    SocketAddr::new(
        IpAddr::V4(Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 0, 0, 0)) + n)),
        7443,
    )
}

/// The node at an address.
pub(crate) fn at(address: SocketAddr) -> Option<NodeIx> {
    match address.ip() {
        IpAddr::V4(ip) => u32::from(ip)
            .checked_sub(u32::from(Ipv4Addr::new(10, 0, 0, 0)) + 1)
            .map(|n| NodeIx(n as usize)),
        IpAddr::V6(_) => None,
    }
}
