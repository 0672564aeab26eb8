//! Sealed datagrams: unicast from and to the peer port, multicast on a fixed group and port.
//!
//! Every datagram is sealed with a fleet key that only admitted nodes have; what cannot be opened is dropped and counted,
//! and never answered.

mod interfaces;
mod port;
mod seal;

use std::net::{Ipv4Addr, Ipv6Addr};

pub(crate) use port::unicast_socket;
pub use port::{DatagramPort, To};
pub use seal::{SEALED_BYTES_MAX, SEALING_BYTES, SealKey, Sealer};

/// The port of the groups, whatever port the peers of a host have.
pub const MULTICAST_PORT: u16 = 7443;
/// The IPv4 group: in the part of the administratively scoped space that is local by default (239.255.0.0/16, RFC 2365),
/// so that no router passes it on; 74.43 recalls the port.
pub const GROUP_V4: Ipv4Addr = Ipv4Addr::new(239, 255, 74, 43);
/// The IPv6 group: transient (flag T) and link-local (scope 2, RFC 4291), `PLK1` in ASCII.
pub const GROUP_V6: Ipv6Addr = Ipv6Addr::new(0xff12, 0, 0, 0, 0, 0, 0x504c, 0x4b31);

#[cfg(test)]
mod tests;
