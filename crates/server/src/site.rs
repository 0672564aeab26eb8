//! Which nodes probably share a site: what the server can tell from addresses.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

/// Keys of the sites of a node with these addresses, whose requests come from `source`. Nodes that have a key in common
/// probably reach each other cheaply.
///
/// A site is a /24 (IPv4) or a /64 (IPv6). Where requests do not come from one of the node's own addresses there is a NAT in
/// between: private prefixes repeat behind each NAT, so they count together with its address, and the address alone counts.
pub(crate) fn keys(addresses: &[SocketAddr], source: IpAddr) -> BTreeSet<String> {
    let source = source.to_canonical();
    let own = |ip: IpAddr| ip == source || ip.is_loopback() && source.is_loopback();
    let direct = addresses.iter().any(|address| own(address.ip().to_canonical()));
    let mut keys = BTreeSet::new();
    for address in addresses {
        let ip = address.ip().to_canonical();
        if direct || is_global(ip) {
            keys.insert(prefix(ip));
        } else {
            keys.insert(format!("{source}>{}", prefix(ip)));
        }
    }
    if direct || keys.is_empty() {
        keys.insert(prefix(source));
    } else {
        keys.insert(format!("{source}>"));
    }
    keys
}

fn prefix(ip: IpAddr) -> String {
    match ip {
        IpAddr::V4(ip) => {
            let [a, b, c, _] = ip.octets();
            format!("{a}.{b}.{c}/24")
        }
        IpAddr::V6(ip) => {
            let [a, b, c, d, ..] = ip.segments();
            format!("{a:x}:{b:x}:{c:x}:{d:x}/64")
        }
    }
}

fn is_global(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => !(ip.is_private() || ip.is_link_local() || ip.is_loopback()),
        IpAddr::V6(ip) => !(ip.is_unicast_link_local() || ip.is_loopback()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shared(a: (&[&str], &str), b: (&[&str], &str)) -> bool {
        let keys = |(addresses, source): (&[&str], &str)| {
            let addresses: Vec<SocketAddr> = addresses.iter().map(|text| text.parse().unwrap()).collect();
            keys(&addresses, source.parse().unwrap())
        };
        keys(a).intersection(&keys(b)).next().is_some()
    }

    #[test]
    fn nodes_of_one_prefix_share_a_site() {
        assert!(shared(
            (&["10.0.0.1:7443"], "10.0.0.1"),
            (&["10.0.0.9:7443"], "10.0.0.9")
        ));
        assert!(!shared(
            (&["10.0.0.1:7443"], "10.0.0.1"),
            (&["10.0.1.9:7443"], "10.0.1.9")
        ));
        assert!(shared(
            (&["[fd00::1]:1"], "fd00::1"),
            (&["10.0.0.1:1", "[fd00::2]:1"], "::ffff:10.0.0.1")
        ));
        assert!(shared(
            (&["127.82.0.1:1"], "127.82.0.1"),
            (&["127.82.0.2:1"], "127.0.0.1")
        ));
    }

    #[test]
    fn the_same_private_prefix_behind_two_nats_is_two_sites() {
        let shop = (&["192.168.1.5:1"][..], "198.51.100.1");
        assert!(!shared(shop, (&["192.168.1.5:1"], "203.0.113.1")));
        assert!(shared(shop, (&["192.168.1.6:1"], "198.51.100.1")));
        assert!(shared(shop, (&["192.168.2.6:1"], "198.51.100.1")));
        assert!(!shared(shop, (&["192.168.1.6:1"], "192.168.1.6")));
    }
}
