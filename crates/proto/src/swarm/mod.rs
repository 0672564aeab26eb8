//! The state machine: what is wanted, who has it, what is asked of whom, and what is given to others.
//!
//! Each file of this module is one concern of the one `Swarm`: `designated` (what is wanted), `stored` (what is here),
//! `discovery` (existence requests), `answers` (those of others, and what comes back), `links` (connections), `knock` (who
//! cannot be dialled dials), `distance` (who is far away), `listen` (what peers say of themselves), `announce` (what we say),
//! `seats` (who fetches for a crowd), `crowd` (whose share is what), `schedule` (what is fetched from where), `transfers`
//! (how that goes), `serving` (what others fetch from us).
//!
//! Goals: everything arrives as long as the origin works, whatever peers do; peers first; the origin about once for a
//! crowd. Non-goal: truth of what peers say. Every word of theirs is a hint, and costs at most one short deadline.

mod announce;
mod answers;
mod contents;
mod crowd;
mod designated;
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
mod stored;
#[cfg(test)]
mod tests;
mod transfers;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use potluck_model::trace::What;
use potluck_model::{NodeId, Time};

use crate::interface::{Action, Config, Input, Neighbour, Path, TransferId};
use crate::random::Random;
use contents::Contents;
use designated::Designated;
use discovery::Discovery;
use freshness::Freshness;
use items::Items;
use meter::Meter;
use peers::Peers;
use schedule::Origin;
use seats::Seats;
use serving::Serving;
use transfers::Transfer;

/// The most neighbours and paths that are taken from the shell.
const NEIGHBOURS_MAX: usize = 64;
/// How often deadlines are looked at while something is under way.
const TICK: Duration = Duration::from_millis(200);
/// When many things happen at once, as in a crowd that begins, all peers are not looked through more often than so.
const LOOK_GAP: Duration = Duration::from_millis(10);

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
    dialled: Option<Time>,
    tick_at: Option<Time>,
    counters: Counters,
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
            dialled: None,
            tick_at: None,
            counters: Counters::default(),
        }
    }

    /// Takes in what happened at `now`, which never goes back. Drain `poll` before the next call.
    pub fn handle(&mut self, now: Time, input: Input<'_>) {
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
        self.go_on(now);
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
    fn go_on(&mut self, now: Time) {
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
        if tick || due || self.items.changed {
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

    fn trace(&mut self, what: What) {
        self.actions.push_back(Action::Trace(what));
    }

    /// What may be had from which peer changed at large.
    fn peers_changed(&mut self) {
        self.peers.each_up(|peer| peer.nothing = false);
        self.items.changed = true;
    }

    fn members_changed(&mut self, now: Time) {
        self.members_version += 1;
        self.origin.scan_soon(now);
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
                peer.proven = true;
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
