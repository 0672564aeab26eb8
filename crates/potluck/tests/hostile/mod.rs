//! A node that was let in and behaves badly: it finds, answers and announces as the real ones do, with their own core, but
//! what it is asked for it does not give.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use potluck_model::api::{Head, JoinRequest, Labels, Presence};
use potluck_model::join::JoinString;
use potluck_model::list::List;
use potluck_model::{Digest, NodeId, Time};
use potluck_net::api::Client;
use potluck_net::datagram::{DatagramPort, SealKey, Sealer};
use potluck_net::peer::{Incoming, Local, PeerPort, PeerSender, Received};
use potluck_net::tls;
use potluck_proto::message::DATA_BYTES_MAX;
use potluck_proto::{Action, Config, DataHeader, End, Input, ListContent, Message, Runs, Swarm, Want};
use tokio::sync::mpsc;

/// What it does when it is asked for something that it said it has.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Mischief {
    /// It says that it does not have it after all.
    Lies,
    /// It sends other bytes, as many as asked for.
    WrongBytes,
    /// It does not say a word.
    Silence,
    /// It sends without end.
    Endless,
    /// It asks for what nobody has and for what cannot be, and says what makes no sense.
    Nonsense,
}

/// What came of it.
#[derive(Clone, Default)]
pub(crate) struct Tally {
    /// How often it was asked for something.
    pub(crate) asked: Arc<AtomicU64>,
    /// Bytes that were taken from it.
    pub(crate) sent: Arc<AtomicU64>,
    /// Connections that came about.
    pub(crate) connected: Arc<AtomicU64>,
}

/// What happens to it.
enum Event {
    Message(NodeId, Message),
    Gone(NodeId),
}

/// A node that has joined, and is listed as a neighbour.
pub(crate) struct Hostile {
    pub(crate) node: NodeId,
    pub(crate) tally: Tally,
    mischief: Mischief,
    swarm: Swarm,
    start: Instant,
    datagrams: DatagramPort,
    incoming: Incoming,
    senders: BTreeMap<NodeId, PeerSender>,
    sizes: BTreeMap<Digest, u64>,
    events: (mpsc::Sender<Event>, mpsc::Receiver<Event>),
}

impl Hostile {
    /// Joins, and says that it holds everything of what is assigned.
    pub(crate) async fn join(join: &JoinString, ip: IpAddr, mischief: Mischief) -> Self {
        tls::install();
        let (key, csr) = tls::generate_key_and_csr();
        let request = JoinRequest {
            token: join.token.to_hex(),
            csr,
            facts: Labels::new(),
            labels: Labels::new(),
        };
        let answer = Client::for_joining(join).join(&request).await.unwrap();
        let identity = tls::Identity::from_pem(&answer.certificate, &key, &answer.ca).unwrap();
        let client = Client::new(
            join.servers.clone(),
            tls::client_config(Some(&identity), &identity.ca).unwrap(),
        );
        let port = PeerPort::bind(Some(ip), 7443).unwrap();
        let number = port.port();
        let presence = Presence {
            addresses: vec![SocketAddr::new(ip, number)],
            facts: Labels::new(),
            version: "0.1.0".into(),
            networks: Vec::new(),
        };
        client.presence(&presence).await.unwrap();
        let head = client.head(0, 0).await.unwrap();
        let audience = key_of(&head.audiences[0].key);
        let local = Local {
            identity,
            audiences: vec![audience],
        };
        let keys: Vec<SealKey> = head.fleet_keys.iter().filter_map(SealKey::parse).collect();
        let (_, incoming, datagrams) = port.open(&local, Sealer::new(&keys)).unwrap();
        let mut swarm = Swarm::new(Config::new(answer.node, 1, number), [7; 32], Time::ZERO);
        swarm.handle(Time::ZERO, Input::Audience { key: audience });
        let sizes = claim_all(&mut swarm, &client, &head).await;
        Self {
            node: answer.node,
            tally: Tally::default(),
            mischief,
            swarm,
            start: Instant::now(),
            datagrams,
            incoming,
            senders: BTreeMap::new(),
            sizes,
            events: mpsc::channel(256),
        }
    }

    /// Does its worst until it is dropped.
    pub(crate) async fn run(mut self) {
        loop {
            self.act();
            let now = self.now();
            let wait = self.swarm.deadline().map_or(Duration::from_secs(1), |at| at.since(now));
            tokio::select! {
                (from, multicast, bytes) = self.datagrams.recv() => {
                    let now = self.now();
                    self.swarm.handle(now, Input::Datagram { from, multicast, bytes: &bytes });
                }
                connection = self.incoming.next() => {
                    let (peer, address) = (connection.peer, connection.address);
                    self.tally.connected.fetch_add(1, Ordering::Relaxed);
                    self.senders.insert(peer, connection.sender.clone());
                    tokio::spawn(listen(peer, connection.receiver, self.events.0.clone()));
                    self.input(Input::Connected { peer, address });
                    if self.mischief == Mischief::Nonsense {
                        self.talk_nonsense(peer);
                    }
                }
                Some(event) = self.events.1.recv() => match event {
                    Event::Message(peer, message) => self.input(Input::Message { peer, message }),
                    Event::Gone(peer) => {
                        self.senders.remove(&peer);
                        self.input(Input::Disconnected { peer });
                    }
                },
                () = tokio::time::sleep(wait) => self.input(Input::Wake),
            }
        }
    }

    fn now(&self) -> Time {
        Time(self.start.elapsed().as_micros() as u64)
    }

    fn input(&mut self, input: Input<'_>) {
        let now = self.now();
        self.swarm.handle(now, input);
    }

    fn act(&mut self) {
        while let Some(action) = self.swarm.poll() {
            match action {
                // A datagram that cannot be sent is a lost one.
                Action::Datagram { to, bytes } => drop(self.datagrams.send_to(to, &bytes)),
                Action::Connect { peer, .. } => self.input(Input::ConnectFailed { peer }),
                Action::Send { peer, message } => self.send(peer, &message),
                Action::Serve { peer, stream, wants } => {
                    self.tally.asked.fetch_add(1, Ordering::Relaxed);
                    self.misbehave(peer, stream, &wants);
                    self.input(Input::Served { peer, stream, bytes: 0 });
                }
                Action::StopServing { peer, stream } => self.input(Input::Served { peer, stream, bytes: 0 }),
                Action::Decline { peer, stream, end } => self.send(peer, &Message::End { stream, end }),
                Action::Disconnect { peer } => drop(self.senders.remove(&peer)),
                _ => {}
            }
        }
    }

    fn send(&self, peer: NodeId, message: &Message) {
        if let Some(sender) = self.senders.get(&peer) {
            // Whoever closed the connection had good reason to.
            let _ = sender.message(message);
        }
    }

    fn misbehave(&self, peer: NodeId, stream: u32, wants: &[Want]) {
        let Some(sender) = self.senders.get(&peer).cloned() else {
            return;
        };
        let all = (0..wants.len() as u16).collect();
        let sent = Arc::clone(&self.tally.sent);
        match self.mischief {
            Mischief::Lies | Mischief::Nonsense => {
                let end = End::Missing(all);
                let _ = sender.message(&Message::End { stream, end });
            }
            Mischief::Silence => {}
            Mischief::WrongBytes => {
                let sizes: Vec<u64> = wants
                    .iter()
                    .map(|want| self.sizes.get(&want.content).copied().unwrap_or(36))
                    .collect();
                tokio::spawn(async move {
                    for (want, size) in (0_u16..).zip(sizes) {
                        let mut offset = 0;
                        while offset < size {
                            let len = (size - offset).min(DATA_BYTES_MAX as u64);
                            if !data(&sender, &sent, stream, want, offset as u32, len as usize).await {
                                return;
                            }
                            offset += len;
                        }
                    }
                    let _ = sender.message(&Message::End { stream, end: End::Done });
                });
            }
            Mischief::Endless => {
                tokio::spawn(async move {
                    let mut offset = 0_u32;
                    while data(&sender, &sent, stream, 0, offset, DATA_BYTES_MAX).await {
                        offset = offset.wrapping_add(DATA_BYTES_MAX as u32);
                    }
                });
            }
        }
    }

    fn talk_nonsense(&self, peer: NodeId) {
        let known = *self.sizes.keys().next().unwrap();
        let unknown = Digest::of(b"nobody has this");
        let want = |content, first, count| Want { content, first, count };
        for message in [
            Message::Get {
                stream: 1,
                wants: vec![want(unknown, 0, 1)],
            },
            Message::Get {
                stream: 2,
                wants: vec![want(known, u32::MAX, 1), want(known, 1, u32::MAX), want(known, 7, 1)],
            },
            Message::Get {
                stream: 2,
                wants: vec![want(known, 0, 1); 1_024],
            },
            Message::Cancel { stream: 77 },
            Message::End {
                stream: 99,
                end: End::Done,
            },
            Message::End {
                stream: 1,
                end: End::Missing(vec![u16::MAX; 100]),
            },
            Message::Follow { list: unknown },
            Message::HaveOfList {
                list: unknown,
                contents: Runs(vec![(0, u32::MAX)]),
            },
            Message::Have {
                items: vec![potluck_proto::HaveItem {
                    content: known,
                    chunks: Runs(vec![(0, u32::MAX)]),
                }],
            },
            Message::Pong { nonce: 5 },
        ] {
            self.send(peer, &message);
        }
    }
}

async fn listen(peer: NodeId, mut receiver: potluck_net::peer::PeerReceiver, events: mpsc::Sender<Event>) {
    while let Ok(received) = receiver.recv().await {
        if let Received::Message(message) = received
            && events.send(Event::Message(peer, message)).await.is_err()
        {
            return;
        }
    }
    let _ = events.send(Event::Gone(peer)).await;
}

/// Sends `len` bytes that nobody asked for; whether the other end still takes them.
async fn data(sender: &PeerSender, sent: &AtomicU64, stream: u32, want: u16, offset: u32, len: usize) -> bool {
    let header = DataHeader {
        stream,
        want,
        chunk: 0,
        offset,
    };
    sent.fetch_add(len as u64, Ordering::Relaxed);
    sender.data(header, Bytes::from(vec![0xEE; len])).await.is_ok()
}

/// Tells the core that everything of the assigned list is here; gives the sizes of its contents.
async fn claim_all(swarm: &mut Swarm, client: &Client, head: &Head) -> BTreeMap<Digest, u64> {
    let release = head.assignment.signed.release.clone().unwrap();
    let bytes = client.content(&release.list, 1 << 20).await.unwrap();
    let list = List::from_bytes(&bytes).unwrap();
    let contents = list.contents();
    swarm.handle(
        Time::ZERO,
        Input::List {
            list: release.list,
            size: release.list_size,
            contents: contents
                .iter()
                .map(|content| ListContent {
                    content: *content,
                    needed: true,
                    held: true,
                })
                .collect(),
        },
    );
    contents
        .iter()
        .map(|content| (content.digest, content.size))
        .chain([(release.list, release.list_size)])
        .collect()
}

fn key_of(text: &str) -> [u8; 32] {
    let mut key = [0; 32];
    for (byte, at) in key.iter_mut().zip((0..64).step_by(2)) {
        *byte = u8::from_str_radix(&text[at..at + 2], 16).unwrap();
    }
    key
}
