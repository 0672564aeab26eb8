//! Sockets: sealed datagrams, mutual-TLS peer connections, the client of the server, link and address changes.
//!
//! Everything here is a thin shell: it proves who is at the other end, keeps limits, and moves bytes. What to ask of whom
//! is decided in `potluck-proto`.

pub mod api;
pub mod datagram;
pub mod peer;
mod socket;
pub mod tls;
pub mod watch;
