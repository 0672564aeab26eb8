//! Why there is no connection to a peer, or none any more.

use std::io;
use std::net::SocketAddr;

use potluck_model::NodeId;
use potluck_proto::WireError;

use crate::tls::{TlsError, tls_reason};

/// Why there is no connection to a peer, or none any more.
#[non_exhaustive]
#[derive(Debug, thiserror::Error)]
pub enum PeerFault {
    /// None of its addresses answered.
    #[error("cannot reach the peer at {address}: {source}")]
    Unreachable {
        /// The addresses that were tried.
        address: String,
        /// Why the last one did not work.
        source: io::Error,
    },
    /// One of the two ends was not believed.
    #[error("the peer at {address} and this node do not trust each other: {why}")]
    Tls {
        /// Where.
        address: SocketAddr,
        /// Who refused whom, and why.
        why: String,
    },
    /// The certificate is good, but not that of a node that may be here.
    #[error("at {address} is not a peer: {source}")]
    NotANode {
        /// Where.
        address: SocketAddr,
        /// Why.
        source: TlsError,
    },
    /// This node itself is at the address.
    #[error("at {address} is this node itself")]
    Myself {
        /// Where.
        address: SocketAddr,
    },
    /// The peer is newer or older: use another, blame nobody.
    #[error("peer {peer} speaks versions {} to {} of the peer protocol, this node {} to {}", theirs.0, theirs.1, ours.0, ours.1)]
    Incompatible {
        /// Who.
        peer: NodeId,
        /// Lowest and highest version there.
        theirs: (u16, u16),
        /// Lowest and highest version here.
        ours: (u16, u16),
    },
    /// The peer belongs to none of the audiences that this node belongs to.
    #[error("peer {peer} and this node share no audience")]
    NoSharedAudience {
        /// Who.
        peer: NodeId,
    },
    /// It took too long.
    #[error("the peer at {address} did not prove itself within {seconds} s")]
    TooSlow {
        /// Where.
        address: String,
        /// The limit.
        seconds: u64,
    },
    /// The peer broke the protocol.
    #[error("the peer broke the protocol: {0}")]
    Protocol(#[from] WireError),
    /// The peer does not take what is sent to it.
    #[error("the peer takes nothing any more: {0}")]
    Overflow(&'static str),
    /// More than a data frame may carry was to be sent.
    #[error("{0} bytes are more than a data frame carries")]
    TooLong(usize),
    /// The connection was closed, by either end.
    #[error("the connection is closed")]
    Closed,
    /// The connection broke.
    #[error("the connection broke: {0}")]
    Broken(#[from] io::Error),
}

impl PeerFault {
    /// An error while both ends prove themselves: TLS 1.3 tells some refusals only with the first bytes.
    pub(super) fn proving(address: SocketAddr, error: io::Error) -> Self {
        match tls_reason(&error) {
            Some(why) => Self::Tls { address, why },
            None => Self::Broken(error),
        }
    }
}
