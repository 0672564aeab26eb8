//! The state machine: what is wanted, who has it, what is asked of whom, and what is given to others.
//!
//! Each file of this module is one concern of the one `Swarm`: `discovery` (existence requests), `answers` (those of others,
//! and what comes back), `links` (connections), `knock` (who cannot be dialled dials), `distance` (who is far away), `listen`
//! (what peers say of themselves), `announce` (what we say), `seats` (who fetches for a crowd), `crowd` (whose share is
//! what), `schedule` (what is fetched from where), `transfers` (how that goes), `serving` (what others fetch from us).
//!
//! Goals: everything arrives as long as the origin works, whatever peers do; peers first; the origin about once for a
//! crowd. Non-goal: truth of what peers say. Every word of theirs is a hint, and costs at most one short deadline.

mod announce;
mod answers;
mod contents;
mod crowd;
mod discovery;
mod distance;
mod freshness;
mod items;
mod knock;
mod links;
mod listen;
mod meter;
mod peers;
mod schedule;
mod seats;
mod serving;
#[cfg(test)]
mod tests;
mod transfers;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use potluck_model::trace::{Source, What};
use potluck_model::{Digest, NodeId, Time};

use crate::interface::{Action, Config, Input, ListContent, Neighbour, Path, TransferId};
use crate::random::Random;
use contents::{Chunks, Contents, Ix, Kind, LISTS_MAX};
use discovery::Discovery;
use freshness::Freshness;
use items::{Items, State};
use meter::Meter;
use peers::Peers;
use schedule::Origin;
use seats::Seats;
use serving::Serving;
use transfers::Transfer;

/// The most neighbours and paths that are taken from the shell.
const NEIGHBOURS_MAX: usize = 64;
/// How often deadlines are looked at while something is under way.
const TICK: Duration = Duration::from_millis(100);

/// Discovery and swarm of one node. See `Input` for what goes in and `Action` for what comes out.
#[derive(Debug)]
pub struct Swarm {
    config: Config,
    random: Random,
    actions: VecDeque<Action>,
    /// Key of the audience.
    key: Option<[u8; 32]>,
    paths: Vec<Path>,
    neighbours: Vec<Neighbour>,
    /// Nodes of other sites that are used however far away they are.
    sharing: BTreeSet<NodeId>,
    population: u32,
    contents: Contents,
    items: Items,
    peers: Peers,
    fresh: Freshness,
    discovery: Discovery,
    seats: Seats,
    designated: Option<Designated>,
    transfers: BTreeMap<TransferId, Transfer>,
    next_transfer: u64,
    in_flight_bytes: u64,
    /// What comes, from all sources together.
    arrivals: Meter,
    origin: Origin,
    serving: Serving,
    news: announce::News,
    /// Grows when the members of a crowd may have changed.
    members_version: u64,
    /// Peers should be looked through for ones to dial.
    dial_at: Option<Time>,
    tick_at: Option<Time>,
    counters: Counters,
}

/// What the node is to have.
#[derive(Debug)]
struct Designated {
    list: Digest,
    /// The list as a content; it holds a reference.
    ix: Ix,
    /// Its contents are known.
    known: bool,
    /// Needed contents that are not stored whole.
    lacking: usize,
    /// `Complete` was said.
    complete: bool,
}

/// What was ignored, since the start.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Counters {
    /// Datagrams that were malformed or of another version.
    pub datagrams_malformed: u64,
    /// Datagrams that were heard before or came too late.
    pub datagrams_repeated: u64,
    /// Answers that fit no request.
    pub answers_unrequested: u64,
    /// Connections that were closed because the peer broke the protocol.
    pub peers_at_fault: u64,
}

impl Swarm {
    /// A node that knows nothing yet. The same seed and inputs give the same actions.
    pub fn new(config: Config, seed: [u8; 32], now: Time) -> Self {
        Self {
            random: Random::new(&seed),
            discovery: Discovery::new(&config, now),
            config,
            actions: VecDeque::new(),
            key: None,
            paths: Vec::new(),
            neighbours: Vec::new(),
            sharing: BTreeSet::new(),
            population: 0,
            contents: Contents::default(),
            items: Items::default(),
            peers: Peers::default(),
            fresh: Freshness::default(),
            seats: Seats::default(),
            designated: None,
            transfers: BTreeMap::new(),
            next_transfer: 1,
            in_flight_bytes: 0,
            arrivals: Meter::default(),
            origin: Origin::default(),
            serving: Serving::default(),
            news: announce::News::default(),
            members_version: 0,
            dial_at: None,
            tick_at: None,
            counters: Counters::default(),
        }
    }

    /// Takes in what happened at `now`, which never goes back. Drain `poll` before the next call.
    pub fn handle(&mut self, now: Time, input: Input<'_>) {
        // These come for every chunk and make nothing possible that is not possible a tick later.
        let plan = !matches!(input, Input::Progress { .. } | Input::Stored { .. });
        match input {
            Input::Datagram { from, multicast, bytes } => self.handle_datagram(now, from, multicast, bytes),
            Input::Paths(paths) => self.handle_paths(now, paths),
            Input::Neighbours { neighbours, population } => self.handle_neighbours(now, neighbours, population),
            Input::Sharing(nodes) => self.handle_sharing(now, &nodes),
            Input::Audience { key } => {
                if self.key != Some(key) {
                    self.key = Some(key);
                    self.contents.derive(&key);
                    self.ask_soon(now);
                }
            }
            Input::Connected { peer, address } => self.handle_connected(now, peer, address),
            Input::ConnectFailed { peer } => self.handle_connect_failed(now, peer),
            Input::Disconnected { peer } => self.handle_disconnected(now, peer),
            Input::Message { peer, message } => self.handle_message(now, peer, message),
            Input::Designated { list } => self.handle_designated(now, list),
            Input::List { list, size, contents } => self.handle_list(now, list, size, &contents),
            Input::Forget { list } => self.handle_forget(&list),
            Input::ChunkList { content, chunks, held } => self.handle_chunk_list(now, &content, chunks, &held),
            Input::Stored {
                transfer,
                content,
                chunk,
            } => self.handle_stored(now, transfer, &content, chunk),
            Input::Lost { content, chunk } => self.handle_lost(now, &content, chunk),
            Input::Progress { transfer, bytes } => self.handle_progress(now, transfer, bytes),
            Input::TransferEnded { transfer, end } => self.handle_transfer_ended(now, transfer, end),
            Input::Served { peer, stream, .. } => self.handle_served(now, peer, stream),
            Input::ServingMax(max) => self.handle_serving_max(now, max),
            Input::Wake => {}
        }
        self.go_on(now, plan);
    }

    /// What the shell is to do next. Drain until `None`.
    pub fn poll(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// When to call `handle` with `Wake` at the latest.
    pub fn deadline(&self) -> Option<Time> {
        [
            self.discovery.deadline(),
            self.seats.deadline(),
            self.news.flush_at,
            self.dial_at,
            self.origin.scan_at,
            self.serving.deadline(),
            self.tick_at,
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// What was ignored, since the start.
    pub const fn counters(&self) -> Counters {
        self.counters
    }

    /// Does what is due, and plans what is next.
    fn go_on(&mut self, now: Time, plan: bool) {
        self.discover(now);
        let tick = self.tick_at.is_some_and(|at| at <= now);
        if tick {
            self.tick_at = None;
            self.tick_transfers(now);
            self.leave_to_peers(now);
            self.tick_links(now);
        }
        self.dial(now);
        self.tell_seats(now);
        let due = self.origin.scan_at.is_some_and(|at| at <= now);
        if plan || tick || due {
            self.schedule(now, tick);
        }
        self.serve(now);
        self.announce(now);
        if self.tick_at.is_none() {
            self.tick_at = if self.is_lacking() || !self.transfers.is_empty() {
                Some(now + TICK)
            } else {
                self.next_link_tick(now)
            };
        }
    }

    /// Whether something that is needed is not here.
    fn is_lacking(&self) -> bool {
        self.designated.as_ref().is_some_and(|designated| !designated.complete)
    }

    fn trace(&mut self, what: What) {
        self.actions.push_back(Action::Trace(what));
    }

    fn handle_designated(&mut self, now: Time, list: Option<(Digest, u64)>) {
        if let (Some(designated), Some((digest, _))) = (&self.designated, &list)
            && designated.list == *digest
        {
            return;
        }
        self.cancel_all();
        self.clear_items();
        self.origin.restart(now);
        self.discovery.restart();
        self.leave_seats(now);
        self.members_changed(now);
        let before = self.designated.take();
        if let Some((digest, size)) = list {
            let ix = self.contents.refer_one(digest, size, None);
            self.designated = Some(Designated {
                list: digest,
                ix,
                known: false,
                lacking: 0,
                complete: false,
            });
            if self.contents.lists.contains_key(&digest) {
                self.adopt_list(now);
            } else {
                self.add_item(ix, 0, 1, size);
            }
            self.ask_soon(now);
        }
        if let Some(before) = before {
            let gone = self.contents.release(before.ix);
            self.drop_contents(&gone);
        }
        self.peers_changed();
    }

    fn handle_list(&mut self, now: Time, list: Digest, size: u64, contents: &[ListContent]) {
        if self.contents.lists.len() >= LISTS_MAX && !self.contents.lists.contains_key(&list) {
            return;
        }
        let gone = self.contents.put_list(self.key.as_ref(), list, size, contents);
        self.drop_contents(&gone);
        if self
            .designated
            .as_ref()
            .is_some_and(|designated| designated.list == list)
        {
            self.adopt_list(now);
        }
        // Who asked to be told of it before it was here is told now.
        let followers: Vec<NodeId> = self
            .peers
            .up()
            .filter(|(_, peer)| peer.follows.contains(&list))
            .map(|(node, _)| node)
            .collect();
        for node in followers {
            self.tell_all(now, node, &list);
        }
    }

    /// The designated list is known: makes work of what it needs.
    fn adopt_list(&mut self, now: Time) {
        let Some(designated) = &mut self.designated else { return };
        let Some(list) = self.contents.lists.get(&designated.list) else {
            return;
        };
        let digest = designated.list;
        let first_time = !designated.known;
        designated.known = true;
        let needed: Vec<Ix> = list.needed.iter().map(|index| list.contents[index as usize]).collect();
        let everything: Vec<Ix> = list.contents.clone();
        let lacking: Vec<Ix> = needed.into_iter().filter(|ix| !self.contents.at(*ix).held).collect();
        designated.lacking = lacking.len();
        designated.complete = false;
        self.drop_finished();
        self.cancel_all();
        self.clear_items();
        // What peers said while the list was not known here.
        for peer in self.peers.table.values_mut() {
            if peer.wants_all_of == Some(digest) {
                peer.wants_all_of = None;
                for ix in &everything {
                    peer.wants.set(ix.0);
                }
                peer.wants.remove(&peer.holds);
            }
        }
        for ix in lacking {
            self.want_content(ix);
        }
        self.members_changed(now);
        self.peers_changed();
        if first_time {
            self.follow_everybody(now, digest);
        }
        if !self.check_complete() {
            self.ask_soon(now);
        }
    }

    fn clear_items(&mut self) {
        self.items.clear();
        for peer in self.peers.table.values_mut() {
            peer.claims = 0;
        }
    }

    /// Makes work of a content of the designated list that is not stored whole.
    fn want_content(&mut self, ix: Ix) {
        let content = self.contents.at(ix);
        match &content.kind {
            Kind::One { .. } => {
                let size = content.size;
                self.add_item(ix, 0, 1, size);
            }
            Kind::Many {
                chunks: None,
                chunk_list,
            } => {
                let (chunk_list, size) = (*chunk_list, content.size);
                // How large it is, is only known by whoever has it.
                let about = 64 + size / 2_048;
                // It may be stored already; what it says was not told, so it is fetched again, small as it is.
                if self.items.of(chunk_list).is_empty() {
                    self.add_item(chunk_list, 0, 1, about);
                }
            }
            Kind::Many {
                chunks: Some(chunks), ..
            } => {
                let stripes = potluck_model::chunk_list::stripes(chunks.lengths.iter().copied());
                let lacked: Vec<(u32, u32, u64)> = stripes
                    .into_iter()
                    .map(|(first, count)| {
                        let bytes = (first..first + count)
                            .filter(|chunk| !chunks.held.get(*chunk))
                            .map(|chunk| u64::from(chunks.lengths[chunk as usize]))
                            .sum();
                        (first, count, bytes)
                    })
                    .filter(|(_, _, bytes)| *bytes > 0)
                    .collect();
                for (first, count, bytes) in lacked {
                    self.add_item(ix, first, count, bytes);
                }
            }
        }
    }

    fn add_item(&mut self, content: Ix, first: u32, count: u32, bytes: u64) {
        let lot = self.random.u64() as u32;
        let item = self.items.add(content, first, count, bytes, lot);
        self.recount(item);
    }

    fn handle_chunk_list(&mut self, now: Time, content: &Digest, lengths: Vec<u32>, held: &[bool]) {
        let Some(ix) = self.contents.find(content) else { return };
        let entry = self.contents.at_mut(ix);
        let Kind::Many { chunks, chunk_list } = &mut entry.kind else {
            return;
        };
        let chunk_list = *chunk_list;
        if entry.held || chunks.is_some() {
            return;
        }
        let mut bits = crate::bits::Bits::default();
        for index in 0..lengths.len() {
            if held.get(index) == Some(&true) {
                bits.set(index as u32);
            }
        }
        let missing = (lengths.len() - bits.count()) as u32;
        *chunks = Some(Chunks {
            lengths,
            held: bits,
            missing,
        });
        self.contents.at_mut(chunk_list).held = true;
        // An item for the chunk list that came some other way is done.
        if let Some(item) = self.items.of(chunk_list).first().copied() {
            self.items.set_state(item, State::Done);
            self.put_claim(item, None);
        }
        if let Some(partial) = self.contents.at(ix).partial() {
            for chunk in partial.iter() {
                self.news_of(now, ix, Some(chunk), announce::SOON);
            }
        }
        let wanted = self.is_wanted(ix);
        if missing == 0 {
            self.content_whole(now, ix);
        } else if wanted {
            self.want_content(ix);
            self.take_early_claims(now, ix);
            self.origin.scan_now(now);
            self.peers_changed();
        }
    }

    /// Whether the designated list needs it.
    fn is_wanted(&self, ix: Ix) -> bool {
        let Some(designated) = &self.designated else {
            return false;
        };
        if designated.ix == ix {
            return !designated.known;
        }
        let Some(list) = self.contents.lists.get(&designated.list) else {
            return false;
        };
        let needs = |ix| {
            self.contents
                .index_in(list, ix)
                .is_some_and(|index| list.needed.get(index))
        };
        if needs(ix) {
            return true;
        }
        matches!(self.contents.at(ix).kind, Kind::One { of: Some(of) } if needs(of))
    }

    /// Whether this node lacks a content and wants it.
    fn lacks(&self, ix: Ix) -> bool {
        !self.contents.at(ix).held && self.is_wanted(ix)
    }

    fn handle_stored(&mut self, now: Time, transfer: TransferId, content: &Digest, chunk: u32) {
        let Some(ix) = self.contents.find(content) else { return };
        let open = self
            .items
            .covering(ix, chunk)
            .is_some_and(|item| self.items.at(item).state != State::Done);
        let entry = self.contents.at_mut(ix);
        let len = entry.chunk_len(chunk);
        let whole = match &mut entry.kind {
            Kind::One { .. } => {
                if entry.held && !open {
                    return;
                }
                true
            }
            Kind::Many {
                chunks: Some(chunks), ..
            } => {
                if entry.held || chunk as usize >= chunks.lengths.len() || !chunks.held.set(chunk) {
                    return;
                }
                chunks.missing -= 1;
                chunks.missing == 0
            }
            Kind::Many { chunks: None, .. } => return,
        };
        self.seats.moved = now;
        let item = self.items.covering(ix, chunk);
        self.transfer_stored(now, transfer, item);
        let mut done = whole;
        if let Some(item) = item {
            let left = self.items.at(item).bytes.saturating_sub(len);
            self.items.at_mut(item).bytes = left;
            if whole || self.items.wants(&self.contents, item).is_empty() {
                done = true;
                self.item_done(now, item);
            } else if self.items.at(item).state == State::Idle {
                self.recount(item);
            }
        }
        let pace = if done {
            announce::SOON
        } else if self
            .transfers
            .get(&transfer)
            .is_some_and(|transfer| transfer.source == Source::Origin)
        {
            announce::PROGRESS
        } else {
            announce::REST
        };
        self.news_of(now, ix, Some(chunk), pace);
        if whole {
            self.content_whole(now, ix);
        }
    }

    /// Every chunk of a content is stored.
    fn content_whole(&mut self, now: Time, ix: Ix) {
        let wanted = self.is_wanted(ix);
        let entry = self.contents.at_mut(ix);
        let before = std::mem::replace(&mut entry.held, true);
        let is_meta = matches!(entry.kind, Kind::One { of: Some(_) });
        self.news_of(now, ix, None, announce::SOON);
        let counts = wanted && !before && (!is_meta || self.is_listed(ix));
        if counts
            && let Some(designated) = &mut self.designated
            && designated.known
        {
            designated.lacking = designated.lacking.saturating_sub(1);
            self.check_complete();
        }
    }

    /// Whether the designated list names it as a file's content.
    fn is_listed(&self, ix: Ix) -> bool {
        self.designated
            .as_ref()
            .and_then(|designated| self.contents.lists.get(&designated.list))
            .is_some_and(|list| self.contents.index_in(list, ix).is_some())
    }

    fn check_complete(&mut self) -> bool {
        let Some(designated) = &mut self.designated else {
            return true;
        };
        if !designated.known || designated.lacking > 0 || designated.complete {
            return designated.complete;
        }
        designated.complete = true;
        let list = designated.list;
        self.discovery.rest();
        self.actions.push_back(Action::Complete { list });
        true
    }

    fn handle_lost(&mut self, now: Time, content: &Digest, chunk: u32) {
        let Some(ix) = self.contents.find(content) else { return };
        let wanted = self.is_listed(ix) && self.is_wanted(ix);
        let entry = self.contents.at_mut(ix);
        let was_whole = std::mem::replace(&mut entry.held, false);
        let len = entry.chunk_len(chunk);
        let chunk_list = match &mut entry.kind {
            Kind::One { .. } => {
                if !was_whole {
                    return;
                }
                None
            }
            Kind::Many {
                chunks: Some(chunks), ..
            } => {
                if chunk as usize >= chunks.lengths.len() || !chunks.held.get(chunk) {
                    entry.held = was_whole;
                    return;
                }
                chunks.held.clear(chunk);
                chunks.missing += 1;
                None
            }
            // It was whole before this process began: what else is left is known again with the chunk list.
            Kind::Many {
                chunks: None,
                chunk_list,
            } => Some(*chunk_list),
        };
        if let Some(chunk_list) = chunk_list {
            self.contents.at_mut(chunk_list).held = false;
        }
        if !wanted {
            return;
        }
        if was_whole && let Some(designated) = &mut self.designated {
            designated.lacking += 1;
            designated.complete = false;
        }
        if let Some(item) = self.items.covering(ix, chunk) {
            let bytes = self.items.at(item).bytes;
            let item_mut = self.items.at_mut(item);
            item_mut.bytes = bytes + len;
            if item_mut.state == State::Done {
                item_mut.failed.clear();
                item_mut.lost.clear();
                item_mut.ours = false;
                self.items.set_state(item, State::Idle);
            }
            self.recount(item);
        } else {
            self.want_content(ix);
        }
        self.origin.scan_now(now);
        self.peers_changed();
        self.ask_soon(now);
    }

    fn handle_forget(&mut self, list: &Digest) {
        if self
            .designated
            .as_ref()
            .is_some_and(|designated| designated.list == *list)
        {
            return;
        }
        let gone = self.contents.forget_list(list);
        self.drop_contents(&gone);
    }

    /// Contents are gone from the table: nothing may name them any more, since their places are used again.
    fn drop_contents(&mut self, gone: &[Ix]) {
        if gone.is_empty() {
            return;
        }
        for peer in self.peers.table.values_mut() {
            for ix in gone {
                peer.drop_content(*ix);
            }
        }
        self.news.drop_contents(gone);
        self.discovery.drop_contents(gone);
    }

    /// What may be had from which peer changed at large.
    fn peers_changed(&mut self) {
        for peer in self.peers.table.values_mut() {
            peer.nothing = false;
        }
    }

    fn members_changed(&mut self, now: Time) {
        self.members_version += 1;
        self.origin.scan_now(now);
    }

    fn handle_paths(&mut self, now: Time, mut paths: Vec<Path>) {
        paths.truncate(NEIGHBOURS_MAX);
        let news = paths.iter().any(|path| !self.paths.contains(path));
        self.paths = paths;
        if news {
            self.ask_soon(now);
        }
    }

    fn handle_neighbours(&mut self, now: Time, mut neighbours: Vec<Neighbour>, population: u32) {
        neighbours.truncate(NEIGHBOURS_MAX);
        neighbours.retain(|neighbour| neighbour.node != self.config.node && !neighbour.addresses.is_empty());
        self.population = population;
        for peer in self.peers.table.values_mut() {
            peer.neighbour = false;
        }
        let mut news = false;
        for neighbour in &neighbours {
            let known = self.peers.table.contains_key(&neighbour.node);
            if let Some(peer) = self.peers.learn(now, neighbour.node, self.config.peers_max) {
                peer.neighbour = true;
                for address in neighbour.addresses.iter().take(16).rev() {
                    if !peer.addresses.contains(address) {
                        // Where it was heard stays the best.
                        peer.addresses.push(*address);
                        peer.addresses.truncate(16);
                        news = true;
                    }
                }
                news |= !known;
            }
        }
        self.neighbours = neighbours;
        if news {
            self.ask_soon(now);
        }
    }
}
