//! Existence requests: when, and whom to ask for what.
//!
//! Requests go out over all paths at once; what comes back (see `answers`) is a hint whom to connect to. How long the origin
//! is held off for answers adapts: it shrinks where nobody answers, and grows with measured round trips.

use std::collections::{BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::time::Duration;

use potluck_model::trace::{About, What};
use potluck_model::{NodeId, Time};

use super::Swarm;
use super::contents::Ix;
use crate::bits::Bits;
use crate::datagram::{self, Asking, Header, Lacks, PREFIXES_MAX, seal_header};
use crate::identifier::Identifier;
use crate::interface::{Action, Config, PathId};
use crate::message::Runs;

/// The first wait for answers, if the configuration allows as much, and the shortest.
const WAIT_FIRST: Duration = Duration::from_millis(50);
const WAIT_MIN: Duration = Duration::from_millis(5);
/// Between requests for the same, at first and at most.
const REASK_MIN: Duration = Duration::from_secs(1);
const REASK_MAX: Duration = Duration::from_secs(30);
/// Between requests, whatever happens.
const ASK_GAP: Duration = Duration::from_millis(200);
/// Requests whose answers are still heard.
const ROUNDS_MAX: usize = 6;
/// Nodes that are asked singly: where groups are heard, so few that all answers together are about as many as are wanted.
pub(super) const TARGETS_MAX: usize = 64;
const TARGETS_BESIDE_GROUPS: usize = 4;
/// A site of more nodes than this may ask all at once: each first listens for up to so long.
const LISTENS_FROM: u32 = 64;
const LISTENS: Duration = Duration::from_millis(20);
/// Requests of others that make one's own to a group needless, and how lately they were heard.
const HEARD_ENOUGH: usize = 8;
const HEARD_FOR: Duration = Duration::from_secs(2);
/// Who is connected to so many others and was given something so lately is in good hands, and does not ask again.
const GOOD_HANDS: usize = 4;
const GIVEN_FOR: Duration = Duration::from_secs(2);
/// Datagrams of one request: about the list, and by prefixes.
const REQUEST_DATAGRAMS_MAX: usize = 32;
const PREFIX_DATAGRAMS_MAX: usize = 4;
/// A peer that was heard so lately is asked singly.
const RECENT: Duration = Duration::from_secs(600);

#[derive(Debug)]
pub(super) struct Discovery {
    next_number: u64,
    next_seq: u64,
    /// How long to wait for answers.
    wait: Duration,
    wait_max: Duration,
    pub(super) rounds: VecDeque<Round>,
    /// The origin is not asked before.
    settles_at: Option<Time>,
    /// A request is due.
    ask_at: Option<Time>,
    reask_at: Option<Time>,
    reask_step: Duration,
    last_asked: Option<Time>,
    /// The first request for the list, and the first for what is in it, were made: later ones do not hold the origin off.
    begun_list: bool,
    begun_contents: bool,
    /// Contents for which somebody answered since the last start.
    pub(super) answered: Bits,
    everybody: bool,
    /// When others asked a group for all that this node lacks; the last `HEARD_ENOUGH`.
    said: VecDeque<Time>,
}

#[derive(Debug)]
pub(super) struct Round {
    pub(super) number: u64,
    pub(super) at: Time,
    /// Who answered, and how often.
    pub(super) heard: BTreeSet<NodeId>,
    pub(super) datagrams: u32,
    /// What the positions of prefixes stand for.
    pub(super) prefixes: Vec<Option<Ix>>,
}

impl Discovery {
    pub(super) fn new(config: &Config, _now: Time) -> Self {
        Self {
            next_number: 1,
            next_seq: 1,
            wait: WAIT_FIRST.min(config.answer_wait_max),
            wait_max: config.answer_wait_max,
            rounds: VecDeque::new(),
            settles_at: None,
            ask_at: None,
            reask_at: None,
            reask_step: REASK_MIN,
            last_asked: None,
            begun_list: false,
            begun_contents: false,
            answered: Bits::default(),
            everybody: false,
            said: VecDeque::new(),
        }
    }

    /// Something else is wanted now.
    pub(super) fn restart(&mut self) {
        self.begun_list = false;
        self.begun_contents = false;
        self.last_asked = None;
        self.reask_at = None;
        self.reask_step = REASK_MIN;
        self.answered = Bits::default();
        self.everybody = false;
        self.said.clear();
    }

    /// Nothing is wanted.
    pub(super) fn rest(&mut self) {
        self.restart();
        self.ask_at = None;
        self.settles_at = None;
    }

    pub(super) fn deadline(&self) -> Option<Time> {
        [self.ask_at, self.settles_at, self.reask_at]
            .into_iter()
            .flatten()
            .min()
    }

    pub(super) const fn settles_at(&self) -> Option<Time> {
        self.settles_at
    }

    pub(super) fn drop_contents(&mut self, gone: &[Ix]) {
        for round in &mut self.rounds {
            for place in &mut round.prefixes {
                if place.is_some_and(|ix| gone.contains(&ix)) {
                    *place = None;
                }
            }
        }
        for ix in gone {
            self.answered.clear(ix.0);
        }
    }

    const fn has_begun(&self, contents: bool) -> bool {
        if contents { self.begun_contents } else { self.begun_list }
    }

    fn begin(&mut self, contents: bool) {
        self.everybody = false;
        self.reask_step = REASK_MIN;
        if contents {
            self.begun_contents = true;
        } else {
            self.begun_list = true;
        }
    }

    /// Somebody asked a group for all that this node lacks.
    pub(super) fn hear(&mut self, now: Time) {
        if self.said.len() >= HEARD_ENOUGH {
            self.said.pop_front();
        }
        self.said.push_back(now);
    }

    /// Whether a group has heard the same request often enough.
    fn is_said(&self, now: Time) -> bool {
        self.said.len() >= HEARD_ENOUGH && self.said.iter().all(|at| now.since(*at) < HEARD_FOR)
    }

    /// An answer took so long.
    pub(super) fn measured(&mut self, span: Duration) {
        let wait = (span * 4 + WAIT_MIN).clamp(WAIT_MIN, self.wait_max);
        if wait > self.wait {
            self.wait = wait;
        }
    }
}

impl Swarm {
    /// Asks as soon as what else happens at this moment has been taken in.
    pub(super) fn ask_soon(&mut self, now: Time) {
        if !self.is_lacking() {
            return;
        }
        let known = self.designated.as_ref().is_some_and(|designated| designated.known);
        let at = match self.discovery.last_asked {
            Some(at) if self.discovery.has_begun(known) => now.max(at + ASK_GAP),
            None if self.population > LISTENS_FROM && !self.paths.is_empty() => {
                if self.discovery.ask_at.is_some() {
                    return;
                }
                // Nothing is fetched before it was asked for.
                let at = now + Duration::from_micros(self.random.below(LISTENS.as_micros() as u64));
                self.discovery.settles_at = Some(at + self.discovery.wait);
                at
            }
            _ => now,
        };
        self.discovery.ask_at = Some(self.discovery.ask_at.map_or(at, |other| other.min(at)));
    }

    /// Asks, waits and asks again, as is due.
    pub(super) fn discover(&mut self, now: Time) {
        if self.discovery.settles_at.is_some_and(|at| at <= now) {
            self.discovery.settles_at = None;
            self.settle(now);
        }
        let due = |at: Option<Time>| at.is_some_and(|at| at <= now);
        if due(self.discovery.ask_at) || due(self.discovery.reask_at) {
            let again = !due(self.discovery.ask_at);
            self.discovery.ask_at = None;
            self.discovery.reask_at = None;
            if !self.is_lacking() {
                return;
            }
            if again && self.in_good_hands(now) {
                self.discovery.reask_at = Some(now + self.discovery.reask_step);
                return;
            }
            if again {
                self.forgive();
                // Nothing comes, and nobody who was asked by chance has it: now everybody is asked.
                self.discovery.everybody |= now.since(self.seats.moved) >= GIVEN_FOR && self.is_unanswered();
                self.discovery.reask_step = (self.discovery.reask_step * 2).min(REASK_MAX);
            }
            self.ask(now);
            let jitter = Duration::from_millis(self.random.below(200));
            self.discovery.reask_at = Some(now + self.discovery.reask_step + jitter);
        }
    }

    /// The wait for answers is over.
    fn settle(&mut self, now: Time) {
        let heard = self
            .discovery
            .rounds
            .back()
            .is_some_and(|round| !round.heard.is_empty());
        let unanswered = self.is_unanswered();
        self.look_at_seats(now);
        let asks = self.seats.are_ours(now) || !self.gives();
        if asks && !self.discovery.everybody && unanswered && self.threshold() < u16::MAX {
            // Few hold it perhaps, and they were silent by chance: now everybody is to answer.
            self.discovery.everybody = true;
            self.ask(now);
            self.discovery.settles_at = Some(now + self.discovery.wait);
            return;
        }
        if !heard {
            self.discovery.wait = (self.discovery.wait / 2).max(WAIT_MIN);
        }
        self.origin.scan_now(now);
    }

    /// Whether nobody has answered for something that is lacked.
    fn is_unanswered(&self) -> bool {
        self.items.lacking().iter().any(|ix| !self.discovery.answered.get(ix))
    }

    /// Whether peers give this node what it lacks, so that it need not look for others.
    fn in_good_hands(&self, now: Time) -> bool {
        now.since(self.seats.moved) < GIVEN_FOR
            && self.peers.up().filter(|(_, peer)| peer.crowd || peer.neighbour).count() >= GOOD_HANDS
            && self.items.failed().next().is_none()
    }

    /// What failed before is tried again with the next request, if there is nobody else.
    fn forgive(&mut self) {
        let failed: Vec<_> = self.items.failed().collect();
        for item in failed {
            self.items.forgive(item);
            self.recount(item);
        }
        self.peers_changed();
    }

    /// A holder answers a request to a group if its hash is not above this: by chance about as many as are wanted, so that
    /// with those that are asked singly they are seldom twice as many.
    fn threshold(&self) -> u16 {
        if self.discovery.everybody {
            u16::MAX
        } else {
            self.chance()
        }
    }

    /// So many of 65,536 requests are to be answered for about as many answers to each as are wanted, if all nodes of the
    /// site could answer.
    pub(super) fn chance(&self) -> u16 {
        let wanted = u64::from(self.config.answers_wanted).max(1);
        let population = u64::from(self.population).max(1);
        (wanted * 65_536 / population).min(u64::from(u16::MAX)) as u16
    }

    pub(super) fn header(&mut self) -> Header {
        let seq = self.discovery.next_seq;
        self.discovery.next_seq += 1;
        Header {
            sender: self.config.node,
            boot: self.config.boot,
            seq,
            port: if self.gives() { self.config.port } else { 0 },
        }
    }

    /// Asks everybody for everything that is lacked, over all paths at once.
    fn ask(&mut self, now: Time) {
        let Some(key) = self.key else { return };
        let Some(designated) = &self.designated else { return };
        let list = Identifier::of_list(&key, &designated.list);
        let (lacks_list, known) = (!designated.known, designated.known);
        let (lacks, prefixes) = if known {
            self.lacked(&key)
        } else {
            (Lacks::Everything, Vec::new())
        };
        if matches!(&lacks, Lacks::These(runs) if runs.is_empty()) && !lacks_list {
            return;
        }
        let number = self.discovery.next_number;
        self.discovery.next_number += 1;
        let asking = Asking {
            number,
            part: 0,
            wanted: self.config.answers_wanted,
            threshold: self.threshold(),
        };
        let for_all = Asking {
            threshold: u16::MAX,
            ..asking
        };
        let bytes: Vec<_> = prefixes.iter().map(|(prefix, _)| *prefix).collect();
        let encode = |asking| {
            let mut datagrams = datagram::encode_requests(asking, list, lacks_list, &lacks, REQUEST_DATAGRAMS_MAX);
            let by_prefix = datagram::encode_prefix_requests(asking, list, &bytes, PREFIX_DATAGRAMS_MAX);
            let abouts: Vec<Runs> = (0..by_prefix.len())
                .map(|part| {
                    let indices: BTreeSet<u32> = prefixes
                        .iter()
                        .skip(part * PREFIXES_MAX)
                        .take(PREFIXES_MAX)
                        .filter_map(|(_, ix)| self.designated_index(*ix))
                        .collect();
                    Runs::of(indices)
                })
                .collect();
            datagrams.extend(by_prefix.into_iter().zip(abouts));
            datagrams
        };
        let to_groups = encode(asking);
        let to_nodes = encode(for_all);

        let said = self.discovery.is_said(now) && !self.discovery.everybody;
        let paths: Vec<(PathId, String, SocketAddr)> = self
            .paths
            .iter()
            .filter(|_| !said)
            .map(|path| (path.id, path.interface.clone(), path.group))
            .collect();
        for (mut bytes, about) in to_groups {
            let header = self.header();
            seal_header(&mut bytes, &header);
            for (path, interface, group) in &paths {
                self.actions.push_back(Action::Multicast {
                    path: *path,
                    bytes: bytes.clone(),
                });
                self.trace_asked(number, *group, Some(interface.clone()), lacks_list, &about);
            }
        }
        let targets = self.targets(now);
        for (mut bytes, about) in to_nodes {
            let header = self.header();
            seal_header(&mut bytes, &header);
            for to in &targets {
                self.actions.push_back(Action::Datagram {
                    to: *to,
                    bytes: bytes.clone(),
                });
                self.trace_asked(number, *to, None, lacks_list, &about);
            }
        }

        if self.discovery.rounds.len() >= ROUNDS_MAX {
            self.discovery.rounds.pop_front();
        }
        self.discovery.rounds.push_back(Round {
            number,
            at: now,
            heard: BTreeSet::new(),
            datagrams: 0,
            prefixes: prefixes.into_iter().map(|(_, ix)| Some(ix)).collect(),
        });
        self.discovery.last_asked = Some(now);
        // The first request for the list, and the first for what is in it, hold the origin off for a moment.
        if !self.discovery.has_begun(known) {
            self.discovery.begin(known);
            if !(paths.is_empty() && targets.is_empty()) {
                self.discovery.settles_at = Some(now + self.discovery.wait);
            }
            self.origin.scan_now(now);
        }
    }

    fn trace_asked(&mut self, request: u64, to: SocketAddr, interface: Option<String>, list: bool, about: &Runs) {
        self.trace(What::Asked {
            request,
            to,
            interface,
            about: About {
                list,
                contents: about.0.clone(),
            },
        });
    }

    /// What is lacked of the designated list: by index, and the largest of it by prefix.
    fn lacked(&self, key: &[u8; 32]) -> (Lacks, Vec<([u8; 6], Ix)>) {
        let Some(list) = self
            .designated
            .as_ref()
            .and_then(|designated| self.contents.lists.get(&designated.list))
        else {
            return (Lacks::Everything, Vec::new());
        };
        let mut runs = Runs::default();
        let mut largest: Vec<(u64, Ix)> = Vec::new();
        for index in list.needed.iter() {
            let ix = list.contents[index as usize];
            let content = self.contents.at(ix);
            if !content.held {
                runs.push(index);
                largest.push((u64::MAX - content.size, ix));
            }
        }
        largest.sort_unstable();
        largest.truncate(PREFIXES_MAX * PREFIX_DATAGRAMS_MAX);
        let prefixes = largest
            .into_iter()
            .map(|(_, ix)| (self.contents.prefix(key, ix), ix))
            .collect();
        (Lacks::These(runs), prefixes)
    }

    pub(super) fn designated_index(&self, ix: Ix) -> Option<u32> {
        let designated = self.designated.as_ref()?;
        let list = self.contents.lists.get(&designated.list)?;
        self.contents.index_in(list, ix)
    }

    /// Addresses that are asked singly: neighbours, then whoever was heard lately.
    fn targets(&self, now: Time) -> Vec<SocketAddr> {
        let mut targets: Vec<SocketAddr> = Vec::new();
        for neighbour in &self.neighbours {
            let known = self.peers.table.get(&neighbour.node);
            if known.is_some_and(|peer| peer.is_up() && peer.lacks_told) {
                continue;
            }
            let best = known
                .and_then(|peer| peer.addresses.first())
                .or(neighbour.addresses.first());
            if let Some(address) = best
                && !targets.contains(address)
            {
                targets.push(*address);
            }
        }
        let mut recent: Vec<(Time, SocketAddr)> = self
            .peers
            .table
            .values()
            .filter(|peer| !peer.neighbour && peer.alive().is_none_or(|_| !peer.lacks_told))
            .filter(|peer| peer.is_up() || now.since(peer.heard) < RECENT)
            .filter_map(|peer| Some((peer.heard, *peer.addresses.first()?)))
            .filter(|(_, address)| !targets.contains(address))
            .collect();
        recent.sort_unstable_by(|a, b| b.cmp(a));
        targets.extend(recent.into_iter().map(|(_, address)| address));
        let crowded = self.population > LISTENS_FROM && !self.paths.is_empty();
        targets.truncate(if crowded { TARGETS_BESIDE_GROUPS } else { TARGETS_MAX });
        targets
    }
}
