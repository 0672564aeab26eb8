//! What is counted of a node.

/// Bytes and things of one node. Payload is what chunks are made of, lists and chunk lists among them; wire bytes have all
/// headers.
#[derive(Clone, Copy, Default, Debug)]
pub struct Tally {
    /// Payload stored that came from the origin.
    pub origin_bytes: u64,
    /// Payload stored that came from peers.
    pub peer_bytes: u64,
    /// Payload put on its link for others.
    pub served_bytes: u64,
    /// Chunks that came although they were here.
    pub wasted_bytes: u64,
    /// Chunks that were not what they should be.
    pub bad_bytes: u64,
    /// Payload that came for transfers that were cancelled or broken off, or that ended within a chunk.
    pub ignored_bytes: u64,
    /// Datagrams sent, to a group or to one.
    pub datagrams_sent: u64,
    /// Datagrams that reached it.
    pub datagrams_heard: u64,
    /// Answers to existence requests that reached it.
    pub answers_heard: u64,
    /// Messages sent over connections.
    pub messages_sent: u64,
    /// Connections that it opened.
    pub dials: u64,
    /// Datagrams, messages, handshakes and requests, as wire bytes.
    pub control_sent: u64,
    /// The same, as they came.
    pub control_heard: u64,
}

/// What became of all payload that was put on a link.
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct Ledger {
    pub(crate) sent: u64,
    /// On a link now.
    pub(crate) under_way: u64,
    /// Came to an end where nobody was.
    pub(crate) lost: u64,
}
