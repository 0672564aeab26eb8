//! The link that leads out of this machine: a cable, a tunnel, or one that is paid for by the byte. As far as the system
//! says.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::path::Path;
use std::time::Duration;

/// Where Linux lists network interfaces (Documentation/ABI/testing/sysfs-class-net).
const INTERFACES: &str = "/sys/class/net";
/// Hardware types (linux/if_arp.h) of tunnels: PPP, IPIP, IP6IP6, SIT, GRE, GRE over IPv6, and none, as WireGuard and TUN.
const TUNNEL_TYPES: [&str; 7] = ["512", "768", "769", "776", "778", "823", "65534"];
/// Of Ethernet, and of InfiniBand.
const WIRED_TYPES: [&str; 2] = ["1", "32"];
/// There only while NetworkManager runs.
const NETWORK_MANAGER: &str = "/run/NetworkManager";
/// How long NetworkManager may take to say something.
const ANSWER_MAX: Duration = Duration::from_secs(5);
/// Addresses far away (RFC 5737, RFC 3849): nothing is sent to them, they only ask the kernel for a way.
const FAR_AWAY: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)),
    IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1)),
];

/// What leads out of this machine.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct WayOut {
    /// It is a cable.
    pub(crate) wired: bool,
    /// It is a VPN or another tunnel, also PPP.
    pub(crate) tunnel: bool,
    /// It is a mobile network, or NetworkManager takes it for one that is paid for by the byte.
    pub(crate) metered: bool,
}

/// What leads out now: with `bind`, from that address. Where nothing does, nothing is known. What it costs is asked only if
/// that matters: NetworkManager takes its time.
pub(crate) async fn look(bind: Option<IpAddr>, costs: bool) -> WayOut {
    let mut found = WayOut::default();
    let names = interfaces(bind);
    for (index, name) in names.iter().enumerate() {
        let one = kind(Path::new(INTERFACES), name);
        found.wired = one.wired && (index == 0 || found.wired);
        found.tunnel |= one.tunnel;
        found.metered |= one.metered || (costs && is_metered(name).await);
    }
    found
}

/// The interfaces over which the kernel would send what goes far away, of both families.
fn interfaces(bind: Option<IpAddr>) -> Vec<String> {
    let mut names = Vec::new();
    for to in FAR_AWAY {
        let from = bind.filter(|ip| ip.is_ipv4() == to.is_ipv4());
        if bind.is_some() && from.is_none() {
            continue;
        }
        if let Some(name) = source_for(to, from).and_then(potluck_net::watch::interface_of)
            && !names.contains(&name)
        {
            names.push(name);
        }
    }
    names
}

fn source_for(to: IpAddr, from: Option<IpAddr>) -> Option<IpAddr> {
    let any = if to.is_ipv4() {
        IpAddr::V4(Ipv4Addr::UNSPECIFIED)
    } else {
        IpAddr::V6(Ipv6Addr::UNSPECIFIED)
    };
    let socket = UdpSocket::bind((from.unwrap_or(any), 0)).ok()?;
    socket.connect(SocketAddr::new(to, 9)).ok()?;
    socket.local_addr().ok().map(|address| address.ip())
}

fn kind(interfaces: &Path, name: &str) -> WayOut {
    let dir = interfaces.join(name);
    let read = |file: &str| {
        let text = fs::read_to_string(dir.join(file)).unwrap_or_default();
        text.trim().to_owned()
    };
    let uevent = read("uevent");
    let named = uevent.lines().find_map(|line| line.strip_prefix("DEVTYPE="));
    let number = read("type");
    let tunnel = TUNNEL_TYPES.contains(&number.as_str())
        || dir.join("tun_flags").exists()
        || matches!(named, Some("wireguard" | "ppp"));
    let metered = named == Some("wwan");
    let radio = named == Some("wlan") || dir.join("wireless").exists() || dir.join("phy80211").exists();
    WayOut {
        wired: WIRED_TYPES.contains(&number.as_str()) && !(tunnel || metered || radio),
        tunnel,
        metered,
    }
}

/// Whether NetworkManager, if it runs, says that an interface is paid for by the byte, or guesses so.
async fn is_metered(name: &str) -> bool {
    if !Path::new(NETWORK_MANAGER).is_dir() {
        return false;
    }
    let asked = tokio::process::Command::new("nmcli")
        .args(["--get-values", "GENERAL.METERED", "device", "show", name])
        .stdin(std::process::Stdio::null())
        .kill_on_drop(true)
        .output();
    match tokio::time::timeout(ANSWER_MAX, asked).await {
        Ok(Ok(output)) => output.status.success() && output.stdout.starts_with(b"yes"),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(files: &[(&str, &str)], directories: &[&str]) -> WayOut {
        let dir = tempfile::tempdir().unwrap();
        let interface = dir.path().join("if0");
        fs::create_dir(&interface).unwrap();
        for (name, value) in files {
            fs::write(interface.join(name), format!("{value}\n")).unwrap();
        }
        for name in directories {
            fs::create_dir(interface.join(name)).unwrap();
        }
        kind(dir.path(), "if0")
    }

    const WIRED: WayOut = WayOut {
        wired: true,
        tunnel: false,
        metered: false,
    };
    const RADIO: WayOut = WayOut {
        wired: false,
        tunnel: false,
        metered: false,
    };
    const TUNNEL: WayOut = WayOut {
        wired: false,
        tunnel: true,
        metered: false,
    };

    #[test]
    fn cables_and_what_is_made_of_them_are_wired() {
        assert_eq!(
            of(&[("type", "1"), ("uevent", "INTERFACE=eth0\nIFINDEX=2")], &[]),
            WIRED
        );
        assert_eq!(of(&[("type", "1"), ("uevent", "DEVTYPE=bridge")], &[]), WIRED);
        assert_eq!(of(&[("type", "32")], &[]), WIRED);
    }

    #[test]
    fn radio_is_not_wired_and_costs_nothing() {
        assert_eq!(of(&[("type", "1"), ("uevent", "DEVTYPE=wlan")], &[]), RADIO);
        assert_eq!(of(&[("type", "1")], &["phy80211"]), RADIO);
    }

    #[test]
    fn tunnels_of_all_makes_are_recognised() {
        let wireguard = of(&[("type", "65534"), ("uevent", "DEVTYPE=wireguard")], &[]);
        assert_eq!(wireguard, TUNNEL);
        assert_eq!(of(&[("type", "65534"), ("tun_flags", "0x1001")], &[]), TUNNEL);
        assert_eq!(of(&[("type", "1"), ("tun_flags", "0x1002")], &[]), TUNNEL, "TAP");
        assert_eq!(of(&[("type", "512"), ("uevent", "DEVTYPE=ppp")], &[]), TUNNEL);
    }

    #[test]
    fn a_mobile_network_is_metered() {
        let modem = of(&[("type", "65534"), ("uevent", "DEVTYPE=wwan")], &[]);
        assert!(modem.metered && !modem.wired);
    }

    #[test]
    fn of_what_is_not_there_nothing_is_known() {
        assert_eq!(kind(Path::new("/nonexistent"), "eth0"), WayOut::default());
    }
}
