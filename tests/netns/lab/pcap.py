"""Reads captures: the classic pcap format, Ethernet, IPv4 and IPv6, TCP and UDP.

See https://www.ietf.org/archive/id/draft-ietf-opsawg-pcap-04.html for the format.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address

TCP, UDP = 6, 17
SYN = 0x02
ETHERNET = 1
MAGIC_MICROS, MAGIC_NANOS = 0xA1B2C3D4, 0xA1B23C4D
# As much of the payload as tells one datagram from another: sealed ones begin with 4 + 4 + 24 bytes of magic, epoch
# and nonce.
HEAD_BYTES = 40


class BadCapture(Exception):
    """The bytes are not a capture that this module reads."""


@dataclass(frozen=True)
class Packet:
    """One TCP segment (or, offloaded, several in one) or one UDP datagram."""

    at: int
    """Microseconds since 1970."""
    source_mac: str
    source: str
    destination: str
    protocol: int
    source_port: int
    destination_port: int
    length: int
    """Bytes of payload, by the headers: also of what the capture cut off."""
    head: bytes
    """The first bytes of the payload, at most `HEAD_BYTES`."""
    sequence: int = 0
    flags: int = 0

    @property
    def multicast(self) -> bool:
        if ":" in self.destination:
            return IPv6Address(self.destination).is_multicast
        return IPv4Address(self.destination).is_multicast


def read(data: bytes) -> Iterator[Packet]:
    """The TCP and UDP packets of a capture, in its order. A record that is cut off at the end is left out."""
    if len(data) < 24:
        raise BadCapture("shorter than the header of a capture")
    for order in "<>":
        (magic,) = struct.unpack_from(order + "I", data)
        if magic in (MAGIC_MICROS, MAGIC_NANOS):
            break
    else:
        raise BadCapture(f"magic {data[:4].hex()}")
    (link,) = struct.unpack_from(order + "I", data, 20)
    if link & 0xFFFF != ETHERNET:
        raise BadCapture(f"link type {link}")
    record = struct.Struct(order + "IIII")
    divisor = 1 if magic == MAGIC_MICROS else 1000
    offset = 24
    while offset + record.size <= len(data):
        seconds, fraction, captured, _ = record.unpack_from(data, offset)
        offset += record.size
        frame = data[offset : offset + captured]
        offset += captured
        if len(frame) == captured:
            packet = _parse(seconds * 1_000_000 + fraction // divisor, frame)
            if packet:
                yield packet


def _parse(at: int, frame: bytes) -> Packet | None:
    try:
        (kind,) = struct.unpack_from(">H", frame, 12)
        if kind == 0x0800:
            length = (frame[14] & 0x0F) * 4
            (total, fragment) = struct.unpack_from(">H2xH", frame, 16)
            if fragment & 0x1FFF:
                return None  # Only the first fragment has the ports.
            protocol, start, end = frame[23], 14 + length, 14 + total
            source, destination = str(IPv4Address(frame[26:30])), str(IPv4Address(frame[30:34]))
        elif kind == 0x86DD:
            (payload,) = struct.unpack_from(">H", frame, 18)
            protocol, start, end = frame[20], 54, 54 + payload
            source, destination = str(IPv6Address(frame[22:38])), str(IPv6Address(frame[38:54]))
        else:
            return None
        mac = frame[6:12].hex(":")
        if protocol == UDP:
            source_port, destination_port = struct.unpack_from(">HH", frame, start)
            body, sequence, flags = start + 8, 0, 0
        elif protocol == TCP:
            source_port, destination_port, sequence = struct.unpack_from(">HHI", frame, start)
            body, flags = start + (frame[start + 12] >> 4) * 4, frame[start + 13]
        else:
            return None
    except (struct.error, IndexError):
        return None  # Cut within its headers, or no packet at all.
    head = frame[body : min(end, body + HEAD_BYTES)]
    return Packet(
        at, mac, source, destination, protocol, source_port, destination_port, end - body, head, sequence, flags
    )
