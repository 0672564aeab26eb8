//! The connections to peers: one to each, whoever dialled.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use potluck_model::NodeId;
use potluck_model::api::AudienceKey;
use potluck_model::revocations::Edition;
use potluck_net::peer::{self, Endpoint, Local, PeerConnection, PeerReceiver, PeerSender, Received};
use potluck_net::tls::Identity;
use potluck_proto::{DataHeader, End, Message, TransferEnd, TransferId, Want};
use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use tokio::time::Instant;

use crate::driver::Event;
use crate::inbox::Inbox;
use crate::manners::Limits;
use crate::progress::Progress;
use crate::shapes::Part;
use crate::writer::Write;

/// A connection older than this gives way to a newer one, whoever dialled: the other end may have restarted.
const COLLISION: Duration = Duration::from_secs(5);

/// What arrives on a connection, by stream.
type Inboxes = Arc<Mutex<BTreeMap<u32, (TransferId, Inbox)>>>;

/// A connection that has just been proven.
pub(crate) struct Up {
    pub(crate) connection: PeerConnection,
    pub(crate) dialled: bool,
}

impl Up {
    pub(crate) fn peer(&self) -> NodeId {
        self.connection.peer
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.connection.address
    }
}

/// What became of a new connection.
pub(crate) enum Taken {
    /// It was closed: there is a better one.
    Not,
    /// It is in use.
    As {
        /// The transfers of the connection that it replaces, if there was one.
        replaced: Option<BTreeSet<TransferId>>,
    },
}

struct Connection {
    number: u64,
    sender: PeerSender,
    inboxes: Inboxes,
    next_stream: u32,
    /// The list of revoked nodes that it was sent.
    revocations: Edition,
    since: Instant,
    dialled: bool,
    reader: AbortHandle,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

/// All connections.
pub(crate) struct Peers {
    node: NodeId,
    local: Local,
    endpoint: Endpoint,
    events: mpsc::Sender<Event>,
    writer: mpsc::Sender<Write>,
    limits: Arc<Limits>,
    connections: BTreeMap<NodeId, Connection>,
    dialling: BTreeSet<NodeId>,
    transfers: BTreeMap<TransferId, (NodeId, u32)>,
    next_number: u64,
}

impl Peers {
    pub(crate) fn new(
        node: NodeId,
        identity: Identity,
        endpoint: Endpoint,
        events: mpsc::Sender<Event>,
        writer: mpsc::Sender<Write>,
        limits: Arc<Limits>,
    ) -> Self {
        Self {
            node,
            local: Local {
                identity,
                audiences: Vec::new(),
            },
            endpoint,
            events,
            writer,
            limits,
            connections: BTreeMap::new(),
            dialling: BTreeSet::new(),
            transfers: BTreeMap::new(),
            next_number: 0,
        }
    }

    /// The keys that this node proves to have, and that its peers must prove one of.
    pub(crate) fn set_audiences(&mut self, audiences: &[AudienceKey]) {
        self.local.audiences = audiences
            .iter()
            .filter_map(|audience| crate::keys::parse(&audience.key))
            .collect();
        self.update();
    }

    /// What this node proves itself with on new connections.
    pub(crate) fn set_identity(&mut self, identity: Identity) {
        self.local.identity = identity;
        self.update();
    }

    fn update(&self) {
        if let Err(error) = self.endpoint.update(&self.local) {
            tracing::error!(%error, "peers cannot be reached with this node's certificate");
        }
    }

    /// What dials.
    pub(crate) fn endpoint(&self) -> Endpoint {
        self.endpoint.clone()
    }

    /// Dials; `PeerUp` or `PeerFailed` follows.
    pub(crate) fn connect(&mut self, peer: NodeId, addresses: Vec<SocketAddr>) {
        if !self.dialling.insert(peer) {
            return;
        }
        let (endpoint, events) = (self.endpoint.clone(), self.events.clone());
        tokio::spawn(async move {
            let event = match endpoint.connect(peer, &addresses).await {
                Ok(connection) => Event::PeerUp(Up {
                    connection,
                    dialled: true,
                }),
                Err(fault) => Event::PeerFailed {
                    peer,
                    fault: fault.to_string(),
                },
            };
            drop(events.send(event).await);
        });
    }

    /// A dial did not work; whether the core is to hear of it (not if the peer dialled in the meantime).
    pub(crate) fn dial_ended(&mut self, peer: NodeId) -> bool {
        self.dialling.remove(&peer) && !self.connections.contains_key(&peer)
    }

    /// Takes a connection, unless there is a better one to that peer.
    pub(crate) fn up(&mut self, up: Up) -> Taken {
        let peer = up.connection.peer;
        if up.dialled {
            self.dialling.remove(&peer);
        }
        let mut replaced = None;
        if let Some(old) = self.connections.get(&peer) {
            let collision = old.since.elapsed() < COLLISION && old.dialled != up.dialled;
            if collision && !peer::keep(self.node, peer, up.dialled) {
                return Taken::Not;
            }
            replaced = self.close(peer);
        }
        self.next_number += 1;
        let number = self.next_number;
        let PeerConnection { sender, receiver, .. } = up.connection;
        let inboxes = Inboxes::default();
        let reader = Reader {
            peer,
            number,
            inboxes: Arc::clone(&inboxes),
            events: self.events.clone(),
            writer: self.writer.clone(),
            limits: Arc::clone(&self.limits),
        };
        let connection = Connection {
            number,
            sender,
            inboxes,
            next_stream: 1,
            revocations: Edition::default(),
            since: Instant::now(),
            dialled: up.dialled,
            reader: tokio::spawn(reader.run(receiver)).abort_handle(),
        };
        self.connections.insert(peer, connection);
        Taken::As { replaced }
    }

    /// Whether this is the connection that is in use.
    pub(crate) fn is_current(&self, peer: NodeId, number: u64) -> bool {
        self.connections
            .get(&peer)
            .is_some_and(|connection| connection.number == number)
    }

    /// A connection broke: its transfers, if it was in use.
    pub(crate) fn gone(&mut self, peer: NodeId, number: u64) -> Option<BTreeSet<TransferId>> {
        if self.is_current(peer, number) {
            self.close(peer)
        } else {
            None
        }
    }

    /// Closes a connection: its transfers, if there was one.
    pub(crate) fn close(&mut self, peer: NodeId) -> Option<BTreeSet<TransferId>> {
        self.connections.remove(&peer)?;
        let transfers = self.transfers.iter().filter(|(_, (of, _))| *of == peer);
        Some(transfers.map(|(transfer, _)| *transfer).collect())
    }

    /// Who is connected.
    pub(crate) fn connected(&self) -> Vec<NodeId> {
        self.connections.keys().copied().collect()
    }

    /// Whether the peer has not been sent this list of revoked nodes yet; from now on it has.
    pub(crate) fn owes_revocations(&mut self, peer: NodeId, edition: Edition) -> bool {
        let Some(connection) = self.connections.get_mut(&peer) else {
            return false;
        };
        std::mem::replace(&mut connection.revocations, edition) != edition
    }

    /// Closes all connections: the transfers of each.
    pub(crate) fn close_all(&mut self) -> Vec<(NodeId, BTreeSet<TransferId>)> {
        self.connected()
            .into_iter()
            .filter_map(|peer| Some((peer, self.close(peer)?)))
            .collect()
    }

    /// Sends a message, if there is a connection. One whose other end does not read is closed by its task.
    pub(crate) fn send(&self, peer: NodeId, message: &Message) {
        if let Some(connection) = self.connections.get(&peer)
            && let Err(fault) = connection.sender.message(message)
        {
            tracing::debug!(%peer, %fault, "cannot send to the peer");
        }
    }

    pub(crate) fn sender(&self, peer: NodeId) -> Option<PeerSender> {
        self.connections.get(&peer).map(|connection| connection.sender.clone())
    }

    /// Asks a peer; whether that could be done.
    pub(crate) fn fetch(&mut self, peer: NodeId, transfer: TransferId, wants: Vec<Want>, parts: Vec<Part>) -> bool {
        let Some(connection) = self.connections.get_mut(&peer) else {
            return false;
        };
        let stream = connection.next_stream;
        connection.next_stream = stream.wrapping_add(1);
        lock(&connection.inboxes).insert(stream, (transfer, Inbox::new(parts)));
        self.transfers.insert(transfer, (peer, stream));
        connection.sender.message(&Message::Get { stream, wants }).is_ok()
    }

    /// Tells the peer that no more is wanted of this answer.
    pub(crate) fn cancel(&self, transfer: TransferId) {
        if let Some((peer, stream)) = self.transfers.get(&transfer) {
            self.send(*peer, &Message::Cancel { stream: *stream });
        }
    }

    /// What still comes for this transfer is thrown away.
    pub(crate) fn forget_transfer(&mut self, transfer: TransferId) {
        if let Some((peer, stream)) = self.transfers.remove(&transfer)
            && let Some(connection) = self.connections.get(&peer)
        {
            lock(&connection.inboxes).remove(&stream);
        }
    }
}

fn lock(inboxes: &Inboxes) -> std::sync::MutexGuard<'_, BTreeMap<u32, (TransferId, Inbox)>> {
    inboxes.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Takes what comes on one connection.
struct Reader {
    peer: NodeId,
    number: u64,
    inboxes: Inboxes,
    events: mpsc::Sender<Event>,
    writer: mpsc::Sender<Write>,
    limits: Arc<Limits>,
}

impl Reader {
    async fn run(self, mut receiver: PeerReceiver) {
        let mut progress: BTreeMap<TransferId, Progress> = BTreeMap::new();
        let fault = loop {
            match receiver.recv().await {
                Ok(Received::Data(header, bytes)) => {
                    if let Err(fault) = self.data(&header, bytes, &mut progress).await {
                        break fault;
                    }
                }
                Ok(Received::Message(Message::End { stream, end })) => self.end(stream, end, &mut progress).await,
                Ok(Received::Message(message)) => {
                    let event = Event::PeerMessage {
                        peer: self.peer,
                        connection: self.number,
                        message,
                    };
                    drop(self.events.send(event).await);
                }
                Err(fault) => break fault.to_string(),
            }
        };
        drop(
            self.events
                .send(Event::PeerGone {
                    peer: self.peer,
                    connection: self.number,
                    fault,
                })
                .await,
        );
    }

    async fn data(
        &self,
        header: &DataHeader,
        bytes: Bytes,
        progress: &mut BTreeMap<TransferId, Progress>,
    ) -> Result<(), String> {
        let len = bytes.len() as u64;
        let (transfer, whole) = {
            let mut inboxes = lock(&self.inboxes);
            match inboxes.get_mut(&header.stream) {
                Some((transfer, inbox)) => {
                    let whole = inbox.push(header, bytes).map_err(|error| error.to_string())?;
                    (Some(*transfer), whole)
                }
                // Data of an answer that was cancelled may still be on its way. It counts against the limit all the same.
                None => (None, Vec::new()),
            }
        };
        // Until this has passed, nothing more is read: TCP holds the peer back.
        let mut left = len;
        while left > 0 {
            let passed = self.limits.download(left).await;
            left -= passed;
            let Some(transfer) = transfer else { continue };
            if let Some(bytes) = progress.entry(transfer).or_default().add(passed) {
                drop(self.events.send(Event::Progress { transfer, bytes }).await);
            }
        }
        let Some(transfer) = transfer else { return Ok(()) };
        for (part, bytes) in whole {
            drop(self.writer.send(Write::Chunk { transfer, part, bytes }).await);
        }
        Ok(())
    }

    async fn end(&self, stream: u32, end: End, progress: &mut BTreeMap<TransferId, Progress>) {
        let Some((transfer, mut inbox)) = lock(&self.inboxes).remove(&stream) else {
            return;
        };
        progress.remove(&transfer);
        let mut end = match end {
            End::Done => TransferEnd::Done,
            End::Missing(wants) => TransferEnd::Missing(wants),
            End::Busy(instead) => TransferEnd::Busy {
                instead,
                retry_after: None,
            },
            End::Refused => TransferEnd::Failed("the peer refuses: this node has not shown that it may have it".into()),
        };
        match inbox.finish() {
            Ok(Some((part, bytes))) => drop(self.writer.send(Write::Chunk { transfer, part, bytes }).await),
            Ok(None) => {}
            Err(error) => end = TransferEnd::Failed(error.to_string()),
        }
        drop(self.writer.send(Write::End { transfer, end }).await);
    }
}
