//! TCP streams: dialling several addresses, and options that keep dead connections from lingering.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpSocket, TcpStream};

/// How long one address has to itself before the next is tried beside it (RFC 8305 recommends 250 ms).
const STAGGER: Duration = Duration::from_millis(250);
/// Unacknowledged bytes, or a silent other end, are borne for this long.
const DEAD_AFTER: Duration = Duration::from_secs(30);
/// The most addresses of one dial.
const CANDIDATES_MAX: usize = 16;

/// Connects to the first of `candidates` that answers; each next one is tried beside those before it after a moment.
/// `bind` is the source address; candidates of the other family are left out.
pub(crate) async fn dial(candidates: &[SocketAddr], bind: Option<IpAddr>) -> io::Result<TcpStream> {
    let mut attempts = FuturesUnordered::new();
    let usable = candidates
        .iter()
        .filter(|address| bind.is_none_or(|ip| ip.is_ipv4() == address.is_ipv4()))
        .take(CANDIDATES_MAX);
    for (position, &address) in usable.enumerate() {
        attempts.push(async move {
            tokio::time::sleep(STAGGER * position as u32).await;
            connect(address, bind).await
        });
    }
    let mut fault = io::Error::new(
        io::ErrorKind::AddrNotAvailable,
        "there is no address of the family that this node is bound to",
    );
    while let Some(attempt) = attempts.next().await {
        match attempt {
            Ok(stream) => return Ok(stream),
            Err(error) => fault = error,
        }
    }
    Err(fault)
}

async fn connect(address: SocketAddr, bind: Option<IpAddr>) -> io::Result<TcpStream> {
    let socket = if address.is_ipv4() {
        TcpSocket::new_v4()?
    } else {
        TcpSocket::new_v6()?
    };
    if let Some(ip) = bind {
        socket.bind(SocketAddr::new(ip, 0))?;
    }
    let stream = socket.connect(address).await?;
    tune(&stream)?;
    Ok(stream)
}

/// No delay for small frames, and an end to connections whose other end is gone.
pub(crate) fn tune(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let socket = SockRef::from(stream);
    let keepalive = TcpKeepalive::new()
        .with_time(DEAD_AFTER / 2)
        .with_interval(DEAD_AFTER / 6);
    #[cfg(any(target_os = "linux", target_os = "macos", target_os = "freebsd"))]
    let keepalive = keepalive.with_retries(3);
    socket.set_tcp_keepalive(&keepalive)?;
    #[cfg(target_os = "linux")]
    socket.set_tcp_user_timeout(Some(DEAD_AFTER))?;
    Ok(())
}
