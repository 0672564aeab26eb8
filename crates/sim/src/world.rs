//! The world: its clock, its events, and what they do to nodes.

use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use std::time::Duration;

use potluck_model::{NodeId, Time};
use potluck_proto::{Config, Input, Message, Swarm, TransferEnd, TransferId};

use crate::check::{Echo, Watch};
use crate::connection::{Conn, ConnId};
use crate::fault::Fault;
use crate::flow::{Arrived, Flow, Sender};
use crate::history::History;
use crate::network::{Cuts, Links, Port, Site, Traits};
use crate::node::{self, Behaviour, Limits, Node, NodeIx};
use crate::queue::Queue;
use crate::random::Random;
use crate::release::Release;
use crate::slab::Slab;
use crate::store::Store;
use crate::tally::{Ledger, Tally};
use crate::trace::Trace;

/// Key of the one audience.
pub(crate) const KEY: [u8; 32] = [7; 32];
/// Connections of a node at most.
const CONNECTIONS_MAX: usize = 64;

/// Nodes, an origin and what lies between them.
#[derive(Debug)]
pub struct World {
    pub(crate) random: Random,
    pub(crate) now: Time,
    events: Queue<Event>,
    pub(crate) nodes: Vec<Node>,
    pub(crate) by_id: BTreeMap<NodeId, NodeIx>,
    pub(crate) sites: Vec<Site>,
    pub(crate) links: Links,
    pub(crate) cuts: Cuts,
    /// What waits for a cut to end.
    pub(crate) parked: Vec<Event>,
    pub(crate) release: Rc<Release>,
    pub(crate) origin_away: bool,
    /// Grows with each start of the origin.
    pub(crate) origin_boot: u32,
    pub(crate) flows: Slab<Flow>,
    pub(crate) conns: Slab<Conn>,
    pub(crate) ledger: Ledger,
    pub(crate) watch: Watch,
    pub(crate) history: History,
    /// Nodes that the world waits for.
    pending: usize,
    /// When the last thing that goes wrong is over.
    pub(crate) faults_end: Time,
    /// Requests of greedy nodes.
    pub(crate) requests: u32,
    /// What those heard who mean harm.
    pub(crate) overheard: VecDeque<Rc<[u8]>>,
    /// What everybody did.
    pub trace: Trace,
}

#[derive(Debug)]
pub(crate) enum Event {
    Start(NodeIx),
    Wake(NodeIx),
    WakeUp(NodeIx),
    Datagram {
        to: NodeIx,
        from: NodeIx,
        bytes: Rc<[u8]>,
    },
    Multicast {
        from: NodeIx,
        batch: u32,
        bytes: Rc<[u8]>,
    },
    Dialled {
        ix: NodeIx,
        boot: u32,
        other: NodeIx,
    },
    DialFailed {
        ix: NodeIx,
        boot: u32,
        peer: NodeId,
    },
    Closed {
        id: ConnId,
        ix: NodeIx,
    },
    Message {
        id: ConnId,
        to: NodeIx,
        message: Box<Message>,
    },
    Ended {
        ix: NodeIx,
        boot: u32,
        transfer: TransferId,
        end: Box<TransferEnd>,
    },
    AskHead {
        ix: NodeIx,
        boot: u32,
    },
    HeadAsked {
        ix: NodeIx,
        boot: u32,
    },
    Head {
        ix: NodeIx,
        boot: u32,
    },
    OriginAsked {
        ix: NodeIx,
        boot: u32,
        transfer: TransferId,
    },
    PortFree(Sender),
    Arrived(Arrived),
    Stored {
        ix: NodeIx,
        boot: u32,
        transfer: TransferId,
        chunk: u32,
    },
    Served {
        ix: NodeIx,
        to: NodeIx,
        stream: u32,
    },
    Fault(Fault),
    Greed {
        ix: NodeIx,
        boot: u32,
    },
    Flood {
        ix: NodeIx,
        boot: u32,
    },
}

/// The configuration of a node's core.
pub(crate) fn config(id: NodeId, boot: u64, shared: u16) -> Config {
    Config {
        connections_max: CONNECTIONS_MAX,
        ..Config::new(id, boot, node::port(shared))
    }
}

impl World {
    /// An empty world with one published release.
    pub fn new(seed: u64, links: Links, release: Release, keep_trace: bool) -> Self {
        Self {
            random: Random::new(seed),
            now: Time::ZERO,
            events: Queue::new(),
            nodes: Vec::new(),
            by_id: BTreeMap::new(),
            sites: (0..links.sites.max(1)).map(|_| Site::default()).collect(),
            links,
            cuts: Cuts::default(),
            parked: Vec::new(),
            release: Rc::new(release),
            origin_away: false,
            origin_boot: 1,
            flows: Slab::default(),
            conns: Slab::default(),
            ledger: Ledger::default(),
            watch: Watch::default(),
            history: History::default(),
            pending: 0,
            faults_end: Time::ZERO,
            requests: 0,
            overheard: VecDeque::new(),
            trace: Trace::new(keep_trace),
        }
    }

    /// Adds a node that is switched on at `at`.
    pub fn add_node(&mut self, at: Time, behaviour: Behaviour, traits: Traits) -> NodeIx {
        let ix = NodeIx(self.nodes.len() as u32);
        let id = NodeId(self.random.u64());
        let seed = self.seed();
        let config = config(id, 1, traits.shared);
        let mut store = Store::new(&self.release);
        if traits.full {
            (0..self.release.chunks as u32).for_each(|chunk| {
                store.add(chunk);
            });
        }
        if behaviour == Behaviour::Flooding {
            self.watch.echo.get_or_insert_with(Echo::default);
        }
        self.by_id.insert(id, ix);
        self.sites[traits.site as usize].nodes.push(ix.0);
        let node = Node {
            id,
            address: node::address(ix, traits.shared),
            behaviour,
            limits: Limits::from(&config),
            swarm: Box::new(Swarm::new(config, seed, at)),
            boot: 0,
            told: 0,
            alive: false,
            gone: false,
            asleep: false,
            slept_through: Vec::new(),
            started: at,
            wake: None,
            held_first: store.bytes(&self.release),
            delivered: store.clone(),
            store,
            links: BTreeMap::new(),
            transfers: BTreeMap::new(),
            serving: BTreeMap::new(),
            port: Port::default(),
            down_free: Time::ZERO,
            disk_free: Time::ZERO,
            origin_boot: None,
            wrote_to: BTreeMap::new(),
            complete: None,
            tally: Tally::default(),
            traits,
        };
        self.pending += usize::from(node.is_pending());
        self.nodes.push(node);
        self.at(at, Event::Start(ix));
        ix
    }

    pub(crate) fn seed(&mut self) -> [u8; 32] {
        let mut seed = [0; 32];
        seed[..8].copy_from_slice(&self.random.u64().to_be_bytes());
        seed
    }

    /// Runs until every honest node that will not be switched off for good has everything, or until `end`. Returns the
    /// time.
    pub fn run_until(&mut self, end: Time) -> Time {
        while self.pending > 0
            && let Some((time, event)) = self.events.pop()
        {
            if time > end {
                self.events.push(time, event);
                self.now = end;
                break;
            }
            self.now = time;
            self.happen(event);
        }
        self.now
    }

    /// When the node had everything.
    pub fn completed(&self, node: NodeIx) -> Option<Time> {
        self.nodes[node.at()].complete
    }

    /// What is counted of a node.
    pub fn tally(&self, node: NodeIx) -> &Tally {
        &self.nodes[node.at()].tally
    }

    /// The links.
    pub const fn links(&self) -> &Links {
        &self.links
    }

    /// The release.
    pub fn release(&self) -> &Release {
        &self.release
    }

    /// When the last thing that goes wrong is over, and the last node is switched on.
    pub fn trouble_ends(&self) -> Time {
        let started = self.nodes.iter().map(|node| node.started).max();
        self.faults_end.max(started.unwrap_or(Time::ZERO))
    }

    /// How many events there were.
    pub const fn events(&self) -> u64 {
        self.events.made()
    }

    pub(crate) fn count_pending(&mut self, ix: NodeIx, was: bool) {
        let is = self.nodes[ix.at()].is_pending();
        self.pending = self.pending + usize::from(is) - usize::from(was);
    }

    pub(crate) fn at(&mut self, time: Time, event: Event) {
        self.events.push(time.max(self.now), event);
    }

    pub(crate) fn rate_up(&self, ix: NodeIx) -> u64 {
        self.nodes[ix.at()]
            .traits
            .rates
            .map_or(self.links.node_rate, |(up, _)| up)
    }

    pub(crate) fn rate_down(&self, ix: NodeIx) -> u64 {
        self.nodes[ix.at()]
            .traits
            .rates
            .map_or(self.links.node_rate, |(_, down)| down)
    }

    /// One way between two nodes.
    pub(crate) fn latency(&self, a: NodeIx, b: NodeIx) -> Duration {
        let far = self.nodes[a.at()].traits.site != self.nodes[b.at()].traits.site;
        self.links.node_latency
            + if far {
                self.links.origin_latency * 2
            } else {
                Duration::ZERO
            }
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Start(ix) => self.start(ix),
            Event::Wake(ix) => {
                if self.nodes[ix.at()].wake == Some(self.now) && !self.nodes[ix.at()].asleep {
                    self.nodes[ix.at()].wake = None;
                    self.give(ix, Input::Wake);
                }
            }
            Event::WakeUp(ix) => self.wake_up(ix),
            Event::Datagram { to, from, bytes } => self.datagram(to, from, false, &bytes),
            Event::Multicast { from, batch, bytes } => self.multicast(from, batch, &bytes),
            Event::Dialled { ix, boot, other } => self.dialled(ix, boot, other),
            Event::DialFailed { ix, boot, peer } => {
                if self.nodes[ix.at()].boot == boot && !self.sleeps_through(ix, || Event::DialFailed { ix, boot, peer })
                {
                    self.give(ix, Input::ConnectFailed { peer });
                }
            }
            Event::Closed { id, ix } => {
                if !self.sleeps_through(ix, || Event::Closed { id, ix }) {
                    self.closed(id, ix);
                }
            }
            Event::Message { id, to, message } => self.message(id, to, message),
            Event::Ended {
                ix,
                boot,
                transfer,
                end,
            } => self.ended_at(ix, boot, transfer, end),
            Event::AskHead { ix, boot } => {
                if self.is_up(ix, boot) && !self.sleeps_through(ix, || Event::AskHead { ix, boot }) {
                    self.ask_head(ix);
                }
            }
            Event::HeadAsked { ix, boot } => self.head_asked(ix, boot),
            Event::Head { ix, boot } => {
                if !self.put_off(None, ix, || Event::Head { ix, boot }) {
                    self.head(ix, boot);
                }
            }
            Event::OriginAsked { ix, boot, transfer } => self.origin_asked(ix, boot, transfer),
            Event::PortFree(sender) => self.port_free(sender),
            Event::Arrived(arrived) => self.arrived(arrived),
            Event::Stored {
                ix,
                boot,
                transfer,
                chunk,
            } => {
                if self.is_up(ix, boot) {
                    self.stored(ix, transfer, chunk);
                }
            }
            Event::Served { ix, to, stream } => {
                let peer = self.nodes[to.at()].id;
                self.give(ix, Input::Served { peer, stream, bytes: 0 });
            }
            Event::Fault(fault) => self.go_wrong(fault),
            Event::Greed { ix, boot } => self.greed(ix, boot),
            Event::Flood { ix, boot } => self.flood(ix, boot),
        }
    }

    pub(crate) fn is_up(&self, ix: NodeIx, boot: u32) -> bool {
        self.nodes[ix.at()].alive && self.nodes[ix.at()].boot == boot
    }

    pub(crate) fn sleeps_through(&mut self, ix: NodeIx, event: impl FnOnce() -> Event) -> bool {
        let node = &mut self.nodes[ix.at()];
        if node.asleep {
            node.slept_through.push(event());
        }
        node.asleep
    }

    /// Gives an input to a node's core and does what it wants done.
    pub(crate) fn give(&mut self, ix: NodeIx, input: Input<'_>) {
        let now = self.now;
        let node = &mut self.nodes[ix.at()];
        if !node.alive || node.asleep {
            return;
        }
        node.swarm.handle(now, input);
        while let Some(action) = self.nodes[ix.at()].swarm.poll() {
            let node = &self.nodes[ix.at()];
            self.trace.record(now, node.id, &action);
            self.watch.look(now, node, &action);
            self.act(ix, action);
        }
        let node = &mut self.nodes[ix.at()];
        if let Some(deadline) = node.swarm.deadline() {
            assert!(deadline > now, "node {}'s core wants to be woken in the past", node.id);
            if node.wake.is_none_or(|wake| wake > deadline) {
                node.wake = Some(deadline);
                self.at(deadline, Event::Wake(ix));
            }
        }
    }
}
