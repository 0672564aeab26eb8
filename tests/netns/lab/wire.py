"""What the captures show: who sent how much to whom, and which datagrams reached whom."""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from lab.network import Host
from lab.pcap import SYN, TCP, UDP, Packet


@dataclass(frozen=True)
class Datagram:
    """A UDP datagram as it left a host, and whom it reached."""

    at: int
    """Microseconds since 1970, as it left the sender."""
    sender: str
    source: str
    destination: str
    source_port: int
    destination_port: int
    length: int
    multicast: bool
    reached: frozenset[str]
    """Hosts at which it arrived."""


class Wire:
    """The packets of one run, seen on every host."""

    def __init__(self, seen: Mapping[Host, Iterable[Packet]], until: int | None = None) -> None:
        """`seen`: what each host sent and received. `until`: when the first capture began to be ended."""
        names = {host.mac: host.name for host in seen}
        self._streams: dict[tuple[str, str], Stream] = defaultdict(Stream)
        sent: dict[tuple[object, ...], tuple[str, Packet]] = {}
        reached: dict[tuple[object, ...], set[str]] = defaultdict(set)
        addresses: dict[str, str] = {}
        self.ended = 0
        """Until when everybody's packets were captured, as far as is known."""
        for host, packets in seen.items():
            for packet in packets:
                self.ended = max(self.ended, packet.at)
                sender = names.get(packet.source_mac)
                if sender is None:
                    continue
                addresses[packet.source] = sender
                if packet.protocol == UDP:
                    key = (packet.source, packet.destination, packet.source_port, packet.destination_port,
                           packet.length, packet.head)  # fmt: skip
                    if sender == host.name:
                        sent.setdefault(key, (sender, packet))
                    else:
                        reached[key].add(host.name)
                elif packet.protocol == TCP and sender != host.name:
                    # On the receiver: what was lost before it does not count.
                    self._streams[sender, host.name].add(packet)
        if until is not None:
            self.ended = min(self.ended, until)
        self.datagrams = sorted(
            (
                Datagram(packet.at, sender, packet.source, packet.destination, packet.source_port,
                         packet.destination_port, packet.length, packet.multicast, frozenset(reached[key]))
                for key, (sender, packet) in sent.items()
            ),
            key=lambda datagram: datagram.at,
        )  # fmt: skip
        self.host_by_address = addresses

    def senders_to(self, receiver: str) -> list[str]:
        """Hosts that sent TCP payload to `receiver`."""
        return sorted(sender for (sender, to), stream in self._streams.items() if to == receiver and stream.total())

    def bytes(self, sender: str, receiver: str, until: int | None = None) -> int:
        """Bytes of TCP payload from one host to another, each counted once however often it was sent."""
        stream = self._streams.get((sender, receiver))
        return stream.total(until) if stream else 0

    def segments(self, sender: str, receiver: str, since: int, until: int) -> int:
        """How many TCP segments of any kind came from one host to another in a time."""
        stream = self._streams.get((sender, receiver))
        return stream.segments(since, until) if stream else 0


class Stream:
    """All TCP connections from one host to another, in one direction."""

    def __init__(self) -> None:
        self._at: list[int] = []
        self._times: list[int] = []
        self._sums: list[int] = []
        # For each connection: sequence number after the last byte that was seen.
        self._ends: dict[tuple[str, int, str, int], int] = {}
        self._sum = 0

    def add(self, packet: Packet) -> None:
        """Packets come in the order of time."""
        self._at.append(packet.at)
        connection = (packet.source, packet.source_port, packet.destination, packet.destination_port)
        if packet.flags & SYN:
            self._ends[connection] = (packet.sequence + 1) & 0xFFFFFFFF
            return
        expected = self._ends.setdefault(connection, packet.sequence)
        # How far this packet goes beyond what was seen, modulo the wrap of sequence numbers. A gap before it counts as
        # well: TCP fills it or ends.
        beyond = (packet.sequence + packet.length - expected) & 0xFFFFFFFF
        if packet.length and 0 < beyond < 1 << 31:
            self._ends[connection] = (packet.sequence + packet.length) & 0xFFFFFFFF
            self._sum += beyond
            self._times.append(packet.at)
            self._sums.append(self._sum)

    def total(self, until: int | None = None) -> int:
        if until is None:
            return self._sum
        index = bisect_right(self._times, until)
        return self._sums[index - 1] if index else 0

    def segments(self, since: int, until: int) -> int:
        return bisect_right(self._at, until) - bisect_right(self._at, since - 1)
