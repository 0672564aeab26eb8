//! What peers fetch from this node.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use potluck_model::{Digest, NodeId, Time};

use super::Swarm;
use super::contents::Kind;
use super::items::State;
use crate::interface::{Action, Want};
use crate::message::{End, INSTEAD_MAX, WANTS_MAX};

/// Requests of one peer that are not answered yet.
const REQUESTS_PER_PEER_MAX: usize = 16;
/// How long a request waits for bytes that are on their way here.
const COMING: Duration = Duration::from_secs(2);
/// Answers at a time that send the same stripe. Whoever has it passes it on, so few that get it soon are better than many
/// that get it late.
const SAME_MAX: usize = 4;
/// How long a request waits for its turn.
const QUEUED: Duration = Duration::from_millis(500);

#[derive(Debug, Default)]
pub(super) struct Serving {
    /// Answers being sent, and of which stripe.
    active: BTreeMap<(NodeId, u32), Stripe>,
    waiting: VecDeque<Waiting>,
    of_peer: BTreeMap<NodeId, usize>,
    /// Something waiting may have become possible.
    look: bool,
}

/// The stripe that a request asks for: content and first chunk. None: many small files.
type Stripe = Option<(Digest, u32)>;

#[derive(Debug)]
struct Waiting {
    peer: NodeId,
    stream: u32,
    wants: Vec<Want>,
    /// Everything is here.
    ready: bool,
    until: Time,
}

impl Serving {
    pub(super) fn deadline(&self) -> Option<Time> {
        self.waiting.iter().map(|waiting| waiting.until).min()
    }

    pub(super) fn serves(&self, node: NodeId) -> bool {
        self.of_peer.contains_key(&node)
    }

    /// Whether there is room for one more answer with this stripe.
    fn has_room(&self, serving_max: usize, stripe: Stripe) -> bool {
        self.active.len() < serving_max
            && (stripe.is_none() || self.active.values().filter(|other| **other == stripe).count() < SAME_MAX)
    }

    /// Answers being sent to a peer.
    fn sent_to(&self, node: NodeId) -> usize {
        self.active.range((node, 0)..=(node, u32::MAX)).count()
    }

    fn count(&mut self, node: NodeId) {
        *self.of_peer.entry(node).or_default() += 1;
    }

    fn uncount(&mut self, node: NodeId) {
        if let Some(count) = self.of_peer.get_mut(&node) {
            *count -= 1;
            if *count == 0 {
                self.of_peer.remove(&node);
            }
        }
    }
}

impl Swarm {
    /// Whether this node gives what it has to others.
    pub(super) const fn gives(&self) -> bool {
        self.config.serving_max > 0
    }

    pub(super) fn handle_serving_max(&mut self, now: Time, max: usize) {
        let gave = std::mem::replace(&mut self.config.serving_max, max) > 0;
        self.serving.look = true;
        if gave == self.gives() {
            return;
        }
        self.members_changed(now);
        if self.gives() {
            let follows: Vec<(NodeId, Digest)> = self
                .peers
                .up()
                .flat_map(|(node, peer)| peer.follows.iter().map(move |list| (node, *list)))
                .collect();
            for (node, list) in follows {
                self.tell_all(now, node, &list);
            }
        }
    }

    pub(super) fn handle_get(&mut self, now: Time, node: NodeId, stream: u32, wants: Vec<Want>) {
        let twice = self.serving.active.contains_key(&(node, stream))
            || self
                .serving
                .waiting
                .iter()
                .any(|waiting| (waiting.peer, waiting.stream) == (node, stream));
        if wants.is_empty() || wants.len() > WANTS_MAX || twice {
            self.at_fault(now, node, "asked in a way that the protocol does not allow");
            return;
        }
        if !self.gives() {
            self.decline_missing(node, stream, wants.len());
            return;
        }
        let outstanding = self.serving.of_peer.get(&node).copied().unwrap_or(0);
        let full = self.serving.waiting.len() >= self.config.serving_max * 4;
        if outstanding >= REQUESTS_PER_PEER_MAX || full && !self.displace_for(node) {
            self.decline_busy(node, stream, &wants);
            return;
        }
        let ready = wants.iter().all(|want| self.contents.holds(want));
        let coming = ready || wants.iter().any(|want| self.is_coming(want));
        let some = ready || wants.iter().any(|want| self.contents.holds(want));
        if !some && !coming {
            self.decline_missing(node, stream, wants.len());
            return;
        }
        if let Some(peer) = self.peers.table.get_mut(&node) {
            peer.used = now;
        }
        self.serving.count(node);
        self.serving.waiting.push_back(Waiting {
            peer: node,
            stream,
            wants,
            // What will not come is not waited for.
            ready: !coming || ready,
            until: now + if ready || !coming { QUEUED } else { COMING },
        });
        self.serving.look = true;
    }

    /// Makes room among what waits for a peer that has less there than another: what that one asked for last is declined.
    /// So nobody keeps others out by asking for more than his turn.
    fn displace_for(&mut self, node: NodeId) -> bool {
        let mut counts: BTreeMap<NodeId, usize> = BTreeMap::new();
        for waiting in &self.serving.waiting {
            *counts.entry(waiting.peer).or_default() += 1;
        }
        let own = counts.get(&node).copied().unwrap_or(0);
        let Some((greediest, _)) = counts
            .into_iter()
            .filter(|(_, count)| *count > own + 1)
            .max_by_key(|(_, count)| *count)
        else {
            return false;
        };
        let last = self
            .serving
            .waiting
            .iter()
            .rposition(|waiting| waiting.peer == greediest);
        if let Some(waiting) = last.and_then(|last| self.serving.waiting.remove(last)) {
            self.serving.uncount(greediest);
            self.decline_busy(greediest, waiting.stream, &waiting.wants);
        }
        true
    }

    /// Whether a want is being fetched.
    fn is_coming(&self, want: &Want) -> bool {
        let Some(ix) = self.contents.find(&want.content) else {
            return false;
        };
        self.items
            .overlapping(ix, want.first, want.count)
            .any(|item| matches!(self.items.at(item).state, State::Busy(_)))
    }

    /// The stripe that wants are of.
    fn stripe(&self, wants: &[Want]) -> Stripe {
        let want = wants.first()?;
        let content = self.contents.at(self.contents.find(&want.content)?);
        matches!(content.kind, Kind::Many { .. }).then_some((want.content, want.first))
    }

    fn decline_missing(&mut self, node: NodeId, stream: u32, wants: usize) {
        self.actions.push_back(Action::Decline {
            peer: node,
            stream,
            end: End::Missing((0..wants as u16).collect()),
        });
    }

    fn decline_busy(&mut self, node: NodeId, stream: u32, wants: &[Want]) {
        let instead = wants.first().map_or_else(Vec::new, |want| self.who_else(node, want));
        self.actions.push_back(Action::Decline {
            peer: node,
            stream,
            end: End::Busy(instead),
        });
    }

    /// Others that have a want.
    fn who_else(&self, asker: NodeId, want: &Want) -> Vec<NodeId> {
        let Some(ix) = self.contents.find(&want.content) else {
            return Vec::new();
        };
        self.peers
            .up()
            .filter(|(node, peer)| {
                *node != asker
                    && (peer.holds.get(ix.0)
                        || peer.partial.get(&ix).is_some_and(|chunks| {
                            (want.first..want.first.saturating_add(want.count)).all(|chunk| chunks.get(chunk))
                        }))
            })
            .map(|(node, _)| node)
            .take(INSTEAD_MAX)
            .collect()
    }

    pub(super) fn handle_cancel(&mut self, node: NodeId, stream: u32) {
        if self.serving.active.contains_key(&(node, stream)) {
            self.actions.push_back(Action::StopServing { peer: node, stream });
            return;
        }
        let place = self
            .serving
            .waiting
            .iter()
            .position(|waiting| (waiting.peer, waiting.stream) == (node, stream));
        if let Some(waiting) = place.and_then(|place| self.serving.waiting.remove(place)) {
            self.serving.uncount(node);
            self.decline_missing(node, stream, waiting.wants.len());
        }
    }

    pub(super) fn handle_served(&mut self, now: Time, node: NodeId, stream: u32) {
        if self.serving.active.remove(&(node, stream)).is_some() {
            self.serving.uncount(node);
            self.serving.look = true;
        }
        if let Some(peer) = self.peers.table.get_mut(&node) {
            peer.used = now;
        }
    }

    /// Something was stored: what waits for it can be answered.
    pub(super) fn look_at_waiting(&mut self) {
        self.serving.look |= !self.serving.waiting.is_empty();
    }

    /// A peer is gone.
    pub(super) fn stop_serving_peer(&mut self, node: NodeId) {
        self.serving.waiting.retain(|waiting| waiting.peer != node);
        self.serving.active.retain(|(peer, _), _| *peer != node);
        self.serving.of_peer.remove(&node);
        self.serving.look = true;
    }

    /// Starts answering what waits and can be answered; declines what waited too long.
    pub(super) fn serve(&mut self, now: Time) {
        let due = self.serving.deadline().is_some_and(|at| at <= now);
        if !self.serving.look && !due {
            return;
        }
        self.serving.look = false;
        let mut waiting: Vec<Waiting> = std::mem::take(&mut self.serving.waiting).into();
        // Who is being sent least comes first, so that a slow one holds no place of a fast one; else who came first.
        waiting.sort_by_key(|entry| self.serving.sent_to(entry.peer));
        for mut entry in waiting {
            entry.ready = entry.ready || entry.wants.iter().all(|want| self.contents.holds(want));
            let late = entry.until <= now;
            let stripe = self.stripe(&entry.wants);
            let free = self.serving.has_room(self.config.serving_max, stripe);
            if free && (entry.ready || (late && entry.wants.iter().any(|want| self.contents.holds(want)))) {
                self.serving.active.insert((entry.peer, entry.stream), stripe);
                self.actions.push_back(Action::Serve {
                    peer: entry.peer,
                    stream: entry.stream,
                    wants: entry.wants,
                });
            } else if !late {
                self.serving.waiting.push_back(entry);
            } else {
                self.serving.uncount(entry.peer);
                if entry.wants.iter().any(|want| self.contents.holds(want)) {
                    self.decline_busy(entry.peer, entry.stream, &entry.wants);
                } else {
                    self.decline_missing(entry.peer, entry.stream, entry.wants.len());
                }
            }
        }
    }
}
