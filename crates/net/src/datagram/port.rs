//! The sockets under the datagrams.
//!
//! Unicast goes over one socket for each family, bound to the peer port. Multicast is received on a socket of its own for
//! each interface and family, bound to the group's address, so that several agents on one host all hear it on the fixed
//! port and none takes the others' unicast. It is sent from the unicast socket, so that answers come to the peer port.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV6, UdpSocket as StdUdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::task::{Context, Poll};
use std::time::Duration;

use potluck_proto::{Path, PathId};
use socket2::{Domain, InterfaceIndexOrAddress, Protocol, SockRef, Socket, Type};
use tokio::io::ReadBuf;
use tokio::net::UdpSocket;
use tokio::sync::Notify;

use super::interfaces::{Interface, interfaces};
use super::{GROUP_V4, GROUP_V6, MULTICAST_PORT, SEALED_BYTES_MAX, Sealer};

/// After so many datagrams that cannot be opened the rest waits, and what does not fit the receive buffer is lost: at most
/// 32,000 of them in a second are looked at, which takes a few hundredths of a processor.
const UNOPENED_TOGETHER: u64 = 32;
const UNOPENED_PAUSE: Duration = Duration::from_millis(1);
/// Room for the bursts of answers to a request of thousands of nodes; the system may give less.
const RECEIVE_BUFFER_BYTES: usize = 1 << 20;

/// Where a datagram goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum To {
    /// To one address.
    Address(SocketAddr),
    /// To the group of a path.
    Group(PathId),
}

/// Sends and receives sealed datagrams.
pub struct DatagramPort {
    unicast: Vec<UdpSocket>,
    bind: Option<IpAddr>,
    sealer: Sealer,
    groups: RwLock<Arc<Vec<Group>>>,
    groups_changed: Notify,
    path_ids: Mutex<PathIds>,
    /// Held from choosing the interface until the datagram is sent over it.
    sending_multicast: Mutex<()>,
    /// Which socket is looked at first: each in turn, so that none starves the others.
    turn: AtomicUsize,
    /// Whether anything is sent, received or joined.
    open: AtomicBool,
    unopened: AtomicU64,
}

/// Numbers of paths, by interface and whether it is IPv4; none is used twice.
#[derive(Default)]
struct PathIds {
    known: BTreeMap<(String, bool), PathId>,
    last: u32,
}

/// A path, and the socket that receives what is sent to its group.
struct Group {
    path: Path,
    interface: Interface,
    socket: Arc<UdpSocket>,
}

impl DatagramPort {
    /// Over sockets that `unicast_socket` made. To be called within a runtime.
    pub(crate) fn new(
        unicast: Vec<StdUdpSocket>,
        bind: Option<IpAddr>,
        sealer: Sealer,
        open: bool,
    ) -> io::Result<Self> {
        let unicast = unicast
            .into_iter()
            .map(|socket| {
                socket.set_nonblocking(true)?;
                UdpSocket::from_std(socket)
            })
            .collect::<io::Result<_>>()?;
        let port = Self {
            unicast,
            bind,
            sealer,
            groups: RwLock::default(),
            groups_changed: Notify::new(),
            path_ids: Mutex::default(),
            sending_multicast: Mutex::default(),
            turn: AtomicUsize::new(0),
            open: AtomicBool::new(open),
            unopened: AtomicU64::new(0),
        };
        port.refresh();
        Ok(port)
    }

    /// The multicast paths there are now.
    pub fn paths(&self) -> Vec<Path> {
        self.groups().iter().map(|group| group.path.clone()).collect()
    }

    /// While it is closed, it belongs to no group, sends nothing, and drops what it receives.
    pub fn set_open(&self, open: bool) {
        if self.open.swap(open, Ordering::Relaxed) != open {
            self.refresh();
        }
    }

    fn is_open(&self) -> bool {
        self.open.load(Ordering::Relaxed)
    }

    /// The keys, to be replaced at run time.
    pub fn sealer(&self) -> &Sealer {
        &self.sealer
    }

    /// Datagrams that came and could not be opened, since the start.
    pub fn unopened(&self) -> u64 {
        self.unopened.load(Ordering::Relaxed)
    }

    /// After a change of the network: joins the groups on new interfaces, and again on the old ones, since what switches
    /// know about a link is gone once it was down. An interface keeps the number of its path.
    pub fn refresh(&self) {
        let old = self.groups();
        let mut groups = Vec::new();
        let interfaces = if self.is_open() {
            interfaces(self.bind)
        } else {
            Vec::new()
        };
        for interface in interfaces {
            for (there, v4) in [(interface.v4.is_some(), true), (interface.v6, false)] {
                if !there || self.unicast_of(v4).is_none() {
                    continue;
                }
                let kept = old
                    .iter()
                    .find(|known| known.interface.index == interface.index && known.path.group.is_ipv4() == v4);
                let socket = match kept {
                    Some(known) => rejoin(known, &interface),
                    None => open_group(&interface, v4).and_then(UdpSocket::from_std).map(Arc::new),
                };
                match socket {
                    Ok(socket) => groups.push(Group {
                        path: self.path(&interface, v4),
                        interface: interface.clone(),
                        socket,
                    }),
                    Err(error) => {
                        let (interface, family) = (&interface.name, if v4 { "IPv4" } else { "IPv6" });
                        tracing::debug!(interface, family, %error, "no multicast on this interface");
                    }
                }
            }
        }
        let mut ids = self.path_ids.lock().unwrap_or_else(PoisonError::into_inner);
        ids.known
            .retain(|_, id| groups.iter().any(|group| group.path.id == *id));
        drop(ids);
        *self.groups.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(groups);
        self.groups_changed.notify_one();
    }

    /// Seals all, and then sends them one right behind the other, so that those who are asked at once hear it at once. What
    /// cannot be sent is lost, as datagrams are.
    pub fn send_all(&self, datagrams: &[(To, Vec<u8>)]) {
        let sealed: Vec<_> = datagrams
            .iter()
            .map(|(to, plaintext)| (to, self.seal(plaintext)))
            .collect();
        for (to, sealed) in sealed {
            if let Err(error) = sealed.and_then(|sealed| self.send_sealed(to, &sealed)) {
                tracing::debug!(?to, %error, "a datagram could not be sent");
            }
        }
    }

    /// Seals and sends a datagram to an address. It may be lost, as all datagrams; an error says that it was not even sent.
    pub fn send_to(&self, to: SocketAddr, plaintext: &[u8]) -> io::Result<()> {
        self.send_sealed(&To::Address(to), &self.seal(plaintext)?)
    }

    /// Seals and sends a datagram to the group of a path.
    pub fn send_multicast(&self, path: PathId, plaintext: &[u8]) -> io::Result<()> {
        self.send_sealed(&To::Group(path), &self.seal(plaintext)?)
    }

    fn send_sealed(&self, to: &To, sealed: &[u8]) -> io::Result<()> {
        if !self.is_open() {
            return Err(io::ErrorKind::NotConnected.into());
        }
        match to {
            To::Address(to) => {
                let socket = self.unicast_of(to.is_ipv4()).ok_or(io::ErrorKind::AddrNotAvailable)?;
                // Past the runtime: what does not fit the socket's buffer is dropped, not waited for.
                SockRef::from(socket).send_to(sealed, &(*to).into()).map(drop)
            }
            To::Group(path) => self.send_to_group(*path, sealed),
        }
    }

    fn send_to_group(&self, path: PathId, sealed: &[u8]) -> io::Result<()> {
        let groups = self.groups();
        let group = groups
            .iter()
            .find(|group| group.path.id == path)
            .ok_or(io::ErrorKind::NotFound)?;
        let socket = self
            .unicast_of(group.path.group.is_ipv4())
            .ok_or(io::ErrorKind::AddrNotAvailable)?;
        let _turn = self.sending_multicast.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(source) = group.interface.v4
            && group.path.group.is_ipv4()
        {
            select_interface_v4(socket, source, group.interface.index)?;
        }
        // The scope in an IPv6 group's address says which interface.
        SockRef::from(socket)
            .send_to(sealed, &group.path.group.into())
            .map(drop)
    }

    /// The next datagram that can be opened: where it came from, whether it was sent to a group, and its plaintext. One
    /// task at a time may wait. Safe to cancel.
    pub async fn recv(&self) -> (SocketAddr, bool, Vec<u8>) {
        let mut buffer = [0; SEALED_BYTES_MAX + 1];
        loop {
            // Before the groups are read, so that no change is missed.
            let mut changed = std::pin::pin!(self.groups_changed.notified());
            changed.as_mut().enable();
            let groups = self.groups();
            let received = tokio::select! {
                received = std::future::poll_fn(|cx| self.poll_sockets(cx, &groups, &mut buffer)) => received,
                () = changed => continue,
            };
            match received {
                Ok(_) if !self.is_open() => {}
                Ok((from, multicast, len)) => match self.sealer.open(&buffer[..len]) {
                    Some(plaintext) => return (from, multicast, plaintext),
                    None => {
                        // A flood of strangers' datagrams must not keep the processor from better work.
                        if self.unopened.fetch_add(1, Ordering::Relaxed) % UNOPENED_TOGETHER == UNOPENED_TOGETHER - 1 {
                            tokio::time::sleep(UNOPENED_PAUSE).await;
                        }
                    }
                },
                Err(error) => {
                    // It concerns some datagram sent before; the socket goes on.
                    tracing::trace!(%error, "receiving a datagram");
                    tokio::task::yield_now().await;
                }
            }
        }
    }

    fn poll_sockets(
        &self,
        cx: &mut Context<'_>,
        groups: &[Group],
        buffer: &mut [u8],
    ) -> Poll<io::Result<(SocketAddr, bool, usize)>> {
        let count = self.unicast.len() + groups.len();
        let first = self.turn.fetch_add(1, Ordering::Relaxed);
        for step in 0..count {
            let position = (first.wrapping_add(step)) % count;
            let (socket, multicast) = match position.checked_sub(self.unicast.len()) {
                None => (&self.unicast[position], false),
                Some(position) => (&*groups[position].socket, true),
            };
            let mut read = ReadBuf::new(buffer);
            if let Poll::Ready(result) = socket.poll_recv_from(cx, &mut read) {
                let len = read.filled().len();
                return Poll::Ready(result.map(|from| (from, multicast, len)));
            }
        }
        Poll::Pending
    }

    fn groups(&self) -> Arc<Vec<Group>> {
        self.groups.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn unicast_of(&self, v4: bool) -> Option<&UdpSocket> {
        self.unicast
            .iter()
            .find(|socket| socket.local_addr().is_ok_and(|address| address.is_ipv4() == v4))
    }

    fn seal(&self, plaintext: &[u8]) -> io::Result<Vec<u8>> {
        self.sealer.seal(plaintext).ok_or_else(|| {
            io::Error::new(
                io::ErrorKind::InvalidInput,
                "there is no fleet key yet, or it is too long",
            )
        })
    }

    fn path(&self, interface: &Interface, v4: bool) -> Path {
        let mut ids = self.path_ids.lock().unwrap_or_else(PoisonError::into_inner);
        let name = (interface.name.clone(), v4);
        let id = ids.known.get(&name).copied().unwrap_or_else(|| {
            ids.last += 1;
            let id = PathId(ids.last);
            ids.known.insert(name, id);
            id
        });
        Path {
            id,
            interface: interface.name.clone(),
            group: group_address(interface, v4),
        }
    }
}

fn group_address(interface: &Interface, v4: bool) -> SocketAddr {
    if v4 {
        (GROUP_V4, MULTICAST_PORT).into()
    } else {
        SocketAddrV6::new(GROUP_V6, MULTICAST_PORT, 0, interface.index).into()
    }
}

/// A socket for unicast, bound; with `SO_REUSEADDR`, since group sockets share the port. That the port is nobody else's is
/// known from the TCP listener of the same number.
pub(crate) fn unicast_socket(address: SocketAddr) -> io::Result<StdUdpSocket> {
    let socket = shared_socket(address.is_ipv4())?;
    if address.is_ipv4() {
        socket.set_multicast_ttl_v4(1)?;
        socket.set_multicast_loop_v4(true)?;
    } else {
        socket.set_multicast_hops_v6(1)?;
        socket.set_multicast_loop_v6(true)?;
    }
    socket.bind(&address.into())?;
    Ok(socket.into())
}

fn open_group(interface: &Interface, v4: bool) -> io::Result<StdUdpSocket> {
    let socket = shared_socket(v4)?;
    socket.bind(&group_address(interface, v4).into())?;
    join(&socket, interface, v4)?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}

fn rejoin(known: &Group, interface: &Interface) -> io::Result<Arc<UdpSocket>> {
    let v4 = known.path.group.is_ipv4();
    let socket = SockRef::from(&*known.socket);
    // That it was not joined any more is as good.
    let _ = if v4 {
        socket.leave_multicast_v4_n(&GROUP_V4, &InterfaceIndexOrAddress::Index(interface.index))
    } else {
        socket.leave_multicast_v6(&GROUP_V6, interface.index)
    };
    join(&socket, interface, v4)?;
    Ok(known.socket.clone())
}

fn join(socket: &Socket, interface: &Interface, v4: bool) -> io::Result<()> {
    if v4 {
        socket.join_multicast_v4_n(&GROUP_V4, &InterfaceIndexOrAddress::Index(interface.index))
    } else {
        socket.join_multicast_v6(&GROUP_V6, interface.index)
    }
}

fn shared_socket(v4: bool) -> io::Result<Socket> {
    let domain = if v4 { Domain::IPV4 } else { Domain::IPV6 };
    let socket = Socket::new(domain, Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_reuse_address(true)?;
    // Elsewhere than on Linux it takes this one to share a group's port.
    #[cfg(all(unix, not(target_os = "linux")))]
    socket.set_reuse_port(true)?;
    if !v4 {
        socket.set_only_v6(true)?;
    }
    // Without this, Linux gives a socket what any other on the host has joined.
    #[cfg(target_os = "linux")]
    if v4 {
        socket.set_multicast_all_v4(false)?;
    } else if let Err(error) = socket.set_multicast_all_v6(false) {
        tracing::debug!(%error, "kernels before 4.20 cannot keep others' IPv6 multicast away");
    }
    if let Err(error) = socket.set_recv_buffer_size(RECEIVE_BUFFER_BYTES) {
        tracing::debug!(%error, "the receive buffer stays small");
    }
    Ok(socket)
}

#[cfg(target_os = "linux")]
fn select_interface_v4(socket: &UdpSocket, source: Ipv4Addr, index: u32) -> io::Result<()> {
    rustix::net::sockopt::set_ip_multicast_if_with_ifindex(socket, &Ipv4Addr::UNSPECIFIED, &source, index)?;
    Ok(())
}

#[cfg(not(target_os = "linux"))]
fn select_interface_v4(socket: &UdpSocket, source: Ipv4Addr, _: u32) -> io::Result<()> {
    SockRef::from(socket).set_multicast_if_v4(&source)
}
