//! What goes into the core and what comes out.

use std::net::SocketAddr;
use std::time::Duration;

use potluck_model::list::Content;
use potluck_model::trace::{Source, What, Why};
use potluck_model::{Digest, NodeId};

use crate::message::{End, Message};

/// Everything that can happen to a node.
#[derive(Clone, Debug)]
pub enum Input<'a> {
    /// A datagram that was sealed with a fleet key, opened. Its sender is some admitted node; what it says is a hint.
    Datagram {
        /// Where it came from.
        from: SocketAddr,
        /// Whether it was sent to a multicast group.
        multicast: bool,
        /// At most `DATAGRAM_BYTES_MAX`.
        bytes: &'a [u8],
    },
    /// The multicast paths there are now: one for each interface and family.
    Paths(Vec<Path>),
    /// What the server suggests: replaces what it suggested before.
    Neighbours {
        /// At most 64.
        neighbours: Vec<Neighbour>,
        /// About how many nodes share the site.
        population: u32,
    },
    /// Which nodes are of other sites with which the operator lets this one share, at most 64: they are used however far
    /// away they are. Replaces what was said before.
    Sharing(Vec<NodeId>),
    /// The key of the audience: identifiers in datagrams are derived from it.
    Audience {
        /// 32 secret bytes.
        key: [u8; 32],
    },
    /// Mutual TLS has proven that `peer` is at `address`, the peer's own listening address; `Hello`s were exchanged and
    /// at least one audience proof fits.
    Connected {
        /// Who.
        peer: NodeId,
        /// Where.
        address: SocketAddr,
    },
    /// A `Connect` did not work.
    ConnectFailed {
        /// Who was to be reached.
        peer: NodeId,
    },
    /// The connection is gone; its transfers have been ended with `TransferEnded` before.
    Disconnected {
        /// Who.
        peer: NodeId,
    },
    /// A message of a connected peer. `End`s of own requests come as `TransferEnded` instead.
    Message {
        /// Who.
        peer: NodeId,
        /// What.
        message: Message,
    },
    /// The designated configuration: this list is wanted, and the one before is not any more.
    Designated {
        /// Digest and bytes of the list; none: unassigned.
        list: Option<(Digest, u64)>,
    },
    /// A list that is stored, designated or older. What it holds is offered to others, what it lacks and needs is fetched
    /// if it is the designated one.
    List {
        /// Digest of the list.
        list: Digest,
        /// Bytes of the list.
        size: u64,
        /// Its contents, in the order of `List::contents`.
        contents: Vec<ListContent>,
    },
    /// A list that is not stored any more, nor what only it names.
    Forget {
        /// Digest of the list.
        list: Digest,
    },
    /// The chunk list of `content` is stored and fits.
    ChunkList {
        /// The file's digest.
        content: Digest,
        /// Length of each chunk in bytes.
        chunks: Vec<u32>,
        /// Which chunks are here already.
        held: Vec<bool>,
    },
    /// A chunk has passed its digest check and is stored.
    Stored {
        /// Who it came from.
        transfer: TransferId,
        /// The content.
        content: Digest,
        /// Index of the chunk.
        chunk: u32,
    },
    /// A chunk that was stored turned out to be damaged or gone.
    Lost {
        /// The content.
        content: Digest,
        /// Index of the chunk.
        chunk: u32,
    },
    /// Bytes of a transfer have arrived.
    Progress {
        /// Which.
        transfer: TransferId,
        /// How many since the last time.
        bytes: u64,
    },
    /// A transfer has ended, however.
    TransferEnded {
        /// Which.
        transfer: TransferId,
        /// How.
        end: TransferEnd,
    },
    /// An answer to a peer's `Get` has been sent, or could not be.
    Served {
        /// The peer.
        peer: NodeId,
        /// Number of the peer's request.
        stream: u32,
        /// Bytes of payload sent.
        bytes: u64,
    },
    /// From now on so many answers to peers may be sent at a time. See `Config::serving_max`.
    ServingMax(usize),
    /// The time that `deadline` gave has come.
    Wake,
}

/// How a transfer ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum TransferEnd {
    /// The source says that it sent everything. (What was not `Stored` counts as not delivered.)
    Done,
    /// The source does not have these wants, by index.
    Missing(Vec<u16>),
    /// The source has too much to do; these nodes may have it.
    Busy {
        /// At most 16.
        instead: Vec<NodeId>,
        /// When to come back, if the source said so.
        retry_after: Option<Duration>,
    },
    /// A chunk did not have its digest: the source is hostile or broken.
    Corrupt,
    /// It could not be reached, broke off or refused.
    Failed(String),
}

/// A multicast path.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Path {
    /// Its number.
    pub id: PathId,
    /// Name of the interface.
    pub interface: String,
    /// The group and port.
    pub group: SocketAddr,
}

/// Number of a multicast path, chosen by the shell.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct PathId(pub u32);

/// A peer that the server suggests.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Neighbour {
    /// Who.
    pub node: NodeId,
    /// Where, best first; at most 16.
    pub addresses: Vec<SocketAddr>,
}

/// A content of a list, as this node sees it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ListContent {
    /// What.
    pub content: Content,
    /// Whether this node needs it.
    pub needed: bool,
    /// Whether it is stored whole. (In part: see `Input::ChunkList`.)
    pub held: bool,
}

/// Number of a transfer, chosen by the core, never used twice.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct TransferId(pub u64);

/// Chunks `first .. first + count` of a content. What is one chunk (a small file, a list, a chunk list) is `0 .. 1`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Want {
    /// The content.
    pub content: Digest,
    /// Index of the first chunk.
    pub first: u32,
    /// How many chunks, at least 1.
    pub count: u32,
}

/// What the shell is to do.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Action {
    /// Seal and send a datagram to an address.
    Datagram {
        /// Where to.
        to: SocketAddr,
        /// At most `DATAGRAM_BYTES_MAX`.
        bytes: Vec<u8>,
    },
    /// Seal and send a datagram to a group.
    Multicast {
        /// Over which path.
        path: PathId,
        /// At most `DATAGRAM_BYTES_MAX`.
        bytes: Vec<u8>,
    },
    /// Open a connection and prove that `peer` is at one of the addresses: `Connected` or `ConnectFailed` follows.
    Connect {
        /// Who.
        peer: NodeId,
        /// Where, best first.
        addresses: Vec<SocketAddr>,
    },
    /// Close a connection that is not needed.
    Disconnect {
        /// Who.
        peer: NodeId,
    },
    /// Send a message to a connected peer.
    Send {
        /// Who.
        peer: NodeId,
        /// What.
        message: Message,
    },
    /// Fetch chunks: `Progress` and `Stored` follow, and one `TransferEnded`. From a peer, the shell sends the `Get`.
    Fetch {
        /// Number of the transfer.
        transfer: TransferId,
        /// `Peer` or `Origin`.
        source: Source,
        /// What, at most `WANTS_MAX`.
        wants: Vec<Want>,
        /// Why from there.
        why: Why,
    },
    /// End a transfer: `TransferEnded` follows all the same.
    Cancel {
        /// Which.
        transfer: TransferId,
    },
    /// Answer a peer's `Get` from the store (`Data` frames, then `End`): `Served` follows.
    Serve {
        /// The peer.
        peer: NodeId,
        /// Number of its request.
        stream: u32,
        /// What, in this order; `want` in the data frames is the index in here.
        wants: Vec<Want>,
    },
    /// Stop answering a `Get`: `Served` follows all the same.
    StopServing {
        /// The peer.
        peer: NodeId,
        /// Number of its request.
        stream: u32,
    },
    /// Answer a peer's `Get` without data.
    Decline {
        /// The peer.
        peer: NodeId,
        /// Number of its request.
        stream: u32,
        /// Why.
        end: End,
    },
    /// For the trace: `Asked`, `Answered` or `SourceFailed`.
    Trace(What),
    /// Everything that the designated list needs is stored.
    Complete {
        /// Digest of the list.
        list: Digest,
    },
}

/// What can be set. Every limit is for one node.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Config {
    /// This node.
    pub node: NodeId,
    /// Grows with each start, for the freshness of datagrams.
    pub boot: u64,
    /// Whether this machine is wired and runs on mains power, as far as it can tell: such nodes come first where seats of
    /// a crowd are given away. A seat that sleeps or roams costs its crowd a deadline for each of its shares.
    pub steady: bool,
    /// The peer port, as told to others.
    pub port: u16,
    /// How long to wait for answers to the first existence request before the origin is asked. Waiting adapts: it shrinks
    /// where nobody answers and grows with measured round trips, up to this. 10 to 500 ms; longer costs a node that is
    /// alone as much on each start, shorter sends nodes of a slow network to the origin.
    pub answer_wait_max: Duration,
    /// How many answers a request asks for. 4 to 64.
    pub answers_wanted: u16,
    /// The most peers that are kept in the table, 16 to 1,024; about 200 bytes each, and more with large lists.
    pub peers_max: usize,
    /// The most connections to peers, 8 to 256.
    pub connections_max: usize,
    /// Bytes asked of all sources and not yet here, at most.
    pub in_flight_bytes_max: u64,
    /// Transfers from one peer at a time.
    pub transfers_per_peer_max: usize,
    /// Transfers from the origin at a time.
    pub origin_transfers_max: usize,
    /// Answers to peers being sent at a time; more are told `Busy`. With 0 the node takes and does not give: it answers no
    /// existence requests, tells nobody what it holds, declines what it is asked for, and has no seat in a crowd, as its
    /// datagrams say by naming no port.
    pub serving_max: usize,
}

impl Config {
    /// Sensible values for a node in a site of tens to hundreds of nodes.
    pub const fn new(node: NodeId, boot: u64, port: u16) -> Self {
        Self {
            node,
            boot,
            steady: true,
            port,
            answer_wait_max: Duration::from_millis(200),
            answers_wanted: 16,
            peers_max: 256,
            connections_max: 96,
            in_flight_bytes_max: 64 << 20,
            transfers_per_peer_max: 3,
            origin_transfers_max: 4,
            serving_max: 16,
        }
    }
}
