//! A node that was let in and behaves badly: it finds, answers and announces as the real ones do, with their own core, but
//! what it is asked for it does not give.

pub(crate) mod strangers;

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use potluck_model::api::Head;
use potluck_model::join::JoinString;
use potluck_model::list::List;
use potluck_model::{Digest, NodeId, Time};
use potluck_net::api::Client;
use potluck_net::datagram::{DatagramPort, SealKey, Sealer};
use potluck_net::peer::{Endpoint, Incoming, Local, PeerConnection, PeerPort, PeerReceiver, PeerSender, Received};
use potluck_proto::datagram::{Asking, Header, Lacks, encode_requests, seal_header};
use potluck_proto::identifier::Identifier;
use potluck_proto::message::DATA_BYTES_MAX;
use potluck_proto::{Action, Config, DataHeader, End, Input, ListContent, Message, Runs, Swarm, Want};
use tokio::sync::mpsc;

use crate::newcomer::Newcomer;

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
    /// It has nothing, says that it is fetching, as others in a crowd do, and fetches nothing.
    Claims,
    /// It asks for all there is, again and again, on many streams at a time.
    Greed,
}

/// Requests that a greedy peer has out at a time.
const GREEDY_STREAMS: u32 = 16;

/// What came of it.
#[derive(Clone, Default)]
pub(crate) struct Tally {
    /// How often it was asked for something.
    pub(crate) asked: Arc<AtomicU64>,
    /// Bytes that were taken from it.
    pub(crate) sent: Arc<AtomicU64>,
    /// Bytes that it was given.
    pub(crate) taken: Arc<AtomicU64>,
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
    /// Whom it dials by itself: address and id.
    pub(crate) victims: Vec<(NodeId, SocketAddr)>,
    endpoint: Endpoint,
    dialled: (mpsc::Sender<PeerConnection>, mpsc::Receiver<PeerConnection>),
    list: (Digest, u64),
    audience: [u8; 32],
    next_stream: u32,
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
        let newcomer = Newcomer::join(join).await;
        let port = PeerPort::bind(Some(ip), 7443).unwrap();
        let number = port.port();
        let head = newcomer.head(vec![SocketAddr::new(ip, number)]).await;
        let Newcomer { node, identity, client } = newcomer;
        let audience = key_of(&head.audiences[0].key);
        let local = Local {
            identity,
            audiences: vec![audience],
        };
        let keys: Vec<SealKey> = head.fleet_keys.iter().filter_map(SealKey::parse).collect();
        let (endpoint, incoming, datagrams) = port.open(&local, Sealer::new(&keys)).unwrap();
        let mut swarm = Swarm::new(Config::new(node, 1, number), [7; 32], Time::ZERO);
        swarm.handle(Time::ZERO, Input::Audience { key: audience });
        let release = head.assignment.signed.release.clone().unwrap();
        let sizes = tell_of_all(&mut swarm, &client, &head, mischief != Mischief::Claims).await;
        Self {
            node,
            victims: Vec::new(),
            endpoint,
            dialled: mpsc::channel(64),
            list: (release.list, release.list_size),
            audience,
            next_stream: 1,
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
        let paths = self.datagrams.paths();
        self.input(Input::Paths(paths));
        if self.mischief == Mischief::Claims {
            let list = Some(self.list);
            self.input(Input::Designated { list });
        }
        for (victim, address) in std::mem::take(&mut self.victims) {
            self.dial(victim, vec![address]);
        }
        loop {
            self.act();
            let now = self.now();
            let wait = self.swarm.deadline().map_or(Duration::from_secs(1), |at| at.since(now));
            tokio::select! {
                (from, multicast, bytes) = self.datagrams.recv() => {
                    let now = self.now();
                    self.swarm.handle(now, Input::Datagram { from, multicast, bytes: &bytes });
                }
                connection = self.incoming.next() => self.connected(connection),
                Some(connection) = self.dialled.1.recv() => self.connected(connection),
                Some(event) = self.events.1.recv() => match event {
                    Event::Message(peer, Message::End { .. }) if self.mischief == Mischief::Greed => {
                        self.ask_again(peer);
                    }
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

    /// A request for everything, as it goes over the wire.
    pub(crate) fn sealed_request(&self) -> Vec<u8> {
        let asking = Asking {
            number: 1,
            part: 0,
            wanted: 16,
            threshold: u16::MAX,
        };
        let list = Identifier::of_list(&self.audience, &self.list.0);
        let mut request = encode_requests(asking, list, true, &Lacks::Everything, 1).remove(0).0;
        let header = Header {
            sender: self.node,
            boot: 1,
            seq: 1,
            port: 7443,
        };
        seal_header(&mut request, &header);
        self.datagrams.sealer().seal(&request).unwrap()
    }

    fn connected(&mut self, connection: PeerConnection) {
        let (peer, address) = (connection.peer, connection.address);
        self.tally.connected.fetch_add(1, Ordering::Relaxed);
        self.senders.insert(peer, connection.sender.clone());
        tokio::spawn(listen(
            peer,
            connection.receiver,
            self.events.0.clone(),
            self.tally.taken.clone(),
        ));
        self.input(Input::Connected { peer, address });
        match self.mischief {
            Mischief::Nonsense => self.talk_nonsense(peer),
            Mischief::Greed => (0..GREEDY_STREAMS).for_each(|_| self.ask_again(peer)),
            _ => {}
        }
    }

    fn dial(&self, peer: NodeId, addresses: Vec<SocketAddr>) {
        let (endpoint, dialled) = (self.endpoint.clone(), self.dialled.0.clone());
        tokio::spawn(async move {
            if let Ok(connection) = endpoint.connect(peer, &addresses).await {
                let _ = dialled.send(connection).await;
            }
        });
    }

    fn ask_again(&mut self, peer: NodeId) {
        let stream = self.next_stream;
        self.next_stream += 1;
        let wants = self.sizes.keys().map(|content| Want {
            content: *content,
            first: 0,
            count: 1,
        });
        let wants = wants.collect();
        self.send(peer, &Message::Get { stream, wants });
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
                Action::Connect { peer, addresses } if self.mischief == Mischief::Claims => self.dial(peer, addresses),
                Action::Connect { peer, .. } => self.input(Input::ConnectFailed { peer }),
                Action::Multicast { path, bytes } => drop(self.datagrams.send_multicast(path, &bytes)),
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
            Mischief::Silence | Mischief::Claims | Mischief::Greed => {}
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

async fn listen(peer: NodeId, mut receiver: PeerReceiver, events: mpsc::Sender<Event>, taken: Arc<AtomicU64>) {
    while let Ok(received) = receiver.recv().await {
        match received {
            Received::Message(message) => {
                if events.send(Event::Message(peer, message)).await.is_err() {
                    return;
                }
            }
            Received::Data(_, bytes) => drop(taken.fetch_add(bytes.len() as u64, Ordering::Relaxed)),
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

/// Tells the core of all that is in the assigned list, and whether it is here; gives the sizes of its contents.
async fn tell_of_all(swarm: &mut Swarm, client: &Client, head: &Head, held: bool) -> BTreeMap<Digest, u64> {
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
                    held,
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
