//! Round trips. They only split a site, they never join what the server or a link keeps apart: a peer that is much further
//! away than the others is at another site, whatever its address says, and nothing is fetched from there.
//!
//! Who has nobody near to compare with uses whom it has. A round trip counts as long as the shortest of a few: a busy
//! machine makes some of them long, distance makes all of them long.

use std::time::Duration;

use potluck_model::{NodeId, Time};

use super::peers::Peer;
use super::{NEIGHBOURS_MAX, Swarm};
use crate::interface::Action;
use crate::message::Message;

/// Nobody is far within this.
const NEAR: Duration = Duration::from_millis(20);
/// Far is so many times the median of the other peers.
const FAR_TIMES: u32 = 5;
/// So many others must have been measured.
const OTHERS_MIN: usize = 2;
/// Round trips that are measured before a peer counts as far: a busy link makes some of them long as well.
const SAMPLES_MIN: u8 = 5;
/// Between them, and between those that are measured of one that counts as far.
const GAP: Duration = Duration::from_millis(200);
const GAP_FAR: Duration = Duration::from_secs(10);
/// How long a peer that was found to be far is not dialled.
const FAR_FOR: Duration = Duration::from_secs(600);

/// How far away a peer is.
#[derive(Debug, Default)]
pub(super) struct Distance {
    /// The number that is to come back, and when it was sent.
    asked: Option<(u64, Time)>,
    /// When to ask next.
    next: Option<Time>,
    samples: u8,
    shortest: Option<Duration>,
    far: bool,
}

impl Peer {
    /// Whether it is at another site, by its round trips.
    pub(super) const fn is_far(&self) -> bool {
        self.distance.far
    }

    /// It is gone: it is measured anew when it is back, and not sought meanwhile if it was far.
    pub(super) fn leave_if_far(&mut self, now: Time) {
        if std::mem::take(&mut self.distance).far {
            self.dial_after = self.dial_after.max(now + FAR_FOR);
        }
    }
}

impl Swarm {
    /// The operator lets this site share with those of these nodes.
    pub(super) fn handle_sharing(&mut self, now: Time, nodes: &[NodeId]) {
        self.sharing = nodes.iter().take(NEIGHBOURS_MAX).copied().collect();
        self.judge_distances(now);
    }

    /// Peers of which one more round trip could tell something.
    pub(super) fn measure_distances(&mut self, now: Time) {
        let due: Vec<NodeId> = self
            .peers
            .up()
            .filter(|(_, peer)| peer.distance.next.is_some_and(|at| at <= now))
            .map(|(node, _)| node)
            .collect();
        for node in due {
            self.measure_distance(now, node);
        }
    }

    /// Asks a peer for a round trip.
    pub(super) fn measure_distance(&mut self, now: Time, node: NodeId) {
        let Some(peer) = self.peers.table.get_mut(&node) else {
            return;
        };
        // A peer that guesses it makes itself near, and gains nothing by it.
        let nonce = now.0;
        peer.distance.asked = Some((nonce, now));
        peer.distance.next = None;
        self.actions.push_back(Action::Send {
            peer: node,
            message: Message::Ping { nonce },
        });
    }

    pub(super) fn handle_pong(&mut self, now: Time, node: NodeId, nonce: u64) {
        let Some(peer) = self.peers.table.get_mut(&node) else {
            return;
        };
        let distance = &mut peer.distance;
        let Some((_, since)) = distance.asked.take_if(|(asked, _)| *asked == nonce) else {
            return;
        };
        let span = now.since(since);
        let shortest = distance.shortest.map_or(span, |shortest| shortest.min(span));
        distance.shortest = Some(shortest);
        distance.samples = distance.samples.saturating_add(1);
        let gap = if distance.samples < SAMPLES_MIN { GAP } else { GAP_FAR };
        distance.next = (shortest > NEAR).then(|| now + gap);
        self.judge_distances(now);
    }

    /// Who is far may have changed: there is one more to compare with.
    fn judge_distances(&mut self, now: Time) {
        let spans: Vec<(NodeId, Duration, bool)> = self
            .peers
            .up()
            .filter_map(|(node, peer)| {
                let sure = peer.distance.samples >= SAMPLES_MIN;
                Some((node, peer.distance.shortest?, sure))
            })
            .collect();
        for (node, span, sure) in &spans {
            let mut others: Vec<Duration> = spans
                .iter()
                .filter(|(other, ..)| other != node)
                .map(|(_, span, _)| *span)
                .collect();
            others.sort_unstable();
            let far = *sure
                && !self.sharing.contains(node)
                && *span > NEAR
                && others.len() >= OTHERS_MIN
                && *span > others[others.len() / 2] * FAR_TIMES;
            self.set_far(now, *node, far);
        }
    }

    fn set_far(&mut self, now: Time, node: NodeId, far: bool) {
        if self.peers.table.get(&node).is_none_or(|peer| peer.is_far() == far) {
            return;
        }
        // Counted as a holder while it is near.
        if far {
            self.take_from_holders(node);
        }
        if let Some(peer) = self.peers.table.get_mut(&node) {
            peer.distance.far = far;
            peer.nothing = false;
        }
        if !far {
            self.add_to_holders(node);
        }
        self.members_changed(now);
        self.origin.scan_now(now);
    }
}
