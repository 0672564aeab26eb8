//! Dials and accepts peers, as many at a time as is sensible.

use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener as StdTcpListener};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use potluck_model::NodeId;
use potluck_proto::message::PROOFS_MAX;
use rustls::{ClientConfig, ServerConfig};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::handshakes::{DroppedConnections, Handshakes};
use super::port::listener;
use super::{PeerConnection, PeerFault, handshake};
use crate::socket;
use crate::tls::{self, Identity, TlsError};

/// TLS and hellos together.
const HANDSHAKE_MAX: Duration = Duration::from_secs(5);
/// All addresses of a peer together.
const DIAL_MAX: Duration = Duration::from_secs(5);
/// Connections that are up and wait to be taken.
const WAITING_MAX: usize = 16;
/// How long to wait before a listener is tried again that could not be opened: at first, at most.
const REOPEN: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(30));
/// After a failure to accept, such as for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What this node says of itself to peers; can be replaced at run time.
#[derive(Clone, Debug)]
pub struct Local {
    /// Its identity; a node's.
    pub identity: Identity,
    /// Keys of the audiences that it belongs to; the first 16 count.
    pub audiences: Vec<[u8; 32]>,
}

/// `Local`, made ready for use.
pub(super) struct Prepared {
    pub(super) node: NodeId,
    pub(super) port: u16,
    pub(super) audiences: Vec<[u8; 32]>,
    pub(super) client: Arc<ClientConfig>,
    pub(super) server: Arc<ServerConfig>,
}

/// Dials peers. Clones share everything.
#[derive(Clone)]
pub struct Endpoint {
    shared: Arc<Shared>,
}

struct Shared {
    bind: Option<IpAddr>,
    port: u16,
    prepared: RwLock<Arc<Prepared>>,
    /// Whether peers are dialled and listened to.
    open: AtomicBool,
}

impl Endpoint {
    pub(super) fn new(bind: Option<IpAddr>, port: u16, local: &Local) -> Result<Self, TlsError> {
        let prepared = RwLock::new(Arc::new(prepare(local, port)?));
        Ok(Self {
            shared: Arc::new(Shared {
                bind,
                port,
                prepared,
                open: AtomicBool::new(true),
            }),
        })
    }

    /// The peer port.
    pub fn port(&self) -> u16 {
        self.shared.port
    }

    /// From now on connections are made with this certificate and these audiences; those that are up stay as they are.
    pub fn update(&self, local: &Local) -> Result<(), TlsError> {
        let prepared = Arc::new(prepare(local, self.shared.port)?);
        *self.shared.prepared.write().unwrap_or_else(PoisonError::into_inner) = prepared;
        Ok(())
    }

    /// Connects to the first of `addresses` (best first, at most 16) that answers, where `peer` has to prove itself.
    /// Takes at most 10 seconds. Dropping the future gives up.
    pub async fn connect(&self, peer: NodeId, addresses: &[SocketAddr]) -> Result<PeerConnection, PeerFault> {
        if !self.shared.open.load(Ordering::Relaxed) {
            return Err(PeerFault::Unreachable {
                address: texts(addresses),
                source: io::Error::other("peers are left alone on this network"),
            });
        }
        self.dial(peer, addresses).await
    }

    /// Whether `peer` proves itself at one of the addresses, also where peers are left alone. Takes as long as `connect`.
    pub async fn proves_itself(&self, peer: NodeId, addresses: &[SocketAddr]) -> Result<(), PeerFault> {
        self.dial(peer, addresses).await.map(drop)
    }

    async fn dial(&self, peer: NodeId, addresses: &[SocketAddr]) -> Result<PeerConnection, PeerFault> {
        let dialled = tokio::time::timeout(DIAL_MAX, socket::dial(addresses, self.shared.bind)).await;
        let unreachable = |source| PeerFault::Unreachable {
            address: texts(addresses),
            source,
        };
        let tcp = dialled
            .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
            .map_err(unreachable)?;
        let address = tcp.peer_addr().map_err(unreachable)?;
        let prepared = self.shared.prepared();
        within(
            HANDSHAKE_MAX,
            address,
            handshake::dialled(tcp, address, peer, &prepared),
        )
        .await
    }
}

fn texts(addresses: &[SocketAddr]) -> String {
    let texts: Vec<String> = addresses.iter().map(ToString::to_string).collect();
    texts.join(", ")
}

impl Shared {
    fn prepared(&self) -> Arc<Prepared> {
        self.prepared.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

fn prepare(local: &Local, port: u16) -> Result<Prepared, TlsError> {
    Ok(Prepared {
        node: local.identity.node()?,
        port,
        audiences: local.audiences.iter().take(PROOFS_MAX).copied().collect(),
        client: tls::peer_client_config(&local.identity)?,
        server: tls::peer_server_config(&local.identity)?,
    })
}

async fn within(
    limit: Duration,
    address: SocketAddr,
    handshake: impl Future<Output = Result<PeerConnection, PeerFault>>,
) -> Result<PeerConnection, PeerFault> {
    match tokio::time::timeout(limit, handshake).await {
        Ok(result) => result,
        Err(_) => Err(PeerFault::TooSlow {
            address: address.to_string(),
            seconds: limit.as_secs(),
        }),
    }
}

/// Peers that dial this node. Dropping it ends the listening.
pub struct Incoming {
    connections: mpsc::Receiver<PeerConnection>,
    gate: Gate,
}

/// Opens and closes the peer port for connections, from this node and to it; those that are up stay. Clones share it.
#[derive(Clone)]
pub struct Gate(Arc<Listening>);

struct Listening {
    shared: Arc<Shared>,
    addresses: Vec<SocketAddr>,
    handshakes: Handshakes,
    sender: mpsc::Sender<PeerConnection>,
    tasks: Mutex<JoinSet<()>>,
}

impl Gate {
    /// Whether peers may connect.
    pub fn is_open(&self) -> bool {
        self.0.shared.open.load(Ordering::Relaxed)
    }

    /// What came to nothing of the connections that others opened, since the start.
    pub fn dropped(&self) -> DroppedConnections {
        let load = |count: &AtomicU64| count.load(Ordering::Relaxed);
        DroppedConnections {
            refused: load(&self.0.handshakes.counts.refused),
            failed: load(&self.0.handshakes.counts.failed),
        }
    }

    /// Listens again, and dials. To be called within a runtime.
    pub fn open(&self) {
        if !self.0.shared.open.swap(true, Ordering::Relaxed) {
            self.listen(self.0.addresses.iter().map(|address| (*address, None)));
        }
    }

    /// Nobody can connect any more: there is no listener.
    pub fn close(&self) {
        self.0.shared.open.store(false, Ordering::Relaxed);
        self.stop_listening();
    }

    fn stop_listening(&self) {
        *self.0.tasks.lock().unwrap_or_else(PoisonError::into_inner) = JoinSet::new();
    }

    fn listen(&self, listeners: impl Iterator<Item = (SocketAddr, Option<TcpListener>)>) {
        let mut tasks = self.0.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        for (address, listener) in listeners {
            let (shared, sender) = (self.0.shared.clone(), self.0.sender.clone());
            let underway = self.0.handshakes.clone();
            tasks.spawn(async move {
                let listener = match listener {
                    Some(listener) => listener,
                    None => reopen(address).await,
                };
                accept(listener, shared, underway, sender).await;
            });
        }
    }
}

/// The port was this node's before: whoever has it now is waited for.
async fn reopen(address: SocketAddr) -> TcpListener {
    let mut pause = REOPEN.0;
    loop {
        match listener(address).and_then(TcpListener::from_std) {
            Ok(listener) => return listener,
            Err(error) => tracing::debug!(%address, %error, "cannot listen for peers again yet"),
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(REOPEN.1);
    }
}

impl Incoming {
    /// Without listeners the gate is closed.
    pub(super) fn new(
        endpoint: &Endpoint,
        addresses: Vec<SocketAddr>,
        listeners: Vec<StdTcpListener>,
    ) -> io::Result<Self> {
        let (sender, connections) = mpsc::channel(WAITING_MAX);
        let listeners = listeners
            .into_iter()
            .map(|listener| Ok((listener.local_addr()?, Some(TcpListener::from_std(listener)?))))
            .collect::<io::Result<Vec<_>>>()?;
        endpoint.shared.open.store(!listeners.is_empty(), Ordering::Relaxed);
        let gate = Gate(Arc::new(Listening {
            shared: endpoint.shared.clone(),
            addresses,
            handshakes: Handshakes::default(),
            sender,
            tasks: Mutex::new(JoinSet::new()),
        }));
        gate.listen(listeners.into_iter());
        Ok(Self { connections, gate })
    }

    /// Opens and closes the port.
    pub fn gate(&self) -> Gate {
        self.gate.clone()
    }

    /// The next peer that dialled and has proven itself. Safe to cancel.
    pub async fn next(&mut self) -> PeerConnection {
        match self.connections.recv().await {
            Some(connection) => connection,
            // The gate holds a sender.
            None => std::future::pending().await,
        }
    }
}

impl Drop for Incoming {
    fn drop(&mut self) {
        self.gate.stop_listening();
    }
}

async fn accept(
    listener: TcpListener,
    shared: Arc<Shared>,
    underway: Handshakes,
    sender: mpsc::Sender<PeerConnection>,
) {
    let mut handshakes = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            Some(_) = handshakes.join_next() => continue,
        };
        let (tcp, address) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::debug!(%error, "cannot accept a peer");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let number = underway.room_for(address.ip());
        let (shared, sender, ended) = (shared.clone(), sender.clone(), underway.clone());
        let task = handshakes.spawn(async move {
            let greeted = greet(tcp, address, &shared).await;
            // Who has proven himself is not in the way of others any more, nor can be sent away.
            ended.end(number);
            match greeted {
                Ok(connection) => drop(sender.send(connection).await),
                Err(fault) => {
                    ended.counts.failed.fetch_add(1, Ordering::Relaxed);
                    tracing::debug!(%address, %fault, "a connection from a peer did not come about");
                }
            }
        });
        underway.done_by(number, task);
    }
}

async fn greet(tcp: TcpStream, address: SocketAddr, shared: &Shared) -> Result<PeerConnection, PeerFault> {
    socket::tune(&tcp)?;
    let prepared = shared.prepared();
    within(HANDSHAKE_MAX, address, handshake::accepted(tcp, address, &prepared)).await
}
