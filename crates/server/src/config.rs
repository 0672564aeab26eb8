//! What the server is told when it starts.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use potluck_model::join::ADDRESSES_MAX;

use crate::site::Site;

/// For how long a node's certificate is valid unless told otherwise.
pub const NODE_CERTIFICATE_LIFE: Duration = Duration::from_secs(30 * 86_400);
/// For how long it may be: long enough for nodes to renew it, and not for ever.
pub const NODE_CERTIFICATE_LIVES: RangeInclusive<Duration> = Duration::from_secs(3)..=Duration::from_secs(400 * 86_400);

/// For how long nodes do with the last list of revoked nodes where the server is away, unless told otherwise.
pub(crate) const OFFLINE_GRACE: Duration = Duration::from_secs(86_400);
/// The shortest: nodes hear from the server three times in it.
pub(crate) const OFFLINE_GRACE_MIN: Duration = Duration::from_secs(3);

/// The port on which the management server listens unless told otherwise.
pub const DEFAULT_PORT: u16 = 7440;

/// The most connections that are open at the same time; each node that waits holds one.
pub const CONNECTIONS_MAX: usize = 16_384;

/// Answers with content at the same time, unless told otherwise.
const DOWNLOADS_PER_CORE: usize = 64;
const DOWNLOADS_MIN: usize = 256;

/// What the server is told when it starts. Everything else is in its data directory.
#[derive(Clone, Debug)]
pub struct ServerConfig {
    /// The directory that holds all its state. Made, for its owner alone, if it does not exist.
    pub data: PathBuf,
    /// Where it listens. Port 0 takes any free one.
    pub listen: SocketAddr,
    /// `HOST:PORT` or `HOST` (with the port of `listen`) where nodes and operators reach it, at most 8: they stand in join
    /// strings, and the hosts in the server's certificate. Empty: the address of `listen`, or, if that is unspecified, those
    /// of this machine that are not loopback addresses.
    pub advertise: Vec<String>,
    /// The most connections at the same time. The limit for open files should be some hundreds above it.
    pub connections_max: usize,
    /// The most answers with content at the same time; whoever comes then is asked to come back later.
    pub downloads_max: usize,
    /// The operator's site map.
    pub sites: Vec<Site>,
    /// For how long a node's certificate is valid, within `NODE_CERTIFICATE_LIVES`. A node renews it at two thirds of that.
    pub node_certificate_life: Duration,
    /// For how long nodes go on with each other without hearing from the server who was revoked, at least 3 seconds; `None`:
    /// for ever.
    pub offline_grace: Option<Duration>,
}

impl ServerConfig {
    /// Listens on every address, at the default port.
    pub fn new(data: impl Into<PathBuf>) -> Self {
        Self {
            data: data.into(),
            listen: SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), DEFAULT_PORT),
            advertise: Vec::new(),
            connections_max: CONNECTIONS_MAX,
            downloads_max: downloads_max(),
            sites: Vec::new(),
            node_certificate_life: NODE_CERTIFICATE_LIFE,
            offline_grace: Some(OFFLINE_GRACE),
        }
    }
}

/// What the machine's cores can read, hash and encrypt for at once, and be it that most wait for thin links.
fn downloads_max() -> usize {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    (cores * DOWNLOADS_PER_CORE).max(DOWNLOADS_MIN)
}

/// The addresses for join strings, given where the server listens really.
pub(crate) fn advertised(wanted: &[String], bound: SocketAddr) -> Result<Vec<String>, String> {
    if !wanted.is_empty() {
        if wanted.len() > ADDRESSES_MAX {
            return Err(format!(
                "{} addresses to advertise, at most {ADDRESSES_MAX} fit into a join string",
                wanted.len()
            ));
        }
        return wanted.iter().map(|text| with_port(text, bound.port())).collect();
    }
    if !bound.ip().is_unspecified() {
        return Ok(vec![bound.to_string()]);
    }
    let mut found: Vec<IpAddr> = if_addrs::get_if_addrs()
        .map(|all| all.into_iter().map(|interface| interface.ip()).collect())
        .unwrap_or_default();
    found.retain(|ip| !ip.is_loopback() && !is_link_local(*ip) && (ip.is_ipv4() || bound.is_ipv6()));
    // IPv4 first: it is what most sites route.
    found.sort_by_key(|ip| (ip.is_ipv6(), *ip));
    found.dedup();
    found.truncate(ADDRESSES_MAX);
    if found.is_empty() {
        found.push(IpAddr::from([127, 0, 0, 1]));
    }
    Ok(found
        .into_iter()
        .map(|ip| SocketAddr::new(ip, bound.port()).to_string())
        .collect())
}

/// The host of `HOST:PORT`, without the brackets of an IPv6 address.
pub(crate) fn host(address: &str) -> &str {
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
    host.trim_start_matches('[').trim_end_matches(']')
}

fn is_link_local(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    }
}

fn with_port(text: &str, port: u16) -> Result<String, String> {
    let text = text.trim();
    let fault =
        || format!("{text:?} is no address to advertise: expected HOST:PORT, such as potluck.example.com:{port}");
    if text.parse::<SocketAddr>().is_ok() {
        return Ok(text.to_owned());
    }
    if let Ok(ip) = text.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>() {
        return Ok(SocketAddr::new(ip, port).to_string());
    }
    let (name, port) = match text.rsplit_once(':') {
        Some((name, port)) => (name, port.parse().ok().filter(|port| *port != 0).ok_or_else(fault)?),
        None => (text, port),
    };
    let good = !name.is_empty()
        && name.len() <= 240
        && name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_'));
    if good {
        Ok(format!("{name}:{port}"))
    } else {
        Err(fault())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_advertised_host_gets_the_port_that_the_server_has() {
        let bound: SocketAddr = "0.0.0.0:7440".parse().unwrap();
        let given = ["a.example", "a.example:80", "10.0.0.1", "::1", "[fd00::1]:9"].map(str::to_owned);
        assert_eq!(
            advertised(&given, bound).unwrap(),
            [
                "a.example:7440",
                "a.example:80",
                "10.0.0.1:7440",
                "[::1]:7440",
                "[fd00::1]:9"
            ]
        );
        assert_eq!(host("[fd00::1]:9"), "fd00::1");
        assert_eq!(host("a.example:80"), "a.example");
    }

    #[test]
    fn what_is_no_address_is_refused_with_an_example() {
        let bound: SocketAddr = "0.0.0.0:7440".parse().unwrap();
        for bad in ["", "https://a.example", "a.example:", "a.example:0", "a b"] {
            let fault = advertised(&[bad.to_owned()], bound).unwrap_err();
            assert!(fault.contains("HOST:PORT"), "{bad}: {fault}");
        }
        assert!(advertised(&vec!["a".to_owned(); 9], bound).is_err());
    }

    #[test]
    fn a_specific_listening_address_is_advertised_as_it_is() {
        assert_eq!(
            advertised(&[], "127.0.0.1:99".parse().unwrap()).unwrap(),
            ["127.0.0.1:99"]
        );
        assert!(!advertised(&[], "0.0.0.0:99".parse().unwrap()).unwrap().is_empty());
    }
}
