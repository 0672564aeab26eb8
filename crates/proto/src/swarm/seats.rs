//! Who fetches from the origin for all: the seats of the crowd of the designated list.
//!
//! Of all that want the list, the `SEATS_MAX` that stand nearest behind its place on the ring of ids sit in its seats.
//! They connect to each other, share out what nobody has (see `crowd`), and hear each other's claims. Everybody else
//! stands back and has it from peers. Who sits, all learn alike: connected nodes tell each other who comes first among
//! those that they know, so the best spread whatever the size of the crowd, and nobody needs to know all of it.
//!
//! Guarantee: who stands back and gets nothing for long goes to the origin himself, and heeds those no more who named seats
//! that nothing has proven. Limit: a node that two peers tell of seats that do not exist, or do nothing, waits that long, once.

use std::collections::BTreeSet;
use std::time::Duration;

use potluck_model::ring::{SEATS_MAX, distance, place};
use potluck_model::{Digest, NodeId, Time};

use super::crowd::{is_there, may_come};
use super::peers::Peer;
use super::{LOOK_GAP, Swarm};
use crate::bits::Bits;
use crate::datagram::Lacks;
use crate::interface::Action;
use crate::message::{Member, Message, Runs};

/// How long what a look changed waits to be acted on.
const SOON: Duration = Duration::from_millis(1);
/// How old a look may be.
const LOOK: Duration = Duration::from_millis(100);
/// And that of one who stands back.
const LOOK_BACK: Duration = Duration::from_millis(500);
/// How long a node counts as there after it last spoke on somebody's connection.
const VOUCHED: Duration = Duration::from_secs(10);
/// How long newly known seats are collected before peers are told.
const TELL_NEWS: Duration = Duration::from_millis(50);
/// Who sits is told again so often by those who sit, and by those who stand back.
const TELL_ALL: Duration = Duration::from_secs(2);
const TELL_ALL_BACK: Duration = Duration::from_secs(4);
/// How long a node that stands back goes without anything before it fetches for itself: at least, and beyond that up to
/// so long for each node of the site, so that not all do at once.
const STAND_BACK: Duration = Duration::from_secs(10);
const STAND_BACK_EACH: Duration = Duration::from_millis(50);
const STAND_BACK_MAX: Duration = Duration::from_secs(120);
/// How long nobody heeds a peer that named seats which did nothing.
const UNHEEDED: Duration = Duration::from_secs(600);
/// How long it then goes on to.
const PROMOTED: Duration = Duration::from_secs(60);

/// What is known of the seats.
#[derive(Debug, Default)]
pub(super) struct Seats {
    /// As of which version of the members, and when.
    looked: Option<(u64, Time)>,
    /// Other nodes that sit, nearest first.
    pub(super) nodes: Vec<NodeId>,
    /// Other nodes that want some of what we lack, but not our list.
    pub(super) strangers: Vec<NodeId>,
    /// This node sits.
    pub(super) ours: bool,
    /// So many of `nodes` are nearer than this node.
    pub(super) nearer: usize,
    /// Others were last seen to keep the uplink busy.
    pub(super) busy_at: Option<Time>,
    /// Seats that peers were not told of.
    news: Vec<NodeId>,
    pub(super) tell_news_at: Option<Time>,
    pub(super) tell_all_at: Option<Time>,
    /// Something last arrived.
    pub(super) moved: Time,
    /// What is waited beyond `STAND_BACK`.
    extra: Duration,
    /// It stood back in vain.
    promoted_until: Option<Time>,
}

impl Seats {
    pub(super) fn deadline(&self) -> Option<Time> {
        [self.tell_news_at, self.tell_all_at].into_iter().flatten().min()
    }

    /// Whether this node fetches from the origin.
    pub(super) fn are_ours(&self, now: Time) -> bool {
        self.ours || self.promoted_until.is_some_and(|until| until > now)
    }
}

impl Swarm {
    /// Another list is wanted, or none.
    pub(super) fn leave_seats(&mut self, now: Time) {
        let each = STAND_BACK_EACH.as_micros() as u64 * u64::from(self.population);
        let most = each.min(STAND_BACK_MAX.as_micros() as u64).max(1);
        self.seats = Seats {
            moved: now,
            extra: Duration::from_micros(self.random.below(most)),
            ..Seats::default()
        };
        self.peers.leave_crowd();
    }

    /// Sees who sits, unless that was seen just now.
    pub(super) fn look_at_seats(&mut self, now: Time) {
        let fresh = |(version, at)| {
            let age = now.since(at);
            let most = if self.seats.ours { LOOK } else { LOOK_BACK };
            version == self.members_version && age < most || age < LOOK_GAP && at < now
        };
        if self.seats.looked.is_some_and(fresh) {
            return;
        }
        self.seats.looked = Some((self.members_version, now));
        let Some(designated) = &self.designated else { return };
        let place = place(&designated.list);
        let full = self.peers.links >= self.config.connections_max * 3 / 4;
        let lacking = self.items.lacking();
        let may_sit =
            |peer: &Peer| !(peer.takes_only || peer.shunned.is_some() || peer.is_far() || peer.seat_lost_until > now);
        // Who is new is taken for being there.
        let mut new = Vec::new();
        let mut nodes: Vec<NodeId> = self
            .peers
            .crowd_from(place)
            .filter(|(_, peer)| may_sit(peer))
            .filter(|(node, peer)| {
                let unheard = peer.wanting_since.is_none() && !peer.addresses.is_empty();
                if unheard {
                    new.push(*node);
                }
                let vouched = || !peer.is_up() && peer.alive().is_some_and(|at| now.since(at) < VOUCHED);
                is_there(now, peer, full) || unheard && may_come(peer) || vouched()
            })
            .map(|(node, _)| node)
            .take(SEATS_MAX)
            .collect();
        let strangers: Vec<NodeId> = self
            .peers
            .apart()
            .filter(|(_, peer)| may_sit(peer) && is_there(now, peer, full))
            .filter(|(_, peer)| peer.wants.intersects(lacking) || peer.fetching.intersects(lacking))
            .map(|(node, _)| node)
            .collect();
        let us = distance(place, self.config.node);
        let nearer = nodes.partition_point(|node| distance(place, *node) < us);
        let ours = self.gives() && nearer < SEATS_MAX;
        nodes.truncate(SEATS_MAX - usize::from(ours));
        for node in new {
            if let Some(peer) = self.peers.table.get_mut(&node) {
                peer.wanting_since = Some(now);
            }
        }
        for node in &self.seats.nodes {
            if let Some(peer) = self.peers.table.get_mut(node) {
                peer.seated = false;
            }
        }
        for node in &nodes {
            if let Some(peer) = self.peers.table.get_mut(node) {
                peer.seated = true;
            }
        }
        let mut news: Vec<NodeId> = nodes
            .iter()
            .filter(|node| !self.seats.nodes.contains(node))
            .copied()
            .collect();
        let changed = !news.is_empty()
            || ours != self.seats.ours
            || nodes.len() != self.seats.nodes.len()
            || strangers != self.seats.strangers;
        if ours && !self.seats.ours {
            news.push(self.config.node);
        }
        self.seats.nodes = nodes;
        self.seats.strangers = strangers;
        self.seats.ours = ours;
        self.seats.nearer = nearer;
        if !changed {
            return;
        }
        // What was thought of owners before does not hold any more.
        self.members_version += 1;
        self.seats.looked = Some((self.members_version, now));
        if !news.is_empty() {
            self.seats.news.extend(news);
            self.seats.news.truncate(SEATS_MAX * 2);
            self.seats.tell_news_at.get_or_insert(now + TELL_NEWS);
            self.seats.tell_all_at.get_or_insert(now + TELL_ALL);
            // Not before the next event: this may be a look in the middle of planning.
            self.dial_soon(now + SOON);
        }
        self.origin.scan_now(now + SOON);
    }

    /// Whether a node would sit, did it want the designated list.
    pub(super) fn would_sit(&self, node: NodeId) -> bool {
        let Some(designated) = &self.designated else {
            return false;
        };
        let place = place(&designated.list);
        let nearer = |other: &NodeId| distance(place, *other) < distance(place, node);
        let taken = self.seats.nodes.len() + usize::from(self.seats.ours);
        taken < SEATS_MAX || !self.seats.nodes.last().is_some_and(nearer)
    }

    /// Whether a node is nearer to the list's place than this one.
    pub(super) fn comes_before_us(&self, node: NodeId) -> bool {
        self.designated.as_ref().is_some_and(|designated| {
            let place = place(&designated.list);
            distance(place, node) < distance(place, self.config.node)
        })
    }

    /// Until when this node leaves the origin to those who sit.
    pub(super) fn stands_back(&mut self, now: Time) -> Option<Time> {
        self.look_at_seats(now);
        if self.seats.are_ours(now) || self.seats.nodes.len() < SEATS_MAX {
            return None;
        }
        let until = self.seats.moved + STAND_BACK + self.seats.extra;
        if until > now {
            return Some(until);
        }
        self.seats.promoted_until = Some(now + PROMOTED);
        self.members_version += 1;
        self.heed_no_more(now);
        None
    }

    /// Who sits has done nothing: what peers said of those that nothing has proven is forgotten, and they are not heeded
    /// for a while.
    fn heed_no_more(&mut self, now: Time) {
        let mut vouchers: BTreeSet<NodeId> = BTreeSet::new();
        for node in self.seats.nodes.clone() {
            if let Some(peer) = self.peers.table.get_mut(&node)
                && !peer.proven
            {
                let said = std::mem::take(&mut peer.vouchers);
                vouchers.extend(said.into_iter().flatten().map(|(by, _)| by));
            }
        }
        for node in vouchers {
            if let Some(peer) = self.peers.table.get_mut(&node) {
                peer.unheeded_until = now + UNHEEDED;
            }
        }
    }

    /// Tells peers who sits, as is due.
    pub(super) fn tell_seats(&mut self, now: Time) {
        let due = |at: Option<Time>| at.is_some_and(|at| at <= now);
        let all = due(self.seats.tell_all_at);
        if !all && !due(self.seats.tell_news_at) {
            return;
        }
        self.seats.tell_news_at = None;
        let news = std::mem::take(&mut self.seats.news);
        if !self.is_lacking() {
            self.seats.tell_all_at = None;
            return;
        }
        let Some(list) = self.designated.as_ref().map(|designated| designated.list) else {
            return;
        };
        let members = if all {
            self.seats.tell_all_at = Some(now + if self.seats.ours { TELL_ALL } else { TELL_ALL_BACK });
            self.seated_members(now)
        } else {
            news.into_iter().filter_map(|node| self.member(now, node)).collect()
        };
        let to: Vec<NodeId> = self
            .peers
            .up()
            .filter(|(_, peer)| peer.crowd)
            .map(|(node, _)| node)
            .collect();
        for node in to {
            let members: Vec<Member> = members.iter().filter(|member| member.node != node).copied().collect();
            if !members.is_empty() || all {
                self.actions.push_back(Action::Send {
                    peer: node,
                    message: Message::Crowd {
                        list,
                        lacks: None,
                        members,
                    },
                });
            }
        }
    }

    /// Tells a peer what this node lacks of the designated list, and who sits.
    pub(super) fn tell_crowd(&mut self, now: Time, node: NodeId) {
        let Some(designated) = &self.designated else { return };
        let (list, known) = (designated.list, designated.known);
        let lacks = if known {
            Lacks::These(self.lacked_of_designated())
        } else {
            Lacks::Everything
        };
        let members = self
            .seated_members(now)
            .into_iter()
            .filter(|member| member.node != node)
            .collect();
        self.actions.push_back(Action::Send {
            peer: node,
            message: Message::Crowd {
                list,
                lacks: Some(lacks),
                members,
            },
        });
    }

    fn seated_members(&mut self, now: Time) -> Vec<Member> {
        self.look_at_seats(now);
        let mut nodes = self.seats.nodes.clone();
        if self.seats.ours && self.is_lacking() {
            nodes.push(self.config.node);
        }
        nodes.into_iter().filter_map(|node| self.member(now, node)).collect()
    }

    /// A node that sits, if it was heard of lately.
    fn member(&self, now: Time, node: NodeId) -> Option<Member> {
        if node == self.config.node {
            return Some(Member { node, age: 0 });
        }
        let alive = self.peers.table.get(&node)?.alive()?;
        let age = now.since(alive);
        (age < VOUCHED).then(|| Member {
            node,
            age: u8::try_from(age.as_millis() / 100).unwrap_or(u8::MAX),
        })
    }

    pub(super) fn lacked_of_designated(&self) -> Runs {
        let lacked = self
            .designated
            .as_ref()
            .and_then(|designated| self.contents.lists.get(&designated.list))
            .map(|list| {
                list.needed
                    .iter()
                    .filter(|index| !self.contents.at(list.contents[*index as usize]).held)
            });
        lacked.map_or_else(Runs::default, Runs::of)
    }

    /// A peer says that it wants a list, and who comes first among those that do.
    pub(super) fn handle_crowd(
        &mut self,
        now: Time,
        node: NodeId,
        list: &Digest,
        lacks: Option<&Lacks>,
        members: &[Member],
    ) {
        let Some(designated) = &self.designated else { return };
        if designated.list != *list {
            return;
        }
        let list_ix = designated.ix;
        let known = self.contents.lists.get(list);
        let wants: Bits = match (lacks, known) {
            (Some(Lacks::These(runs)), Some(known)) => {
                if runs.end() > known.contents.len() as u64 {
                    self.at_fault(now, node, "lacks more of a list than the list has");
                    return;
                }
                let mut wants = Bits::default();
                for index in runs.iter() {
                    wants.set(known.contents[index as usize].0);
                }
                wants
            }
            (Some(Lacks::Everything), Some(known)) => {
                let mut wants = Bits::default();
                wants.set(list_ix.0);
                for ix in &known.contents {
                    wants.set(ix.0);
                }
                wants
            }
            _ => Bits::default(),
        };
        let joined = self.peers.join_crowd(node);
        let Some(peer) = self.peers.table.get_mut(&node) else {
            return;
        };
        let mut changed = joined;
        if lacks.is_some() {
            if known.is_none() {
                peer.wants_all_of = Some(*list);
                if matches!(lacks, Some(Lacks::Everything)) {
                    peer.wants.set(list_ix.0);
                }
            }
            for ix in wants.iter() {
                if !peer.holds.get(ix) {
                    peer.wants.set(ix);
                }
            }
            peer.lacks_told = true;
            changed = true;
        }
        for member in members {
            changed |= self.vouch(now, node, *member);
        }
        if changed && self.is_lacking() {
            self.members_changed(now);
            self.dial_soon(now);
        }
    }

    /// A connected peer says that a node wants the designated list, and when it was there. Returns whether that is news.
    fn vouch(&mut self, now: Time, by: NodeId, member: Member) -> bool {
        let age = Duration::from_millis(u64::from(member.age) * 100);
        let heeded = self.peers.table.get(&by).is_some_and(|peer| peer.unheeded_until <= now);
        if !heeded || member.node == self.config.node || age >= VOUCHED {
            return false;
        }
        let at = Time(now.0.saturating_sub(age.as_micros() as u64));
        let Some(peer) = self.peers.learn(now, member.node, self.config.peers_max) else {
            return false;
        };
        let there = |peer: &Peer| peer.alive().is_some_and(|at| now.since(at) < VOUCHED);
        let before = there(peer);
        peer.vouch(by, at);
        let news = !before && there(peer);
        self.peers.join_crowd(member.node) || news
    }
}
