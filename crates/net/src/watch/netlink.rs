//! Linux tells of link and address changes over a netlink socket.

use std::io;
use std::os::fd::OwnedFd;

use rustix::io::Errno;
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};
use tokio::io::unix::AsyncFd;

use super::Change;
use super::state::{News, RTM_GETADDR, RTM_GETLINK, State, dump_request};

/// Multicast groups of rtnetlink: links, IPv4 addresses, IPv6 addresses (`linux/rtnetlink.h`).
const GROUPS: u32 = 0x1 | 0x10 | 0x100;
/// Fits what the kernel puts into one datagram of a dump.
const DATAGRAM_BYTES_MAX: usize = 32 << 10;

/// The socket and what it has told.
pub(super) struct Netlink {
    socket: AsyncFd<OwnedFd>,
    state: State,
    sequence: u32,
    dump: Dump,
}

/// How far the look at everything is: one dump at a time is all that the kernel gives.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Dump {
    /// Links are coming.
    Links,
    /// Addresses are coming.
    Addresses,
    /// All is known.
    Done,
}

impl Netlink {
    pub(super) fn open() -> io::Result<Self> {
        let socket = rustix::net::socket_with(
            AddressFamily::NETLINK,
            SocketType::RAW,
            SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
            // NETLINK_ROUTE, the protocol with number zero.
            None,
        )?;
        rustix::net::bind(&socket, &SocketAddrNetlink::new(0, GROUPS))?;
        #[expect(
            deprecated,
            reason = "an OwnedFd keeps its descriptor open while it is registered; the replacement is unsafe"
        )]
        let socket = AsyncFd::new(socket)?;
        let mut netlink = Self {
            socket,
            state: State::default(),
            sequence: 0,
            dump: Dump::Done,
        };
        netlink.look()?;
        Ok(netlink)
    }

    pub(super) async fn next(&mut self) -> Change {
        loop {
            match self.news().await {
                Ok(Some(change)) => return change,
                Ok(None) => {}
                Err(error) => {
                    tracing::debug!(%error, "reading what the kernel says of links");
                    tokio::time::sleep(std::time::Duration::from_secs(1)).await;
                }
            }
        }
    }

    /// Reads on until everything has been seen once; gives what was taken for a change meanwhile.
    #[cfg(test)]
    pub(super) async fn until_known(&mut self) -> Option<Change> {
        while self.dump != Dump::Done {
            if let Some(change) = self.news().await.unwrap() {
                return Some(change);
            }
        }
        None
    }

    /// Takes in one datagram.
    async fn news(&mut self) -> io::Result<Option<Change>> {
        let mut buffer = Vec::new();
        loop {
            let mut ready = self.socket.readable().await?;
            // Allocated when there is something to read: most of the time there is not.
            buffer.resize(DATAGRAM_BYTES_MAX, 0);
            let received = ready.try_io(|socket| {
                let (_, len, from) = rustix::net::recvfrom(socket, &mut buffer[..], RecvFlags::empty())?;
                Ok((len, from))
            });
            let (len, from) = match received {
                Ok(Ok(received)) => received,
                Ok(Err(error)) if Errno::from_io_error(&error) == Some(Errno::NOBUFS) => {
                    // The kernel had more to say than fits: something changed.
                    self.state.clear();
                    self.look()?;
                    return Ok(Some(Change::LinkUp));
                }
                Ok(Err(error)) => return Err(error),
                Err(_would_block) => continue,
            };
            let kernel = from
                .and_then(|from| SocketAddrNetlink::try_from(from).ok())
                .is_some_and(|from| from.pid() == 0);
            if !kernel || len > buffer.len() {
                continue;
            }
            let news = self.state.take(&buffer[..len]);
            return self.follow_dump(news);
        }
    }

    /// Asks for what is to be seen next.
    fn follow_dump(&mut self, news: News) -> io::Result<Option<Change>> {
        match news.dump_ended {
            Some(Ok(sequence)) if sequence == self.sequence => match self.dump {
                Dump::Links => {
                    self.dump = Dump::Addresses;
                    self.ask(RTM_GETADDR)?;
                }
                Dump::Addresses | Dump::Done => self.dump = Dump::Done,
            },
            Some(Err(code)) if code != 0 => {
                // Without it, the first message about each link counts as a change. That does no harm.
                tracing::debug!(code, "the kernel does not list links and addresses");
                self.dump = Dump::Done;
            }
            // Nothing has ended, or a dump that was given up.
            _ => {}
        }
        Ok(news.change)
    }

    fn look(&mut self) -> io::Result<()> {
        self.dump = Dump::Links;
        self.ask(RTM_GETLINK)
    }

    fn ask(&mut self, kind: u16) -> io::Result<()> {
        self.sequence = self.sequence.wrapping_add(1);
        let request = dump_request(kind, self.sequence);
        rustix::net::send(self.socket.get_ref(), &request, SendFlags::empty())?;
        Ok(())
    }
}
