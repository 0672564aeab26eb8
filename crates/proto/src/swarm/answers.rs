//! What other nodes ask and answer in datagrams. All of it is a hint.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use potluck_model::trace::{About, What};
use potluck_model::{NodeId, Time};

use super::Swarm;
use super::contents::{Ix, Kind};
use super::discovery::TARGETS_MAX;
use crate::datagram::{
    self, Answer, Asking, Body, DATAGRAM_BYTES_MAX, Datagram, Lacks, PrefixAnswer, PrefixRequest, Request, seal_header,
};
use crate::identifier::Identifier;
use crate::interface::Action;
use crate::message::Runs;
use crate::random::answers;

/// Datagrams of one answer to a proven address.
const ANSWER_DATAGRAMS_MAX: usize = 8;
/// Of one peer, to one request.
const ANSWERS_PER_PEER_MAX: u32 = 64;

impl Swarm {
    pub(super) fn handle_datagram(&mut self, now: Time, from: SocketAddr, multicast: bool, bytes: &[u8]) {
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
            Body::Request(request) => {
                if multicast && self.covers_ours(&request) {
                    self.discovery.hear(now);
                }
                self.handle_request(now, node, (from, multicast), &request, room);
            }
            Body::PrefixRequest(request) => {
                self.handle_prefix_request(now, node, (from, multicast), &request, room);
            }
            Body::Answer(answer) => self.handle_answer(now, node, from, &answer),
            Body::PrefixAnswer(answer) => self.handle_prefix_answer(now, node, from, &answer),
            Body::DialMe { number } => self.handle_dial_me(now, node, number),
        }
    }

    /// Whether somebody asks for all that this node lacks.
    fn covers_ours(&self, request: &Request) -> bool {
        let (Some(key), Some(designated)) = (&self.key, &self.designated) else {
            return false;
        };
        if designated.complete || Identifier::of_list(key, &designated.list) != request.list {
            return false;
        }
        match &request.lacks {
            Lacks::Everything => true,
            Lacks::These(runs) => designated.known && self.lacked_of_designated().is_within(runs),
        }
    }

    /// `from`: where it came from, and whether it was for a group. `room`: bytes of an answer's datagrams, and how many.
    fn handle_request(
        &mut self,
        now: Time,
        node: NodeId,
        (from, multicast): (SocketAddr, bool),
        request: &Request,
        room: (usize, usize),
    ) {
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
        let lacks_too = !answer.list_held && answer.held.is_empty();
        let silent = self.is_silent_to(node, &request.asking, multicast && lacks_too);
        let lacks_list = request.lacks_list;
        let ours = designated.is_some();
        let joined = ours && self.peers.join_crowd(node);
        let Some(peer) = self.peers.table.get_mut(&node) else {
            return;
        };
        if wants_all_of.is_some() {
            peer.wants_all_of = wants_all_of;
        }
        let mut news = joined;
        peer.lacks_told |= ours;
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

    /// Whether this node does not answer a request: by chance, for too many may. Of those who lack the same as well, few
    /// answer a group however few hold it: those who ask are heard as it is.
    fn is_silent_to(&self, asker: NodeId, asking: &Asking, lacks_too: bool) -> bool {
        let most = if lacks_too { self.chance() } else { u16::MAX };
        let threshold = asking.threshold.min(most);
        !self.gives() || !answers(asking.number, asker, self.config.node, threshold)
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
        (from, multicast): (SocketAddr, bool),
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
        let silent = self.is_silent_to(node, &request.asking, multicast && held.is_empty());
        let Some(peer) = self.peers.table.get_mut(&node) else {
            return;
        };
        let mut news = false;
        for ix in wants {
            if !peer.holds.get(ix.0) {
                news |= peer.wants.set(ix.0);
            }
        }
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
        if answer.list_lacked || answer.fetching_everything || !answer.fetching.is_empty() {
            self.peers.join_crowd(node);
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
