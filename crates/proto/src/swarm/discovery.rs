//! Existence requests and answers.
//!
//! Requests go out over all paths at once; what comes back is a hint whom to connect to. How long the origin is held off
//! for answers adapts: it shrinks where nobody answers, and grows with measured round trips.

use std::collections::{BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::time::Duration;

use potluck_model::trace::{About, What};
use potluck_model::{NodeId, Time};

use super::Swarm;
use super::contents::{Ix, Kind};
use crate::bits::Bits;
use crate::datagram::{
    self, Answer, Asking, Body, DATAGRAM_BYTES_MAX, Datagram, Header, Lacks, PREFIXES_MAX, PrefixAnswer, PrefixRequest,
    Request, seal_header,
};
use crate::identifier::Identifier;
use crate::interface::{Action, Config, PathId};
use crate::message::Runs;
use crate::random::answers;

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
/// Nodes that are asked singly.
const TARGETS_MAX: usize = 64;
/// Datagrams of one request: about the list, and by prefixes.
const REQUEST_DATAGRAMS_MAX: usize = 32;
const PREFIX_DATAGRAMS_MAX: usize = 4;
/// Datagrams of one answer to a proven address.
const ANSWER_DATAGRAMS_MAX: usize = 8;
/// Of one peer, to one request.
const ANSWERS_PER_PEER_MAX: u32 = 64;
/// A peer that was heard so lately is asked singly.
const RECENT: Duration = Duration::from_secs(600);

#[derive(Debug)]
pub(super) struct Discovery {
    next_number: u64,
    next_seq: u64,
    /// How long to wait for answers.
    wait: Duration,
    wait_max: Duration,
    rounds: VecDeque<Round>,
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
    answered: Bits,
    everybody: bool,
}

#[derive(Debug)]
struct Round {
    number: u64,
    at: Time,
    /// Who answered, and how often.
    heard: BTreeSet<NodeId>,
    datagrams: u32,
    /// What the positions of prefixes stand for.
    prefixes: Vec<Option<Ix>>,
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

    /// An answer took so long.
    fn measured(&mut self, span: Duration) {
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
        let at = self
            .discovery
            .last_asked
            .filter(|_| self.discovery.has_begun(known))
            .map_or(now, |at| now.max(at + ASK_GAP));
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
            if again {
                self.forgive();
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
        let unanswered = self.lacking_bits().iter().any(|ix| !self.discovery.answered.get(ix));
        if !self.discovery.everybody && unanswered && self.threshold() < u16::MAX {
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

    /// What failed before is tried again with the next request, if there is nobody else.
    fn forgive(&mut self) {
        let failed: Vec<_> = self
            .items
            .unheld()
            .filter(|item| !self.items.at(*item).failed.is_empty())
            .collect();
        for item in failed {
            self.items.at_mut(item).failed.clear();
            self.recount(item);
        }
        self.peers_changed();
    }

    /// A holder answers a request to a group if its hash is not above this.
    fn threshold(&self) -> u16 {
        let wanted = u64::from(self.config.answers_wanted).max(1) * 2;
        let population = u64::from(self.population).max(1);
        if self.discovery.everybody {
            return u16::MAX;
        }
        (wanted * 65_536 / population).min(u64::from(u16::MAX)) as u16
    }

    fn header(&mut self) -> Header {
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

        let paths: Vec<(PathId, String, SocketAddr)> = self
            .paths
            .iter()
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

    fn designated_index(&self, ix: Ix) -> Option<u32> {
        let designated = self.designated.as_ref()?;
        let list = self.contents.lists.get(&designated.list)?;
        self.contents.index_in(list, ix)
    }

    /// Addresses that are asked singly: neighbours, then whoever was heard lately.
    fn targets(&self, now: Time) -> Vec<SocketAddr> {
        let mut targets: Vec<SocketAddr> = Vec::new();
        for neighbour in &self.neighbours {
            let best = self
                .peers
                .table
                .get(&neighbour.node)
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
            .filter(|peer| !peer.neighbour && (peer.is_up() || now.since(peer.heard) < RECENT))
            .filter_map(|peer| Some((peer.heard, *peer.addresses.first()?)))
            .filter(|(_, address)| !targets.contains(address))
            .collect();
        recent.sort_unstable_by(|a, b| b.cmp(a));
        targets.extend(recent.into_iter().map(|(_, address)| address));
        targets.truncate(TARGETS_MAX);
        targets
    }

    pub(super) fn handle_datagram(&mut self, now: Time, from: SocketAddr, bytes: &[u8]) {
        let Ok(Datagram { header, body }) = Datagram::decode(bytes) else {
            self.counters.datagrams_malformed += 1;
            return;
        };
        let node = header.sender;
        if node == self.config.node {
            return;
        }
        if !self.fresh.admit(now, node, header.boot, header.seq) {
            self.counters.datagrams_repeated += 1;
            return;
        }
        let Some(peer) = self.peers.learn(now, node, self.config.peers_max) else {
            return;
        };
        peer.heard = now;
        let takes_only = header.port == 0;
        let changed = std::mem::replace(&mut peer.takes_only, takes_only) != takes_only;
        if peer.is_up() {
            // A connection has proven where it is; a datagram only says so.
        } else if header.port != 0 {
            // The port alone is replaced: a link-local address is worth nothing without its scope.
            let mut address = from;
            address.set_port(header.port);
            peer.learn_address(address);
        }
        if changed {
            self.members_changed(now);
        }
        let room = if self.peers.is_proven(now, from.ip()) {
            (DATAGRAM_BYTES_MAX, ANSWER_DATAGRAMS_MAX)
        } else {
            (bytes.len(), 1)
        };
        match body {
            Body::Request(request) => self.handle_request(now, node, from, &request, room),
            Body::PrefixRequest(request) => self.handle_prefix_request(now, node, from, &request, room),
            Body::Answer(answer) => self.handle_answer(now, node, from, &answer),
            Body::PrefixAnswer(answer) => self.handle_prefix_answer(now, node, from, &answer),
            Body::DialMe { number } => self.handle_dial_me(now, node, number),
        }
    }

    fn handle_request(&mut self, now: Time, node: NodeId, from: SocketAddr, request: &Request, room: (usize, usize)) {
        let Some(key) = &self.key else { return };
        let designated = self
            .designated
            .as_ref()
            .filter(|designated| Identifier::of_list(key, &designated.list) == request.list);
        let known = self.contents.list_of(&request.list);
        if known.is_none() && designated.is_none() {
            return;
        }
        let mut answer = Answer {
            number: request.asking.number,
            list: request.list,
            list_held: false,
            list_lacked: designated.is_some_and(|designated| !designated.known),
            fetching_everything: designated.is_some_and(|designated| !designated.known),
            held: Runs::default(),
            fetching: Runs::default(),
        };
        let list_ix = known
            .map(|(_, list)| list.ix)
            .or(designated.map(|designated| designated.ix));
        let mut wants: Vec<Ix> = Vec::new();
        let mut wants_all_of = None;
        if let Some((_, list)) = known {
            answer.list_held = self.contents.at(list.ix).held && request.lacks_list;
            let all;
            let lacks = match &request.lacks {
                Lacks::Everything => {
                    all = Runs::all(list.contents.len() as u32);
                    &all
                }
                Lacks::These(runs) => runs,
            };
            if lacks.end() > list.contents.len() as u64 {
                self.counters.datagrams_malformed += 1;
                return;
            }
            let (mut held, mut fetching) = (Vec::new(), Vec::new());
            for index in lacks.iter() {
                let ix = list.contents[index as usize];
                wants.push(ix);
                let content = self.contents.at(ix);
                if content.held {
                    held.push(index);
                } else if content.any_held() || self.lacks(ix) {
                    fetching.push(index);
                }
            }
            answer.held = Runs::of(held);
            answer.fetching = Runs::of(fetching);
        } else if let Some(designated) = designated {
            wants_all_of = Some(designated.list);
        }
        let lacks_list = request.lacks_list;
        let Some(peer) = self.peers.table.get_mut(&node) else {
            return;
        };
        if wants_all_of.is_some() {
            peer.wants_all_of = wants_all_of;
        }
        let mut news = false;
        if let Some(ix) = list_ix {
            if lacks_list {
                news |= peer.wants.set(ix.0);
            } else {
                peer.wants.clear(ix.0);
            }
        }
        for ix in wants {
            if !peer.holds.get(ix.0) {
                news |= peer.wants.set(ix.0);
            }
        }
        let silent = self.config.serving_max == 0
            || !answers(request.asking.number, node, self.config.node, request.asking.threshold);
        let empty = !answer.list_held && !answer.list_lacked && answer.held.is_empty() && answer.fetching.is_empty();
        let say = !silent && !empty && peer.answer_once(request.asking.number, request.asking.part);
        if news {
            self.new_wanter(now);
        }
        if say {
            for bytes in datagram::encode_answers(&answer, room.0, room.1) {
                self.send_datagram(from, bytes);
            }
        }
    }

    fn new_wanter(&mut self, now: Time) {
        if self.is_lacking() {
            self.members_changed(now);
            self.dial_soon(now);
        }
    }

    fn handle_prefix_request(
        &mut self,
        now: Time,
        node: NodeId,
        from: SocketAddr,
        request: &PrefixRequest,
        room: (usize, usize),
    ) {
        if self.contents.list_of(&request.list).is_some() {
            return;
        }
        let (mut held, mut fetching, mut wants) = (Vec::new(), Vec::new(), Vec::new());
        for (position, prefix) in (request.first..).zip(&request.prefixes) {
            let Some(ix) = self.contents.with_prefix(*prefix) else {
                continue;
            };
            wants.push(ix);
            let content = self.contents.at(ix);
            if content.held {
                held.push(position);
            } else if content.any_held() || self.lacks(ix) {
                fetching.push(position);
            }
        }
        let Some(peer) = self.peers.table.get_mut(&node) else {
            return;
        };
        let mut news = false;
        for ix in wants {
            if !peer.holds.get(ix.0) {
                news |= peer.wants.set(ix.0);
            }
        }
        let silent = self.config.serving_max == 0
            || !answers(request.asking.number, node, self.config.node, request.asking.threshold);
        // Its parts are numbered apart from those of the request about the list.
        let any = !held.is_empty() || !fetching.is_empty();
        let say = any && !silent && peer.answer_once(request.asking.number, request.asking.part | 0x80);
        if news {
            self.new_wanter(now);
        }
        if say {
            let answer = PrefixAnswer {
                number: request.asking.number,
                held: Runs::of(held),
                fetching: Runs::of(fetching),
            };
            for bytes in datagram::encode_prefix_answers(&answer, room.0, room.1) {
                self.send_datagram(from, bytes);
            }
        }
    }

    pub(super) fn send_datagram(&mut self, to: SocketAddr, mut bytes: Vec<u8>) {
        let header = self.header();
        seal_header(&mut bytes, &header);
        self.actions.push_back(Action::Datagram { to, bytes });
    }

    /// The round that an answer belongs to, if it is one that was asked for and not too much.
    fn heard(&mut self, now: Time, node: NodeId, number: u64) -> bool {
        let Some(round) = self.discovery.rounds.iter_mut().find(|round| round.number == number) else {
            self.counters.answers_unrequested += 1;
            return false;
        };
        round.datagrams += 1;
        if round.datagrams > ANSWERS_PER_PEER_MAX * (TARGETS_MAX as u32 + u32::from(self.config.answers_wanted)) {
            return false;
        }
        let span = now.since(round.at);
        if round.heard.insert(node) {
            self.discovery.measured(span);
        }
        if let Some(peer) = self.peers.table.get_mut(&node) {
            peer.answer = Some(number);
        }
        true
    }

    fn handle_answer(&mut self, now: Time, node: NodeId, from: SocketAddr, answer: &Answer) {
        let Some(key) = &self.key else { return };
        let Some(designated) = &self.designated else { return };
        if Identifier::of_list(key, &designated.list) != answer.list {
            return;
        }
        let (digest, list_ix) = (designated.list, designated.ix);
        let limit = self.contents.lists.get(&digest).map(|list| list.contents.len() as u64);
        if limit.is_some_and(|limit| answer.held.end().max(answer.fetching.end()) > limit)
            || !self.heard(now, node, answer.number)
        {
            return;
        }
        self.trace(What::Answered {
            request: answer.number,
            peer: node,
            from,
            held: About {
                list: answer.list_held,
                contents: answer.held.0.clone(),
            },
            fetching: About {
                list: answer.list_lacked,
                contents: answer.fetching.0.clone(),
            },
        });
        let (mut held, mut fetching) = (Vec::new(), Vec::new());
        if answer.list_held {
            held.push(list_ix);
        }
        if answer.list_lacked {
            fetching.push(list_ix);
        }
        if let Some(list) = self.contents.lists.get(&digest) {
            held.extend(answer.held.iter().map(|index| list.contents[index as usize]));
            fetching.extend(answer.fetching.iter().map(|index| list.contents[index as usize]));
            if answer.fetching_everything {
                fetching.extend(&list.contents);
            }
        } else if answer.fetching_everything
            && let Some(peer) = self.peers.table.get_mut(&node)
        {
            peer.wants_all_of = Some(digest);
        }
        self.answered(now, node, held, fetching);
    }

    fn handle_prefix_answer(&mut self, now: Time, node: NodeId, from: SocketAddr, answer: &PrefixAnswer) {
        if !self.heard(now, node, answer.number) {
            return;
        }
        let Some(round) = self.discovery.rounds.iter().find(|round| round.number == answer.number) else {
            return;
        };
        let named = |runs: &Runs| -> Vec<Ix> {
            runs.0
                .iter()
                .flat_map(|(first, count)| {
                    let end = (*first as usize)
                        .saturating_add(*count as usize)
                        .min(round.prefixes.len());
                    round.prefixes.get(*first as usize..end).unwrap_or(&[])
                })
                .filter_map(|ix| *ix)
                .collect()
        };
        let (held, fetching) = (named(&answer.held), named(&answer.fetching));
        let about = |contents: &[Ix]| About {
            list: false,
            contents: {
                let indices: BTreeSet<u32> = contents.iter().filter_map(|ix| self.designated_index(*ix)).collect();
                Runs::of(indices).0
            },
        };
        let what = What::Answered {
            request: answer.number,
            peer: node,
            from,
            held: about(&held),
            fetching: about(&fetching),
        };
        self.trace(what);
        self.answered(now, node, held, fetching);
    }

    /// A peer said that it holds and is fetching these.
    fn answered(&mut self, now: Time, node: NodeId, held: Vec<Ix>, fetching: Vec<Ix>) {
        let mut news = false;
        for ix in held {
            news |= self.peers.table.get(&node).is_some_and(|peer| !peer.holds.get(ix.0));
            self.discovery.answered.set(ix.0);
            if let Kind::Many { chunk_list, .. } = self.contents.at(ix).kind {
                self.discovery.answered.set(chunk_list.0);
            }
            self.gains_whole(now, node, ix);
        }
        if let Some(peer) = self.peers.table.get_mut(&node) {
            for ix in fetching {
                self.discovery.answered.set(ix.0);
                if let Kind::Many { chunk_list, .. } = self.contents.at(ix).kind {
                    self.discovery.answered.set(chunk_list.0);
                }
                if !peer.holds.get(ix.0) {
                    news |= peer.fetching.set(ix.0);
                }
            }
        }
        if news {
            self.new_wanter(now);
        }
    }
}
