//! Sites: which nodes reach each other cheaply. By the operator's map, else by what addresses tell.
//!
//! Measured round trips do not count here: they could only split what stands here as one.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;
use std::sync::Arc;

use potluck_model::api::Presence;
use potluck_model::rate::Schedule;
use potluck_model::{Digest, Network};

use crate::uplink::Uplink;

/// The most sites of a map.
pub const SITES_MAX: usize = 10_000;
/// The most networks of a site.
pub const SITE_NETWORKS_MAX: usize = 256;
/// The most networks that a node is believed.
pub(crate) const NETWORKS_MAX: usize = 16;
/// The most bytes of a site's name.
const NAME_BYTES_MAX: usize = 64;
/// Networks that are larger are no links, whatever a node says: they would join strangers.
const PREFIX_MIN: (u8, u8) = (8, 48);
/// What takes the place of a network that a node did not tell.
const PREFIX_USUAL: (u8, u8) = (24, 64);
const BEHIND: &str = "behind ";

/// An entry of the operator's site map.
#[derive(Clone, Debug, Default)]
pub struct Site {
    /// Its name: letters, digits, `-`, `_` and `.`.
    pub name: String,
    /// The addresses that are in it: those of nodes, or those that the server sees where there is a NAT in between.
    pub networks: Vec<Network>,
    /// Sites whose nodes and its own may fetch from each other.
    pub share_with: Vec<String>,
    /// The most bytes of content that the server sends to all its nodes together.
    pub uplink_limit: Schedule,
}

/// What nodes that share a site have in common.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum SiteKey {
    /// They are in the site of this name.
    Named(String),
    /// They are on this link.
    Link(Network),
    /// The server sees them as this one address.
    Behind(IpAddr),
}

impl fmt::Display for SiteKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Named(name) => f.write_str(name),
            Self::Link(network) => network.fmt(f),
            Self::Behind(address) => write!(f, "{BEHIND}{address}"),
        }
    }
}

impl FromStr for SiteKey {
    type Err = Infallible;

    /// Names have neither a slash nor a space in them.
    fn from_str(text: &str) -> Result<Self, Infallible> {
        if let Some(address) = text.strip_prefix(BEHIND).and_then(|rest| rest.parse().ok()) {
            return Ok(Self::Behind(address));
        }
        match text.parse() {
            Ok(network) if text.contains('/') => Ok(Self::Link(network)),
            _ => Ok(Self::Named(text.to_owned())),
        }
    }
}

/// The operator's site map, checked.
#[derive(Debug, Default)]
pub(crate) struct SiteMap {
    by_name: BTreeMap<String, Entry>,
    /// The smallest networks first.
    networks: Vec<(Network, String)>,
}

#[derive(Debug)]
struct Entry {
    shared: BTreeSet<String>,
    uplink: Option<Arc<Uplink>>,
}

impl SiteMap {
    /// Checks a map. Sharing goes both ways, also if only one of the two names the other.
    pub(crate) fn new(sites: &[Site]) -> Result<Self, String> {
        if sites.len() > SITES_MAX {
            return Err(format!(
                "{} sites, at most {SITES_MAX} fit into a site map",
                sites.len()
            ));
        }
        let mut map = Self::default();
        for site in sites {
            check_name(&site.name)?;
            if site.networks.len() > SITE_NETWORKS_MAX {
                let count = site.networks.len();
                return Err(format!(
                    "site {:?} has {count} networks, at most {SITE_NETWORKS_MAX} may be given",
                    site.name
                ));
            }
            let entry = Entry {
                shared: BTreeSet::new(),
                uplink: Uplink::new(&site.uplink_limit).map(Arc::new),
            };
            if map.by_name.insert(site.name.clone(), entry).is_some() {
                return Err(format!("two sites are called {:?}", site.name));
            }
            for network in &site.networks {
                if let Some((_, other)) = map.networks.iter().find(|(known, _)| known == network) {
                    return Err(format!(
                        "network {network} is given to site {other:?} and to site {:?}",
                        site.name
                    ));
                }
                map.networks.push((*network, site.name.clone()));
            }
        }
        for site in sites {
            for other in &site.share_with {
                if !map.by_name.contains_key(other) {
                    return Err(format!(
                        "site {:?} is to share with {other:?}, and there is no such site",
                        site.name
                    ));
                }
                for (one, other) in [(&site.name, other), (other, &site.name)] {
                    if let Some(entry) = map.by_name.get_mut(one).filter(|_| one != other) {
                        entry.shared.insert(other.clone());
                    }
                }
            }
        }
        map.networks
            .sort_by_key(|(network, _)| std::cmp::Reverse(network.length()));
        Ok(map)
    }

    /// A number that differs if a node may be in another site than before.
    pub(crate) fn number(&self) -> u64 {
        let texts: Vec<String> = self
            .networks
            .iter()
            .map(|(network, name)| format!("{network} {name}\n"))
            .collect();
        let digest = Digest::of(format!("potluck sites 1\n{}", texts.concat()).as_bytes());
        u64::from_be_bytes(*digest.as_bytes().first_chunk().expect("a digest has 32 bytes"))
    }

    /// The sites of a node, whose requests come from `source`.
    ///
    /// An entry of the map stands for all else. Where requests do not come from one of the node's own addresses, there is a
    /// NAT in between: private addresses repeat behind each NAT and say nothing, so what the server sees counts.
    pub(crate) fn keys(&self, presence: &Presence, source: IpAddr) -> BTreeSet<SiteKey> {
        let source = source.to_canonical();
        let addresses = || {
            presence
                .addresses
                .iter()
                .map(SocketAddr::ip)
                .map(|ip| ip.to_canonical())
        };
        if addresses().next().is_none() {
            return BTreeSet::new();
        }
        let direct = addresses().any(|ip| ip == source || ip.is_loopback() && source.is_loopback());
        let seen: Vec<IpAddr> = addresses().filter(|ip| direct || is_global(*ip)).collect();
        let named = std::iter::once(source).chain(seen.iter().copied());
        if let Some(name) = named.into_iter().find_map(|ip| self.name_of(ip)) {
            return BTreeSet::from([SiteKey::Named(name.to_owned())]);
        }
        let told: Vec<Network> = presence
            .networks
            .iter()
            .filter_map(|text| text.parse().ok())
            .filter(is_link)
            .collect();
        let mut keys: BTreeSet<SiteKey> = seen
            .iter()
            .filter_map(|ip| link(*ip, &told))
            .map(SiteKey::Link)
            .collect();
        if !direct {
            keys.insert(SiteKey::Behind(source));
        }
        keys
    }

    /// Sites with which those of a node share.
    pub(crate) fn shared(&self, sites: &BTreeSet<SiteKey>) -> Vec<SiteKey> {
        let entries = sites.iter().filter_map(|site| self.entry(site));
        let names: BTreeSet<&String> = entries.flat_map(|entry| &entry.shared).collect();
        names.into_iter().cloned().map(SiteKey::Named).collect()
    }

    /// Whether some site has a limit.
    pub(crate) fn has_limits(&self) -> bool {
        self.by_name.values().any(|entry| entry.uplink.is_some())
    }

    /// What limits the bytes for a node.
    pub(crate) fn uplink(&self, sites: &BTreeSet<SiteKey>) -> Option<Arc<Uplink>> {
        sites.iter().find_map(|site| self.entry(site)?.uplink.clone())
    }

    fn entry(&self, site: &SiteKey) -> Option<&Entry> {
        match site {
            SiteKey::Named(name) => self.by_name.get(name),
            SiteKey::Link(_) | SiteKey::Behind(_) => None,
        }
    }

    fn name_of(&self, ip: IpAddr) -> Option<&str> {
        let found = self.networks.iter().find(|(network, _)| network.contains(ip));
        found.map(|(_, name)| name.as_str())
    }
}

/// The name of a node's site, if it is in the map.
pub(crate) fn name(sites: &BTreeSet<SiteKey>) -> Option<String> {
    sites.iter().find_map(|site| match site {
        SiteKey::Named(name) => Some(name.clone()),
        SiteKey::Link(_) | SiteKey::Behind(_) => None,
    })
}

fn check_name(name: &str) -> Result<(), String> {
    let good = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    if name.is_empty() || name.len() > NAME_BYTES_MAX || !name.bytes().all(good) {
        return Err(format!(
            "{name:?} is no name for a site: letters, digits, '-', '_' and '.' make one, at most {NAME_BYTES_MAX} of them"
        ));
    }
    Ok(())
}

fn is_link(network: &Network) -> bool {
    network.length() >= if network.is_ipv4() { PREFIX_MIN.0 } else { PREFIX_MIN.1 }
}

/// The link that an address is on: the smallest network that the node told, else the usual size.
fn link(ip: IpAddr, told: &[Network]) -> Option<Network> {
    let told = told
        .iter()
        .filter(|network| network.contains(ip))
        .max_by_key(|network| network.length());
    let usual = || Network::of(ip, if ip.is_ipv4() { PREFIX_USUAL.0 } else { PREFIX_USUAL.1 });
    told.copied().or_else(usual)
}

fn is_global(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => !(ip.is_private() || ip.is_link_local() || ip.is_loopback()),
        // fc00::/7 is as private as 10.0.0.0/8.
        IpAddr::V6(ip) => !(ip.is_unicast_link_local() || ip.is_loopback() || ip.is_unique_local()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(map: &SiteMap, addresses: &[&str], networks: &[&str], source: &str) -> BTreeSet<SiteKey> {
        let presence = Presence {
            addresses: addresses.iter().map(|text| text.parse().unwrap()).collect(),
            facts: std::collections::BTreeMap::new(),
            version: String::new(),
            networks: networks.iter().map(|text| (*text).to_owned()).collect(),
        };
        map.keys(&presence, source.parse().unwrap())
    }

    fn shared(a: (&[&str], &str), b: (&[&str], &str)) -> bool {
        let of = |(addresses, source)| keys(&SiteMap::default(), addresses, &[], source);
        of(a).intersection(&of(b)).next().is_some()
    }

    fn shown(keys: &BTreeSet<SiteKey>) -> Vec<String> {
        keys.iter().map(ToString::to_string).collect()
    }

    fn site(name: &str, networks: &[&str]) -> Site {
        Site {
            name: name.to_owned(),
            networks: networks.iter().map(|text| text.parse().unwrap()).collect(),
            ..Site::default()
        }
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
    fn the_link_is_as_large_as_the_node_says_within_reason() {
        let map = SiteMap::default();
        let of = |networks: &[&str]| shown(&keys(&map, &["10.1.3.7:1"], networks, "10.1.3.7"));
        assert_eq!(of(&["10.1.2.0/23"]), ["10.1.2.0/23"]);
        assert_eq!(
            of(&["10.1.3.7/32", "10.0.0.0/8"]),
            ["10.1.3.7/32"],
            "a point-to-point link"
        );
        assert_eq!(
            of(&["192.0.2.0/24"]),
            ["10.1.3.0/24"],
            "not one that its address is not in"
        );
        assert_eq!(of(&["0.0.0.0/0"]), ["10.1.3.0/24"], "not the whole world");
        assert_eq!(of(&["rubbish"]), ["10.1.3.0/24"]);
        assert_eq!(
            shown(&keys(&map, &[], &["10.1.2.0/23"], "10.1.3.7")),
            [""; 0],
            "nobody can reach it"
        );
    }

    #[test]
    fn the_same_private_prefix_behind_two_nats_is_two_sites() {
        let shop = (&["192.168.1.5:1"][..], "198.51.100.1");
        assert!(!shared(shop, (&["192.168.1.5:1"], "203.0.113.1")));
        assert!(shared(shop, (&["192.168.1.6:1"], "198.51.100.1")));
        assert!(shared(shop, (&["192.168.2.6:1"], "198.51.100.1")));
        assert!(!shared(shop, (&["192.168.1.6:1"], "192.168.1.6")));
        assert!(!shared(
            (&["[fd00::1]:1"], "203.0.113.1"),
            (&["[fd00::2]:1"], "203.0.113.2")
        ));
    }

    #[test]
    fn the_map_stands_for_all_else_and_its_smallest_network_counts() {
        let map = SiteMap::new(&[
            site("hq", &["10.0.0.0/8", "198.51.100.1"]),
            site("lab", &["10.9.0.0/16"]),
        ])
        .unwrap();
        let of = |addresses: &[&str], source| shown(&keys(&map, addresses, &[], source));
        assert_eq!(of(&["10.1.1.1:1"], "10.1.1.1"), ["hq"]);
        assert_eq!(of(&["10.9.1.1:1"], "10.9.1.1"), ["lab"]);
        assert_eq!(of(&["192.168.1.5:1"], "198.51.100.1"), ["hq"], "what the server sees");
        assert_eq!(
            of(&["172.16.0.1:1", "10.9.0.1:1"], "172.16.0.1"),
            ["lab"],
            "another address of the node"
        );
        assert_eq!(
            of(&["10.1.1.1:1"], "203.0.113.9"),
            ["behind 203.0.113.9"],
            "somebody's home, with the same addresses"
        );
    }

    #[test]
    fn sharing_goes_both_ways_and_no_further() {
        let mut sites = [site("a", &[]), site("b", &[]), site("c", &[])];
        sites[0].share_with = vec!["b".into()];
        sites[1].share_with = vec!["c".into()];
        let map = SiteMap::new(&sites).unwrap();
        let of = |name: &str| {
            let shared = map.shared(&BTreeSet::from([SiteKey::Named(name.into())]));
            shared.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert_eq!(
            (of("a"), of("b"), of("c")),
            (vec!["b".into()], vec!["a".into(), "c".into()], vec!["b".into()])
        );
    }

    #[test]
    fn a_map_that_contradicts_itself_is_refused_with_what_is_wrong() {
        let fault = |sites: &[Site]| SiteMap::new(sites).unwrap_err();
        assert!(fault(&[site("a", &[]), site("a", &[])]).contains("two sites"));
        assert!(fault(&[site("a", &["10.0.0.0/8"]), site("b", &["10.0.0.0/8"])]).contains("10.0.0.0/8"));
        assert!(fault(&[site("10.0.0.0/8", &[])]).contains("no name"));
        let mut alone = site("a", &[]);
        alone.share_with = vec!["nowhere".into()];
        assert!(fault(&[alone]).contains("nowhere"));
    }

    #[test]
    fn keys_are_read_as_they_are_written() {
        for text in [
            "hq",
            "10.1.2.0/23",
            "fd00:1::/64",
            "behind 203.0.113.9",
            "behind fd00::1",
        ] {
            let key: SiteKey = text.parse().unwrap();
            assert_eq!(key.to_string(), text);
            assert_eq!(matches!(key, SiteKey::Named(_)), text == "hq", "{text}");
        }
    }
}
