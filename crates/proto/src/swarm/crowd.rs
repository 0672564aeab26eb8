//! The flash crowd: many nodes want the same, and nobody has it. Whose share is what.
//!
//! The members of a content's crowd are this node and those others that want it, the `MEMBERS_MAX` that rank highest for
//! it. Each part belongs to the member that ranks highest for the part. A node fetches its own parts from the origin and
//! waits for those of others, who pass them on as soon as they are verified; one that makes no progress loses the part
//! to the next. What a node says it is fetching counts more than rank: views of who is there differ for a while.
//!
//! Guarantee: every part is this node's own at the latest when `LOST_MAX` others missed their deadline with it. Limit:
//! nodes whose views differ and who do not hear each other fetch a part more than once.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use potluck_model::trace::{Source, Why};
use potluck_model::{NodeId, Time};

use super::Swarm;
use super::contents::{Ix, Kind};
use super::items::{ItemIx, LOST_MAX, State};
use super::peers::{Link, Peer};
use super::schedule::BUNDLE_BYTES;
use super::transfers::Transfer;
use crate::bits::Bits;
use crate::interface::TransferId;
use crate::random::rank;

/// The most members of a crowd.
pub(super) const MEMBERS_MAX: usize = 12;
/// What one that says that it is fetching more counts for.
const CLAIM_COUNTS_MAX: u64 = 2 * BUNDLE_BYTES;
/// What one may say that it is fetching at a time: what comes beyond that is not believed.
pub(super) const CLAIM_BYTES_MAX: u64 = 16 << 20;
/// How long a peer that said it holds or is fetching something may take to connect before the origin is asked.
const HOLDER_CONNECTS_WITHIN: Duration = Duration::from_secs(3);
const FETCHER_CONNECTS_WITHIN: Duration = Duration::from_secs(1);
/// How long a connected peer may take to say what it holds and is fetching.
const SYNCS_WITHIN: Duration = Duration::from_secs(1);
/// How long an owner is waited for of which nothing is heard.
const PATIENCE: Duration = Duration::from_secs(2);
/// How long one that has fetched something and now fetches nothing at all may leave its share lying while there is room at
/// the origin: it takes others for the owners.
const PATIENCE_IDLE: Duration = Duration::from_millis(400);
/// For how long at least an item must have been waited for before others than its owner take it.
const LEFT_LYING: Duration = Duration::from_millis(300);
/// How often it is looked whether an owner still has others of its parts to fetch first.
const LOOK_AGAIN: Duration = Duration::from_millis(400);
/// How long one that is fetching is waited for while nobody knows how long that takes: the origin may be slow for all.
const PATIENCE_FETCHING: Duration = Duration::from_secs(10);
/// Who does not say for so long that it is there, has no share; it may come back.
const SILENT: Duration = Duration::from_secs(1);
/// Whose peers hold so many of the contents that it lacks has come late to the crowd.
const UNDER_WAY_MIN: usize = 16;
/// How long a member that missed two deadlines is none.
const SEAT_LOST: Duration = Duration::from_secs(60);

impl Swarm {
    /// Whether an item may be fetched from the origin now, and why; else when to look again.
    pub(super) fn turn(&mut self, now: Time, item: ItemIx, arriving: &[NodeId], under_way: bool) -> Result<Why, Time> {
        let entry = self.items.at(item);
        if entry.origin_after > now {
            return Err(entry.origin_after);
        }
        if let Some(until) = self.discovery.settles_at().filter(|at| *at > now) {
            return Err(until);
        }
        if let Some(until) = self.prospect(now, item, arriving, under_way) {
            return Err(until);
        }
        let entry = self.items.at(item);
        if let Some((node, _)) = entry.claim.filter(|_| entry.ours) {
            let digest = &self.contents.at(entry.content).digest;
            // It has given up by now: it was told that we fetch this, and ranks lower. Else each would wait for the other.
            if rank(digest, entry.first, self.config.node) > rank(digest, entry.first, node) {
                self.put_claim(item, None);
            }
        }
        if let Some((node, since)) = self.items.at(item).claim {
            let peer = self.peers.table.get(&node);
            match peer.filter(|peer| peer.is_up() && !is_silent(now, peer)) {
                Some(peer) => {
                    let deadline = since.max(peer.seat_progress) + self.patience(now, peer);
                    if deadline > now {
                        return Err(deadline);
                    }
                    self.lose_seat(now, node, item, true);
                }
                None => self.put_claim(item, None),
            }
        }
        if self.items.at(item).ours {
            // Others were told so and count on it, whoever ranks highest by now.
            return Ok(self.why_ours(item, true));
        }
        let us = self.config.node;
        // Who passes nothing on leaves to others what it can.
        let gives = self.gives();
        loop {
            let (owner, crowd) = self.owner(now, item);
            if owner == us {
                return Ok(self.why_ours(item, crowd));
            }
            let entry = self.items.at_mut(item);
            let since = match entry.wait {
                Some((node, since)) if node == owner => since,
                _ => {
                    entry.wait = Some((owner, now));
                    now
                }
            };
            let Some(peer) = self.peers.table.get(&owner) else {
                self.lose_seat(now, owner, item, true);
                continue;
            };
            // A share that is left lying by one who is there is a difference of views, and no fault.
            let idles = gives && peer.begun && peer.is_up() && peer.synced && peer.claims == 0;
            let patience = if idles { PATIENCE_IDLE } else { self.patience(now, peer) };
            // While others keep the uplink busy, it waits for its turn.
            let since = since.max(peer.seat_progress);
            let deadline = self.seats.busy_at.map_or(since, |at| at.max(since)) + patience;
            if deadline > now {
                return Err(if peer.claims > 0 {
                    deadline.min(now + LOOK_AGAIN)
                } else {
                    deadline
                });
            }
            self.lose_seat(now, owner, item, !idles);
        }
    }

    fn why_ours(&self, item: ItemIx, crowd: bool) -> Why {
        if self.items.at(item).peer_failed {
            Why::PeerFailed
        } else if crowd {
            Why::MyShare
        } else {
            Why::NobodyAnswered
        }
    }

    /// Notes who is fetching an item by its own word, or that nobody is any more.
    pub(super) fn put_claim(&mut self, item: ItemIx, claim: Option<(NodeId, Time)>) {
        let before = std::mem::replace(&mut self.items.at_mut(item).claim, claim);
        if let Some(peer) = before.and_then(|(node, _)| self.peers.table.get_mut(&node)) {
            peer.claims = peer.claims.saturating_sub(1);
        }
        if let Some(peer) = claim.and_then(|(node, _)| self.peers.table.get_mut(&node)) {
            peer.claims += 1;
            peer.begun = true;
        }
    }

    /// Somebody who said that it has an item is about to be connected: until when to wait for that. In a crowd that has just
    /// begun nobody has fetched anything, and ranks say enough.
    fn prospect(&self, now: Time, item: ItemIx, arriving: &[NodeId], under_way: bool) -> Option<Time> {
        let item = self.items.at(item);
        let file = match self.contents.at(item.content).kind {
            Kind::One { of: Some(of) } => of,
            _ => item.content,
        };
        let said = |bits: &Bits| bits.get(item.content.0) || bits.get(file.0);
        arriving
            .iter()
            .filter(|node| !item.failed.contains(node))
            .filter_map(|node| {
                let peer = self.peers.table.get(node)?;
                let holds = said(&peer.holds);
                let fetches = under_way && said(&peer.fetching);
                if !holds && !fetches {
                    return None;
                }
                let until = match peer.link {
                    Link::Dialling { since } if holds => since + HOLDER_CONNECTS_WITHIN,
                    Link::Dialling { since } => since + FETCHER_CONNECTS_WITHIN,
                    Link::Up { since } if !peer.synced => since + SYNCS_WITHIN,
                    // It was asked to dial: once that is waited for.
                    Link::None if holds && peer.failures <= 1 => peer.knocked? + FETCHER_CONNECTS_WITHIN,
                    Link::Up { .. } | Link::None => return None,
                };
                (until > now).then_some(until)
            })
            .max()
    }

    /// Whether some peer holds enough of what is lacked for others to have fetched before this node came.
    pub(super) fn is_under_way(&self) -> bool {
        let lacking = self.items.lacking();
        let many = (lacking.count() / 8).max(UNDER_WAY_MIN);
        self.peers.up().any(|(_, peer)| !peer.partial.is_empty())
            || self
                .peers
                .giving()
                .iter()
                .filter_map(|node| self.peers.table.get(node))
                .any(|peer| peer.holds.count_common(lacking) >= many)
    }

    /// Peers that are being dialled, or have not said yet what they hold.
    pub(super) fn arriving(&self, now: Time) -> Vec<NodeId> {
        let mut tended = self.peers.tended();
        tended.retain(|node| {
            self.peers.table.get(node).is_some_and(|peer| {
                peer.shunned.is_none()
                    && match peer.link {
                        Link::None => peer.knocked.is_some_and(|at| now.since(at) < FETCHER_CONNECTS_WITHIN),
                        Link::Dialling { since } => now.since(since) < HOLDER_CONNECTS_WITHIN,
                        Link::Up { since } => !peer.synced && now.since(since) < SYNCS_WITHIN,
                    }
            })
        });
        tended
    }

    /// How long a peer may go without progress in its share.
    fn patience(&self, now: Time, peer: &Peer) -> Duration {
        let pace = self.origin.pace(now, &self.transfers);
        match peer.link {
            // It says how it gets on; what it fetches may be one chunk, of which nothing is heard before it is whole.
            Link::Up { .. } if peer.claims > 0 && pace.is_zero() => PATIENCE_FETCHING,
            Link::Up { .. } if peer.claims > 0 => PATIENCE + pace * 3,
            Link::Up { .. } => PATIENCE,
            // No connection, so nothing is heard of its progress but through others.
            _ => PATIENCE + pace * 3,
        }
    }

    pub(super) fn lose_seat(&mut self, now: Time, node: NodeId, item: ItemIx, missed: bool) {
        let entry = self.items.at_mut(item);
        if !entry.lost.contains(&node) {
            entry.lost.push(node);
        }
        entry.owner = None;
        entry.wait = None;
        // Who was not waited for any longer and begins after all is believed, once.
        if entry.claim.is_some_and(|(claimer, _)| claimer == node) {
            entry.broken.push(node);
            self.put_claim(item, None);
        }
        let Some(peer) = self.peers.table.get_mut(&node).filter(|_| missed) else {
            return;
        };
        // All that it let lie at one time is one missed deadline.
        if peer.seat_missed.is_none_or(|at| now.since(at) > PATIENCE) {
            peer.seat_missed = Some(now);
            peer.misses += 1;
            if peer.misses >= 2 {
                peer.misses = 0;
                peer.seat_lost_until = now + SEAT_LOST;
                self.members_version += 1;
            }
        }
    }

    /// Whose share an item is, and whether there is anybody else to share with.
    fn owner(&mut self, now: Time, item: ItemIx) -> (NodeId, bool) {
        self.look_at_seats(now);
        let us = self.config.node;
        let entry = self.items.at(item);
        if let Some((version, owner)) = entry.owner
            && version == self.members_version
        {
            return (owner, true);
        }
        if entry.lost.len() >= LOST_MAX {
            return (us, true);
        }
        let (content, first) = (entry.content, entry.first);
        let lost = entry.lost.clone();
        let digest = self.contents.at(content).digest;
        let members = self.members(now, content);
        let crowd = members.len() > 1;
        let owner = members
            .into_iter()
            .filter(|node| !lost.contains(node))
            .max_by_key(|node| (rank(&digest, first, *node), *node))
            .unwrap_or(us);
        if crowd {
            self.items.at_mut(item).owner = Some((self.members_version, owner));
        }
        (owner, crowd)
    }

    /// Whether the owner of an item that nobody has said to be fetching is busy with others.
    pub(super) fn is_left_lying(&self, now: Time, item: ItemIx) -> bool {
        let item = self.items.at(item);
        item.claim.is_none()
            && item.origin_after <= now
            && item.wait.is_some_and(|(owner, since)| {
                now.since(since) >= LEFT_LYING && self.peers.table.get(&owner).is_some_and(|peer| peer.claims > 0)
            })
    }

    /// How many others would take an item before this node does, if its owner does not; none: this node is no member.
    pub(super) fn heirs_before(&self, now: Time, item: ItemIx) -> Option<u32> {
        let us = self.config.node;
        let entry = self.items.at(item);
        let owner = entry.wait.map(|(owner, _)| owner);
        let digest = self.contents.at(entry.content).digest;
        let ours = rank(&digest, entry.first, us);
        let members = self.members(now, entry.content);
        if !members.contains(&us) {
            return None;
        }
        let heirs = members
            .iter()
            .filter(|node| Some(**node) != owner && !entry.lost.contains(node));
        Some(heirs.filter(|node| rank(&digest, entry.first, **node) > ours).count() as u32)
    }

    /// Those in the seats that want a content, this node perhaps among them, and those of other lists that want it, too.
    fn members(&self, now: Time, content: Ix) -> Vec<NodeId> {
        let file = match self.contents.at(content).kind {
            Kind::One { of: Some(of) } => of,
            _ => content,
        };
        let wants = |node: &NodeId| {
            self.peers.table.get(node).is_some_and(|peer| {
                let said = peer.wants.get(file.0) || peer.fetching.get(file.0);
                (said || peer.crowd && !peer.lacks_told) && !peer.holds.get(content.0)
            })
        };
        let mut members: Vec<NodeId> = self.seats.nodes.iter().copied().filter(wants).collect();
        // What this node fetches and does not pass on, somebody else has to fetch again.
        if self.gives() && self.seats.are_ours(now) {
            // One that stood back in vain does not wait behind those it waited for.
            let place = if self.seats.ours { self.seats.nearer } else { 0 };
            members.insert(place.min(members.len()), self.config.node);
        }
        members.truncate(MEMBERS_MAX);
        members.extend(self.seats.strangers.iter().copied().filter(wants));
        if members.len() > MEMBERS_MAX {
            let digest = self.contents.at(content).digest;
            members.sort_by_key(|node| std::cmp::Reverse(rank(&digest, u32::MAX, *node)));
            members.truncate(MEMBERS_MAX);
        }
        if members.is_empty() {
            members.push(self.config.node);
        }
        members
    }

    /// How many transfers from the origin this node may have under way of what it shares with others. All share one
    /// uplink: what is under way at many at once comes slowly to each, and late to those who wait for it.
    pub(super) fn room_at_origin(&mut self, now: Time, unheld: &[ItemIx]) -> usize {
        let us = self.config.node;
        let mut bytes: u64 = self
            .transfers
            .values()
            .filter(|transfer| transfer.source == Source::Origin)
            .map(Transfer::left)
            .sum();
        let mut waiting: BTreeSet<NodeId> = BTreeSet::new();
        let mut fetching: BTreeMap<NodeId, u64> = BTreeMap::new();
        for item in unheld {
            let entry = self.items.at(*item);
            if let Some((node, _)) = entry.claim {
                *fetching.entry(node).or_default() += entry.bytes;
            } else {
                waiting.insert(self.owner(now, *item).0);
            }
        }
        // However much one says that it fetches.
        bytes += fetching.values().map(|bytes| bytes.min(&CLAIM_COUNTS_MAX)).sum::<u64>();
        let own = self.origin.transfers;
        let most = self.origin.crowd_bytes();
        if bytes + BUNDLE_BYTES > most {
            self.seats.busy_at = Some(now);
        }
        // Others that may begin at this moment, too: those that come first, or all, for what is not the first.
        let ahead = waiting
            .iter()
            .filter(|node| **node != us && !fetching.contains_key(node))
            .filter(|node| own > 0 || self.comes_before_us(**node))
            .count() as u64;
        if own == 0 && ahead == 0 {
            // Whatever others say, the nearest that waits begins.
            return 1;
        }
        let free = most.saturating_sub(bytes + ahead * BUNDLE_BYTES);
        own + free.div_ceil(BUNDLE_BYTES) as usize
    }

    /// Gives up what another is fetching as well who ranks higher for it, if little of it has come so far.
    pub(super) fn yield_shares(&mut self, now: Time) {
        let us = self.config.node;
        let vain: Vec<TransferId> = self
            .transfers
            .iter()
            .filter(|(_, transfer)| transfer.source == Source::Origin && transfer.is_young())
            .filter(|(_, transfer)| {
                transfer.items.iter().all(|item| {
                    let item = self.items.at(*item);
                    let digest = &self.contents.at(item.content).digest;
                    item.state == State::Done
                        || item.claim.is_some_and(|(other, _)| {
                            rank(digest, item.first, other) > rank(digest, item.first, us)
                                && self.peers.table.get(&other).is_some_and(|peer| peer.is_up())
                        })
                })
            })
            .map(|(id, _)| *id)
            .collect();
        for id in vain {
            self.cancel_transfer(now, id);
        }
    }

    /// A peer is gone, and so is what it was fetching.
    pub(super) fn drop_claims_of(&mut self, node: NodeId) {
        for item in self.items.all() {
            if self.items.at(item).claim.is_some_and(|(claimer, _)| claimer == node) {
                self.put_claim(item, None);
            }
        }
    }
}

/// Whether a connected peer was asked whether it is there, and has not said so for long enough to go on without it.
pub(super) fn is_silent(now: Time, peer: &Peer) -> bool {
    peer.ping
        .is_some_and(|at| peer.delivered <= at && now.since(at) >= SILENT)
}

/// Whether a peer is there as far as is known: proven by a connection, or about to be, or there is no room to prove it.
pub(super) fn is_there(now: Time, peer: &Peer, full: bool) -> bool {
    match peer.link {
        Link::Up { .. } => !is_silent(now, peer),
        Link::Dialling { since } => !peer.left && now.since(since) < HOLDER_CONNECTS_WITHIN,
        Link::None => {
            may_come(peer)
                && ((full || peer.refused) && now.since(peer.heard) < SEAT_LOST
                    || peer
                        .wanting_since
                        .is_some_and(|since| now.since(since) < FETCHER_CONNECTS_WITHIN))
        }
    }
}

/// Whether nothing says that a peer without a connection is not there.
pub(super) const fn may_come(peer: &Peer) -> bool {
    !peer.left && peer.failures == 0
}
