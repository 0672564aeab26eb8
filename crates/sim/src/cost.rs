//! What things take on a wire: bytes with all headers, and the time of bytes at a rate.
//!
//! Acknowledgements of TCP are left out.

use std::time::Duration;

/// Payload of a segment of TCP on Ethernet, and what stands before it: Ethernet, IP, TCP with time stamps.
const SEGMENT: u64 = 1_448;
const SEGMENT_HEADERS: u64 = 66;
/// A record of TLS, and what is added to it.
const RECORD: u64 = 16 << 10;
const RECORD_EXTRA: u64 = 22;
/// What a data frame of the peer protocol adds, and the most data in it.
const FRAME_EXTRA: u64 = potluck_proto::frame::DATA_PREFIX_BYTES as u64;
const FRAME: u64 = potluck_proto::message::DATA_BYTES_MAX as u64;
/// What sealing adds to a datagram, and what stands before it: Ethernet, IP, UDP.
const DATAGRAM_EXTRA: u64 = 48 + 42;
/// Bytes of setting up a connection with mutual TLS: from whoever dials, and from whoever is dialled. Certificates with
/// Ed25519 keys, one of a node and one of the CA.
pub(crate) const HANDSHAKE_DIALS: u64 = 2_100;
pub(crate) const HANDSHAKE_DIALLED: u64 = 2_400;
/// Round trips of that, and the work at both ends.
pub(crate) const HANDSHAKE_TRIPS: u32 = 3;
pub(crate) const HANDSHAKE_WORK: Duration = Duration::from_millis(3);
/// What a node says of itself and asks the server for its head, and what comes back.
pub(crate) const HEAD_ASKED: u64 = 1_200;
pub(crate) const HEAD_SAID: u64 = 2_600;

/// Bytes on the wire of payload that a peer sends.
pub(crate) const fn of_peer_data(bytes: u64) -> u64 {
    of_stream(bytes + bytes.div_ceil(FRAME) * FRAME_EXTRA)
}

/// Bytes on the wire of payload that the origin sends, the length of a chunk in front of it.
pub(crate) const fn of_origin_data(bytes: u64) -> u64 {
    of_stream(bytes + 4)
}

/// Bytes on the wire of a request to the origin for so many chunks.
pub(crate) const fn of_origin_request(chunks: u64) -> u64 {
    of_stream(300 + 32 * chunks)
}

/// Bytes on the wire of the head of the origin's answer.
pub(crate) const fn of_origin_response() -> u64 {
    of_stream(200)
}

/// Bytes on the wire of what goes over a connection.
pub(crate) const fn of_stream(bytes: u64) -> u64 {
    let sealed = bytes + bytes.div_ceil(RECORD) * RECORD_EXTRA;
    sealed + sealed.div_ceil(SEGMENT) * SEGMENT_HEADERS
}

/// Bytes on the wire of a datagram.
pub(crate) const fn of_datagram(bytes: usize) -> u64 {
    bytes as u64 + DATAGRAM_EXTRA
}

/// Time that bytes take at a rate in bytes a second.
pub(crate) fn time_of(bytes: u64, rate: u64) -> Duration {
    Duration::from_micros(bytes.saturating_mul(1_000_000).div_ceil(rate.max(1)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_make_bulk_data_a_twentieth_longer() {
        let ratio = of_peer_data(1 << 30) as f64 / f64::from(1 << 30);
        assert!((1.045..1.050).contains(&ratio), "{ratio}");
        assert_eq!(time_of(125_000_000, 125_000_000), Duration::from_secs(1));
    }
}
