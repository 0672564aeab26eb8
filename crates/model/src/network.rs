//! Networks: prefixes of addresses, such as `10.1.2.0/23`.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A prefix of addresses. Bits behind the prefix are zero.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Network {
    address: IpAddr,
    length: u8,
}

/// A text that is not a network.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a network: expected an address and the length of its prefix, such as 10.1.2.0/23 or fd00:1::/64")]
pub struct NetworkError(String);

impl Network {
    /// The network with this prefix length that holds `address`; none if addresses of its family are not that long.
    pub fn of(address: IpAddr, length: u8) -> Option<Self> {
        let address = match address.to_canonical() {
            IpAddr::V4(ip) if length <= 32 => {
                let mask = u32::MAX.checked_shl(32 - u32::from(length)).unwrap_or(0);
                IpAddr::from((u32::from(ip) & mask).to_be_bytes())
            }
            IpAddr::V6(ip) if length <= 128 => {
                let mask = u128::MAX.checked_shl(128 - u32::from(length)).unwrap_or(0);
                IpAddr::from((u128::from(ip) & mask).to_be_bytes())
            }
            _ => return None,
        };
        Some(Self { address, length })
    }

    /// Bits of the prefix.
    pub const fn length(self) -> u8 {
        self.length
    }

    /// Whether it is of IPv4.
    pub const fn is_ipv4(self) -> bool {
        self.address.is_ipv4()
    }

    /// Whether `address` is in it. IPv4 addresses written as IPv6 ones count as IPv4.
    pub fn contains(self, address: IpAddr) -> bool {
        address.to_canonical().is_ipv4() == self.is_ipv4() && Self::of(address, self.length) == Some(self)
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.length)
    }
}

impl FromStr for Network {
    type Err = NetworkError;

    /// An address alone is the network of that one address. Bits behind the prefix are dropped.
    fn from_str(text: &str) -> Result<Self, NetworkError> {
        let fault = || NetworkError(text.chars().take(80).collect());
        let (address, length) = match text.split_once('/') {
            Some((address, length)) if !length.is_empty() && length.bytes().all(|byte| byte.is_ascii_digit()) => {
                (address, Some(length))
            }
            Some(_) => return Err(fault()),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| fault())?;
        let all = if address.is_ipv4() { 32 } else { 128 };
        let length = length.map_or(Ok(all), str::parse).map_err(|_| fault())?;
        if length > all {
            return Err(fault());
        }
        Self::of(address, length).ok_or_else(fault)
    }
}

impl TryFrom<String> for Network {
    type Error = NetworkError;

    fn try_from(text: String) -> Result<Self, NetworkError> {
        text.parse()
    }
}

impl From<Network> for String {
    fn from(network: Network) -> Self {
        network.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn network(text: &str) -> Network {
        text.parse().unwrap()
    }

    #[test]
    fn a_network_holds_the_addresses_with_its_prefix() {
        let ip = |text: &str| text.parse().unwrap();
        assert!(network("10.1.2.0/23").contains(ip("10.1.3.255")));
        assert!(!network("10.1.2.0/23").contains(ip("10.1.4.0")));
        assert!(network("10.1.2.0/23").contains(ip("::ffff:10.1.3.1")));
        assert!(network("fd00:1::/64").contains(ip("fd00:1::9")));
        assert!(!network("fd00:1::/64").contains(ip("fd00:1:0:1::9")));
        assert!(network("0.0.0.0/0").contains(ip("203.0.113.1")));
        assert!(!network("0.0.0.0/0").contains(ip("fd00::1")));
        assert!(!network("::/0").contains(ip("203.0.113.1")));
        assert!(network("198.51.100.1").contains(ip("198.51.100.1")));
    }

    #[test]
    fn bits_behind_the_prefix_are_dropped() {
        assert_eq!(network("10.1.3.7/23").to_string(), "10.1.2.0/23");
        assert_eq!(network("fd00:1::7/64").to_string(), "fd00:1::/64");
        assert_eq!(network("198.51.100.1").to_string(), "198.51.100.1/32");
    }

    #[test]
    fn what_is_no_network_is_refused() {
        for text in [
            "",
            "10.0.0.0/",
            "10.0.0.0/33",
            "10.0.0.0/-1",
            "10.0.0/8",
            "hq",
            "::/129",
            "1.2.3.4/+8",
        ] {
            assert!(text.parse::<Network>().is_err(), "{text}");
        }
    }

    proptest::proptest! {
        #[test]
        fn networks_round_trip(bits: u128, length in 0_u8..=128) {
            let network = Network::of(IpAddr::from(bits.to_be_bytes()), length.min(128));
            if let Some(network) = network {
                proptest::prop_assert_eq!(network.to_string().parse(), Ok(network));
            }
        }
    }
}
