//! The managed node: joins discovery, swarm, store, network and execution.
//!
//! `run` is all that the binary needs. ARCHITECTURE.md describes the way of a request and of a byte through the modules.

mod arrived;
mod cpu;
mod driver;
mod execution;
mod facts;
mod head;
mod home;
mod inbox;
mod join;
mod keys;
mod lists;
mod machine;
mod manners;
mod origin;
mod outage;
mod outbox;
mod peers;
mod power;
mod progress;
mod renewal;
mod revocations;
mod room;
mod serving;
mod shapes;
mod staging;
mod totals;
mod walls;
mod way_out;
mod writer;

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use potluck_model::UnixSeconds;
use potluck_model::api::Labels;
use potluck_model::join::JoinString;
use potluck_model::trace::Recap;
use potluck_net::api::Client;
use potluck_net::datagram::{DatagramPort, Sealer};
use potluck_net::peer::{Incoming, Local, OpenError, PEER_PORT, PeerPort};
use potluck_net::tls;
use potluck_net::watch::Watcher;
use potluck_provision::Provisioner;
use potluck_store::{Store, StoreError};
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::Instant;

pub use home::HomeError;
pub use join::JoinFault;
pub use machine::Machine;
pub use manners::{Manners, Peering, Serve, ServeError};
pub use walls::{Confinement, Handover, OwnUser, WallError, Walls, confine};

use driver::{Driver, Event, Tools};
use execution::Execution;
use head::HeadTask;
use home::Home;
use join::Applicant;
use manners::{Limits, Situation};
use outbox::Outbox;
use peers::{Peers, Up};
use renewal::Renewal;
use revocations::Revocations;
use room::Room;

/// Events that wait for the driver, at most.
const EVENTS: usize = 1_024;

/// How long `once` waits for a server that cannot be reached, if nothing is known from before.
const GIVE_UP: Duration = Duration::from_secs(60);

/// How long a datagram waits before it is looked at.
const ANSWER_DELAY: Duration = Duration::from_millis(1);
/// Datagrams that are looked at after one such wait, at most.
const DATAGRAMS_TOGETHER: usize = 256;

/// What an agent is told.
pub struct AgentConfig {
    /// The node's data directory.
    pub data: PathBuf,
    /// How to join; needed the first time only.
    pub join: Option<JoinString>,
    /// What `dest` and `creates` of steps are under, absolute.
    pub root: PathBuf,
    /// Labels that the node asks for when it joins.
    pub labels: Labels,
    /// Source address and multicast interface; none: all.
    pub bind: Option<IpAddr>,
    /// End when the designated configuration has been executed.
    pub once: bool,
    /// Bytes of contents that the store is to have at most. What the designated release needs is kept all the same, and
    /// the release before it until it is whole: what they share need not travel again.
    pub store_max: Option<u64>,
    /// What it gives and takes, and where.
    pub manners: Manners,
    /// Has releases executed.
    pub provisioner: Provisioner,
    /// Marks of this machine, read by who may.
    pub machine: Machine,
    /// What this process may no longer do.
    pub confinement: Confinement,
}

/// How an agent ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Finished {
    /// `once`, and nothing is assigned.
    Unassigned,
    /// `once`, and every step ended well.
    Converged {
        /// Whether a step changed something.
        changed: bool,
        /// How the steps ended.
        recap: Recap,
    },
    /// `once`, and a step did not end well, or the release could not be executed at all.
    Failed {
        /// How the steps ended, if they were executed.
        recap: Option<Recap>,
    },
    /// `once`, and the node does not belong to the fleet any more.
    Revoked,
    /// `once`, the server cannot be reached, and nothing is known from before.
    Unreachable,
    /// It was told to stop.
    Stopped,
}

/// Why an agent could not run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AgentError {
    /// The data directory cannot be used.
    #[error(transparent)]
    Home(#[from] HomeError),
    /// The node has no identity and could not get one.
    #[error(transparent)]
    Join(#[from] JoinFault),
    /// The store cannot be used.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A socket cannot be opened.
    #[error("cannot open the peer port: {0}")]
    Port(std::io::Error),
    /// It cannot be used.
    #[error(transparent)]
    OpenPort(#[from] OpenError),
    /// Link and address changes cannot be watched.
    #[error("cannot watch for changes of links and addresses: {0}")]
    Watch(std::io::Error),
    /// The identity in the data directory is of no use.
    #[error("the node's certificate or key cannot be used: {0}")]
    Identity(#[from] tls::TlsError),
}

/// Runs a managed node until `shutdown` resolves, or with `once` until it is done.
pub async fn run(config: AgentConfig, shutdown: impl Future<Output = ()> + Send) -> Result<Finished, AgentError> {
    tls::install();
    let home = Home::open(&config.data)?;
    let facts = facts::facts(&config.confinement);
    let mut shutdown = std::pin::pin!(shutdown);
    let applicant = Applicant {
        join: config.join.as_ref(),
        facts: &facts,
        labels: &config.labels,
        machine: &config.machine,
        provisioner: &config.provisioner,
        bind: config.bind,
        once: config.once,
    };
    let joined = tokio::select! {
        joined = join::identity(&home, &applicant) => joined?,
        () = &mut shutdown => return Ok(Finished::Stopped),
    };
    let boot = home.next_boot()?;
    let outbox = Outbox::open(home.path("events.jsonl"), boot);
    let store = Store::open(&home.path("store"))?;
    let identity = tls::Identity::from_pem(&joined.certificate, &joined.key, &joined.ca)?;
    let client = Client::new(
        joined.servers.clone(),
        tls::client_config(Some(&identity), &identity.ca)?,
    )
    .bound_to(config.bind);
    let mut port = PeerPort::bind(config.bind, PEER_PORT).map_err(AgentError::Port)?;
    if config.manners.peering == Peering::KnownSites {
        // Until the server vouches for the network.
        port = port.closed();
    }
    let number = port.port();
    let local = Local {
        identity: identity.clone(),
        audiences: Vec::new(),
    };
    let (endpoint, incoming, datagrams) = port.open(&local, Sealer::default())?;
    let datagrams = Arc::new(datagrams);
    let watcher = Watcher::new().map_err(AgentError::Watch)?;
    tracing::info!(node = %joined.node, port = number, data = %config.data.display(), "the agent runs");
    config.confinement.report();

    let (events, receiver) = mpsc::channel(EVENTS);
    let writer = writer::start(store.clone(), events.clone()).map_err(AgentError::Port)?;
    let mut seed = [0; 32];
    getrandom::fill(&mut seed).map_err(|error| AgentError::Port(std::io::Error::other(error.to_string())))?;
    let situation = Situation::look(config.manners.serve, config.bind).await;
    let core = potluck_proto::Config {
        in_flight_bytes_max: config.manners.in_flight_bytes_max(),
        serving_max: config.manners.serving_max(situation),
        steady: situation.is_steady(),
        ..core_config(joined.node, boot, number)
    };
    let limits = Arc::new(Limits::new(&config.manners));
    let expired = Arc::new(Notify::new());
    let renewal = Renewal {
        client: client.clone(),
        events: events.clone(),
        identity: identity.clone(),
        key: joined.key.clone(),
        expired: Arc::clone(&expired),
    };
    let overflowed = Arc::new(AtomicU64::new(0));
    let revocations = Revocations::new(home.revocations(), &joined.root, Instant::now(), UnixSeconds::now());
    let edition = watch::Sender::new(revocations.edition());
    let mut instance = [0; 8];
    getrandom::fill(&mut instance).map_err(|error| AgentError::Port(std::io::Error::other(error.to_string())))?;
    let head = HeadTask {
        client: client.clone(),
        expired,
        edition: edition.subscribe(),
        // JSON and URLs carry 53 bits everywhere.
        instance: u64::from_le_bytes(instance) >> 11,
        outbox: outbox.clone(),
        events: events.clone(),
        bind: config.bind,
        port: number,
        facts,
    };
    let tools = Tools {
        peers: Peers::new(
            joined.node,
            identity,
            endpoint,
            events.clone(),
            writer.clone(),
            Arc::clone(&limits),
        ),
        gate: incoming.gate(),
        overflowed: Arc::clone(&overflowed),
        limits,
        manners: config.manners,
        bind: config.bind,
        room: Room {
            store: home.path("store"),
            execute: home.path("execute"),
            root: config.root.clone(),
        },
        execution: Execution::new(config.provisioner, home.path(""), config.root),
        store_max: config.store_max,
        home,
        joined,
        revocations,
        edition,
        store: store.clone(),
        outbox: outbox.clone(),
        client: client.clone(),
        datagrams: Arc::clone(&datagrams),
        writer,
        events: events.clone(),
        once: config.once,
    };
    let driver = Driver::new(tools, core, seed);
    let finished = tokio::select! {
        finished = driver.run(receiver) => finished,
        () = head.run(watcher) => Finished::Stopped,
        () = renewal.run() => Finished::Stopped,
        () = head::report(client, outbox) => Finished::Stopped,
        () = accept(incoming, events.clone()) => Finished::Stopped,
        () = receive(&datagrams, events, &overflowed) => Finished::Stopped,
        () = shutdown => Finished::Stopped,
    };
    let flushed = tokio::task::spawn_blocking(move || store.flush()).await;
    if let Ok(Err(error)) = flushed {
        tracing::warn!(%error, "not everything that was stored is durable");
    }
    Ok(finished)
}

/// Connections to peers at a time, at most.
const CONNECTIONS_MAX: usize = 48;
/// File descriptors that are left for all else: sockets, the store, the server, the executing process.
const OTHER_FILES: u64 = 44;

/// As many connections as the process may have files open, with room for those that are just being made.
fn connections_max() -> usize {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    let left = limit.map_or(u64::MAX, |limit| limit.saturating_sub(OTHER_FILES) / 2);
    usize::try_from(left).unwrap_or(usize::MAX).clamp(4, CONNECTIONS_MAX)
}

fn core_config(node: potluck_model::NodeId, boot: u64, port: u16) -> potluck_proto::Config {
    potluck_proto::Config {
        node,
        boot,
        steady: true,
        port,
        answer_wait_max: Duration::from_millis(150),
        answers_wanted: 16,
        peers_max: 256,
        connections_max: connections_max(),
        in_flight_bytes_max: 48 << 20,
        transfers_per_peer_max: 4,
        origin_transfers_max: 4,
        serving_max: 32,
    }
}

async fn accept(mut incoming: Incoming, events: mpsc::Sender<Event>) {
    loop {
        let connection = incoming.next().await;
        if events
            .send(Event::PeerUp(Up {
                connection,
                dialled: false,
            }))
            .await
            .is_err()
        {
            return;
        }
    }
}

async fn receive(datagrams: &DatagramPort, events: mpsc::Sender<Event>, overflowed: &AtomicU64) {
    // More datagrams than the driver can take are lost, as on any full network; half of its queue is for what is not to be
    // lost.
    let forward = |(from, multicast, bytes)| {
        let room = events.capacity() > EVENTS / 2;
        if !room || events.try_send(Event::Datagram { from, multicast, bytes }).is_err() {
            overflowed.fetch_add(1, Ordering::Relaxed);
        }
    };
    loop {
        let first = datagrams.recv().await;
        // Who asks several peers is still sending to the others: an answer now would come before they were asked.
        tokio::time::sleep(ANSWER_DELAY).await;
        forward(first);
        for _ in 1..DATAGRAMS_TOGETHER {
            tokio::select! {
                biased;
                next = datagrams.recv() => forward(next),
                () = std::future::ready(()) => break,
            }
        }
    }
}
