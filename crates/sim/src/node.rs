//! The model of a node's shell: its store, connections and transfers around the core.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use potluck_model::trace::Source;
use potluck_model::{NodeId, Time};
use potluck_proto::{Config, Swarm, TransferId, Want};

use crate::connection::ConnId;
use crate::flow::FlowId;
use crate::network::{Port, Traits};
use crate::store::Store;
use crate::tally::Tally;
use crate::world::Event;

/// The first peer port; nodes that share an address have those that follow.
const PORT: u16 = 7443;

/// Number of a node in its world.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct NodeIx(pub u32);

impl NodeIx {
    pub(crate) const fn at(self) -> usize {
        self.0 as usize
    }
}

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
    /// Takes its share of what a crowd fetches, says so, and then neither fetches nor sends anything.
    Sitting,
    /// Asks everybody for everything, again and again.
    Greedy,
    /// Sends datagrams that are nonsense, heard before, or with another's address as their source.
    Flooding,
}

/// What a node may have at a time, as its configuration says.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    pub(crate) connections: usize,
    pub(crate) in_flight_bytes: u64,
    pub(crate) per_peer: usize,
    pub(crate) from_origin: usize,
    pub(crate) serving: usize,
}

impl From<&Config> for Limits {
    fn from(config: &Config) -> Self {
        Self {
            connections: config.connections_max,
            in_flight_bytes: config.in_flight_bytes_max,
            per_peer: config.transfers_per_peer_max,
            from_origin: config.origin_transfers_max,
            serving: config.serving_max,
        }
    }
}

#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) id: NodeId,
    pub(crate) address: SocketAddr,
    pub(crate) traits: Traits,
    pub(crate) behaviour: Behaviour,
    pub(crate) limits: Limits,
    pub(crate) swarm: Box<Swarm>,
    /// Grows with each start; 0 before the first.
    pub(crate) boot: u32,
    /// The start since which its core was told what it is to have.
    pub(crate) told: u32,
    /// Switched on.
    pub(crate) alive: bool,
    /// It will not come back.
    pub(crate) gone: bool,
    pub(crate) asleep: bool,
    /// What came while it slept.
    pub(crate) slept_through: Vec<Event>,
    pub(crate) started: Time,
    pub(crate) wake: Option<Time>,
    /// What is verified and kept.
    pub(crate) store: Store,
    /// What the network delivered to it unharmed, and what it held from the start: kept by the world, not by the shell.
    pub(crate) delivered: Store,
    /// Bytes that it held from the start.
    pub(crate) held_first: u64,
    pub(crate) links: BTreeMap<NodeIx, ConnId>,
    pub(crate) transfers: BTreeMap<TransferId, Transfer>,
    pub(crate) serving: BTreeMap<(NodeIx, u32), FlowId>,
    pub(crate) port: Port,
    /// When its link has taken in what is on its way.
    pub(crate) down_free: Time,
    pub(crate) disk_free: Time,
    /// The start of the origin with which it has a connection.
    pub(crate) origin_boot: Option<u32>,
    /// To whom it wrote, and when. Only kept behind a firewall.
    pub(crate) wrote_to: BTreeMap<NodeIx, Time>,
    pub(crate) complete: Option<Time>,
    pub(crate) tally: Tally,
}

#[derive(Debug)]
pub(crate) struct Transfer {
    /// Its end is on its way.
    pub(crate) cancelled: bool,
    pub(crate) source: Source,
    pub(crate) wants: Vec<Want>,
    /// From the origin: the flow, once it has been asked.
    pub(crate) flow: Option<FlowId>,
    /// Not yet come.
    pub(crate) bytes: u64,
}

impl Node {
    /// Whether the world waits for it.
    pub(crate) fn is_pending(&self) -> bool {
        self.behaviour == Behaviour::Honest && !self.gone && self.complete.is_none()
    }

    /// Whether it is one of those for which the rules hold.
    pub(crate) fn is_honest(&self) -> bool {
        self.alive && !self.gone && self.behaviour == Behaviour::Honest
    }
}

/// The address of a node's peer port, `shared` places after the one whose address it shares.
pub(crate) fn address(ix: NodeIx, shared: u16) -> SocketAddr {
    let n = ix.0 - u32::from(shared) + 1;
    let ip = Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 0, 0, 0)) + n);
    SocketAddr::new(IpAddr::V4(ip), PORT + shared)
}

/// The node at an address, if there is one with such a number.
pub(crate) fn at(address: SocketAddr) -> Option<NodeIx> {
    let IpAddr::V4(ip) = address.ip() else { return None };
    let n = u32::from(ip).checked_sub(u32::from(Ipv4Addr::new(10, 0, 0, 0)) + 1)?;
    let shared = address.port().checked_sub(PORT)?;
    Some(NodeIx(n + u32::from(shared)))
}

/// The port of an address that a node shares.
pub(crate) const fn port(shared: u16) -> u16 {
    PORT + shared
}
