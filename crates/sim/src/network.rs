//! What lies between nodes: rates, latency, loss, sites, and who cannot reach whom.

use std::collections::VecDeque;
use std::time::Duration;

use potluck_model::Time;

use crate::flow::FlowId;

/// How many groups there are that may be cut off from each other; the origin is one of them.
pub(crate) const PLACES: usize = 16;
/// Where the origin is. Nodes are in place 1 unless they are put elsewhere.
pub(crate) const ORIGIN: u8 = 0;

/// What nodes have between them unless their `Traits` say something else.
#[derive(Clone, Debug)]
pub struct Links {
    /// Of a site's uplink, which all its nodes share, in bytes a second.
    pub origin_rate: u64,
    /// Of each node's link, in each direction, in bytes a second.
    pub node_rate: u64,
    /// One way between two nodes of a site.
    pub node_latency: Duration,
    /// One way between a site and the origin, or another site.
    pub origin_latency: Duration,
    /// Anything may come up to so much later, and datagrams then overtake each other.
    pub jitter: Duration,
    /// Of a thousand datagrams and segments, so many are lost; segments are sent again.
    pub loss: u64,
    /// Of a thousand datagrams, so many come twice.
    pub duplicated: u64,
    /// Of a thousand datagrams, so many come up to ten times the latency late.
    pub reordered: u64,
    /// Whether datagrams to groups arrive.
    pub multicast: bool,
    /// The most bytes that a flow puts on a link before it is another's turn: a chunk is never split into more pieces
    /// than needed for that.
    pub turn_bytes: u32,
    /// Sites, each with an uplink of its own.
    pub sites: u16,
}

impl Links {
    /// A branch office: 100 Mbit/s to the server, 1 Gbit/s between nodes.
    pub const fn branch_office() -> Self {
        Self {
            origin_rate: crate::mbit(100),
            node_rate: crate::mbit(1_000),
            node_latency: Duration::from_micros(200),
            origin_latency: Duration::from_millis(10),
            jitter: Duration::from_micros(100),
            loss: 0,
            duplicated: 0,
            reordered: 0,
            multicast: true,
            turn_bytes: 64 << 10,
            sites: 1,
        }
    }
}

/// What one node has that others have not.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Traits {
    /// Number of its site.
    pub site: u16,
    /// Number of its list.
    pub list: u8,
    /// Where it is, as far as cuts go: 1 to 15; 0 is the origin's.
    pub place: u8,
    /// It holds the whole release from the start.
    pub full: bool,
    /// It was told before what it is to have.
    pub has_head: bool,
    /// Bytes a second out and in, if not those of `Links`.
    pub rates: Option<(u64, u64)>,
    /// Bytes a second that its disk takes, if that is less than its link.
    pub disk_rate: Option<u64>,
    /// Datagrams to groups reach it.
    pub hears_multicast: bool,
    /// Nobody can dial it, and no datagram reaches it but from whom it wrote to lately.
    pub firewalled: bool,
    /// It shares the address of the node so many places before it, at another port.
    pub shared: u16,
}

impl Traits {
    /// A node like any other.
    pub const fn plain() -> Self {
        Self {
            site: 0,
            list: 0,
            place: 1,
            full: false,
            has_head: false,
            rates: None,
            disk_rate: None,
            hears_multicast: true,
            firewalled: false,
            shared: 0,
        }
    }
}

/// One direction of a link that serves its flows in turns.
#[derive(Debug, Default)]
pub(crate) struct Port {
    pub(crate) turn: VecDeque<FlowId>,
    pub(crate) busy: bool,
    /// Until when small things that go before flows keep it.
    pub(crate) small_until: Time,
}

impl Port {
    /// Something small goes out ahead of the flows: when it is out.
    pub(crate) fn put_small(&mut self, now: Time, takes: Duration) -> Time {
        self.small_until = self.small_until.max(now) + takes;
        self.small_until
    }
}

/// A site as the network sees it.
#[derive(Debug, Default)]
pub(crate) struct Site {
    /// Nodes by number.
    pub(crate) nodes: Vec<u32>,
    /// How many of them are on.
    pub(crate) on: u32,
    /// What the origin sends to it.
    pub(crate) port: Port,
    /// When the other direction of its uplink is free.
    pub(crate) up_free: Time,
    /// Payload, lists and chunk lists that the origin sent.
    pub(crate) origin_payload: u64,
    /// Everything that came over its uplink, with all headers.
    pub(crate) wire_down: u64,
    pub(crate) wire_up: u64,
    /// Payload that came from nodes of other sites.
    pub(crate) foreign_payload: u64,
}

/// Who cannot reach whom: a row for each place that sends.
#[derive(Debug, Default)]
pub(crate) struct Cuts([u16; PLACES]);

impl Cuts {
    pub(crate) const fn set(&mut self, from: u8, to: u8, cut: bool) {
        let bit = 1 << to;
        if cut {
            self.0[from as usize] |= bit;
        } else {
            self.0[from as usize] &= !bit;
        }
    }

    pub(crate) const fn has(&self, from: u8, to: u8) -> bool {
        self.0[from as usize] >> to & 1 == 1
    }

    /// A connection needs both directions.
    pub(crate) const fn between(&self, a: u8, b: u8) -> bool {
        self.has(a, b) || self.has(b, a)
    }
}
