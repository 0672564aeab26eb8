//! The first moments of a connection: TLS has proven who the peer is; the `Hello`s agree on a version, and prove that both
//! were given the key of some audience.

use std::net::SocketAddr;
use std::sync::Arc;

use potluck_model::NodeId;
use potluck_proto::frame::{self, Frame};
use potluck_proto::message::{FRAME_BYTES_MAX, PEER_VERSION, PROOFS_MAX};
use potluck_proto::{Hello, Message, WireError};
use rustls::ConnectionCommon;
use rustls::pki_types::CertificateDer;
use tokio::io::{AsyncWriteExt as _, ReadHalf, WriteHalf};
use tokio::net::TcpStream;
use tokio_rustls::TlsStream;
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::endpoint::Prepared;
use super::frames::Frames;
use super::sender::{self, PeerSender, WRITE_BYTES};
use super::{PeerConnection, PeerFault, PeerReceiver};
use crate::tls::{self, PEER_ALPN};

/// The versions of the peer protocol that this version speaks.
const VERSIONS: (u16, u16) = (PEER_VERSION, PEER_VERSION);
/// Label of the TLS exporter (RFC 8446, 7.5) whose output the audience proofs are made over.
const EXPORTER_LABEL: &[u8] = b"EXPORTER-potluck-audience";

type Stream = TlsStream<TcpStream>;

/// What TLS says of a connection.
struct Proven {
    peer: NodeId,
    exporter: [u8; 32],
}

pub(super) async fn dialled(
    tcp: TcpStream,
    address: SocketAddr,
    expect: NodeId,
    prepared: &Prepared,
) -> Result<PeerConnection, PeerFault> {
    let mut tls = TlsConnector::from(prepared.client.clone())
        .connect(tls::node_name(expect), tcp)
        .await
        .map_err(|error| PeerFault::proving(address, error))?;
    let proven = proven(tls.get_mut().1, address)?;
    greet(TlsStream::Client(tls), address, proven, true, prepared).await
}

pub(super) async fn accepted(
    tcp: TcpStream,
    address: SocketAddr,
    prepared: &Prepared,
) -> Result<PeerConnection, PeerFault> {
    let mut tls = TlsAcceptor::from(prepared.server.clone())
        .accept(tcp)
        .await
        .map_err(|error| PeerFault::proving(address, error))?;
    let proven = proven(tls.get_mut().1, address)?;
    greet(TlsStream::Server(tls), address, proven, false, prepared).await
}

fn proven<Side>(connection: &mut ConnectionCommon<Side>, address: SocketAddr) -> Result<Proven, PeerFault> {
    let refused = |why: &str| PeerFault::Tls {
        address,
        why: why.to_owned(),
    };
    if connection.alpn_protocol() != Some(PEER_ALPN) {
        return Err(refused("it does not speak the peer protocol"));
    }
    let leaf: &[u8] = match connection.peer_certificates() {
        Some([leaf, ..]) => CertificateDer::as_ref(leaf),
        _ => return Err(refused("it shows no certificate")),
    };
    let peer = tls::node_of(leaf).map_err(|source| PeerFault::NotANode { address, source })?;
    let exporter = connection
        .export_keying_material([0; 32], EXPORTER_LABEL, None)
        .map_err(|error| refused(&error.to_string()))?;
    // As much as is written at once is encrypted at once, and goes to the kernel in one call.
    connection.set_buffer_limit(Some(WRITE_BYTES));
    Ok(Proven { peer, exporter })
}

async fn greet(
    stream: Stream,
    address: SocketAddr,
    proven: Proven,
    dialled: bool,
    prepared: &Prepared,
) -> Result<PeerConnection, PeerFault> {
    let Proven { peer, exporter } = proven;
    if peer == prepared.node {
        return Err(PeerFault::Myself { address });
    }
    let (read, mut write): (ReadHalf<Stream>, WriteHalf<Stream>) = tokio::io::split(stream);
    let mut frames = Frames::new(read);
    let hello = Message::Hello(Hello {
        versions: VERSIONS,
        port: prepared.port,
        proofs: prepared
            .audiences
            .iter()
            .map(|key| proof(key, &exporter, prepared.node))
            .collect(),
    });
    // The hello is small enough for any socket's buffer: both ends can send it first.
    write.write_all(&frame::encode_message(&hello)).await?;
    write.flush().await?;
    let theirs = hello_of(&mut frames).await.map_err(|fault| match fault {
        PeerFault::Broken(error) => PeerFault::proving(address, error),
        fault => fault,
    })?;
    let version = version(peer, theirs.versions)?;
    let belongs = prepared.audiences.iter().any(|key| {
        let expected = blake3::Hash::from_bytes(proof(key, &exporter, peer));
        // Hashes compare in constant time.
        theirs.proofs.iter().any(|theirs| expected == *theirs)
    });
    if !belongs {
        return Err(PeerFault::NoSharedAudience { peer });
    }
    let mut listening = address;
    listening.set_port(theirs.port);
    let handle = sender::start(write);
    Ok(PeerConnection {
        peer,
        address: listening,
        dialled,
        version,
        sender: PeerSender::new(Arc::clone(&handle)),
        receiver: PeerReceiver::new(frames, handle),
    })
}

async fn hello_of(frames: &mut Frames) -> Result<Hello, PeerFault> {
    let bytes = frames.next(FRAME_BYTES_MAX.min(4 << 10)).await?;
    match frame::decode(&bytes)? {
        Frame::Message(Message::Hello(hello)) if hello.proofs.len() <= PROOFS_MAX => Ok(hello),
        _ => Err(WireError::Malformed("the first message is not a hello").into()),
    }
}

/// The highest version that both speak.
fn version(peer: NodeId, theirs: (u16, u16)) -> Result<u16, PeerFault> {
    let highest = theirs.1.min(VERSIONS.1);
    if highest >= theirs.0.max(VERSIONS.0) {
        Ok(highest)
    } else {
        Err(PeerFault::Incompatible {
            peer,
            theirs,
            ours: VERSIONS,
        })
    }
}

/// Shows that `node` has the key: good for this connection only.
fn proof(key: &[u8; 32], exporter: &[u8; 32], node: NodeId) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new_keyed(key);
    hasher.update(exporter);
    hasher.update(&node.0.to_be_bytes());
    *hasher.finalize().as_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_highest_common_version_is_spoken_and_none_is_an_error() {
        let peer = NodeId(1);
        assert_eq!(version(peer, VERSIONS).unwrap(), PEER_VERSION);
        assert_eq!(version(peer, (0, u16::MAX)).unwrap(), PEER_VERSION);
        for theirs in [(PEER_VERSION + 1, PEER_VERSION + 2), (0, PEER_VERSION - 1), (2, 0)] {
            assert!(matches!(version(peer, theirs), Err(PeerFault::Incompatible { .. })));
        }
    }

    #[test]
    fn proofs_of_version_1_stay_as_they_are() {
        assert_eq!(
            data_encoding::HEXLOWER.encode(&proof(&[1; 32], &[2; 32], NodeId(3))),
            "ce6b27551218e8b86b768bc608b3884f451ba02cf1f6be96824cc528b239c2b7"
        );
    }
}
