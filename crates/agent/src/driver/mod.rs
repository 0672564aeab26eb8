//! The node's one loop: what happens goes into the core, what the core wants is done.
//!
//! Nothing in here waits for the network or the disk: that is done by tasks that tell of it with an `Event`.

mod content;
mod disk;
mod heal;
mod identity;
mod ignored;
mod manners;
mod metadata;
mod run;
mod told;
mod voucher;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use potluck_model::api::Head;
use potluck_model::assignment::AssignedRelease;
use potluck_model::audit::Checkpoint;
use potluck_model::chunk_list::ChunkList;
use potluck_model::revocations::Edition;
use potluck_model::trace::{Cause, Recap, Source, What, Why};
use potluck_model::{Digest, NodeId, Time};
use potluck_net::datagram::To;
use potluck_proto::{Action, Config, Input, Message, Swarm, TransferEnd, TransferId, Want};
use potluck_store::{Store, StoreError};
use tokio::sync::{mpsc, watch};
use tokio::task::AbortHandle;
use tokio::time::Instant;

use crate::arrived::Arrived;
use crate::execution::{Execution, RunFault};
use crate::home::{Home, Joined};
use crate::lists::{LoadError, Loaded};
use crate::manners::{Limits, Manners, Situation};
use crate::outbox::Outbox;
use crate::peers::{Peers, Taken, Up};
use crate::renewal::Renewed;
use crate::revocations::Revocations;
use crate::room::{Room, Shortage};
use crate::serving::Serving;
use crate::shapes::Shapes;
use crate::staging::Staging;
use crate::totals::Totals;
use crate::writer::Write;
use crate::{Finished, origin};
use disk::Disk;
use heal::Findings;
use identity::Alone;
use ignored::IgnoredSoFar;
use manners::Looking;
use metadata::Metadata;
use run::Retry;

/// A transfer from the server of which nothing came for so long after the network changed is given up.
const DOUBT: Duration = Duration::from_secs(3);
/// How long `--once` waits for the server to take the last events.
const LAST_REPORT: Duration = Duration::from_secs(10);

/// Something that happened.
pub(crate) enum Event {
    /// The server's head, asked for because of `cause`.
    Head { head: Box<Head>, cause: Cause },
    /// The server could not be asked for the first time; the message says why.
    ServerUnreachable,
    /// The server says that this node was revoked.
    Revoked { message: String },
    /// The node has a new certificate.
    Renewed(Box<Renewed>),
    /// Links or addresses changed.
    NetworkChanged,
    /// The machine was looked at.
    Situation(Situation),
    /// A neighbour from before has proven itself on a network that the server has not spoken of.
    Vouched { by: NodeId },
    /// An opened datagram.
    Datagram {
        from: SocketAddr,
        multicast: bool,
        bytes: Vec<u8>,
    },
    /// A connection to a peer is up.
    PeerUp(Up),
    /// A peer could not be reached.
    PeerFailed { peer: NodeId, fault: String },
    /// A peer said something.
    PeerMessage {
        peer: NodeId,
        connection: u64,
        message: Message,
    },
    /// A connection is gone.
    PeerGone {
        peer: NodeId,
        connection: u64,
        fault: String,
    },
    /// Bytes arrived.
    Progress { transfer: TransferId, bytes: u64 },
    /// A chunk was verified and stored.
    Stored {
        transfer: TransferId,
        content: Digest,
        chunk: u32,
        bytes: u64,
    },
    /// A chunk that arrived does not have its digest.
    Corrupt {
        transfer: TransferId,
        content: Digest,
        chunk: u32,
    },
    /// A transfer has ended; all its chunks were told before.
    TransferEnded { transfer: TransferId, end: TransferEnd },
    /// Nothing can be stored.
    StoreFailed { error: StoreError },
    /// All that was stored is durable.
    Flushed,
    /// An answer to a peer is done.
    Served { peer: NodeId, stream: u32, bytes: u64 },
    /// A stored chunk is damaged or gone.
    Lost { content: Digest, chunk: u32 },
    /// A list was read from the store.
    ListLoaded {
        list: Digest,
        result: Result<Arc<Loaded>, LoadError>,
        /// For the designated one: where it does not fit.
        shortage: Option<Shortage>,
    },
    /// Whether there is room now for what is lacking of a list.
    Room { list: Digest, shortage: Option<Shortage> },
    /// Old contents have been removed.
    Cleaned,
    /// The store was looked through for damage.
    Examined {
        list: Digest,
        findings: Result<Findings, StoreError>,
    },
    /// A chunk list was read and room was made for its file.
    Prepared {
        content: Digest,
        result: Result<(ChunkList, Vec<bool>), LoadError>,
    },
    /// All steps have ended, or could not be executed at all.
    Executed {
        list: Digest,
        result: Result<Recap, RunFault>,
        /// Why steps failed.
        failures: Vec<String>,
        /// It was executed, and what publishers have signed since is refused.
        refused: bool,
    },
    /// The executing process has looked at what publishers have signed.
    Verified {
        list: Digest,
        /// Whether it is refused; none: nobody looked.
        refused: Option<bool>,
    },
}

/// A transfer that goes on.
struct Transfer {
    source: Source,
    why: Why,
    /// Bytes obtained: runs `(offset, len)` of each content.
    runs: BTreeMap<Digest, Vec<(u64, u64)>>,
    /// When the last of them came.
    heard: Instant,
    /// Ends a transfer from the origin.
    abort: Option<AbortHandle>,
}

/// What the core was told of what is designated.
#[derive(PartialEq, Eq)]
enum Told {
    Nothing,
    /// A list with its size, or that there is none.
    List(Option<(Digest, u64)>),
}

/// What the loop works with, besides what it knows.
pub(crate) struct Tools {
    pub(crate) home: Home,
    pub(crate) joined: Joined,
    pub(crate) revocations: Revocations,
    /// Which list of revoked nodes that is, for who asks the server.
    pub(crate) edition: watch::Sender<Edition>,
    pub(crate) store: Store,
    pub(crate) outbox: Outbox,
    pub(crate) client: potluck_net::api::Client,
    pub(crate) datagrams: Arc<potluck_net::datagram::DatagramPort>,
    pub(crate) peers: Peers,
    pub(crate) gate: potluck_net::peer::Gate,
    /// Datagrams that came while too many waited.
    pub(crate) overflowed: Arc<AtomicU64>,
    pub(crate) limits: Arc<Limits>,
    pub(crate) manners: Manners,
    /// Source address and multicast interface; none: all.
    pub(crate) bind: Option<IpAddr>,
    pub(crate) writer: mpsc::Sender<Write>,
    pub(crate) events: mpsc::Sender<Event>,
    pub(crate) execution: Execution,
    pub(crate) room: Room,
    /// Bytes that the store is to have at most.
    pub(crate) store_max: Option<u64>,
    pub(crate) once: bool,
}

/// The loop's knowledge.
pub(crate) struct Driver {
    tools: Tools,
    swarm: Swarm,
    start: Instant,
    shapes: Shapes,
    serving: Serving,
    transfers: BTreeMap<TransferId, Transfer>,
    /// Where the last ones that ended fetched from, and why.
    ended: BTreeMap<TransferId, (Source, Why)>,
    head: Option<Head>,
    designated: Option<AssignedRelease>,
    /// Whether it was heard since the start what is designated.
    designation_known: bool,
    /// What the core was told last of what is designated.
    told: Told,
    /// Lists in the store, with their sizes.
    stored_lists: BTreeMap<Digest, u64>,
    /// Bytes that each of them needs.
    payloads: BTreeMap<Digest, u64>,
    /// The designated list, once it is here.
    loaded: Option<Arc<Loaded>>,
    totals: Totals,
    /// Contents of which it was told what was here already.
    counted: BTreeSet<Digest>,
    arrived: Arrived,
    /// Waiting for the disk before `Complete` counts.
    completing: Option<Digest>,
    complete: bool,
    executing: Option<Digest>,
    /// What arrives of the designated list is copied ahead.
    staging: Option<Staging>,
    last_run: Option<(Digest, Result<Recap, String>)>,
    /// Of what publishers have signed.
    metadata: Metadata,
    retry: Retry,
    /// How often the designated list was healed.
    heals: u32,
    /// Contents of which it was told that they are damaged.
    damage_told: BTreeSet<Digest>,
    disk: Disk,
    looking: Looking,
    ignored: IgnoredSoFar,
    /// Looks for a neighbour that vouches for the network.
    voucher: Option<AbortHandle>,
    /// Why peers are left alone, whatever the network.
    alone: Option<Alone>,
    /// The newest end of the server's audit log.
    checkpoint: Option<Checkpoint>,
    /// The one that does not fit it and was told of.
    checkpoint_told: Option<Checkpoint>,
    /// When links or addresses last changed, until it is known what that did to transfers.
    network_changed: Option<Instant>,
    /// It was told that the clock is off.
    clock_told: bool,
    finish_by: Option<Instant>,
    /// With `once`, when to give up on a server that has never answered.
    give_up: Option<Instant>,
    finished: Option<Finished>,
}

impl Driver {
    pub(crate) fn new(tools: Tools, config: Config, seed: [u8; 32]) -> Self {
        let serving = Serving::new(tools.store.clone(), tools.events.clone(), Arc::clone(&tools.limits));
        let looking = Looking::new(&tools.manners, config.serving_max);
        let stored_lists = tools.home.lists();
        let checkpoint = tools.home.checkpoint();
        Self {
            swarm: Swarm::new(config, seed, Time::ZERO),
            tools,
            start: Instant::now(),
            shapes: Shapes::default(),
            serving,
            transfers: BTreeMap::new(),
            ended: BTreeMap::new(),
            head: None,
            designated: None,
            designation_known: false,
            told: Told::Nothing,
            stored_lists,
            payloads: BTreeMap::new(),
            loaded: None,
            totals: Totals::default(),
            counted: BTreeSet::new(),
            arrived: Arrived::default(),
            completing: None,
            complete: false,
            executing: None,
            staging: None,
            last_run: None,
            metadata: Metadata::default(),
            retry: Retry::default(),
            heals: 0,
            damage_told: BTreeSet::new(),
            disk: Disk::default(),
            looking,
            ignored: IgnoredSoFar::new(),
            voucher: None,
            alone: None,
            checkpoint,
            checkpoint_told: None,
            network_changed: None,
            clock_told: false,
            finish_by: None,
            give_up: None,
            finished: None,
        }
    }

    /// Runs until `--once` is done. Dropping the future stops the node; what was stored stays.
    pub(crate) async fn run(mut self, mut events: mpsc::Receiver<Event>) -> Finished {
        self.input(Input::Paths(self.tools.datagrams.paths()));
        for list in self.stored_lists.keys().copied().collect::<Vec<_>>() {
            self.load_list(list);
        }
        loop {
            self.act();
            if let Some(finished) = self.finished.take_if(|_| self.tools.outbox.is_empty()) {
                return finished;
            }
            let wake = self.next_wake();
            tokio::select! {
                event = events.recv() => {
                    let Some(event) = event else { return Finished::Stopped };
                    self.handle(event);
                    // What has come in the meantime goes in together.
                    while let Ok(event) = events.try_recv() {
                        self.handle(event);
                    }
                }
                () = sleep_until(wake) => self.wake(),
                () = self.tools.outbox.acknowledged(), if self.finished.is_some() => {}
            }
            if self.finish_by.is_some_and(|by| Instant::now() >= by)
                && let Some(finished) = self.finished.take()
            {
                tracing::warn!("the server has not taken the last events; they are sent at the next start");
                return finished;
            }
        }
    }

    fn next_wake(&self) -> Option<Instant> {
        let core = self.swarm.deadline().map(|at| self.start + Duration::from_micros(at.0));
        let doubt = self.network_changed.map(|at| at + DOUBT);
        [
            core,
            doubt,
            self.disk.wake_at(),
            self.looking.look_at(),
            Some(self.ignored.look_at()),
            self.retry.at,
            self.stale_at(),
            self.finish_by,
            self.give_up,
        ]
        .into_iter()
        .flatten()
        .min()
    }

    fn wake(&mut self) {
        if self.give_up.take_if(|at| Instant::now() >= *at).is_some() {
            self.finish(Finished::Unreachable);
        }
        self.look_for_room();
        self.look_around();
        self.tell_ignored();
        self.retry_run();
        self.look_at_grace();
        self.end_what_the_network_cut();
        self.input(Input::Wake);
    }

    fn now(&self) -> Time {
        Time(self.start.elapsed().as_micros() as u64)
    }

    fn input(&mut self, input: Input<'_>) {
        self.swarm.handle(self.now(), input);
    }

    fn record(&self, what: What) {
        self.tools
            .outbox
            .record(self.designated.as_ref().map(|release| release.list), what);
    }

    /// Tells the operator, here and at the server.
    fn trouble(&self, message: String) {
        tracing::error!("{message}");
        self.record(What::Trouble { message });
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Head { head, cause } => self.handle_head(*head, cause),
            Event::ServerUnreachable => self.handle_server_unreachable(),
            Event::Revoked { message } => self.handle_revoked(message),
            Event::Renewed(renewed) => self.handle_renewed(*renewed),
            Event::NetworkChanged => {
                self.leave_network();
                self.looking.hurry();
                self.tools.datagrams.refresh();
                self.input(Input::Paths(self.tools.datagrams.paths()));
                self.network_changed = Some(Instant::now());
                self.seek_voucher();
            }
            Event::Datagram { from, multicast, bytes } => {
                self.input(Input::Datagram {
                    from,
                    multicast,
                    bytes: &bytes,
                });
            }
            Event::Situation(situation) => self.handle_situation(situation),
            Event::Vouched { by } => self.handle_vouched(by),
            Event::PeerUp(up) => self.handle_peer_up(up),
            Event::PeerFailed { peer, fault } => {
                tracing::debug!(%peer, fault, "cannot connect to the peer");
                if self.tools.peers.dial_ended(peer) {
                    self.input(Input::ConnectFailed { peer });
                }
            }
            Event::PeerMessage {
                peer,
                connection,
                message,
            } => {
                if self.tools.peers.is_current(peer, connection) {
                    match message {
                        Message::RevocationsKnown(theirs) => self.compare_revocations(peer, theirs),
                        Message::Revocations { document } => self.handle_revocations_of(peer, &document),
                        message => self.input(Input::Message { peer, message }),
                    }
                }
            }
            Event::PeerGone {
                peer,
                connection,
                fault,
            } => {
                tracing::debug!(%peer, fault, "the connection to the peer is gone");
                if let Some(transfers) = self.tools.peers.gone(peer, connection) {
                    self.peer_down(peer, transfers, &fault);
                }
            }
            Event::Progress { transfer, bytes } => {
                if let Some(running) = self.transfers.get_mut(&transfer) {
                    running.heard = Instant::now();
                    self.input(Input::Progress { transfer, bytes });
                }
            }
            Event::Stored {
                transfer,
                content,
                chunk,
                bytes,
            } => {
                self.shapes.measured(&content, bytes);
                self.handle_stored(transfer, content, chunk);
            }
            Event::Corrupt {
                transfer,
                content,
                chunk,
            } => {
                let source = self.transfers.get(&transfer).map(|transfer| transfer.source);
                tracing::warn!(?source, %content, chunk, "received bytes that do not have their digest; thrown away");
                self.end_transfer(transfer, TransferEnd::Corrupt);
            }
            Event::TransferEnded { transfer, end } => self.end_transfer(transfer, end),
            Event::StoreFailed { error } => self.handle_store_failed(&error),
            Event::Flushed => self.handle_flushed(),
            Event::Served { peer, stream, bytes } => {
                self.serving.ended(peer, stream);
                self.input(Input::Served { peer, stream, bytes });
            }
            Event::Lost { content, chunk } => self.handle_lost(content, chunk),
            Event::ListLoaded { list, result, shortage } => self.handle_list_loaded(list, result, shortage.as_ref()),
            Event::Room { list, shortage } => self.handle_room(list, shortage),
            Event::Cleaned => self.handle_cleaned(),
            Event::Examined { list, findings } => self.handle_examined(list, findings),
            Event::Prepared { content, result } => self.handle_prepared(content, result),
            Event::Executed {
                list,
                result,
                failures,
                refused,
            } => {
                self.metadata.judged(refused);
                self.handle_executed(list, result, &failures);
            }
            Event::Verified { list, refused } => self.handle_verified(list, refused),
        }
    }

    /// Some time after the network changed: what has come to nothing since then is asked for again over new connections.
    fn end_what_the_network_cut(&mut self) {
        let Some(changed) = self.network_changed.take_if(|at| at.elapsed() >= DOUBT) else {
            return;
        };
        let cut = self
            .transfers
            .iter()
            .filter(|(_, transfer)| transfer.source == Source::Origin && transfer.heard < changed);
        for transfer in cut.map(|(transfer, _)| *transfer).collect::<Vec<_>>() {
            self.end_transfer(
                transfer,
                TransferEnd::Failed("nothing came since the network changed".into()),
            );
        }
    }

    // Peers.

    fn handle_peer_up(&mut self, up: Up) {
        let (peer, address) = (up.peer(), up.address());
        if self.tools.revocations.revokes(peer) {
            tracing::info!(%peer, %address, "a connection with a node that was revoked is refused");
            if up.dialled && self.tools.peers.dial_ended(peer) {
                self.input(Input::ConnectFailed { peer });
            }
            return;
        }
        if !self.tools.gate.is_open() {
            // It came about while the port was being closed.
            return;
        }
        let Taken::As { replaced } = self.tools.peers.up(up) else {
            return;
        };
        if let Some(transfers) = replaced {
            self.peer_down(peer, transfers, "replaced by a newer connection");
        }
        self.input(Input::Connected { peer, address });
        let known = Message::RevocationsKnown(self.tools.revocations.edition());
        self.tools.peers.send(peer, &known);
    }

    fn peer_down(&mut self, peer: NodeId, transfers: BTreeSet<TransferId>, fault: &str) {
        for transfer in transfers {
            self.end_transfer(transfer, TransferEnd::Failed(fault.to_owned()));
        }
        self.serving.peer_gone(peer);
        self.input(Input::Disconnected { peer });
    }

    // What the core wants.

    fn act(&mut self) {
        let mut datagrams = Vec::new();
        while let Some(action) = self.swarm.poll() {
            match action {
                Action::Datagram { to, bytes } => datagrams.push((To::Address(to), bytes)),
                Action::Multicast { path, bytes } => datagrams.push((To::Group(path), bytes)),
                Action::Connect { peer, .. } if self.tools.revocations.revokes(peer) => {
                    self.input(Input::ConnectFailed { peer });
                }
                Action::Connect { peer, addresses } => self.tools.peers.connect(peer, addresses),
                Action::Disconnect { peer } => {
                    if let Some(transfers) = self.tools.peers.close(peer) {
                        self.peer_down(peer, transfers, "closed");
                    }
                }
                Action::Send { peer, message } => self.tools.peers.send(peer, &message),
                Action::Fetch {
                    transfer,
                    source,
                    wants,
                    why,
                } => self.fetch(transfer, source, wants, why),
                Action::Cancel { transfer } => {
                    self.tools.peers.cancel(transfer);
                    self.end_transfer(transfer, TransferEnd::Failed("cancelled".into()));
                }
                Action::Serve { peer, stream, wants } => self.serve(peer, stream, &wants),
                Action::StopServing { peer, stream } => self.stop_serving(peer, stream),
                Action::Decline { peer, stream, end } => {
                    self.tools.peers.send(peer, &Message::End { stream, end });
                }
                Action::Trace(what) => self.record(what),
                Action::Complete { list } => {
                    self.completing = Some(list);
                    let writer = self.tools.writer.clone();
                    tokio::spawn(async move { drop(writer.send(Write::Flush).await) });
                }
            }
        }
        self.tools.datagrams.send_all(&datagrams);
    }

    fn fetch(&mut self, transfer: TransferId, source: Source, wants: Vec<Want>, why: Why) {
        let mut running = Transfer {
            source,
            why,
            runs: BTreeMap::new(),
            heard: Instant::now(),
            abort: None,
        };
        let parts = self.shapes.parts(&wants);
        let Some(parts) = parts.filter(|parts| !parts.is_empty()) else {
            tracing::error!(?wants, "the core wants chunks that no list describes");
            self.transfers.insert(transfer, running);
            return self.end_transfer(transfer, TransferEnd::Failed("unknown content".into()));
        };
        match source {
            Source::Peer(peer) => {
                if !self.tools.peers.fetch(peer, transfer, wants, parts) {
                    self.transfers.insert(transfer, running);
                    return self.end_transfer(transfer, TransferEnd::Failed("not connected".into()));
                }
            }
            Source::Origin => {
                let task = origin::fetch(
                    self.tools.client.clone(),
                    transfer,
                    parts,
                    Arc::clone(&self.tools.limits),
                    self.tools.writer.clone(),
                    self.tools.events.clone(),
                );
                running.abort = Some(tokio::spawn(task).abort_handle());
            }
            Source::Held => tracing::error!("the core fetches what is here"),
        }
        self.transfers.insert(transfer, running);
    }

    fn serve(&mut self, peer: NodeId, stream: u32, wants: &[Want]) {
        match (self.shapes.parts(wants), self.tools.peers.sender(peer)) {
            (Some(parts), Some(sender)) => self.serving.start(peer, stream, sender, parts, wants.len()),
            (_, sender) => {
                if sender.is_some() {
                    let all = (0..wants.len() as u16).collect();
                    let end = potluck_proto::End::Missing(all);
                    self.tools.peers.send(peer, &Message::End { stream, end });
                }
                self.input(Input::Served { peer, stream, bytes: 0 });
            }
        }
    }

    fn stop_serving(&mut self, peer: NodeId, stream: u32) {
        if self.serving.stop(peer, stream) {
            let end = potluck_proto::End::Missing(Vec::new());
            self.tools.peers.send(peer, &Message::End { stream, end });
            self.input(Input::Served { peer, stream, bytes: 0 });
        }
    }
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}
