"""Sites behind uplinks: the server beyond a router, and for each site a bridge whose one way out is a shaped link.

    server eth0 ── core ── uplink 0 ── bridge 0 ── node, node, …
                        └─ uplink 1 ── bridge 1 ── node, node, …

Both directions of every shaped link have a token bucket (`tc tbf`) that counts each packet with its Ethernet, IP and TCP
headers, also of segments that the kernel hands over in one piece.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from lab.command import Failure, call
from lab.network import Host

CORE = "core"
SERVER = "server"
# A queue of this long is what a router has; shorter ones lose packets that TCP then sends again.
QUEUE_MILLIS = 50
GATEWAY = 254


@dataclass(frozen=True)
class SiteHost(Host):
    """A machine at a site, or the server, which is at none."""

    site: int | None = 0

    @property
    def ipv4(self) -> str:
        return f"10.80.0.{self.number}" if self.site is None else f"10.82.{self.site}.{self.number}"

    @property
    def ipv6(self) -> str:
        return f"fd80::{self.number:x}" if self.site is None else f"fd82:{self.site}::{self.number:x}"

    @property
    def mac(self) -> str:
        return f"02:82:00:00:{255 if self.site is None else self.site:02x}:{self.number:02x}"

    @property
    def gateway(self) -> str:
        return f"{self.ipv4.rpartition('.')[0]}.{GATEWAY}"


class Sites:
    """The network of a round. Stands where `lab.network.Network` stands for a fleet."""

    def __init__(self, count: int = 1, *, uplink: int | None = 100, lan: int | None = 1_000) -> None:
        """`uplink` and `lan`: megabits per second of each site's link to the server and of each node; None: no limit."""
        self.hosts: dict[str, Host] = {}
        self.ipv4 = True
        self._lan = lan
        self._core = SiteHost(CORE, GATEWAY, None)
        call("ip", "netns", "add", CORE)
        self._core.call("ip", "link", "set", "lo", "up")
        self._core.call("sh", "-c", "echo 1 >/proc/sys/net/ipv4/ip_forward")
        for site in range(count):
            call("ip", "link", "add", f"br{site}", "type", "bridge", "mcast_snooping", "0")
            call("ip", "link", "set", f"br{site}", "up")
            call("ip", "link", "add", f"p-up{site}", "type", "veth", "peer", "name", f"up{site}", "netns", CORE)
            _attach(f"p-up{site}", f"br{site}")
            self._core.call("ip", "addr", "add", f"10.82.{site}.{GATEWAY}/24", "dev", f"up{site}")
            self._core.call("ip", "link", "set", f"up{site}", "up")
            if uplink:
                self._core.call(*_tbf(f"up{site}", uplink))
                call(*_tbf(f"p-up{site}", uplink))

    def add_host(self, name: str, number: int, site: int = 0, *, lan: int | None = None) -> Host:
        """A new machine. `lan`: its megabits per second, if not those of the others."""
        host = SiteHost(name, number, None if name == SERVER else site)
        if name in self.hosts or any(host.ipv4 == other.ipv4 for other in self.hosts.values()):
            raise Failure(f"two hosts are called {name} or have address {host.ipv4}")
        call("ip", "netns", "add", name)
        if name == SERVER:
            call("ip", "link", "add", "eth0", "address", host.mac, "netns", name, "type", "veth",
                 "peer", "name", "s0", "netns", CORE)  # fmt: skip
            self._core.call("ip", "addr", "add", f"10.80.0.{GATEWAY}/24", "dev", "s0")
            self._core.call("ip", "link", "set", "s0", "up")
        else:
            call("ip", "link", "add", host.port, "type", "veth",
                 "peer", "name", "eth0", "address", host.mac, "netns", name)  # fmt: skip
            _attach(host.port, f"br{site}")
            host.call("ip", "addr", "add", f"{host.ipv6}/64", "dev", "eth0", "nodad")
        host.call("ip", "addr", "add", f"{host.ipv4}/24", "dev", "eth0")
        host.call("ip", "link", "set", "lo", "up")
        host.call("ip", "link", "set", "eth0", "up")
        host.call("ip", "route", "add", "default", "via", host.gateway)
        rate = lan or self._lan
        if rate and name != SERVER:
            host.call(*_tbf("eth0", rate))
            call(*_tbf(host.port, rate))
        self.hosts[name] = host
        return host

    def uplink_bytes(self, site: int = 0) -> int:
        """Bytes of packets that the site's uplink has carried towards the site, headers included."""
        (shaper,) = json.loads(self._core.call("tc", "-s", "-j", "qdisc", "show", "dev", f"up{site}"))
        if shaper["kind"] != "tbf":
            raise Failure(f"uplink {site} is not shaped")
        return int(shaper["bytes"])

    def block_multicast(self) -> None:
        """All bridges drop multicast but IPv6 neighbour discovery."""
        call("nft", "add table bridge filter")
        call("nft", "add chain bridge filter forward { type filter hook forward priority 0; }")
        call("nft", "add rule bridge filter forward ip daddr 224.0.0.0/4 counter drop")
        call("nft", "add rule bridge filter forward ip6 daddr ff00::/8 meta l4proto udp counter drop")


def _attach(port: str, bridge: str) -> None:
    call("ip", "link", "set", port, "master", bridge)
    Path(f"/proc/sys/net/ipv6/conf/{port}/disable_ipv6").write_text("1")
    call("ip", "link", "set", port, "up")


def _tbf(device: str, megabits: int) -> list[str]:
    # The bucket must hold what passes between two ticks of the shaper's timer and one piece of 64 KiB.
    burst = max(64 << 10, megabits * 125)
    return ["tc", "qdisc", "replace", "dev", device, "root", "tbf", "rate", f"{megabits}mbit",
            "burst", str(burst), "latency", f"{QUEUE_MILLIS}ms"]  # fmt: skip
