//! The interfaces over which multicast goes.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

/// The most interfaces: a host with more has them for containers.
const INTERFACES_MAX: usize = 16;

/// An interface, with the families that it has.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Interface {
    pub(super) name: String,
    pub(super) index: u32,
    /// Its first IPv4 address.
    pub(super) v4: Option<Ipv4Addr>,
    /// Whether it has an IPv6 address.
    pub(super) v6: bool,
}

/// Interfaces that run and can carry multicast. Loopback is one only for those who are bound to it; with a bound address,
/// it is that address' interface and family alone.
pub(super) fn interfaces(bind: Option<IpAddr>) -> Vec<Interface> {
    match if_addrs::get_if_addrs() {
        Ok(addresses) => select(&addresses, bind),
        Err(error) => {
            tracing::warn!(%error, "cannot list the network interfaces: no multicast");
            Vec::new()
        }
    }
}

fn select(addresses: &[if_addrs::Interface], bind: Option<IpAddr>) -> Vec<Interface> {
    let mut found = BTreeMap::<u32, Interface>::new();
    for address in addresses {
        let Some(index) = address.index else { continue };
        let wanted = match bind {
            // Every address of 127.0.0.0/8 is on the loopback interface, listed or not.
            Some(ip) if ip.is_loopback() => address.is_loopback() && address.ip().is_ipv4() == ip.is_ipv4(),
            Some(ip) => address.ip() == ip,
            None => !address.is_loopback() && address.is_oper_up() && !address.is_p2p(),
        };
        if !wanted {
            continue;
        }
        if found.len() == INTERFACES_MAX && !found.contains_key(&index) {
            continue;
        }
        let interface = found.entry(index).or_insert_with(|| Interface {
            name: address.name.clone(),
            index,
            v4: None,
            v6: false,
        });
        match address.ip() {
            IpAddr::V4(ip) => {
                interface.v4.get_or_insert(ip);
            }
            // Systems route no IPv6 multicast over the loopback interface.
            IpAddr::V6(ip) => interface.v6 |= !ip.is_loopback(),
        }
    }
    found.into_values().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(name: &str, index: u32, ip: &str, up: bool) -> if_addrs::Interface {
        let addr = match ip.parse().unwrap() {
            IpAddr::V4(ip) => if_addrs::IfAddr::V4(if_addrs::Ifv4Addr {
                ip,
                netmask: Ipv4Addr::new(255, 255, 255, 0),
                prefixlen: 24,
                broadcast: None,
            }),
            IpAddr::V6(ip) => if_addrs::IfAddr::V6(if_addrs::Ifv6Addr {
                ip,
                netmask: "ffff:ffff:ffff:ffff::".parse().unwrap(),
                prefixlen: 64,
                broadcast: None,
            }),
        };
        if_addrs::Interface {
            name: name.to_owned(),
            addr,
            index: Some(index),
            oper_status: if up {
                if_addrs::IfOperStatus::Up
            } else {
                if_addrs::IfOperStatus::Unknown
            },
            is_p2p: name.starts_with("wg"),
        }
    }

    fn host() -> Vec<if_addrs::Interface> {
        vec![
            address("lo", 1, "127.0.0.1", true),
            address("lo", 1, "::1", true),
            address("eth0", 2, "192.0.2.2", true),
            address("eth0", 2, "192.0.2.3", true),
            address("eth0", 2, "fe80::1", true),
            address("eth1", 3, "fe80::2", true),
            address("eth2", 4, "198.51.100.1", false),
            address("wg0", 5, "203.0.113.1", true),
        ]
    }

    #[test]
    fn every_running_interface_that_can_carry_multicast_is_used_but_loopback() {
        let found = select(&host(), None);
        let names: Vec<_> = found.iter().map(|interface| interface.name.as_str()).collect();
        assert_eq!(names, ["eth0", "eth1"]);
        assert_eq!((found[0].v4, found[0].v6), (Some(Ipv4Addr::new(192, 0, 2, 2)), true));
        assert_eq!((found[1].v4, found[1].v6), (None, true), "a host without IPv4");
    }

    #[test]
    fn a_bound_address_selects_its_interface_and_family_alone() {
        let found = select(&host(), Some("192.0.2.3".parse().unwrap()));
        assert_eq!(found.len(), 1);
        assert_eq!((found[0].v4, found[0].v6), (Some(Ipv4Addr::new(192, 0, 2, 3)), false));
        assert_eq!(select(&host(), Some("192.0.2.99".parse().unwrap())), []);
    }

    #[test]
    fn any_loopback_address_selects_the_loopback_interface() {
        let found = select(&host(), Some("127.0.0.9".parse().unwrap()));
        assert_eq!(found.len(), 1);
        assert_eq!((found[0].name.as_str(), found[0].v6), ("lo", false));
    }
}
