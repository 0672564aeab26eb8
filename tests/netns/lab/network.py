"""Hosts on a bridge: each a network namespace with one cable to it, `eth0` inside and `p-NAME` at the bridge."""

from __future__ import annotations

import json
import os
import signal
import sys
from dataclasses import dataclass
from pathlib import Path

from lab import relay, tap
from lab.command import Failure, Process, attempt, call, wait_until

BRIDGE = "br0"


@dataclass(frozen=True)
class Host:
    """A machine. Its number makes its addresses: 10.82.0.NUMBER, fd82::NUMBER, 02:82:00:00:00:NUMBER."""

    name: str
    number: int

    @property
    def ipv4(self) -> str:
        return f"10.82.0.{self.number}"

    @property
    def ipv6(self) -> str:
        return f"fd82::{self.number:x}"

    @property
    def mac(self) -> str:
        return f"02:82:00:00:00:{self.number:02x}"

    @property
    def port(self) -> str:
        """The end of its cable at the bridge."""
        return f"p-{self.name}"

    def inside(self, *argv: str | Path) -> list[str]:
        """The command that runs `argv` on this host."""
        return ["nsenter", f"--net=/run/netns/{self.name}", "--", *map(str, argv)]

    def call(self, *argv: str | Path, seconds: float = 30) -> str:
        return call(*self.inside(*argv), seconds=seconds)

    def start(self, name: str, log: Path, *argv: str | Path) -> Process:
        return Process(name, self.inside(*argv), log)

    def shape(self, megabits: int) -> None:
        """Limits what this host sends."""
        self.call(
            "tc", "qdisc", "replace", "dev", "eth0", "root",
            "tbf", "rate", f"{megabits}mbit", "burst", "64k", "latency", "50ms",
        )  # fmt: skip

    def round_trip(self, address: str, port: int) -> float:
        """Seconds that it takes to connect to an address: one round trip, and more if packets are lost."""
        probe = "import socket, sys, time; t = time.monotonic(); socket.create_connection((sys.argv[1], int(sys.argv[2])), 20)"
        return float(self.call("python3", "-c", f"{probe}; print(time.monotonic() - t)", address, str(port)))

    def refuse(self, *rules: str) -> None:
        """A firewall on this host: what comes in is treated by these nft rules."""
        self.call("nft", "add table inet firewall")
        self.call("nft", "add chain inet firewall input { type filter hook input priority 0; }")
        for rule in rules:
            self.call("nft", f"add rule inet firewall input {rule}")

    def close_inwards(self) -> None:
        """A firewall that lets in only answers to what this host began itself."""
        self.refuse(
            "iif lo accept", "ct state established,related accept", "icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } accept",
            "drop",
        )  # fmt: skip

    def received_bytes(self) -> int:
        """What has come to this host since it was made: what the bridge has sent to it."""
        (link,) = json.loads(call("ip", "-s", "-j", "link", "show", "dev", self.port))
        sent: int = link["stats64"]["tx"]["bytes"]
        return sent

    def sent_bytes(self) -> int:
        """What this host has sent since it was made."""
        (link,) = json.loads(call("ip", "-s", "-j", "link", "show", "dev", self.port))
        received: int = link["stats64"]["rx"]["bytes"]
        return received

    def unplug(self) -> None:
        """Cuts the cable: `eth0` stays up, and loses its carrier."""
        call("ip", "link", "set", self.port, "down")

    def plug(self) -> None:
        call("ip", "link", "set", self.port, "up")

    def move_to(self, number: int) -> Host:
        """Replaces the host's addresses, as a lease that ends does. The hardware address stays."""
        moved = Host(self.name, number)
        self.call("ip", "addr", "add", f"{moved.ipv4}/24", "dev", "eth0")
        self.call("ip", "addr", "add", f"{moved.ipv6}/64", "dev", "eth0", "nodad")
        self.call("ip", "addr", "del", f"{self.ipv4}/24", "dev", "eth0")
        self.call("ip", "addr", "del", f"{self.ipv6}/64", "dev", "eth0")
        # Deleting a first address may take those of its subnet along.
        attempt(*self.inside("ip", "addr", "add", f"{moved.ipv4}/24", "dev", "eth0"))
        return moved

    def processes(self) -> list[int]:
        """All processes on this host, also ones in sessions of their own; taps are no part of it."""
        own = os.stat(f"/run/netns/{self.name}").st_ino
        found = []
        for entry in Path("/proc").iterdir():
            try:
                here = entry.name.isdigit() and os.stat(entry / "ns/net").st_ino == own
                if here and tap.__file__.encode() not in (entry / "cmdline").read_bytes():
                    found.append(int(entry.name))
            except OSError:
                continue  # It ended meanwhile.
        return found

    def power_off(self) -> None:
        """Kills every process on this host, all at one time as far as one can."""

        def gone() -> bool:
            pids = [pid for pid in self.processes() if not _is_dead(pid)]
            for pid in pids:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    continue
            return not pids

        wait_until(f"all processes of {self.name} to die", 10, gone)


def _is_dead(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except OSError:
        return True
    return state in "ZX"


class Network:
    """A bridge and its hosts."""

    def __init__(self, *, ipv4: bool = True) -> None:
        self.ipv4 = ipv4
        self.hosts: dict[str, Host] = {}
        # Without snooping the bridge floods multicast as a plain switch does.
        call("ip", "link", "add", BRIDGE, "type", "bridge", "mcast_snooping", "0")
        call("ip", "link", "set", BRIDGE, "up")

    def add_host(self, name: str, number: int) -> Host:
        if name in self.hosts or number in {host.number for host in self.hosts.values()}:
            raise Failure(f"two hosts are called {name} or have number {number}")
        host = Host(name, number)
        call("ip", "netns", "add", name)
        call("ip", "link", "add", host.port, "type", "veth", "peer", "name", "eth0", "address", host.mac, "netns", name)
        call("ip", "link", "set", host.port, "master", BRIDGE)
        # The bridge's own end would add its IPv6 chatter to the captures.
        Path(f"/proc/sys/net/ipv6/conf/{host.port}/disable_ipv6").write_text("1")
        if self.ipv4:
            host.call("ip", "addr", "add", f"{host.ipv4}/24", "dev", "eth0")
        host.call("ip", "addr", "add", f"{host.ipv6}/64", "dev", "eth0", "nodad")
        host.call("ip", "link", "set", "lo", "up")
        host.call("ip", "link", "set", "eth0", "up")
        call("ip", "link", "set", host.port, "up")
        self.hosts[name] = host
        return host

    def lengthen(self, host: Host, log: Path, *, kilobits: int = 0, delay: float = 0, loss: float = 0, twice: float = 0,
                 late: float = 0) -> Process:  # fmt: skip
        """Puts a bad cable in place of a host's: rate, delay in milliseconds one way, and how many packets in a hundred are
        lost, doubled or come late. It lasts as long as the process that is returned."""
        here, there = f"r-{host.name}", f"q-{host.name}"
        call("ip", "link", "set", host.port, "nomaster")
        call("ip", "link", "add", here, "type", "veth", "peer", "name", there)
        # Packets must be lost one by one, not in the large pieces that the kernel makes of them.
        host.call("ip", "link", "set", "eth0", "gso_max_segs", "1")
        call("ip", "link", "set", there, "gso_max_segs", "1", "master", BRIDGE)
        for link in (here, there):
            Path(f"/proc/sys/net/ipv6/conf/{link}/disable_ipv6").write_text("1")
            call("ip", "link", "set", link, "up")
        options = {"kilobits": kilobits, "delay": delay, "loss": loss, "twice": twice, "late": late}
        argv = [word for name, value in options.items() for word in (f"--{name}", str(value))]
        process = Process(f"cable of {host.name}", [sys.executable, relay.__file__, host.port, here, *argv], log)
        process.await_line("relaying", 10)
        return process

    def forbid(self, rule: str) -> None:
        """The bridge drops what this nft rule matches, such as `ip saddr 10.82.0.11 tcp flags syn / syn,ack`."""
        call("nft", "add table bridge forbidden")
        call("nft", "add chain bridge forbidden forward { type filter hook forward priority 0; }")
        call("nft", f"add rule bridge forbidden forward {rule} counter drop")

    def lose(self, percent: int) -> None:
        """The bridge drops so many packets in a hundred, at random, in every direction."""
        call("nft", "add table bridge loss")
        call("nft", "add chain bridge loss forward { type filter hook forward priority 0; }")
        call("nft", f"add rule bridge loss forward numgen random mod 100 < {percent} counter drop")

    def block_multicast(self) -> None:
        """The bridge drops multicast, as many a switch and most wireless networks do.

        Neighbour discovery, without which there is no IPv6 at all, still passes.
        """
        call("nft", "add table bridge filter")
        call("nft", "add chain bridge filter forward { type filter hook forward priority 0; }")
        call("nft", "add rule bridge filter forward ip daddr 224.0.0.0/4 counter drop")
        call("nft", "add rule bridge filter forward ip6 daddr ff00::/8 meta l4proto udp counter drop")
