"""Captures are read as they were written."""

from __future__ import annotations

import struct
import unittest
from ipaddress import ip_address

from lab import pcap
from lab.pcap import BadCapture, Packet

MACS = bytes.fromhex("0282000000ff") + bytes.fromhex("020000000001")


def file(*frames: bytes, order: str = "<", magic: int = pcap.MAGIC_MICROS, link: int = pcap.ETHERNET) -> bytes:
    data = struct.pack(order + "IHHiIII", magic, 2, 4, 0, 0, 160, link)
    for index, frame in enumerate(frames):
        data += struct.pack(order + "IIII", 10 + index, 7000, min(len(frame), 160), len(frame)) + frame[:160]
    return data


def frame(source: str, destination: str, protocol: int, body: bytes) -> bytes:
    addresses = ip_address(source).packed + ip_address(destination).packed
    if ":" in source:
        return MACS + struct.pack(">HIHBB", 0x86DD, 6 << 28, len(body), protocol, 64) + addresses + body
    header = struct.pack(">HBBHHHBBH", 0x0800, 0x45, 0, 20 + len(body), 1, 0, 64, protocol, 0)
    return MACS + header + addresses + body


def udp(source: str, destination: str, payload: bytes, ports: tuple[int, int] = (7443, 7443)) -> bytes:
    return frame(source, destination, pcap.UDP, struct.pack(">HHHH", *ports, 8 + len(payload), 0) + payload)


def tcp(source: str, destination: str, sequence: int, payload: bytes = b"", flags: int = 0x10) -> bytes:
    header = struct.pack(">HHIIBBHHH", 40000, 7440, sequence, 0, 8 << 4, flags, 0, 0, 0) + bytes(12)
    return frame(source, destination, pcap.TCP, header + payload)


class Reading(unittest.TestCase):
    def one(self, data: bytes) -> Packet:
        (packet,) = pcap.read(data)
        return packet

    def test_a_datagram_of_either_family_is_read(self) -> None:
        for source, destination in (("10.82.0.1", "10.82.0.2"), ("fd82::1", "fd82::2")):
            packet = self.one(file(udp(source, destination, b"hello")))
            self.assertEqual((packet.source, packet.destination), (source, destination))
            self.assertEqual((packet.at, packet.length, packet.head), (10_007_000, 5, b"hello"))
            self.assertEqual(packet.source_mac, "02:00:00:00:00:01")
            self.assertFalse(packet.multicast)

    def test_groups_are_multicast(self) -> None:
        for source, group in (("10.82.0.1", "239.255.74.43"), ("fe80::1", "ff12::504c:4b31")):
            self.assertTrue(self.one(file(udp(source, group, b""))).multicast)

    def test_lengths_are_those_of_the_headers_where_the_capture_is_cut(self) -> None:
        packet = self.one(file(tcp("10.82.0.1", "10.82.0.2", 9, bytes(60_000))))
        self.assertEqual((packet.length, packet.sequence, len(packet.head)), (60_000, 9, pcap.HEAD_BYTES))

    def test_both_byte_orders_and_nanoseconds_are_read(self) -> None:
        data = file(udp("10.0.0.1", "10.0.0.2", b""), order=">", magic=pcap.MAGIC_NANOS)
        self.assertEqual(self.one(data).at, 10_000_007)

    def test_what_is_neither_tcp_nor_udp_is_left_out(self) -> None:
        arp = MACS + struct.pack(">H", 0x0806) + bytes(28)
        icmp = frame("10.0.0.1", "10.0.0.2", 1, bytes(8))
        self.assertEqual(list(pcap.read(file(arp, icmp, MACS[:4]))), [])

    def test_a_record_that_is_cut_off_is_left_out(self) -> None:
        whole = file(udp("10.0.0.1", "10.0.0.2", b"one"), udp("10.0.0.1", "10.0.0.2", b"two"))
        for cut in range(1, 60):
            self.assertLessEqual([packet.head for packet in pcap.read(whole[:-cut])], [b"one"])

    def test_other_files_are_refused(self) -> None:
        for data in (b"", bytes(24), file(link=113)):
            with self.assertRaises(BadCapture):
                list(pcap.read(data))


if __name__ == "__main__":
    unittest.main()
