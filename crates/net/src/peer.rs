//! Connections between peers: framed, multiplexed and symmetrical, each over one mutual-TLS connection.
//!
//! Goals: both ends are proven before the first message; messages pass data; data of several streams interleave; a slow
//! reader holds only its own connection back; an idle connection costs a few KiB. Non-goals: deciding what to ask of whom.

mod endpoint;
mod fault;
mod frames;
mod handshake;
mod handshakes;
mod port;
mod sender;

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use potluck_model::NodeId;
use potluck_proto::frame::{DATA_HEADER_BYTES, Frame};
use potluck_proto::message::FRAME_BYTES_MAX;
use potluck_proto::{DataHeader, Message, WireError, frame};

pub use endpoint::{Endpoint, Gate, Incoming, Local};
pub use fault::PeerFault;
pub use handshakes::DroppedConnections;
pub use port::{OpenError, PEER_PORT, PeerPort};
pub use sender::PeerSender;

use frames::Frames;
use sender::Handle;

/// A connection whose two ends have proven themselves to each other.
pub struct PeerConnection {
    /// Who is at the other end.
    pub peer: NodeId,
    /// Where the peer listens: the address that the connection goes to, with the port that the peer told.
    pub address: SocketAddr,
    /// Whether this end dialled; for `keep`.
    pub dialled: bool,
    /// The version of the protocol that both speak.
    pub version: u16,
    /// Sends. Clones share the connection.
    pub sender: PeerSender,
    /// Receives. Dropping it closes the connection.
    pub receiver: PeerReceiver,
}

/// When two nodes dial each other at the same time: whether to keep this one of the two connections. Both ends keep the
/// one that the node with the smaller id dialled.
pub fn keep(ours: NodeId, theirs: NodeId, dialled_by_us: bool) -> bool {
    dialled_by_us == (ours < theirs)
}

/// What a peer sent.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Received {
    /// A message, never a `Hello`.
    Message(Message),
    /// Bytes of a chunk, at most `DATA_BYTES_MAX`, not yet verified.
    Data(DataHeader, Bytes),
}

/// The receiving half of a connection.
pub struct PeerReceiver {
    frames: Frames,
    handle: Arc<Handle>,
}

impl PeerReceiver {
    fn new(frames: Frames, handle: Arc<Handle>) -> Self {
        Self { frames, handle }
    }

    /// What the peer sent next. Until it is called again, the peer is held back. Safe to cancel. An error is the end of
    /// the connection: senders fail from then on.
    pub async fn recv(&mut self) -> Result<Received, PeerFault> {
        let received = tokio::select! {
            biased;
            () = self.handle.closed() => Err(PeerFault::Closed),
            received = next(&mut self.frames) => received,
        };
        if received.is_err() {
            self.handle.close();
        }
        received
    }
}

impl Drop for PeerReceiver {
    fn drop(&mut self) {
        self.handle.close();
    }
}

async fn next(frames: &mut Frames) -> Result<Received, PeerFault> {
    loop {
        let bytes = frames.next(FRAME_BYTES_MAX).await?;
        match frame::decode(&bytes) {
            Ok(Frame::Message(Message::Hello(_))) => {
                return Err(WireError::Malformed("a second hello").into());
            }
            Ok(Frame::Message(message)) => return Ok(Received::Message(message)),
            Ok(Frame::Data(header, _)) => return Ok(Received::Data(header, bytes.slice(DATA_HEADER_BYTES..))),
            // A newer version says something that this one can do without.
            Err(WireError::UnknownKind(kind)) => tracing::trace!(kind, "a frame of a newer version is skipped"),
            Err(error) => return Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests;
