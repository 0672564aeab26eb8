//! Link and address changes: the node asks for its list because it connected.

#[cfg(target_os = "linux")]
mod netlink;
mod poll;
#[cfg(target_os = "linux")]
mod state;

use std::io;
use std::net::IpAddr;
use std::time::Duration;

use potluck_model::Network;

/// Changes that come together are told as one.
const SETTLE: Duration = Duration::from_millis(100);

/// What changed.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Change {
    /// An interface came up; addresses may have changed as well.
    LinkUp,
    /// An address appeared, changed or went.
    AddressChanged,
}

/// Tells of changes.
pub struct Watcher {
    source: Source,
}

enum Source {
    #[cfg(target_os = "linux")]
    Netlink(netlink::Netlink),
    Poll(poll::Poll),
}

impl Watcher {
    /// Starts to watch; what is there now is no change. To be called within a runtime.
    pub fn new() -> io::Result<Self> {
        #[cfg(target_os = "linux")]
        match netlink::Netlink::open() {
            Ok(netlink) => {
                return Ok(Self {
                    source: Source::Netlink(netlink),
                });
            }
            Err(error) => tracing::warn!(%error, "the kernel does not tell of link changes: looking every 2 s instead"),
        }
        Ok(Self {
            source: Source::Poll(poll::Poll::new()?),
        })
    }

    /// The next change, told once it has settled. Safe to cancel.
    pub async fn next(&mut self) -> Change {
        let mut change = self.raw().await;
        let settled = tokio::time::sleep(SETTLE);
        tokio::pin!(settled);
        loop {
            tokio::select! {
                () = &mut settled => return change,
                another = self.raw() => change = change.min(another),
            }
        }
    }

    async fn raw(&mut self) -> Change {
        match &mut self.source {
            #[cfg(target_os = "linux")]
            Source::Netlink(netlink) => netlink.next().await,
            Source::Poll(poll) => poll.next().await,
        }
    }
}

/// Addresses of this host at which others may reach it, those most worth trying first: at most 16. With `bind`, that one;
/// else none that are loopback, and IPv6 link-local ones only if there is nothing else.
pub fn addresses(bind: Option<IpAddr>) -> Vec<IpAddr> {
    if let Some(ip) = bind.filter(|ip| !ip.is_unspecified()) {
        return vec![ip];
    }
    match if_addrs::get_if_addrs() {
        Ok(interfaces) => select(
            interfaces
                .iter()
                .filter(|one| one.is_oper_up())
                .map(if_addrs::Interface::ip),
        ),
        Err(error) => {
            tracing::warn!(%error, "cannot list this machine's addresses");
            Vec::new()
        }
    }
}

/// The name of the interface that has an address.
pub fn interface_of(ip: IpAddr) -> Option<String> {
    let interfaces = if_addrs::get_if_addrs().ok()?;
    interfaces.into_iter().find(|one| one.ip() == ip).map(|one| one.name)
}

/// Networks that the addresses of this host are on-link in, as `addresses` selects them: at most 16.
pub fn networks(bind: Option<IpAddr>) -> Vec<Network> {
    // What cannot be listed was said by `addresses`.
    let interfaces = if_addrs::get_if_addrs().unwrap_or_default();
    on_link(&interfaces, &addresses(bind))
}

fn on_link(interfaces: &[if_addrs::Interface], addresses: &[IpAddr]) -> Vec<Network> {
    let mut networks: Vec<Network> = interfaces
        .iter()
        .filter_map(|one| {
            let length = match &one.addr {
                if_addrs::IfAddr::V4(v4) => v4.prefixlen,
                if_addrs::IfAddr::V6(v6) => v6.prefixlen,
            };
            Network::of(one.ip(), length)
        })
        // Every address of 127.0.0.0/8 is here, listed or not, so ask the networks and not the interfaces' addresses.
        .filter(|network| addresses.iter().any(|address| network.contains(*address)))
        .collect();
    networks.sort_unstable();
    networks.dedup();
    networks.truncate(ADDRESSES_MAX);
    networks
}

/// The most addresses that a node tells.
const ADDRESSES_MAX: usize = 16;

fn select(all: impl Iterator<Item = IpAddr>) -> Vec<IpAddr> {
    let (link_local, mut usable): (Vec<_>, Vec<_>) = all
        .filter(|ip| !ip.is_loopback() && !ip.is_unspecified() && !ip.is_multicast())
        .partition(|ip| match ip {
            IpAddr::V4(ip) => ip.is_link_local(),
            IpAddr::V6(ip) => ip.is_unicast_link_local(),
        });
    if usable.is_empty() {
        usable = link_local;
    }
    usable.sort_unstable();
    usable.dedup();
    usable.truncate(ADDRESSES_MAX);
    usable
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ips(texts: &[&str]) -> Vec<IpAddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn link_local_addresses_are_told_only_if_there_is_nothing_else() {
        let all = ips(&["127.0.0.1", "fe80::1", "192.0.2.2", "::1", "fd00::2", "169.254.1.1"]);
        assert_eq!(select(all.into_iter()), ips(&["192.0.2.2", "fd00::2"]));
        assert_eq!(select(ips(&["::1", "fe80::1"]).into_iter()), ips(&["fe80::1"]));
    }

    #[test]
    fn networks_are_told_as_long_as_an_address_that_is_told_is_in_them() {
        let interface = |name: &str, ip: &str, prefixlen: u8| if_addrs::Interface {
            name: name.to_owned(),
            addr: match ip.parse().unwrap() {
                IpAddr::V4(ip) => if_addrs::IfAddr::V4(if_addrs::Ifv4Addr {
                    ip,
                    netmask: std::net::Ipv4Addr::UNSPECIFIED,
                    prefixlen,
                    broadcast: None,
                }),
                IpAddr::V6(ip) => if_addrs::IfAddr::V6(if_addrs::Ifv6Addr {
                    ip,
                    netmask: std::net::Ipv6Addr::UNSPECIFIED,
                    prefixlen,
                    broadcast: None,
                }),
            },
            index: None,
            oper_status: if_addrs::IfOperStatus::Up,
            is_p2p: false,
        };
        let host = [
            interface("lo", "127.0.0.1", 8),
            interface("eth0", "10.1.3.7", 23),
            interface("eth0", "fe80::1", 64),
            interface("eth0", "fd00:1::7", 64),
        ];
        let told = |addresses: &[&str]| -> Vec<String> {
            let networks = on_link(&host, &ips(addresses));
            networks.iter().map(ToString::to_string).collect()
        };
        assert_eq!(told(&["10.1.3.7", "fd00:1::7"]), ["10.1.2.0/23", "fd00:1::/64"]);
        assert_eq!(told(&["127.82.0.4"]), ["127.0.0.0/8"], "bound to a loopback address");
    }

    #[test]
    fn a_bound_address_is_the_only_one() {
        assert_eq!(addresses(Some("127.0.0.5".parse().unwrap())), ips(&["127.0.0.5"]));
    }

    #[tokio::test]
    async fn the_watcher_starts_and_says_nothing_of_what_is_there_already() {
        let mut watcher = Watcher::new().unwrap();
        #[cfg(target_os = "linux")]
        assert!(matches!(watcher.source, Source::Netlink(_)));
        // The first look has been taken when the dumps have come; only then could something be mistaken for a change.
        #[cfg(target_os = "linux")]
        if let Source::Netlink(netlink) = &mut watcher.source {
            assert_eq!(netlink.until_known().await, None);
        }
        let nothing = tokio::time::timeout(Duration::from_millis(1), watcher.next()).await;
        assert!(nothing.is_err());
    }
}
