//! Connections to peers: whom to dial, whom to keep.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use potluck_model::ring::SEATS_MAX;
use potluck_model::trace::{Source, What};
use potluck_model::{Digest, NodeId, Time};

use super::crowd::is_silent;
use super::items::State;
use super::peers::{Link, Peer, Trust};
use super::{LOOK_GAP, Swarm};
use crate::bits::Bits;
use crate::interface::Action;
use crate::message::Message;
use crate::random::mix;

/// Connections to holders that are opened at most for one list.
const HOLDERS_DIALLED_MAX: usize = 24;
/// Where a node does not sit: connections that it opens to those who do, and to others that want the same.
const SEATS_DIALLED: usize = 2;
const OTHERS_DIALLED: usize = 10;
/// How long a peer that had no room for a connection is not dialled again.
const REFUSED: Duration = Duration::from_secs(15);
/// How long the node with the larger id leaves it to the other to dial, when both want the same.
const YIELD: Duration = Duration::from_millis(100);
/// A connection without use is closed.
const IDLE: Duration = Duration::from_secs(60);
/// When something is wanted and a peer is silent, it is asked whether it is there,
const PING_AFTER: Duration = Duration::from_secs(10);
/// and sooner when its share may be waited for.
const PING_AFTER_CLAIM: Duration = Duration::from_millis(500);
/// How long it may take to say so.
const PONG_WITHIN: Duration = Duration::from_secs(3);
/// A dial that nothing came of, should the shell not say so.
const DIAL_MAX: Duration = Duration::from_secs(20);
/// Who takes longer to be reached is asked to dial.
const DIAL_SLOW: Duration = Duration::from_millis(400);
/// How long a peer that failed is left alone, at first; then doubled each time.
const SHUN: Duration = Duration::from_secs(2);
const SHUN_MAX: Duration = Duration::from_secs(300);
/// How long a peer that broke the protocol or sent wrong bytes is left alone.
pub(super) const SHUN_LONG: Duration = SHUN_MAX;

impl Swarm {
    pub(super) fn handle_connected(&mut self, now: Time, node: NodeId, address: SocketAddr) {
        self.peers.prove(now, address.ip());
        let peers_max = self.config.peers_max;
        let links = self.peers.links;
        let most = self.links_max(node);
        // One that sits has a place: another goes.
        let new = self.peers.table.get(&node).is_none_or(|peer| peer.link == Link::None);
        let sits = new && links >= most && self.seats.ours && self.would_sit(node) && self.make_room(now);
        let Some(peer) = self
            .peers
            .learn(now, node, peers_max)
            .filter(|_| node != self.config.node)
        else {
            self.actions.push_back(Action::Disconnect { peer: node });
            return;
        };
        if peer.is_up() {
            return;
        }
        let dialled = peer.link != Link::None;
        if !dialled {
            if links >= most && !sits {
                peer.dial_after = now + REFUSED;
                peer.refused = true;
                self.actions.push_back(Action::Disconnect { peer: node });
                return;
            }
            self.peers.links += 1;
        }
        let Some(peer) = self.peers.table.get_mut(&node) else {
            return;
        };
        peer.refused = false;
        peer.left = false;
        peer.learn_address(address);
        peer.heard = now;
        peer.used = now;
        peer.synced = false;
        peer.nothing = false;
        peer.claims = 0;
        peer.follows.clear();
        peer.seat_progress = now;
        peer.ping = None;
        peer.knocked = None;
        peer.delivered = now;
        self.peers.set_link(node, Link::Up { since: now });
        self.measure_distance(now, node);
        self.add_to_holders(node);
        if let Some(list) = self.lacked_list() {
            self.follow(node, list);
        }
        self.tell_crowd(now, node);
        self.members_changed(now);
        let items = self.origin_items();
        self.claim(&items, Some(node));
    }

    /// How many connections there may be before one more to a node is refused: seats keep room for each other.
    fn links_max(&self, node: NodeId) -> usize {
        let most = self.config.connections_max;
        if !self.seats.ours || self.would_sit(node) {
            return most;
        }
        let seated = self.peers.up().filter(|(_, peer)| peer.seated).count();
        most - (SEATS_MAX - 1).saturating_sub(seated).min(most / 2)
    }

    /// Closes a connection that is not in use to a node that does not sit. Returns whether there was one.
    fn make_room(&mut self, now: Time) -> bool {
        let idle = self
            .peers
            .up()
            .filter(|(node, peer)| !peer.seated && peer.transfers == 0 && !self.serving.serves(*node))
            .map(|(node, _)| node)
            .next();
        let Some(node) = idle else { return false };
        self.actions.push_back(Action::Disconnect { peer: node });
        self.handle_disconnected(now, node);
        if let Some(peer) = self.peers.table.get_mut(&node) {
            // It is as well as it was before.
            peer.left = false;
            peer.dial_after = now + REFUSED;
        }
        true
    }

    /// The designated list, if it or something of it is lacking.
    fn lacked_list(&self) -> Option<Digest> {
        self.designated
            .as_ref()
            .filter(|designated| !designated.complete)
            .map(|designated| designated.list)
    }

    fn follow(&mut self, node: NodeId, list: Digest) {
        self.actions.push_back(Action::Send {
            peer: node,
            message: Message::Follow { list },
        });
    }

    pub(super) fn follow_everybody(&mut self, now: Time, list: Digest) {
        let nodes: Vec<NodeId> = self.peers.up().map(|(node, _)| node).collect();
        for node in nodes {
            self.follow(node, list);
            self.tell_crowd(now, node);
        }
    }

    pub(super) fn handle_connect_failed(&mut self, now: Time, node: NodeId) {
        let Some(peer) = self.peers.table.get_mut(&node) else {
            return;
        };
        if !matches!(peer.link, Link::Dialling { .. }) {
            return;
        }
        peer.failures += 1;
        peer.wanting_since = None;
        peer.dial_after = now + backoff(peer.failures, Duration::from_secs(1), Duration::from_secs(60));
        self.peers.set_link(node, Link::None);
        self.peers.links -= 1;
        self.knock(now, node);
        self.members_changed(now);
        self.dial_soon(now);
    }

    pub(super) fn handle_disconnected(&mut self, now: Time, node: NodeId) {
        self.end_transfers_of(now, node);
        self.stop_serving_peer(node);
        self.take_from_holders(node);
        let Some(peer) = self.peers.table.get_mut(&node) else {
            return;
        };
        if peer.link == Link::None {
            return;
        }
        let brief = matches!(peer.link, Link::Up { since } if now.since(since) < Duration::from_millis(500));
        // Whoever has room says something.
        peer.refused = brief && !peer.synced;
        peer.left = !peer.refused;
        if peer.left {
            peer.gone = Some(now);
        }
        peer.follows.clear();
        peer.partial.clear();
        peer.claimed.clear();
        peer.claims = 0;
        peer.synced = false;
        peer.dial_after = peer.dial_after.max(
            now + if peer.refused {
                REFUSED
            } else {
                Duration::from_millis(500)
            },
        );
        peer.leave_if_far(now);
        let address = peer.addresses.first().map(SocketAddr::ip);
        self.peers.set_link(node, Link::None);
        self.peers.links -= 1;
        if let Some(ip) = address {
            self.peers.prove(now, ip);
        }
        self.drop_claims_of(node);
        self.members_changed(now);
        self.dial_soon(now);
    }

    /// A peer failed to deliver: it is left alone for a while, and everything is had elsewhere.
    pub(super) fn source_failed(&mut self, now: Time, node: NodeId, fault: &str, shun_min: Duration) {
        self.trace(What::SourceFailed {
            source: Source::Peer(node),
            fault: fault.to_owned(),
        });
        self.take_from_holders(node);
        let Some(peer) = self.peers.table.get_mut(&node) else {
            return;
        };
        peer.trust = if peer.trust == Trust::Good && shun_min < SHUN_LONG {
            Trust::New
        } else {
            Trust::Trial
        };
        peer.failures += 1;
        let until = now + backoff(peer.failures, SHUN, SHUN_MAX).max(shun_min);
        peer.dial_after = peer.dial_after.max(until);
        self.peers.set_shunned(node, Some(until));
        self.origin.scan_now(now);
    }

    /// Counts a peer among the holders of what it has.
    pub(super) fn add_to_holders(&mut self, node: NodeId) {
        self.change_holders(node, |holders| holders + 1);
    }

    pub(super) fn take_from_holders(&mut self, node: NodeId) {
        self.change_holders(node, |holders| holders.saturating_sub(1));
        // What was left to it is asked of others.
        self.peers_changed();
    }

    fn change_holders(&mut self, node: NodeId, change: impl Fn(u32) -> u32) {
        let Some(peer) = self.peers.table.get(&node) else {
            return;
        };
        for item in self.items.all() {
            if self.items.at(item).state == State::Idle && peer.provides(node, &self.contents, &self.items, item) {
                let holders = change(self.items.holders(item));
                self.items.set_holders(item, holders);
            }
        }
    }

    pub(super) fn dial_soon(&mut self, now: Time) {
        let at = self.dialled.map_or(now, |at| now.max(at + LOOK_GAP));
        self.dial_at = Some(self.dial_at.map_or(at, |other| other.min(at)));
    }

    /// Opens connections to those who have what is lacking, and to those who want the same.
    pub(super) fn dial(&mut self, now: Time) {
        if self.dial_at.is_none_or(|at| at > now) {
            return;
        }
        self.dial_at = None;
        if !self.is_lacking() {
            return;
        }
        self.dialled = Some(now);
        self.look_at_seats(now);
        let lacking = self.items.lacking();
        let Some(designated) = &self.designated else { return };
        let list = designated.list;
        // A part is left for those who dial us.
        let room = (self.config.connections_max * 3 / 4).max(1);
        // Those who sit connect to each other; everybody else to a few of them and to some others.
        let ours = self.seats.are_ours(now);
        let small = self.seats.nodes.len() < SEATS_MAX / 2;
        let (seats_wanted, others_wanted) = match (ours, small) {
            (true, true) => (SEATS_MAX, SEATS_MAX),
            (true, false) => (SEATS_MAX, 0),
            (false, _) => (SEATS_DIALLED, OTHERS_DIALLED),
        };
        let (mut holders_linked, mut seats_linked, mut others_linked) = (0, 0, 0);
        for node in self.peers.tended() {
            let linked = self.peers.table.get(&node).filter(|peer| peer.link != Link::None);
            let Some(peer) = linked else { continue };
            let (holds, wants) = use_of(peer, lacking);
            // Of those who told what they lack, only who lacks the same will have it.
            let useful = holds || wants || !peer.lacks_told;
            holders_linked += usize::from(holds);
            seats_linked += usize::from(peer.seated && useful);
            others_linked += usize::from(!peer.seated && useful);
        }
        // Nobody else is looked at while there are enough others.
        let mut candidates: BTreeSet<NodeId> = if others_linked < others_wanted {
            self.peers.table.keys().copied().collect()
        } else {
            self.peers.giving().clone()
        };
        candidates.extend(&self.seats.nodes);
        let mut holders: Vec<(u64, NodeId)> = Vec::new();
        let mut seats: Vec<(u64, NodeId)> = Vec::new();
        let mut others: Vec<(u64, NodeId)> = Vec::new();
        let us = self.config.node;
        let mut later: Option<Time> = None;
        let mut put_off = |at: Time| later = Some(later.map_or(at, |other| other.min(at)));
        for node in candidates {
            let Some(peer) = self.peers.table.get_mut(&node) else {
                continue;
            };
            if peer.link != Link::None || peer.addresses.is_empty() {
                continue;
            }
            let (holds, wants) = use_of(peer, lacking);
            if !holds && !wants && !peer.crowd && peer.wants_all_of != Some(list) {
                continue;
            }
            if peer.dial_after > now {
                put_off(peer.dial_after);
                continue;
            }
            if holds {
                holders.push((self.random.u64(), node));
                continue;
            }
            let since = *peer.wanting_since.get_or_insert(now);
            if us > node && now < since + YIELD {
                put_off(since + YIELD);
            } else if peer.seated {
                seats.push((mix(us.0 ^ node.0), node));
            } else {
                others.push((mix(us.0 ^ node.0), node));
            }
        }
        holders.sort_unstable();
        holders.truncate(HOLDERS_DIALLED_MAX.saturating_sub(holders_linked));
        seats.sort_unstable();
        seats.truncate(seats_wanted.saturating_sub(seats_linked));
        others.sort_unstable();
        others.truncate(others_wanted.saturating_sub(others_linked));
        for (_, node) in seats {
            // They have to be connected: others make room.
            if self.peers.links < room || (ours && self.make_room(now)) {
                self.connect(now, node);
            } else if ours {
                put_off(now + YIELD);
            }
        }
        for (_, node) in holders.into_iter().chain(others) {
            if self.peers.links >= room {
                break;
            }
            self.connect(now, node);
        }
        self.dial_at = later;
    }

    pub(super) fn connect(&mut self, now: Time, node: NodeId) {
        let Some(peer) = self.peers.table.get_mut(&node) else {
            return;
        };
        let addresses = peer.addresses.clone();
        self.peers.set_link(node, Link::Dialling { since: now });
        self.peers.links += 1;
        self.actions.push_back(Action::Connect { peer: node, addresses });
    }

    /// Looks after connections: silent, idle and shunned ones.
    pub(super) fn tick_links(&mut self, now: Time) {
        let lacking = self.is_lacking();
        let mut close = Vec::new();
        let mut back = Vec::new();
        let mut pings = Vec::new();
        let mut knocks = Vec::new();
        let mut silent = false;
        for node in self.peers.tended() {
            let Some(peer) = self.peers.table.get_mut(&node) else {
                continue;
            };
            if peer.shunned.is_some_and(|until| until <= now) {
                back.push(node);
            }
            match peer.link {
                Link::None => {}
                Link::Dialling { since } => {
                    if now.since(since) > DIAL_MAX {
                        close.push((node, "could not be reached"));
                    } else if now.since(since) > DIAL_SLOW {
                        knocks.push(node);
                    }
                }
                Link::Up { .. } => {
                    if peer.ping.is_some_and(|at| now.since(at) >= PONG_WITHIN) {
                        close.push((node, "is silent"));
                    } else if peer.seated && is_silent(now, peer) {
                        silent = true;
                    } else if is_idle(now, peer) && !self.serving.serves(node) {
                        close.push((node, ""));
                    } else if lacking && peer.ping.is_none() {
                        let waited_for = peer.claims > 0 || peer.seated;
                        let after = if waited_for { PING_AFTER_CLAIM } else { PING_AFTER };
                        if now.since(peer.heard.max(peer.delivered)) >= after {
                            peer.ping = Some(now);
                            pings.push(node);
                        }
                    }
                }
            }
        }
        if silent {
            self.members_changed(now);
        }
        for node in back {
            self.peers.set_shunned(node, None);
            if let Some(peer) = self.peers.table.get_mut(&node) {
                peer.nothing = false;
            }
            self.add_to_holders(node);
            self.dial_soon(now);
        }
        if lacking {
            self.measure_distances(now);
        }
        for node in knocks {
            self.knock(now, node);
        }
        for node in pings {
            let nonce = self.random.u64();
            self.actions.push_back(Action::Send {
                peer: node,
                message: Message::Ping { nonce },
            });
        }
        for (node, fault) in close {
            if !fault.is_empty() {
                self.source_failed(now, node, fault, SHUN);
            }
            self.actions.push_back(Action::Disconnect { peer: node });
            if self.peers.table.get(&node).is_some_and(|peer| peer.is_up()) {
                // Said once: the shell says `Disconnected` when it is gone.
                if let Some(peer) = self.peers.table.get_mut(&node) {
                    peer.used = now;
                    peer.ping = None;
                }
            } else {
                self.handle_connect_failed(now, node);
            }
        }
    }

    /// When connections are to be looked after although nothing is wanted.
    pub(super) fn next_link_tick(&self, now: Time) -> Option<Time> {
        let soonest = now + Duration::from_secs(1);
        self.peers
            .tended()
            .iter()
            .filter_map(|node| match self.peers.table.get(node)?.link {
                Link::Up { .. } => Some(self.peers.table.get(node)?.used + IDLE),
                Link::Dialling { since } => Some(since + DIAL_MAX),
                Link::None => None,
            })
            .min()
            .map(|at| at.max(soonest))
    }
}

/// Whether a peer holds something that is lacking, and whether it wants the same.
fn use_of(peer: &Peer, lacking: &Bits) -> (bool, bool) {
    let wants = peer.wants.intersects(lacking) || peer.fetching.intersects(lacking);
    (peer.holds.intersects(lacking), wants)
}

fn is_idle(now: Time, peer: &Peer) -> bool {
    peer.transfers == 0 && now.since(peer.used) >= IDLE
}

/// `first`, doubled with each failure after the first, up to `max`.
pub(super) fn backoff(failures: u32, first: Duration, max: Duration) -> Duration {
    first.saturating_mul(1 << failures.saturating_sub(1).min(16)).min(max)
}
