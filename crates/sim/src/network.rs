//! Links, latency and loss.

use std::collections::VecDeque;
use std::time::Duration;

use potluck_model::Time;

/// Rates and round trips, the same for every node.
#[derive(Clone, Debug)]
pub struct Links {
    /// Of the origin's uplink, which all nodes share, in bytes a second.
    pub origin_rate: u64,
    /// Of each node's link, in each direction, in bytes a second.
    pub node_rate: u64,
    /// One way between two nodes.
    pub node_latency: Duration,
    /// One way between a node and the origin.
    pub origin_latency: Duration,
    /// Whether datagrams to groups arrive.
    pub multicast: bool,
}

impl Links {
    /// A branch office: 100 Mbit/s to the server, 1 Gbit/s between nodes.
    pub const fn branch_office() -> Self {
        Self {
            origin_rate: crate::mbit(100),
            node_rate: crate::mbit(1_000),
            node_latency: Duration::from_micros(200),
            origin_latency: Duration::from_millis(10),
            multicast: true,
        }
    }
}

/// What goes wrong.
#[derive(Clone, Debug)]
pub struct Faults {
    /// Of so many datagrams so many are lost: (1, 3) is one in three.
    pub loss: (u64, u64),
    /// The origin is away in this span.
    pub origin_away: Option<(Time, Time)>,
}

impl Faults {
    /// Nothing goes wrong.
    pub const fn none() -> Self {
        Self {
            loss: (0, 1),
            origin_away: None,
        }
    }
}

/// Number of a flow of chunks.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct FlowId(pub(crate) u64);

/// One direction of a link that serves its flows in turns.
#[derive(Debug, Default)]
pub(crate) struct Uplink {
    pub(crate) turn: VecDeque<FlowId>,
    pub(crate) busy: bool,
}

/// Time that bytes take at a rate.
pub(crate) fn time_of(bytes: u64, rate: u64) -> Duration {
    Duration::from_micros(bytes.saturating_mul(1_000_000).div_ceil(rate.max(1)))
}
