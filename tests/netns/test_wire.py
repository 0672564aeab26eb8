"""Bytes are counted once, however they travel."""

from __future__ import annotations

import unittest

from lab import pcap
from lab.network import Host
from lab.pcap import SYN, TCP, UDP, Packet
from lab.wire import Wire

A, B, C = Host("a", 1), Host("b", 2), Host("c", 3)


def tcp(at: int, sequence: int, length: int, flags: int = 0, port: int = 40000) -> Packet:
    return Packet(at, A.mac, A.ipv4, B.ipv4, TCP, port, 7440, length, b"", sequence % (1 << 32), flags)


def udp(at: int, sender: Host, destination: str, head: bytes) -> Packet:
    return Packet(at, sender.mac, sender.ipv4, destination, UDP, 7443, 7443, 100, head)


def bytes_of(*packets: Packet, until: int | None = None) -> int:
    return Wire({A: packets, B: packets}).bytes("a", "b", until)


class Streams(unittest.TestCase):
    def test_a_stream_counts_from_its_syn(self) -> None:
        self.assertEqual(bytes_of(tcp(1, 99, 0, SYN), tcp(2, 100, 10), tcp(3, 110, 5)), 15)

    def test_what_is_sent_again_counts_once(self) -> None:
        self.assertEqual(bytes_of(tcp(1, 0, 10), tcp(2, 0, 10), tcp(3, 5, 10)), 15)

    def test_what_comes_out_of_order_counts_once(self) -> None:
        self.assertEqual(bytes_of(tcp(1, 0, 10), tcp(2, 20, 10), tcp(3, 10, 10)), 30)

    def test_sequence_numbers_wrap(self) -> None:
        self.assertEqual(bytes_of(tcp(1, (1 << 32) - 5, 10), tcp(2, 5, 10)), 20)

    def test_a_keep_alive_is_no_payload(self) -> None:
        self.assertEqual(bytes_of(tcp(1, 100, 10), tcp(2, 109, 1), tcp(3, 109, 0)), 10)

    def test_connections_add_up(self) -> None:
        self.assertEqual(bytes_of(tcp(1, 7, 10), tcp(1, 9000, 10, port=40001)), 20)

    def test_a_port_that_is_used_again_begins_anew(self) -> None:
        self.assertEqual(bytes_of(tcp(1, 0, 10), tcp(2, 5_000_000, 0, SYN), tcp(3, 5_000_001, 10)), 20)

    def test_sums_at_a_moment_hold_what_came_until_then(self) -> None:
        packets = tcp(10, 0, 1), tcp(20, 1, 2), tcp(30, 3, 4)
        self.assertEqual([bytes_of(*packets, until=at) for at in (9, 10, 29, 30, 99)], [0, 1, 3, 7, 7])

    def test_only_what_arrived_counts(self) -> None:
        self.assertEqual(Wire({A: [tcp(1, 0, 10)], B: []}).bytes("a", "b"), 0)

    def test_segments_count_within_a_time(self) -> None:
        wire = Wire({A: [], B: [tcp(10, 0, 0, SYN), tcp(20, 1, 5)]})
        self.assertEqual(
            [wire.segments("a", "b", *span) for span in ((0, 9), (10, 10), (0, 99), (11, 99))], [0, 1, 2, 1]
        )


class Datagrams(unittest.TestCase):
    def test_a_datagram_knows_whom_it_reached(self) -> None:
        sent, group = udp(5, A, B.ipv4, b"one"), udp(6, A, "239.255.74.43", b"two")
        wire = Wire({A: [sent, group], B: [sent, group], C: [group]})
        self.assertEqual([sorted(datagram.reached) for datagram in wire.datagrams], [["b"], ["b", "c"]])
        self.assertEqual([datagram.multicast for datagram in wire.datagrams], [False, True])

    def test_a_datagram_that_was_dropped_reached_nobody(self) -> None:
        wire = Wire({A: [udp(5, A, "239.255.74.43", b"x")], B: [], C: []})
        self.assertEqual([datagram.reached for datagram in wire.datagrams], [frozenset()])

    def test_equal_sizes_with_other_bytes_are_other_datagrams(self) -> None:
        wire = Wire({A: [udp(5, A, B.ipv4, b"one"), udp(6, A, B.ipv4, b"two")], B: [udp(6, A, B.ipv4, b"two")]})
        self.assertEqual([sorted(datagram.reached) for datagram in wire.datagrams], [[], ["b"]])

    def test_heads_hold_the_nonce(self) -> None:
        self.assertGreaterEqual(pcap.HEAD_BYTES, 4 + 4 + 24)


if __name__ == "__main__":
    unittest.main()
