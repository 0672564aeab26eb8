//! The table of peers: who they are, where, what they hold, and how they behaved.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use potluck_model::{Digest, NodeId, Time};

use super::contents::Ix;
use super::distance::Distance;
use super::meter::Meter;
use crate::bits::Bits;
use crate::random::mix;

/// The most addresses that are kept of a peer.
const ADDRESSES_MAX: usize = 8;
/// The most lists that a peer may follow.
pub(super) const FOLLOWS_MAX: usize = 16;
/// The most contents of a peer whose chunks are known singly.
pub(super) const PARTIALS_MAX: usize = 1_024;
/// How long an address counts as proven after its last connection.
const PROVEN_FOR: Duration = Duration::from_secs(600);
/// The most addresses that are remembered as proven.
const PROVEN_MAX: usize = 1_024;
/// How many answers to a peer are remembered, so that copies of a request are answered once.
const ANSWERED_MAX: usize = 32;
/// How many peers are looked at for one that goes when another comes.
const LOOKED_AT_MAX: usize = 16;

#[derive(Debug)]
pub(super) struct Peer {
    /// Best first.
    pub(super) addresses: Vec<SocketAddr>,
    pub(super) link: Link,
    /// A datagram or message came.
    pub(super) heard: Time,
    pub(super) neighbour: bool,

    /// Contents that it holds whole, by its own word.
    pub(super) holds: Bits,
    /// Contents that it holds in part or is fetching.
    pub(super) fetching: Bits,
    /// Contents that it lacks and wants.
    pub(super) wants: Bits,
    /// It lacks this list, and what is in it we do not know yet.
    pub(super) wants_all_of: Option<Digest>,
    /// Chunks that it holds of contents that it does not hold whole.
    pub(super) partial: BTreeMap<Ix, Bits>,
    /// Chunks that it says it is fetching from the origin, of contents whose chunk list is not here yet.
    pub(super) claimed: BTreeMap<Ix, Bits>,
    /// Lists about which it wants to be told.
    pub(super) follows: BTreeSet<Digest>,
    /// It said on this connection what it holds or is fetching.
    pub(super) synced: bool,
    /// It takes and does not give: nothing is its share.
    pub(super) takes_only: bool,
    /// It said that it wants the designated list, or somebody said so of it.
    pub(super) crowd: bool,
    /// What it lacks of the designated list is known.
    pub(super) lacks_told: bool,
    /// It sits in a seat by the last look: not forgotten for want of room.
    pub(super) seated: bool,
    /// A connection or the server has proven that there is such a node.
    pub(super) proven: bool,
    /// It spoke on a connection at this time, as two connected peers say, and who: the latest of each.
    pub(super) vouchers: [Option<(NodeId, Time)>; 2],
    /// It named seats that did nothing: what it says of others counts for nothing before.
    pub(super) unheeded_until: Time,
    /// Its connection to us ended at this time: what others heard of it before says nothing.
    pub(super) gone: Option<Time>,
    /// When it was first heard to want what we want.
    pub(super) wanting_since: Option<Time>,

    /// What its word that it holds something is worth.
    pub(super) trust: Trust,
    /// It failed: nothing is asked of it before.
    pub(super) shunned: Option<Time>,
    /// It was busy: not asked for bytes before.
    pub(super) rest_until: Time,
    /// Not dialled before.
    pub(super) dial_after: Time,
    pub(super) failures: u32,
    /// It was there, and had no room for a connection.
    pub(super) refused: bool,
    /// It was connected, and went.
    pub(super) left: bool,
    /// The last request that it answered.
    pub(super) answer: Option<u64>,
    /// It cannot be dialled, and was asked to dial.
    pub(super) knocked: Option<Time>,
    pub(super) distance: Distance,
    pub(super) busy: u32,
    /// Since when it only says that it is busy.
    pub(super) busy_since: Option<Time>,
    /// Transfers from it.
    pub(super) transfers: usize,
    /// Bytes last came from it.
    pub(super) delivered: Time,
    pub(super) meter: Meter,
    /// Nothing that we want is to be had from it, until something changes.
    pub(super) nothing: bool,

    /// It last stored something that was its share.
    pub(super) seat_progress: Time,
    /// It last missed a deadline for its share.
    pub(super) seat_missed: Option<Time>,
    pub(super) misses: u32,
    /// No member of any crowd before.
    pub(super) seat_lost_until: Time,
    /// What it says that it is fetching from the origin: how many items.
    pub(super) claims: u32,
    /// It said so of some item.
    pub(super) begun: bool,

    /// Bytes went over the connection.
    pub(super) used: Time,
    pub(super) ping: Option<Time>,
    answered: VecDeque<(u64, u8)>,
}

/// What a peer's word is worth, by what it delivered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Trust {
    /// Nothing was asked of it yet, or it failed for the first time after it was good: it is believed, and asked for little.
    New,
    /// It delivered what it was last asked for.
    Good,
    /// It failed: nobody waits for what it says that it holds before it has delivered something.
    Trial,
}

/// State of the connection to a peer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Link {
    None,
    Dialling { since: Time },
    Up { since: Time },
}

impl Peer {
    pub(super) fn new(now: Time) -> Self {
        Self {
            addresses: Vec::new(),
            link: Link::None,
            heard: now,
            neighbour: false,
            holds: Bits::default(),
            fetching: Bits::default(),
            wants: Bits::default(),
            wants_all_of: None,
            partial: BTreeMap::new(),
            claimed: BTreeMap::new(),
            follows: BTreeSet::new(),
            synced: false,
            takes_only: false,
            crowd: false,
            lacks_told: false,
            seated: false,
            proven: false,
            vouchers: [None; 2],
            unheeded_until: Time::ZERO,
            gone: None,
            wanting_since: None,
            trust: Trust::New,
            shunned: None,
            rest_until: Time::ZERO,
            dial_after: Time::ZERO,
            failures: 0,
            refused: false,
            left: false,
            answer: None,
            knocked: None,
            distance: Distance::default(),
            busy: 0,
            busy_since: None,
            transfers: 0,
            delivered: now,
            meter: Meter::default(),
            nothing: false,
            seat_progress: now,
            seat_missed: None,
            misses: 0,
            seat_lost_until: Time::ZERO,
            claims: 0,
            begun: false,
            used: now,
            ping: None,
            answered: VecDeque::new(),
        }
    }

    pub(super) const fn is_up(&self) -> bool {
        matches!(self.link, Link::Up { .. })
    }

    /// When it last spoke on a connection, as far as is known.
    pub(super) fn alive(&self) -> Option<Time> {
        if self.is_up() {
            return Some(self.heard.max(self.delivered));
        }
        let said = |voucher: &Option<(NodeId, Time)>| voucher.map(|(_, at)| at);
        let [one, other] = [said(&self.vouchers[0]), said(&self.vouchers[1])];
        // One alone could make up whom it pleases: two have to say so of a node that nothing else has proven.
        let vouched = if self.proven { one.max(other) } else { one.min(other) };
        vouched.filter(|at| self.gone.is_none_or(|gone| *at > gone))
    }

    /// A connected peer says that this one spoke at a time. Of more than two that say so, the last ones count.
    pub(super) fn vouch(&mut self, by: NodeId, at: Time) {
        let said = |slot: &Option<(NodeId, Time)>| slot.map(|(_, at)| at);
        let own = self
            .vouchers
            .iter()
            .position(|slot| slot.is_some_and(|(node, _)| node == by));
        let oldest = usize::from(said(&self.vouchers[1]) < said(&self.vouchers[0]));
        let slot = &mut self.vouchers[own.unwrap_or(oldest)];
        if own.is_none() || said(slot) < Some(at) {
            *slot = Some((by, at));
        }
    }

    /// Puts an address in front.
    pub(super) fn learn_address(&mut self, address: SocketAddr) {
        if self.addresses.first() == Some(&address) {
            return;
        }
        self.addresses.retain(|other| *other != address);
        self.addresses.insert(0, address);
        self.addresses.truncate(ADDRESSES_MAX);
    }

    /// Whether this part of a request was not answered yet.
    pub(super) fn answer_once(&mut self, number: u64, part: u8) -> bool {
        if self.answered.contains(&(number, part)) {
            return false;
        }
        if self.answered.len() >= ANSWERED_MAX {
            self.answered.pop_front();
        }
        self.answered.push_back((number, part));
        true
    }

    /// Whether a request of it was answered lately.
    pub(super) fn was_answered(&self, number: u64) -> bool {
        self.answered.iter().any(|(answered, _)| *answered == number)
    }

    /// Forgets what it said of a content that is gone.
    pub(super) fn drop_content(&mut self, ix: Ix) {
        self.holds.clear(ix.0);
        self.fetching.clear(ix.0);
        self.wants.clear(ix.0);
        self.partial.remove(&ix);
        self.claimed.remove(&ix);
    }
}

#[derive(Debug, Default)]
pub(super) struct Peers {
    pub(super) table: BTreeMap<NodeId, Box<Peer>>,
    /// Those that are connected, and where.
    up: BTreeMap<NodeId, IpAddr>,
    /// How many are connected from each address.
    up_at: BTreeMap<IpAddr, usize>,
    /// Those that are connected, dialled, asked to dial or shunned, and so need a look from time to time.
    tended: BTreeSet<NodeId>,
    /// Those of the crowd, in the order of the ring, and all others.
    crowd: BTreeSet<NodeId>,
    apart: BTreeSet<NodeId>,
    /// Those that said that they hold something.
    giving: BTreeSet<NodeId>,
    proven: BTreeMap<IpAddr, Time>,
    /// Connections and dials.
    pub(super) links: usize,
}

impl Peers {
    /// The peer, made if there is room: of a few that are neither connected nor neighbours, one without a seat that was
    /// silent for longest goes.
    pub(super) fn learn(&mut self, now: Time, node: NodeId, peers_max: usize) -> Option<&mut Peer> {
        if !self.table.contains_key(&node) && self.table.len() >= peers_max {
            let from = NodeId(mix(node.0 ^ now.0));
            let oldest = self
                .table
                .range(from..)
                .chain(self.table.range(..from))
                .take(LOOKED_AT_MAX)
                .filter(|(_, peer)| peer.link == Link::None && !peer.neighbour)
                .min_by_key(|(_, peer)| (peer.seated, peer.heard))
                .map(|(node, _)| *node)?;
            self.table.remove(&oldest);
            for of in [&mut self.tended, &mut self.crowd, &mut self.apart, &mut self.giving] {
                of.remove(&oldest);
            }
        }
        let apart = &mut self.apart;
        let peer = self.table.entry(node).or_insert_with(|| {
            apart.insert(node);
            Box::new(Peer::new(now))
        });
        Some(peer)
    }

    /// A peer is known to want the designated list. Returns whether that is news.
    pub(super) fn join_crowd(&mut self, node: NodeId) -> bool {
        let Some(peer) = self.table.get_mut(&node) else {
            return false;
        };
        let news = !std::mem::replace(&mut peer.crowd, true);
        if news {
            self.apart.remove(&node);
            self.crowd.insert(node);
        }
        news
    }

    /// Another list is wanted: nobody is known to want it.
    pub(super) fn leave_crowd(&mut self) {
        for peer in self.table.values_mut() {
            peer.crowd = false;
            peer.lacks_told = false;
            peer.seated = false;
        }
        self.crowd.clear();
        self.apart = self.table.keys().copied().collect();
    }

    /// Those of the crowd, in the order of the ring from a place on it.
    pub(super) fn crowd_from(&self, place: NodeId) -> impl Iterator<Item = (NodeId, &Peer)> {
        self.crowd
            .range(place..)
            .chain(self.crowd.range(..place))
            .filter_map(|node| Some((*node, &**self.table.get(node)?)))
    }

    /// Those that do not belong to the crowd.
    pub(super) fn apart(&self) -> impl Iterator<Item = (NodeId, &Peer)> {
        self.apart
            .iter()
            .filter_map(|node| Some((*node, &**self.table.get(node)?)))
    }

    /// A peer said that it holds something.
    pub(super) fn gives(&mut self, node: NodeId) {
        self.giving.insert(node);
    }

    /// Those that said that they hold something.
    pub(super) const fn giving(&self) -> &BTreeSet<NodeId> {
        &self.giving
    }

    /// Those that are connected.
    pub(super) fn up(&self) -> impl Iterator<Item = (NodeId, &Peer)> {
        self.up
            .keys()
            .filter_map(|node| Some((*node, &**self.table.get(node)?)))
    }

    /// Does something with each that is connected.
    pub(super) fn each_up(&mut self, mut change: impl FnMut(&mut Peer)) {
        for node in self.up.keys() {
            if let Some(peer) = self.table.get_mut(node) {
                change(peer);
            }
        }
    }

    /// Those that are connected, dialled, asked to dial or shunned.
    pub(super) fn tended(&self) -> Vec<NodeId> {
        self.tended.iter().copied().collect()
    }

    /// The connection to a peer changes its state.
    pub(super) fn set_link(&mut self, node: NodeId, link: Link) {
        let Some(peer) = self.table.get_mut(&node) else { return };
        peer.link = link;
        peer.proven |= matches!(link, Link::Up { .. });
        if let Some(ip) = self.up.remove(&node)
            && let Some(count) = self.up_at.get_mut(&ip)
        {
            *count -= 1;
            if *count == 0 {
                self.up_at.remove(&ip);
            }
        }
        if let (Link::Up { .. }, Some(address)) = (link, peer.addresses.first()) {
            self.up.insert(node, address.ip());
            *self.up_at.entry(address.ip()).or_default() += 1;
        }
        self.tend(node);
    }

    /// Nothing is asked of a peer before; none: from now on it is.
    pub(super) fn set_shunned(&mut self, node: NodeId, until: Option<Time>) {
        if let Some(peer) = self.table.get_mut(&node) {
            peer.shunned = until;
            self.tend(node);
        }
    }

    /// It is asked to dial.
    pub(super) fn set_knocked(&mut self, node: NodeId, at: Time) {
        if let Some(peer) = self.table.get_mut(&node) {
            peer.knocked = Some(at);
            self.tend(node);
        }
    }

    fn tend(&mut self, node: NodeId) {
        let tended = |peer: &Peer| peer.link != Link::None || peer.shunned.is_some() || peer.knocked.is_some();
        if self.table.get(&node).is_some_and(|peer| tended(peer)) {
            self.tended.insert(node);
        } else {
            self.tended.remove(&node);
        }
    }

    pub(super) fn prove(&mut self, now: Time, ip: IpAddr) {
        if self.proven.len() >= PROVEN_MAX
            && !self.proven.contains_key(&ip)
            && let Some(oldest) = self.proven.iter().min_by_key(|(_, at)| **at).map(|(ip, _)| *ip)
        {
            self.proven.remove(&oldest);
        }
        self.proven.insert(ip, now);
    }

    /// Whether mutual TLS has proven lately that an admitted node is at this address.
    pub(super) fn is_proven(&self, now: Time, ip: IpAddr) -> bool {
        self.proven.get(&ip).is_some_and(|at| now.since(*at) < PROVEN_FOR) || self.up_at.contains_key(&ip)
    }
}
