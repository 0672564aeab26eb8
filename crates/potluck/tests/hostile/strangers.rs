//! Those who were not let in: they open connections, send datagrams, and repeat those of others.

use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

/// How long a connection that is refused at once is not tried again.
const PAUSE: Duration = Duration::from_millis(2);
/// Datagrams that are sent one right behind the other.
const BURST: usize = 64;

/// Something that goes on until it is dropped.
pub(crate) struct Siege {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
    /// Connections or datagrams.
    pub(crate) made: Arc<AtomicU64>,
    /// Bytes that came back.
    pub(crate) got: Arc<AtomicU64>,
}

impl Siege {
    fn new(threads: usize, act: impl Fn(usize, &AtomicBool, &AtomicU64, &AtomicU64) + Clone + Send + 'static) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (made, got) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let threads = (0..threads)
            .map(|number| {
                let (act, stop, made, got) = (act.clone(), stop.clone(), made.clone(), got.clone());
                std::thread::spawn(move || {
                    while !stop.load(Ordering::Relaxed) {
                        act(number, &stop, &made, &got);
                    }
                })
            })
            .collect();
        Self {
            stop,
            threads,
            made,
            got,
        }
    }
}

impl Drop for Siege {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            thread.join().unwrap();
        }
    }
}

/// Opens connections that say nothing, from many addresses, keeps `open_max` of them and begins anew with the oldest.
pub(crate) fn silent_connections(to: SocketAddr, open_max: usize) -> Siege {
    Siege::new(1, move |_, stop, made, _| {
        let mut open = std::collections::VecDeque::new();
        while !stop.load(Ordering::Relaxed) {
            let from = Ipv4Addr::new(127, 99, (made.load(Ordering::Relaxed) % 250) as u8, 1);
            match connect_from(IpAddr::V4(from), to) {
                Some(connection) => {
                    made.fetch_add(1, Ordering::Relaxed);
                    open.push_back(connection);
                    if open.len() > open_max {
                        open.pop_front();
                    }
                }
                None => std::thread::sleep(PAUSE),
            }
        }
    })
}

fn connect_from(from: IpAddr, to: SocketAddr) -> Option<TcpStream> {
    use rustix::net::{AddressFamily, SocketType, bind, connect, socket};
    let socket = socket(AddressFamily::INET, SocketType::STREAM, None).ok()?;
    bind(&socket, &SocketAddr::new(from, 0)).ok()?;
    connect(&socket, &to).ok()?;
    Some(TcpStream::from(socket))
}

/// Sends these datagrams round and round, as fast as it goes, from an address of its own for each thread.
pub(crate) fn flood(to: SocketAddr, datagrams: Vec<Vec<u8>>, threads: usize) -> Siege {
    Siege::new(threads, move |number, stop, made, got| {
        let socket = UdpSocket::bind((Ipv4Addr::new(127, 98, number as u8, 1), 0)).unwrap();
        socket.set_nonblocking(true).unwrap();
        let mut all = datagrams.iter().cycle();
        while !stop.load(Ordering::Relaxed) {
            for datagram in all.by_ref().take(BURST) {
                // What does not fit the buffer is lost, as on any network.
                if socket.send_to(datagram, to).is_ok() {
                    made.fetch_add(1, Ordering::Relaxed);
                }
            }
            got.fetch_add(received(&socket), Ordering::Relaxed);
            std::thread::yield_now();
        }
    })
}

/// Bytes that have come to a socket that does not block.
pub(crate) fn received(socket: &UdpSocket) -> u64 {
    let mut buffer = [0; 2_048];
    let mut bytes = 0;
    loop {
        match socket.recv_from(&mut buffer) {
            Ok((len, _)) => bytes += len as u64,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return bytes,
            Err(_) => {}
        }
    }
}
