//! What peers say to each other over their one mutual-TLS connection. docs/protocol.md has the bytes.
//!
//! Goals: bulk requests, cancellation, symmetry (either end may ask), no head-of-line blocking (a receiver asks for no
//! more than it can take, and data frames are small). Non-goals: naming content by anything but digests.

use potluck_model::revocations::Edition;
use potluck_model::{Digest, NodeId};

use crate::datagram::Lacks;
use crate::interface::Want;

/// The version of the peer protocol that this version speaks.
pub const PEER_VERSION: u16 = 1;
/// The most bytes of data in one frame.
pub const DATA_BYTES_MAX: usize = 64 << 10;
/// The most bytes of a frame's body.
pub const FRAME_BYTES_MAX: usize = 256 << 10;
/// The most parts that one `Get` may want.
pub const WANTS_MAX: usize = 1_024;
/// The most proofs in a `Hello`.
pub const PROOFS_MAX: usize = 16;
/// The most nodes that a busy peer names.
pub const INSTEAD_MAX: usize = 16;
/// The most nodes that are named in one `Crowd`.
pub const CROWD_MAX: usize = 64;

/// A message on a peer connection, but for `Data`, which the shell moves past the core.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Message {
    /// The first message in each direction.
    Hello(Hello),
    /// Asks for parts of contents. Data frames and one `End` with the same `stream` answer it, wants in order.
    Get {
        /// Number of the request, chosen by the asker, not used twice on a connection.
        stream: u32,
        /// 1 to `WANTS_MAX` parts.
        wants: Vec<Want>,
    },
    /// Ends the answer to a `Get`.
    End {
        /// Number of the request.
        stream: u32,
        /// How it ended.
        end: End,
    },
    /// The asker wants no more of this answer; `End` follows all the same.
    Cancel {
        /// Number of the request.
        stream: u32,
    },
    /// "Tell me what you hold of this list, now and as it grows."
    Follow {
        /// Digest of the list.
        list: Digest,
    },
    /// Whole contents of a list that the sender holds: runs of indices over `List::contents`.
    HaveOfList {
        /// Digest of the list.
        list: Digest,
        /// Which contents.
        contents: Runs,
    },
    /// Parts that the sender holds.
    Have {
        /// At most `WANTS_MAX` items.
        items: Vec<HaveItem>,
    },
    /// Parts that the sender is just fetching from the origin: others need not, and will have them from it.
    Fetching {
        /// At most `WANTS_MAX` items.
        items: Vec<HaveItem>,
    },
    /// "I am one of those who want this list, and these come first among them."
    Crowd {
        /// Digest of the list.
        list: Digest,
        /// What the sender lacks of the list. None: it does not say.
        lacks: Option<Lacks>,
        /// At most `CROWD_MAX` nodes that want the list, the sender perhaps among them.
        members: Vec<Member>,
    },
    /// Which list of revoked nodes the sender has.
    RevocationsKnown(Edition),
    /// The signed list of revoked nodes, not yet verified.
    Revocations {
        /// JSON of at most `REVOCATIONS_BYTES_MAX` bytes.
        document: Vec<u8>,
    },
    /// "Are you there?"
    Ping {
        /// Comes back.
        nonce: u64,
    },
    /// "I am."
    Pong {
        /// From the `Ping`.
        nonce: u64,
    },
}

/// One of those who want a list.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Member {
    /// Who. Where it is, is not said: what a peer says leads nobody to dial a host.
    pub node: NodeId,
    /// Tenths of a second since it last spoke on a connection that mutual TLS has proven, as far as the sender knows.
    pub age: u8,
}

/// The first message in each direction.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Hello {
    /// The lowest and highest version of the peer protocol that the sender speaks.
    pub versions: (u16, u16),
    /// The sender's peer port (TCP and UDP).
    pub port: u16,
    /// One proof for each audience the sender belongs to, at most 16: BLAKE3 keyed with the audience's key, over the
    /// TLS exporter of this connection and the sender's node id. It shows that the sender was given the key.
    pub proofs: Vec<[u8; 32]>,
}

/// How the answer to a `Get` ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum End {
    /// Everything was sent.
    Done,
    /// These wants, by index in the `Get`, were not sent or not sent whole.
    Missing(Vec<u16>),
    /// The sender has too much to do. These nodes, at most 16, have it from the sender.
    Busy(Vec<NodeId>),
    /// The asker has not shown that it may have this.
    Refused,
}

/// Which chunks of a content the sender holds.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct HaveItem {
    /// The content.
    pub content: Digest,
    /// Runs of chunks.
    pub chunks: Runs,
}

/// Ascending runs `(first, count)` of indices that do not touch each other.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Runs(pub Vec<(u32, u32)>);

/// What stands before the bytes in a data frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DataHeader {
    /// Number of the request.
    pub stream: u32,
    /// Which want of the request, by index.
    pub want: u16,
    /// Index of the chunk in its content.
    pub chunk: u32,
    /// Where in the chunk the bytes stand.
    pub offset: u32,
}
