//! The node's one loop: what happens goes into the core, what the core wants is done.
//!
//! Nothing in here waits for the network or the disk: that is done by tasks that tell of it with an `Event`.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use potluck_model::api::Head;
use potluck_model::assignment::AssignedRelease;
use potluck_model::chunk_list::ChunkList;
use potluck_model::trace::{Cause, Recap, Source, What, Why};
use potluck_model::{Digest, NodeId, Time, UnixSeconds};
use potluck_net::datagram::SealKey;
use potluck_proto::{Action, Config, Input, ListContent, Message, Neighbour, Swarm, TransferEnd, TransferId, Want};
use potluck_store::{Store, StoreError};
use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use tokio::time::Instant;

use crate::arrived::Arrived;
use crate::execution::{self, Execution};
use crate::home::{Home, Joined};
use crate::lists::{self, LoadError, Loaded};
use crate::outbox::Outbox;
use crate::peers::{Peers, Taken, Up};
use crate::serving::Serving;
use crate::shapes::Shapes;
use crate::totals::Totals;
use crate::writer::Write;
use crate::{Finished, GIVE_UP, origin};

/// How long the node does not fetch after its disk failed.
const DISK_PAUSE: Duration = Duration::from_secs(10);
/// How long `--once` waits for the server to take the last events.
const LAST_REPORT: Duration = Duration::from_secs(10);

/// Something that happened.
pub(crate) enum Event {
    /// The server's head, asked for because of `cause`.
    Head { head: Box<Head>, cause: Cause },
    /// The server could not be asked for the first time; the message says why.
    ServerUnreachable,
    /// Links or addresses changed.
    NetworkChanged,
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
        result: Result<Box<Loaded>, LoadError>,
    },
    /// A chunk list was read and room was made for its file.
    Prepared {
        content: Digest,
        result: Result<(ChunkList, Vec<bool>), LoadError>,
    },
    /// All steps have ended, or could not be executed at all.
    Executed {
        list: Digest,
        result: Result<Recap, String>,
    },
}

/// A transfer that goes on.
struct Transfer {
    source: Source,
    why: Why,
    /// Bytes obtained: runs `(offset, len)` of each content.
    runs: BTreeMap<Digest, Vec<(u64, u64)>>,
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
    pub(crate) store: Store,
    pub(crate) outbox: Outbox,
    pub(crate) client: potluck_net::api::Client,
    pub(crate) datagrams: Arc<potluck_net::datagram::DatagramPort>,
    pub(crate) peers: Peers,
    pub(crate) writer: mpsc::Sender<Write>,
    pub(crate) events: mpsc::Sender<Event>,
    pub(crate) execution: Execution,
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
    head: Option<Head>,
    designated: Option<AssignedRelease>,
    /// Whether it was heard since the start what is designated.
    designation_known: bool,
    /// What the core was told last of what is designated.
    told: Told,
    /// Lists in the store, with their sizes.
    stored_lists: BTreeMap<Digest, u64>,
    /// The designated list, once it is here.
    loaded: Option<Box<Loaded>>,
    totals: Totals,
    arrived: Arrived,
    /// Waiting for the disk before `Complete` counts.
    completing: Option<Digest>,
    complete: bool,
    executing: Option<Digest>,
    last_run: Option<(Digest, Result<Recap, String>)>,
    paused_until: Option<Instant>,
    finish_by: Option<Instant>,
    /// With `once`, when to give up on a server that has never answered.
    give_up: Option<Instant>,
    finished: Option<Finished>,
}

impl Driver {
    pub(crate) fn new(tools: Tools, config: Config, seed: [u8; 32]) -> Self {
        let serving = Serving::new(tools.store.clone(), tools.events.clone());
        let stored_lists = tools.home.lists();
        Self {
            swarm: Swarm::new(config, seed, Time::ZERO),
            tools,
            start: Instant::now(),
            shapes: Shapes::default(),
            serving,
            transfers: BTreeMap::new(),
            head: None,
            designated: None,
            designation_known: false,
            told: Told::Nothing,
            stored_lists,
            loaded: None,
            totals: Totals::default(),
            arrived: Arrived::default(),
            completing: None,
            complete: false,
            executing: None,
            last_run: None,
            paused_until: None,
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
        [core, self.paused_until, self.finish_by, self.give_up]
            .into_iter()
            .flatten()
            .min()
    }

    fn wake(&mut self) {
        if self.give_up.take_if(|at| Instant::now() >= *at).is_some() {
            self.finish(Finished::Unreachable);
        }
        if self.paused_until.is_some_and(|until| Instant::now() >= until) {
            self.paused_until = None;
            self.designate_to_core();
        }
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
            Event::NetworkChanged => {
                self.tools.datagrams.refresh();
                self.input(Input::Paths(self.tools.datagrams.paths()));
            }
            Event::Datagram { from, multicast, bytes } => {
                self.input(Input::Datagram {
                    from,
                    multicast,
                    bytes: &bytes,
                });
            }
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
                    self.input(Input::Message { peer, message });
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
                if self.transfers.contains_key(&transfer) {
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
            Event::Lost { content, chunk } => {
                tracing::warn!(%content, chunk, "a stored chunk is damaged or gone; it is fetched again if needed");
                self.complete = false;
                self.arrived.forget(&content, chunk);
                self.input(Input::Lost { content, chunk });
            }
            Event::ListLoaded { list, result } => self.handle_list_loaded(list, result),
            Event::Prepared { content, result } => self.handle_prepared(content, result),
            Event::Executed { list, result } => self.handle_executed(list, &result),
        }
    }

    // The server's word.

    fn handle_head(&mut self, head: Head, cause: Cause) {
        let floor = self.head.as_ref().map_or(0, |head| head.assignment.signed.sequence);
        let known = self.head.as_ref().map(|head| head.assignment.signed.clone());
        let verdict = self
            .tools
            .joined
            .root
            .verify(&head.assignment, self.tools.joined.node, floor);
        let assignment = match verdict.cloned() {
            Ok(assignment) => assignment,
            Err(error) => return self.trouble(format!("the server's assignment is refused: {error}")),
        };
        let changed = known.as_ref().map(|known| &known.release) != Some(&assignment.release);
        if changed && known.is_some_and(|known| known.sequence == assignment.sequence) {
            let sequence = assignment.sequence;
            return self.trouble(format!(
                "the server made two assignments with the sequence number {sequence}: the later one is refused"
            ));
        }
        if changed && let Err(error) = assignment.adoptable(UnixSeconds::now()) {
            return self.trouble(format!("the server's assignment is not adopted: {error}"));
        }
        if let Err(error) = self.tools.home.save_head(&head) {
            // Without the floor on disk an older assignment could be passed off as new after a restart.
            return self.trouble(format!("the server's assignment is not adopted: {error}"));
        }
        self.adopt(head);
        if cause != Cause::Notified || changed {
            let list = assignment.release.as_ref().map(|release| release.list);
            let assigned = What::Assigned {
                sequence: assignment.sequence,
                configuration: assignment.release.as_ref().map(|release| release.configuration.clone()),
                release: assignment.release.as_ref().map_or(0, |release| release.release),
            };
            // Under the list that it names, which is not the designated one yet.
            self.tools.outbox.record(list, assigned);
        }
        if changed || !self.designation_known {
            self.designation_known = true;
            self.designate(assignment.release);
        } else {
            self.resume_if_halted();
        }
    }

    /// Takes over all of a head but the assignment.
    fn adopt(&mut self, head: Head) {
        self.tools.peers.set_audiences(&head.audiences);
        let keys: Vec<SealKey> = head.fleet_keys.iter().filter_map(SealKey::parse).collect();
        self.tools.datagrams.sealer().replace(&keys);
        if let Some(key) = head
            .audiences
            .first()
            .and_then(|audience| crate::keys::parse(&audience.key))
        {
            self.input(Input::Audience { key });
        }
        let neighbours = head
            .neighbours
            .iter()
            .take(64)
            .filter(|neighbour| neighbour.node != self.tools.joined.node)
            .map(|neighbour| Neighbour {
                node: neighbour.node,
                addresses: neighbour.addresses.iter().take(16).copied().collect(),
            })
            .collect();
        self.input(Input::Neighbours {
            neighbours,
            population: head.population,
        });
        if head.halted && !self.head.as_ref().is_some_and(|before| before.halted) {
            tracing::info!("the fleet is halted: no step starts until it is resumed");
        }
        self.tools.execution.set_halted(head.halted);
        self.head = Some(head);
    }

    fn resume_if_halted(&mut self) {
        let halted = self.head.as_ref().is_some_and(|head| head.halted);
        let kept = self
            .last_run
            .as_ref()
            .is_some_and(|(_, run)| run.as_ref().is_ok_and(|recap| recap.halted > 0));
        if !halted && kept {
            self.last_run = None;
            self.execute_if_ready();
        }
    }

    /// The server has not answered since the start: go on with what was known.
    fn handle_server_unreachable(&mut self) {
        if self.head.is_some() {
            return;
        }
        let Some(head) = self.tools.home.head() else {
            self.give_up = self.tools.once.then(|| Instant::now() + GIVE_UP);
            return;
        };
        // Expiry is for adoption; this was adopted.
        let verdict = self
            .tools
            .joined
            .root
            .verify(&head.assignment, self.tools.joined.node, 0);
        match verdict.map(|assignment| assignment.release.clone()) {
            Ok(release) => {
                tracing::info!("the server cannot be reached; going on with what it said last");
                self.adopt(head);
                self.designation_known = true;
                self.designate(release);
            }
            Err(error) => self.trouble(format!("the assignment in the data directory is refused: {error}")),
        }
    }

    fn designate(&mut self, release: Option<AssignedRelease>) {
        match &release {
            Some(release) => tracing::info!(
                configuration = %release.configuration,
                release = release.release,
                "assigned; fetching what it needs"
            ),
            None => tracing::info!("nothing is assigned to this node"),
        }
        self.designated = release;
        self.loaded = None;
        self.totals = Totals::default();
        self.arrived = Arrived::default();
        self.complete = false;
        self.completing = None;
        self.last_run = None;
        match self
            .designated
            .as_ref()
            .map(|release| (release.list, release.list_size))
        {
            Some((list, size)) => {
                self.shapes.one(list, size);
                if self.stored_lists.contains_key(&list) {
                    self.load_list(list);
                } else {
                    self.designate_to_core();
                }
            }
            None => {
                self.designate_to_core();
                if self.tools.once && self.executing.is_none() {
                    self.finish(Finished::Unassigned);
                }
            }
        }
    }

    fn designate_to_core(&mut self) {
        let list = self
            .designated
            .as_ref()
            .map(|release| (release.list, release.list_size));
        let list = list.filter(|_| self.paused_until.is_none());
        if self.told != Told::List(list) {
            self.told = Told::List(list);
            self.input(Input::Designated { list });
        }
    }

    // Lists and chunk lists.

    fn load_list(&self, list: Digest) {
        let (store, events, machine) = (
            self.tools.store.clone(),
            self.tools.events.clone(),
            self.tools.execution.machine(),
        );
        tokio::task::spawn_blocking(move || {
            let result = lists::load(&store, &list, machine).map(Box::new);
            drop(events.blocking_send(Event::ListLoaded { list, result }));
        });
    }

    fn handle_list_loaded(&mut self, list: Digest, result: Result<Box<Loaded>, LoadError>) {
        let designated = self.designated.as_ref().is_some_and(|release| release.list == list);
        let loaded = match result {
            Ok(loaded) => loaded,
            Err(LoadError::Absent) => {
                self.stored_lists.remove(&list);
                self.input(Input::Lost {
                    content: list,
                    chunk: 0,
                });
                if designated {
                    self.designate_to_core();
                }
                return;
            }
            Err(error) if designated => return self.trouble(format!("the list {list} cannot be used: {error}")),
            Err(error) => return tracing::warn!(%list, %error, "a list in the store cannot be used"),
        };
        if designated && let Some(release) = &self.designated {
            let named = (&loaded.list.configuration, loaded.list.release);
            if named != (&release.configuration, release.release) {
                return self.trouble(format!(
                    "the server assigned release {} of {}, but its list says release {} of {}: it is not executed",
                    release.release, release.configuration, named.1, named.0
                ));
            }
        }
        if self.stored_lists.insert(list, loaded.size).is_none() {
            self.save_lists();
        }
        self.shapes.one(list, loaded.size);
        for ListContent { content, .. } in &loaded.contents {
            match content.chunks {
                None => self.shapes.one(content.digest, content.size),
                Some(chunks) => self.shapes.chunk_list(chunks),
            }
        }
        if designated {
            self.totals = Totals::of(&loaded);
            for content in loaded.contents.iter().filter(|content| content.needed && content.held) {
                self.obtained(content.content.digest, 0, content.content.size, Source::Held, Why::Held);
            }
        }
        self.input(Input::List {
            list,
            size: loaded.size,
            contents: loaded.contents.clone(),
        });
        for content in &loaded.contents {
            let Some(chunks) = content.content.chunks else { continue };
            if content.held || (designated && loaded.chunk_lists.contains(&chunks)) {
                self.prepare(content.content.digest, chunks, content.content.size);
            }
        }
        if designated {
            self.loaded = Some(loaded);
            self.designate_to_core();
        }
    }

    /// Reads a chunk list, and makes room for its file or finds out what of it is here.
    fn prepare(&self, content: Digest, chunks: Digest, size: u64) {
        let (store, events) = (self.tools.store.clone(), self.tools.events.clone());
        tokio::task::spawn_blocking(move || {
            let result = lists::prepare(&store, &content, &chunks, size);
            drop(events.blocking_send(Event::Prepared { content, result }));
        });
    }

    fn handle_prepared(&mut self, content: Digest, result: Result<(ChunkList, Vec<bool>), LoadError>) {
        let (chunks, held) = match result {
            Ok(prepared) => prepared,
            Err(LoadError::Store(error)) => return self.handle_store_failed(&error),
            Err(LoadError::Absent) => {
                let chunks = self.loaded.as_ref().and_then(|loaded| loaded.chunk_list_of(&content));
                if let Some(chunks) = chunks {
                    self.input(Input::Lost {
                        content: chunks,
                        chunk: 0,
                    });
                }
                return;
            }
            Err(error) => return self.trouble(format!("the chunk list of content {content} cannot be used: {error}")),
        };
        let lengths: Vec<u32> = chunks.chunks().iter().map(|chunk| chunk.len).collect();
        self.shapes.many(content, chunks);
        if self.totals.concerns(&content) {
            for (offset, len) in held_runs(&lengths, &held) {
                self.obtained(content, offset, len, Source::Held, Why::Held);
            }
        }
        self.input(Input::ChunkList {
            content,
            chunks: lengths,
            held,
        });
    }

    fn save_lists(&self) {
        if let Err(error) = self.tools.home.save_lists(&self.stored_lists) {
            tracing::warn!(%error, "after a restart, lists will be fetched again");
        }
    }

    // Bytes.

    fn obtained(&mut self, digest: Digest, offset: u64, len: u64, source: Source, why: Why) {
        if self.totals.count(&digest, len, source) || source != Source::Held {
            self.record(What::Obtained {
                digest,
                offset,
                len,
                source,
                why,
            });
        }
    }

    fn handle_stored(&mut self, transfer: TransferId, content: Digest, chunk: u32) {
        let place = self.shapes.place(&content, chunk);
        if let (Some(of), Some((offset, len))) = (self.transfers.get_mut(&transfer), place)
            && self.arrived.note(content, chunk)
        {
            let runs = of.runs.entry(content).or_default();
            match runs.last_mut() {
                Some(last) if last.0 + last.1 == offset => last.1 += len,
                _ => runs.push((offset, len)),
            }
        }
        self.input(Input::Stored {
            transfer,
            content,
            chunk,
        });
        if self.designated.as_ref().is_some_and(|release| release.list == content) {
            self.load_list(content);
        }
        let files: Vec<_> = self
            .loaded
            .iter()
            .flat_map(|loaded| loaded.files_of(&content))
            .collect();
        for file in files {
            self.prepare(file.digest, content, file.size);
        }
    }

    fn end_transfer(&mut self, transfer: TransferId, end: TransferEnd) {
        let Some(of) = self.transfers.remove(&transfer) else {
            return;
        };
        if let Some(abort) = of.abort {
            abort.abort();
        }
        self.tools.peers.forget_transfer(transfer);
        for (content, runs) in of.runs {
            for (offset, len) in runs {
                self.obtained(content, offset, len, of.source, of.why);
            }
        }
        self.input(Input::TransferEnded { transfer, end });
    }

    fn handle_store_failed(&mut self, error: &StoreError) {
        if self.paused_until.is_some() {
            return;
        }
        self.trouble(format!(
            "nothing can be stored, trying again in {} s: {error}",
            DISK_PAUSE.as_secs()
        ));
        self.paused_until = Some(Instant::now() + DISK_PAUSE);
        self.designate_to_core();
        for transfer in self.transfers.keys().copied().collect::<Vec<_>>() {
            self.end_transfer(transfer, TransferEnd::Failed("nothing can be stored".into()));
        }
    }

    // Peers.

    fn handle_peer_up(&mut self, up: Up) {
        let (peer, address) = (up.peer(), up.address());
        let Taken::As { replaced } = self.tools.peers.up(up) else {
            return;
        };
        if let Some(transfers) = replaced {
            self.peer_down(peer, transfers, "replaced by a newer connection");
        }
        self.input(Input::Connected { peer, address });
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
        while let Some(action) = self.swarm.poll() {
            match action {
                Action::Datagram { to, bytes } => note_unsent(self.tools.datagrams.send_to(to, &bytes)),
                Action::Multicast { path, bytes } => note_unsent(self.tools.datagrams.send_multicast(path, &bytes)),
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
    }

    fn fetch(&mut self, transfer: TransferId, source: Source, wants: Vec<Want>, why: Why) {
        let mut running = Transfer {
            source,
            why,
            runs: BTreeMap::new(),
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

    // Executing.

    fn handle_flushed(&mut self) {
        let Some(list) = self.completing.take() else { return };
        if self.designated.as_ref().is_none_or(|release| release.list != list) {
            return;
        }
        if !self.complete {
            self.complete = true;
            let what = self.totals.complete();
            tracing::info!("everything is here and verified: {}", self.totals);
            self.record(what);
        }
        self.execute_if_ready();
    }

    fn execute_if_ready(&mut self) {
        let (Some(release), Some(loaded), Some(head)) = (&self.designated, &self.loaded, &self.head) else {
            return;
        };
        let done = self.last_run.as_ref().is_some_and(|(list, _)| *list == release.list);
        if !self.complete || self.executing.is_some() || done {
            return;
        }
        self.executing = Some(release.list);
        self.tools.execution.start(execution::Order {
            store: self.tools.store.clone(),
            joined: self.tools.joined.clone(),
            assignment: head.assignment.clone(),
            halted: head.halted,
            list: release.list,
            contents: loaded.needed().collect(),
            outbox: self.tools.outbox.clone(),
            events: self.tools.events.clone(),
        });
    }

    fn handle_executed(&mut self, list: Digest, result: &Result<Recap, String>) {
        self.last_run = Some((list, result.clone()));
        self.executing = None;
        match result {
            Ok(recap) if recap.converged() => tracing::info!("executed: {recap}"),
            Ok(recap) => tracing::warn!("executed: {recap}"),
            Err(message) => self.trouble(format!("the release cannot be executed: {message}")),
        }
        let current = self.designated.as_ref().is_some_and(|release| release.list == list);
        let halted = result.as_ref().is_ok_and(|recap| recap.halted > 0);
        if !current {
            if self.designated.is_none() && self.tools.once {
                self.finish(Finished::Unassigned);
            }
            return self.execute_if_ready();
        }
        if self.tools.once && !halted {
            self.finish(match result {
                Ok(recap) if recap.converged() => Finished::Converged {
                    changed: recap.changed > 0,
                    recap: *recap,
                },
                Ok(recap) => Finished::Failed { recap: Some(*recap) },
                Err(_) => Finished::Failed { recap: None },
            });
        }
        self.clean_up();
        if halted {
            self.resume_if_halted();
        }
    }

    /// Removes what neither this release nor the one before it needs.
    fn clean_up(&mut self) {
        let Some(loaded) = &self.loaded else { return };
        let keep_lists = self.tools.execution.recent_lists(loaded.digest);
        let forgotten: Vec<Digest> = self
            .stored_lists
            .keys()
            .filter(|list| !keep_lists.contains(list))
            .copied()
            .collect();
        if forgotten.is_empty() {
            return;
        }
        for list in &forgotten {
            self.stored_lists.remove(list);
            self.input(Input::Forget { list: *list });
        }
        self.save_lists();
        let (store, machine) = (self.tools.store.clone(), self.tools.execution.machine());
        let lists: Vec<Digest> = self.stored_lists.keys().copied().collect();
        tokio::task::spawn_blocking(move || match lists::contents_of(&store, &lists, machine) {
            Ok(keep) => match store.remove_all_but(&keep) {
                Ok(removed) => tracing::info!(?removed, "removed what no kept release needs"),
                Err(error) => tracing::warn!(%error, "cannot remove old contents"),
            },
            Err(error) => tracing::warn!(%error, "cannot tell which contents are old; nothing is removed"),
        });
    }

    fn finish(&mut self, finished: Finished) {
        self.finished = Some(finished);
        self.finish_by = Some(Instant::now() + LAST_REPORT);
    }
}

/// A datagram that cannot be sent is one that was lost; the core asks again.
fn note_unsent(result: std::io::Result<()>) {
    if let Err(error) = result {
        tracing::debug!(%error, "a datagram could not be sent");
    }
}

/// Runs of held chunks as `(offset, len)` in bytes.
fn held_runs(lengths: &[u32], held: &[bool]) -> Vec<(u64, u64)> {
    let mut runs: Vec<(u64, u64)> = Vec::new();
    let mut offset = 0;
    for (len, held) in lengths.iter().zip(held) {
        let len = u64::from(*len);
        if *held {
            match runs.last_mut() {
                Some(last) if last.0 + last.1 == offset => last.1 += len,
                _ => runs.push((offset, len)),
            }
        }
        offset += len;
    }
    runs
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbouring_held_chunks_are_one_run() {
        assert_eq!(held_runs(&[1, 2, 3, 4], &[true, true, false, true]), [(0, 3), (6, 4)]);
        assert_eq!(held_runs(&[1, 2], &[false, false]), []);
    }
}
