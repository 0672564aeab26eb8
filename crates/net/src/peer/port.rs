//! The peer port: one number for TCP and UDP, and for both families.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket};

use socket2::{Domain, Protocol, Socket, Type};

use super::{Endpoint, Incoming, Local};
use crate::datagram::{DatagramPort, Sealer, unicast_socket};
use crate::tls::TlsError;

/// The port that peers use unless it is taken.
pub const PEER_PORT: u16 = 7443;
/// How often another free number is tried.
const ATTEMPTS_MAX: usize = 32;
/// Connections that wait to be accepted.
const BACKLOG: i32 = 128;

/// The bound sockets of the peer port.
pub struct PeerPort {
    bind: Option<IpAddr>,
    port: u16,
    /// Of the listeners.
    addresses: Vec<SocketAddr>,
    listeners: Vec<TcpListener>,
    datagrams: Vec<UdpSocket>,
}

impl PeerPort {
    /// Binds `preferred`, or any free port if that is taken (or zero), at `ip`, or at all addresses of all families that
    /// this machine has.
    pub fn bind(ip: Option<IpAddr>, preferred: u16) -> io::Result<Self> {
        let mut result = Self::bind_at(ip, preferred);
        for _ in 0..ATTEMPTS_MAX {
            match result {
                Err(error) if error.kind() == io::ErrorKind::AddrInUse => result = Self::bind_at(ip, 0),
                _ => break,
            }
        }
        result
    }

    /// The number.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Nobody can connect, nothing is dialled and no datagram goes out until the gate and the datagram port are opened.
    #[must_use]
    pub fn closed(mut self) -> Self {
        self.listeners.clear();
        self
    }

    /// Starts to listen, as the node that `local` says. To be called within a runtime.
    pub fn open(self, local: &Local, sealer: Sealer) -> Result<(Endpoint, Incoming, DatagramPort), OpenError> {
        let open = !self.listeners.is_empty();
        let datagrams = DatagramPort::new(self.datagrams, self.bind, sealer, open)?;
        let endpoint = Endpoint::new(self.bind, self.port, local)?;
        let incoming = Incoming::new(&endpoint, self.addresses, self.listeners)?;
        Ok((endpoint, incoming, datagrams))
    }

    fn bind_at(ip: Option<IpAddr>, port: u16) -> io::Result<Self> {
        let all = [IpAddr::V6(Ipv6Addr::UNSPECIFIED), IpAddr::V4(Ipv4Addr::UNSPECIFIED)];
        let addresses = ip.as_ref().map_or(&all[..], std::slice::from_ref);
        let mut bound = Self {
            bind: ip,
            port,
            addresses: Vec::new(),
            listeners: Vec::new(),
            datagrams: Vec::new(),
        };
        let mut missing = None;
        for &address in addresses {
            match bound.add(address) {
                Ok(()) => {}
                // A machine may have one family only.
                Err(error) if ip.is_none() && error.kind() != io::ErrorKind::AddrInUse => missing = Some(error),
                Err(error) => return Err(error),
            }
        }
        match missing {
            Some(error) if bound.listeners.is_empty() => Err(error),
            _ => Ok(bound),
        }
    }

    fn add(&mut self, ip: IpAddr) -> io::Result<()> {
        // TCP first: it tells reliably whether somebody else has the number.
        let listener = listener(SocketAddr::new(ip, self.port))?;
        let port = listener.local_addr()?.port();
        let datagrams = unicast_socket(SocketAddr::new(ip, port))?;
        self.port = port;
        self.addresses.push(SocketAddr::new(ip, port));
        self.listeners.push(listener);
        self.datagrams.push(datagrams);
        Ok(())
    }
}

/// Why the peer port could not be opened.
#[non_exhaustive]
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The sockets cannot be used.
    #[error("the peer port cannot be used: {0}")]
    Socket(#[from] io::Error),
    /// The identity cannot be used.
    #[error(transparent)]
    Identity(#[from] TlsError),
}

/// A listener at a port that nobody else listens at.
pub(super) fn listener(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    // Connections of the process before, in TIME_WAIT, do not hold the port; a listener still does.
    #[cfg(unix)]
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}
