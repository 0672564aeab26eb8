//! The world: its clock, its events, and what they do to nodes.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, VecDeque};
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use potluck_model::trace::Source;
use potluck_model::{Digest, NodeId, Time, ring};
use potluck_proto::{
    Action, Config, End, Input, ListContent, Message, Neighbour, Path, PathId, Swarm, TransferEnd, TransferId, Want,
};

use crate::network::{Faults, FlowId, Links, Uplink, time_of};
use crate::node::{self, Behaviour, Node, Transfer};
use crate::random::Random;
use crate::release::Release;
use crate::trace::Trace;

/// Round trips of setting up a connection with mutual TLS, and the work at both ends.
const HANDSHAKE_TRIPS: u32 = 3;
const HANDSHAKE_WORK: Duration = Duration::from_millis(3);
/// After how long dialling a dead node fails.
const DIAL_FAILS: Duration = Duration::from_secs(3);
const GROUP: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::new(239, 255, 74, 43)), 7443);
const KEY: [u8; 32] = [7; 32];

/// Number of a node in its world.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct NodeIx(pub usize);

/// Nodes, an origin and what lies between them.
#[derive(Debug)]
pub struct World {
    random: Random,
    now: Time,
    events: BinaryHeap<Reverse<(Time, u64)>>,
    bodies: BTreeMap<u64, Event>,
    next_event: u64,
    pub(crate) nodes: Vec<Node>,
    by_id: BTreeMap<NodeId, NodeIx>,
    links: Links,
    faults: Faults,
    pub(crate) release: Rc<Release>,
    origin: Uplink,
    pub(crate) origin_sent: u64,
    flows: BTreeMap<FlowId, Flow>,
    next_flow: u64,
    /// When the last frame between two nodes arrives: frames keep their order.
    ordered: BTreeMap<(NodeIx, NodeIx), Time>,
    /// What everybody did.
    pub trace: Trace,
}

#[derive(Debug)]
enum Event {
    Start(NodeIx),
    Wake(NodeIx),
    Datagram {
        to: NodeIx,
        from: SocketAddr,
        multicast: bool,
        bytes: Rc<[u8]>,
    },
    Connected(NodeIx, NodeIx),
    ConnectFailed(NodeIx, NodeId),
    Disconnected(NodeIx, NodeIx),
    Message {
        to: NodeIx,
        from: NodeIx,
        message: Message,
    },
    Ended(NodeIx, TransferId, TransferEnd),
    OriginAsked(NodeIx, TransferId),
    SentOrigin,
    Sent(NodeIx),
    Chunk {
        to: NodeIx,
        transfer: TransferId,
        content: Digest,
        chunk: u32,
        len: u64,
        good: bool,
        source: Source,
    },
    Served(NodeIx, NodeIx, u32),
    Kill(NodeIx),
    ForgetStore(NodeIx),
}

#[derive(Debug)]
struct Flow {
    /// None: the origin.
    from: Option<NodeIx>,
    to: NodeIx,
    transfer: TransferId,
    stream: u32,
    chunks: VecDeque<(Digest, u32, u64)>,
    end: TransferEnd,
    good: bool,
    stalled: bool,
}

impl World {
    /// An empty world with one published release.
    pub fn new(seed: u64, links: Links, faults: Faults, release: Release, keep_trace: bool) -> Self {
        Self {
            random: Random::new(seed),
            now: Time::ZERO,
            events: BinaryHeap::new(),
            bodies: BTreeMap::new(),
            next_event: 0,
            nodes: Vec::new(),
            by_id: BTreeMap::new(),
            links,
            faults,
            release: Rc::new(release),
            origin: Uplink::default(),
            origin_sent: 0,
            flows: BTreeMap::new(),
            next_flow: 0,
            ordered: BTreeMap::new(),
            trace: Trace::new(keep_trace),
        }
    }

    /// Adds a node that is switched on at `at`; with `full`, it holds the whole release.
    pub fn add_node(&mut self, at: Time, full: bool, behaviour: Behaviour) -> NodeIx {
        let ix = NodeIx(self.nodes.len());
        let id = NodeId(self.random.u64());
        let config = Config {
            connections_max: 64,
            ..Config::new(id, 1, 7443)
        };
        let mut seed = [0; 32];
        seed[..8].copy_from_slice(&self.random.u64().to_be_bytes());
        let mut store = BTreeMap::new();
        if full {
            for (digest, chunks) in &self.release.chunks {
                store.insert(*digest, (0..chunks.len() as u32).collect());
            }
        }
        self.by_id.insert(id, ix);
        self.nodes.push(Node {
            id,
            swarm: Swarm::new(config, seed, at),
            behaviour,
            alive: false,
            started: at,
            wake: None,
            store,
            links: BTreeSet::new(),
            transfers: BTreeMap::new(),
            serving: BTreeMap::new(),
            uplink: Uplink::default(),
            downlink_free: Time::ZERO,
            complete: None,
            origin_bytes: 0,
            peer_bytes: 0,
            served_bytes: 0,
            wasted_bytes: 0,
            datagrams: 0,
            messages: 0,
        });
        self.at(at, Event::Start(ix));
        ix
    }

    /// A node loses its power at `at`.
    pub fn kill(&mut self, at: Time, node: NodeIx) {
        self.at(at, Event::Kill(node));
    }

    /// A node's store is emptied behind its back at `at`.
    pub fn forget_store_at(&mut self, at: Time, node: NodeIx) {
        self.at(at, Event::ForgetStore(node));
    }

    /// Runs until every honest node that lives has everything, or until `end`. Returns the time.
    pub fn run_until(&mut self, end: Time) -> Time {
        while let Some(Reverse((time, number))) = self.events.pop() {
            if time > end {
                self.events.push(Reverse((time, number)));
                self.now = end;
                break;
            }
            self.now = time;
            let event = self.bodies.remove(&number).expect("every event has a body");
            self.happen(event);
            if self.nodes.iter().all(|node| {
                node.complete.is_some()
                    || node.behaviour != Behaviour::Honest
                    || (!node.alive && node.started < self.now)
            }) {
                break;
            }
        }
        self.now
    }

    /// When the node had everything.
    pub fn completed(&self, node: NodeIx) -> Option<Time> {
        self.nodes[node.0].complete
    }

    /// Payload, list and chunk list bytes that the origin sent.
    pub const fn origin_sent(&self) -> u64 {
        self.origin_sent
    }

    /// The release.
    pub fn release(&self) -> &Release {
        &self.release
    }

    /// The links.
    pub const fn links(&self) -> &Links {
        &self.links
    }

    fn at(&mut self, time: Time, event: Event) {
        let number = self.next_event;
        self.next_event += 1;
        self.events.push(Reverse((time, number)));
        self.bodies.insert(number, event);
    }

    fn origin_is_away(&self) -> bool {
        self.faults
            .origin_away
            .is_some_and(|(from, to)| self.now >= from && self.now < to)
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Start(ix) => self.start(ix),
            Event::Wake(ix) => {
                if self.nodes[ix.0].wake == Some(self.now) {
                    self.nodes[ix.0].wake = None;
                    self.give(ix, Input::Wake);
                }
            }
            Event::Datagram {
                to,
                from,
                multicast,
                bytes,
            } => self.give(
                to,
                Input::Datagram {
                    from,
                    multicast,
                    bytes: &bytes,
                },
            ),
            Event::Connected(a, b) => self.connected(a, b),
            Event::ConnectFailed(ix, peer) => self.give(ix, Input::ConnectFailed { peer }),
            Event::Disconnected(ix, other) => self.disconnected(ix, other),
            Event::Message { to, from, message } => self.message(to, from, message),
            Event::Ended(ix, transfer, end) => self.ended(ix, transfer, end),
            Event::OriginAsked(ix, transfer) => self.origin_asked(ix, transfer),
            Event::SentOrigin => self.sent(None),
            Event::Sent(ix) => self.sent(Some(ix)),
            Event::Chunk {
                to,
                transfer,
                content,
                chunk,
                len,
                good,
                source,
            } => self.chunk(to, transfer, content, chunk, len, good, source),
            Event::Served(ix, peer, stream) => {
                let peer = self.nodes[peer.0].id;
                self.give(ix, Input::Served { peer, stream, bytes: 0 });
            }
            Event::Kill(ix) => self.die(ix),
            Event::ForgetStore(ix) => self.nodes[ix.0].store.clear(),
        }
    }

    fn start(&mut self, ix: NodeIx) {
        self.nodes[ix.0].alive = true;
        self.give(
            ix,
            Input::Paths(vec![Path {
                id: PathId(0),
                interface: "eth0".into(),
                group: GROUP,
            }]),
        );
        self.give(ix, Input::Audience { key: KEY });
        // What the server knows: up to 16 others that are on, chosen at random.
        let others: Vec<NodeIx> = (0..self.nodes.len())
            .map(NodeIx)
            .filter(|other| *other != ix && self.nodes[other.0].alive)
            .collect();
        let list = self.release.list;
        let place = ring::place(&list);
        let mut nearest = others.clone();
        nearest.sort_unstable_by_key(|other| ring::distance(place, self.nodes[other.0].id));
        nearest.truncate(ring::SEATS_MAX);
        let seats = ring::suggested(&list, self.nodes[ix.0].id, nearest, |other| self.nodes[other.0].id);
        let mut chosen: BTreeSet<NodeIx> = seats.into_iter().collect();
        for _ in 0..others.len().min(16) {
            chosen.insert(others[self.random.below(others.len() as u64) as usize]);
        }
        let neighbours = chosen
            .into_iter()
            .map(|other| Neighbour {
                node: self.nodes[other.0].id,
                addresses: vec![node::address(other)],
            })
            .collect();
        self.give(
            ix,
            Input::Neighbours {
                neighbours,
                population: others.len() as u32 + 1,
            },
        );
        let release = Rc::clone(&self.release);
        if self.nodes[ix.0].store.contains_key(&release.list) {
            self.give_list(ix);
        }
        self.give(
            ix,
            Input::Designated {
                list: Some((release.list, release.list_size)),
            },
        );
    }

    fn give_list(&mut self, ix: NodeIx) {
        let release = Rc::clone(&self.release);
        let node = &self.nodes[ix.0];
        let contents = release
            .contents
            .iter()
            .map(|content| ListContent {
                content: *content,
                needed: true,
                held: node
                    .store
                    .get(&content.digest)
                    .is_some_and(|held| held.len() == release.chunks[&content.digest].len()),
            })
            .collect();
        self.give(
            ix,
            Input::List {
                list: release.list,
                size: release.list_size,
                contents,
            },
        );
    }

    /// Gives an input to a node's core and does what it wants done.
    fn give(&mut self, ix: NodeIx, input: Input<'_>) {
        let now = self.now;
        let node = &mut self.nodes[ix.0];
        if !node.alive {
            return;
        }
        node.swarm.handle(now, input);
        while let Some(action) = self.nodes[ix.0].swarm.poll() {
            self.trace.record(now, self.nodes[ix.0].id, &action);
            self.act(ix, action);
        }
        let node = &mut self.nodes[ix.0];
        if let Some(deadline) = node.swarm.deadline() {
            assert!(deadline > now, "node {}'s core wants to be woken in the past", node.id);
            if node.wake.is_none_or(|wake| wake > deadline) {
                node.wake = Some(deadline);
                self.at(deadline, Event::Wake(ix));
            }
        }
    }

    fn act(&mut self, ix: NodeIx, action: Action) {
        let now = self.now;
        match action {
            Action::Datagram { to, bytes } => {
                self.nodes[ix.0].datagrams += 1;
                if let Some(to) = node::at(to) {
                    self.send_datagram(ix, to, false, &bytes.into());
                }
            }
            Action::Multicast { bytes, .. } => {
                self.nodes[ix.0].datagrams += 1;
                if self.links.multicast {
                    let bytes: Rc<[u8]> = bytes.into();
                    for to in (0..self.nodes.len()).map(NodeIx).filter(|to| *to != ix) {
                        self.send_datagram(ix, to, true, &bytes);
                    }
                }
            }
            Action::Connect { peer, addresses } => self.connect(ix, peer, &addresses),
            Action::Disconnect { peer } => {
                if let Some(other) = self.by_id.get(&peer).copied() {
                    self.at(now, Event::Disconnected(ix, other));
                    self.at(now + self.links.node_latency, Event::Disconnected(other, ix));
                }
            }
            Action::Send { peer, message } => {
                if let Some(other) = self.by_id.get(&peer).copied() {
                    self.send(ix, other, message);
                }
            }
            Action::Fetch {
                transfer,
                source,
                wants,
                ..
            } => self.fetch(ix, transfer, source, wants),
            Action::Cancel { transfer } => self.cancel(ix, transfer),
            Action::Serve { peer, stream, wants } => self.serve(ix, peer, stream, &wants),
            Action::StopServing { peer, stream } => {
                if let Some(other) = self.by_id.get(&peer).copied()
                    && let Some(flow) = self.nodes[ix.0].serving.remove(&(other, stream))
                {
                    self.flows.remove(&flow);
                    self.at(now, Event::Served(ix, other, stream));
                }
            }
            Action::Decline { peer, stream, end } => {
                if let Some(other) = self.by_id.get(&peer).copied() {
                    self.send(ix, other, Message::End { stream, end });
                }
            }
            Action::Trace(_) => {}
            Action::Complete { .. } => {
                self.nodes[ix.0].complete.get_or_insert(now);
            }
        }
    }

    fn send_datagram(&mut self, from: NodeIx, to: NodeIx, multicast: bool, bytes: &Rc<[u8]>) {
        if to.0 >= self.nodes.len() || self.random.chance(self.faults.loss) {
            return;
        }
        let jitter = Duration::from_micros(self.random.below(100));
        self.at(
            self.now + self.links.node_latency + jitter,
            Event::Datagram {
                to,
                from: node::address(from),
                multicast,
                bytes: Rc::clone(bytes),
            },
        );
    }

    fn connect(&mut self, ix: NodeIx, peer: NodeId, addresses: &[SocketAddr]) {
        let there = addresses.iter().filter_map(|address| node::at(*address)).find(|other| {
            self.nodes
                .get(other.0)
                .is_some_and(|node| node.id == peer && node.alive)
        });
        match there {
            Some(other) => {
                let jitter = Duration::from_micros(self.random.below(1_000));
                let at = self.now + self.links.node_latency * 2 * HANDSHAKE_TRIPS + HANDSHAKE_WORK + jitter;
                self.at(at, Event::Connected(ix, other));
            }
            None => self.at(self.now + DIAL_FAILS, Event::ConnectFailed(ix, peer)),
        }
    }

    fn connected(&mut self, a: NodeIx, b: NodeIx) {
        let (peer_a, peer_b) = (self.nodes[a.0].id, self.nodes[b.0].id);
        if !self.nodes[a.0].alive {
            return;
        }
        if !self.nodes[b.0].alive {
            self.give(a, Input::ConnectFailed { peer: peer_b });
            return;
        }
        if !self.nodes[a.0].links.insert(b) {
            // Both dialled: one connection stays, and it is there already.
            return;
        }
        self.nodes[b.0].links.insert(a);
        for (ix, peer, other) in [(a, peer_b, b), (b, peer_a, a)] {
            let address = node::address(other);
            self.give(ix, Input::Connected { peer, address });
        }
    }

    fn disconnected(&mut self, ix: NodeIx, other: NodeIx) {
        if !self.nodes[ix.0].links.remove(&other) {
            return;
        }
        let peer = self.nodes[other.0].id;
        self.drop_flows(ix, other);
        let broken: Vec<TransferId> = self.nodes[ix.0]
            .transfers
            .iter()
            .filter(|(_, transfer)| transfer.source == Source::Peer(peer))
            .map(|(id, _)| *id)
            .collect();
        for id in broken {
            self.ended(ix, id, TransferEnd::Failed("the connection broke".into()));
        }
        self.give(ix, Input::Disconnected { peer });
    }

    /// What `from` was sending to `to` is gone.
    fn drop_flows(&mut self, from: NodeIx, to: NodeIx) {
        self.flows.retain(|_, flow| !(flow.from == Some(from) && flow.to == to));
        self.nodes[from.0].serving.retain(|(peer, _), _| *peer != to);
    }

    /// A frame arrives after those that were sent before it.
    fn arrival(&mut self, from: NodeIx, to: NodeIx) -> Time {
        let at = self.now + self.links.node_latency;
        let last = self.ordered.entry((from, to)).or_default();
        *last = (*last).max(at);
        *last
    }

    fn send(&mut self, from: NodeIx, to: NodeIx, message: Message) {
        self.nodes[from.0].messages += 1;
        let at = self.arrival(from, to);
        self.at(at, Event::Message { to, from, message });
    }

    fn message(&mut self, to: NodeIx, from: NodeIx, message: Message) {
        if !self.nodes[to.0].links.contains(&from) {
            return;
        }
        let peer = self.nodes[from.0].id;
        if let Message::End { stream, end } = message {
            let id = TransferId(u64::from(stream));
            let ours = self.nodes[to.0]
                .transfers
                .get(&id)
                .is_some_and(|transfer| transfer.source == Source::Peer(peer));
            if ours {
                let end = match end {
                    End::Done => TransferEnd::Done,
                    End::Missing(wants) => TransferEnd::Missing(wants),
                    End::Busy(instead) => TransferEnd::Busy {
                        instead,
                        retry_after: None,
                    },
                    End::Refused => TransferEnd::Failed("refused".into()),
                };
                self.ended(to, id, end);
            }
            return;
        }
        self.give(to, Input::Message { peer, message });
    }

    fn fetch(&mut self, ix: NodeIx, id: TransferId, source: Source, wants: Vec<Want>) {
        let stream = id.0 as u32;
        match source {
            Source::Peer(peer) => {
                let Some(other) = self
                    .by_id
                    .get(&peer)
                    .copied()
                    .filter(|other| self.nodes[ix.0].links.contains(other))
                else {
                    self.at(
                        self.now,
                        Event::Ended(ix, id, TransferEnd::Failed("not connected".into())),
                    );
                    return;
                };
                self.send(
                    ix,
                    other,
                    Message::Get {
                        stream,
                        wants: wants.clone(),
                    },
                );
            }
            _ => self.at(self.now + self.links.origin_latency, Event::OriginAsked(ix, id)),
        }
        self.nodes[ix.0]
            .transfers
            .insert(id, Transfer { source, wants, stream });
    }

    fn cancel(&mut self, ix: NodeIx, id: TransferId) {
        let Some(transfer) = self.nodes[ix.0].transfers.get(&id) else {
            return;
        };
        match transfer.source {
            Source::Peer(peer) => {
                let stream = transfer.stream;
                if let Some(other) = self.by_id.get(&peer).copied() {
                    self.send(ix, other, Message::Cancel { stream });
                }
            }
            _ => self
                .flows
                .retain(|_, flow| !(flow.from.is_none() && flow.to == ix && flow.transfer == id)),
        }
        self.at(self.now, Event::Ended(ix, id, TransferEnd::Failed("cancelled".into())));
    }

    fn ended(&mut self, ix: NodeIx, transfer: TransferId, end: TransferEnd) {
        if self.nodes[ix.0].transfers.remove(&transfer).is_some() {
            self.give(ix, Input::TransferEnded { transfer, end });
        }
    }

    fn origin_asked(&mut self, ix: NodeIx, id: TransferId) {
        if self.origin_is_away() {
            let end = TransferEnd::Failed("connection refused".into());
            self.at(self.now + self.links.origin_latency, Event::Ended(ix, id, end));
            return;
        }
        let Some(transfer) = self.nodes[ix.0].transfers.get(&id) else {
            return;
        };
        let wants = transfer.wants.clone();
        let chunks = self.chunks_of(&wants);
        self.add_flow(Flow {
            from: None,
            to: ix,
            transfer: id,
            stream: 0,
            chunks,
            end: TransferEnd::Done,
            good: true,
            stalled: false,
        });
    }

    fn chunks_of(&self, wants: &[Want]) -> VecDeque<(Digest, u32, u64)> {
        wants
            .iter()
            .flat_map(|want| {
                let lengths = &self.release.chunks[&want.content];
                (want.first..want.first + want.count)
                    .filter_map(move |chunk| Some((want.content, chunk, u64::from(*lengths.get(chunk as usize)?))))
            })
            .collect()
    }

    fn serve(&mut self, ix: NodeIx, peer: NodeId, stream: u32, wants: &[Want]) {
        let Some(other) = self.by_id.get(&peer).copied() else {
            return;
        };
        let node = &self.nodes[ix.0];
        let mut missing = Vec::new();
        let mut held: Vec<Want> = Vec::new();
        for (index, want) in wants.iter().enumerate() {
            let lies = matches!(node.behaviour, Behaviour::Corrupt | Behaviour::Stalling);
            if lies || (want.first..want.first + want.count).all(|chunk| node.holds(&want.content, chunk)) {
                held.push(*want);
            } else {
                missing.push(index as u16);
            }
        }
        let (good, stalled) = (
            node.behaviour != Behaviour::Corrupt,
            node.behaviour == Behaviour::Stalling,
        );
        let chunks = self.chunks_of(&held);
        let end = if missing.is_empty() {
            TransferEnd::Done
        } else {
            TransferEnd::Missing(missing)
        };
        let flow = self.add_flow(Flow {
            from: Some(ix),
            to: other,
            transfer: TransferId(u64::from(stream)),
            stream,
            chunks,
            end,
            good,
            stalled,
        });
        self.nodes[ix.0].serving.insert((other, stream), flow);
    }

    fn add_flow(&mut self, flow: Flow) -> FlowId {
        let id = FlowId(self.next_flow);
        self.next_flow += 1;
        let (from, stalled) = (flow.from, flow.stalled);
        self.flows.insert(id, flow);
        if !stalled {
            self.uplink(from).turn.push_back(id);
            self.send_next(from);
        }
        id
    }

    fn uplink(&mut self, from: Option<NodeIx>) -> &mut Uplink {
        match from {
            Some(ix) => &mut self.nodes[ix.0].uplink,
            None => &mut self.origin,
        }
    }

    fn sent(&mut self, from: Option<NodeIx>) {
        self.uplink(from).busy = false;
        self.send_next(from);
    }

    /// Puts the next chunk of the next flow on a link.
    fn send_next(&mut self, from: Option<NodeIx>) {
        if self.uplink(from).busy {
            return;
        }
        while let Some(id) = self.uplink(from).turn.pop_front() {
            let Some(flow) = self.flows.get_mut(&id) else { continue };
            let (to, transfer, good) = (flow.to, flow.transfer, flow.good);
            let Some((content, chunk, len)) = flow.chunks.pop_front() else {
                self.finish_flow(id);
                continue;
            };
            let (rate, latency, source) = match from {
                Some(ix) => {
                    self.nodes[ix.0].served_bytes += len;
                    (
                        self.links.node_rate,
                        self.links.node_latency,
                        Source::Peer(self.nodes[ix.0].id),
                    )
                }
                None => {
                    self.origin_sent += len;
                    (self.links.origin_rate, self.links.origin_latency, Source::Origin)
                }
            };
            let sent = self.now + time_of(len, rate);
            let arrived = sent + latency;
            let receiver = &mut self.nodes[to.0];
            // It is received as it arrives; what it waits for is others on the same link.
            let received = (receiver.downlink_free + time_of(len, self.links.node_rate)).max(arrived);
            receiver.downlink_free = received;
            if let Some(ix) = from {
                self.ordered.insert((ix, to), received);
            }
            self.at(
                received,
                Event::Chunk {
                    to,
                    transfer,
                    content,
                    chunk,
                    len,
                    good,
                    source,
                },
            );
            let uplink = self.uplink(from);
            uplink.busy = true;
            uplink.turn.push_back(id);
            self.at(sent, from.map_or(Event::SentOrigin, Event::Sent));
            return;
        }
    }

    fn finish_flow(&mut self, id: FlowId) {
        let Some(flow) = self.flows.remove(&id) else { return };
        match flow.from {
            Some(from) => {
                self.nodes[from.0].serving.remove(&(flow.to, flow.stream));
                let end = match flow.end {
                    TransferEnd::Missing(wants) => End::Missing(wants),
                    _ => End::Done,
                };
                self.send(
                    from,
                    flow.to,
                    Message::End {
                        stream: flow.stream,
                        end,
                    },
                );
                self.at(self.now, Event::Served(from, flow.to, flow.stream));
            }
            None => {
                let at = (self.now + self.links.origin_latency).max(self.nodes[flow.to.0].downlink_free);
                self.at(at, Event::Ended(flow.to, flow.transfer, flow.end));
            }
        }
    }

    fn chunk(
        &mut self,
        ix: NodeIx,
        transfer: TransferId,
        content: Digest,
        chunk: u32,
        len: u64,
        good: bool,
        source: Source,
    ) {
        let node = &mut self.nodes[ix.0];
        // What was cancelled or broken off is not looked at.
        if !node.alive || !node.transfers.contains_key(&transfer) {
            return;
        }
        self.give(ix, Input::Progress { transfer, bytes: len });
        if !good {
            self.ended(ix, transfer, TransferEnd::Corrupt);
            return;
        }
        let node = &mut self.nodes[ix.0];
        match source {
            Source::Origin => node.origin_bytes += len,
            _ => node.peer_bytes += len,
        }
        if !node.store.entry(content).or_default().insert(chunk) {
            node.wasted_bytes += len;
        }
        self.give(
            ix,
            Input::Stored {
                transfer,
                content,
                chunk,
            },
        );
        let release = Rc::clone(&self.release);
        if content == release.list {
            self.give_list(ix);
        } else if let Some(file) = release.chunk_lists.get(&content) {
            let chunks = release.chunks[file].clone();
            let held = (0..chunks.len() as u32)
                .map(|chunk| self.nodes[ix.0].holds(file, chunk))
                .collect();
            self.give(
                ix,
                Input::ChunkList {
                    content: *file,
                    chunks,
                    held,
                },
            );
        }
    }

    fn die(&mut self, ix: NodeIx) {
        self.nodes[ix.0].alive = false;
        self.flows.retain(|_, flow| flow.from != Some(ix) && flow.to != ix);
        // Its power is gone: nobody is told, and others find out by its silence.
    }
}
