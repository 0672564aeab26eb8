"""The checker agrees with a true trace and with no false one. (The cases show the same on real runs.)"""

from __future__ import annotations

import shutil
import tempfile
import unittest
from dataclasses import replace
from pathlib import Path

from lab import payload, trace
from lab.checker import Evidence, check, parse_address
from lab.falsify import lies
from lab.network import Host
from lab.payload import Placed
from lab.pcap import TCP, UDP, Packet
from lab.trace import BadTrace
from lab.wire import Wire

GROUP = "239.255.74.43"
START = 1_700_000_000_000_000
SERVER, NODE, ONE, TWO = Host("server", 1), Host("node", 9), Host("one", 11), Host("two", 12)
IDS = {"aa" * 8: "node", "11" * 8: "one", "22" * 8: "two"}
MILLI = 1000


class Run:
    """A run of a node that took everything from two peers, the first half of each file from one, the rest from two."""

    def __init__(self, directory: Path) -> None:
        self.seen: dict[Host, list[Packet]] = {host: [] for host in (SERVER, NODE, ONE, TWO)}
        self._sequences: dict[str, int] = {}
        self.payload = payload.make(directory / "published")
        self.root = directory / "root"
        self.document = self._document()
        self._provision()

    def evidence(self) -> Evidence:
        return Evidence(trace.parse(self.document), Wire(self.seen), self.payload, self.root, "node", "server", IDS)

    def _document(self) -> dict:  # type: ignore[type-arg]
        at = START
        self._segment(NODE, SERVER, at + MILLI, 500)
        for peer in (ONE, TWO):
            self._datagram(NODE, peer.ipv4, at + 10 * MILLI, [peer])
        self._datagram(NODE, GROUP, at + 10 * MILLI, [ONE, TWO])
        for peer in (ONE, TWO):
            self._datagram(peer, NODE.ipv4, at + 11 * MILLI, [NODE])
        requests = [
            {"request": 1, "at": at + 10 * MILLI, "to": to, "interface": interface}
            for to, interface in (
                (f"{ONE.ipv4}:7443", None),
                (f"{TWO.ipv4}:7443", None),
                (f"{GROUP}:7443", "eth0"),
            )
        ]
        answers = [
            {"at": at + 12 * MILLI, "request": 1, "peer": peer, "from": f"{host.ipv4}:7443", "state": "held"}
            for peer, host in (("11" * 8, ONE), ("22" * 8, TWO))
        ]
        files, clock = [], at + 20 * MILLI
        for path in sorted(self.payload.fates):
            size, ranges, offset = self.payload.size(path), [], 0
            for length, source, host in ((size // 2, "11" * 8, ONE), (size - size // 2, "22" * 8, TWO)):
                clock += 20 * MILLI
                self._segment(host, NODE, clock, length)
                ranges.append({"offset": offset, "len": length, "source": {"peer": source}, "why": "answered",
                               "at": clock + 6 * MILLI})  # fmt: skip
                offset += length
            files.append({"path": path, "size": size, "digest": payload.sha256(self.payload.directory / path),
                          "requests": requests, "answers": answers, "ranges": ranges, "chunk_list": []})  # fmt: skip
        total = sum(map(self.payload.size, self.payload.fates))
        return {
            "node": "aa" * 8, "list": "ab" * 32, "configuration": "web-edge", "release": 1,
            "list_fetches": [{"at": at, "cause": "start"}],
            "list_content": {"requests": [], "ranges": []},
            "files": files,
            "steps": [{"id": step, "outcome": "changed", "message": ""} for step in self.payload.steps],
            "totals": {"held_bytes": 0, "peer_bytes": total, "origin_bytes": 0},
            "recap": {"changed": len(self.payload.steps), "unchanged": 0, "failed": 0},
        }  # fmt: skip

    def _segment(self, sender: Host, receiver: Host, at: int, length: int) -> None:
        sequence = self._sequences.get(sender.name, 0)
        self._sequences[sender.name] = sequence + length
        packet = Packet(at, sender.mac, sender.ipv4, receiver.ipv4, TCP, 7443, 40000, length, b"", sequence)
        self.seen[sender].append(packet)
        self.seen[receiver].append(packet)

    def _datagram(self, sender: Host, destination: str, at: int, reached: list[Host]) -> None:
        head = f"{sender.name} {destination} {at}".encode()
        packet = Packet(at, sender.mac, sender.ipv4, destination, UDP, 7443, 7443, 200, head)
        for host in (sender, *reached):
            self.seen[host].append(packet)

    def _provision(self) -> None:
        for path, fate in self.payload.fates.items():
            if isinstance(fate, Placed):
                (self.root / fate.path).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(self.payload.directory / path, self.root / fate.path)
        (self.root / "var").mkdir()
        (self.root / "var/mark").write_text(f"web-edge 1 {payload.sha256(self.payload.directory / 'mark.sh')}\n")
        shutil.unpack_archive(self.payload.directory / "data.tar.gz", self.root / "srv/data", filter="data")


class Checking(unittest.TestCase):
    directory: Path
    run_: Run

    @classmethod
    def setUpClass(cls) -> None:
        cls.directory = Path(tempfile.mkdtemp(prefix="potluck-checker-"))
        cls.addClassCleanup(shutil.rmtree, cls.directory)
        cls.run_ = Run(cls.directory)

    def test_a_true_trace_is_believed(self) -> None:
        self.assertEqual(check(self.run_.evidence()), [])

    def test_no_lie_is_believed(self) -> None:
        evidence = self.run_.evidence()
        names = []
        for name, false in lies(evidence.trace):
            names.append(name)
            with self.subTest(lie=name):
                self.assertNotEqual(check(replace(evidence, trace=false)), [])
        self.assertGreater(len(names), 20)

    def test_bytes_of_somebody_whom_the_trace_does_not_name_are_noticed(self) -> None:
        run = self.run_
        self._changed(lambda seen: seen[NODE].append(
            Packet(START + MILLI, SERVER.mac, SERVER.ipv4, NODE.ipv4, TCP, 7440, 50000, 5 << 20, b"", 0)
        ), "server sent")  # fmt: skip
        self.assertEqual(check(run.evidence()), [])

    def test_a_request_that_reached_nobody_is_no_request(self) -> None:
        def drop(seen: dict[Host, list[Packet]]) -> None:
            for host in (ONE, TWO):
                seen[host] = [packet for packet in seen[host] if packet.protocol == TCP or packet.source == host.ipv4]

        self._changed(drop, "before the first answer only [] had been asked")

    def test_an_answer_that_came_before_the_second_peer_was_asked_is_noticed(self) -> None:
        def delay(seen: dict[Host, list[Packet]]) -> None:
            for host, packets in seen.items():
                seen[host] = [
                    replace(packet, at=packet.at + 5 * MILLI) if packet.protocol == UDP and packet.destination in (TWO.ipv4, GROUP)
                    else packet
                    for packet in packets
                ]  # fmt: skip

        self._changed(delay, "before the first answer only ['one'] had been asked")

    def test_a_file_that_was_not_placed_or_executed_is_noticed(self) -> None:
        for path, change in (
            ("srv/image.bin", b"other"),
            ("srv/www/3/page-003.html", None),
            ("srv/data/part/03.dat", b"other"),
            ("var/mark", b"web-edge 1 0\n"),
            ("var/mark", None),
        ):
            with self.subTest(path=path, change=change):
                file = self.run_.root / path
                before = file.read_bytes()
                try:
                    file.unlink() if change is None else file.write_bytes(change)
                    self.assertEqual(len(check(self.run_.evidence())), 1)
                finally:
                    file.write_bytes(before)

    def _changed(self, change, expected: str) -> None:  # type: ignore[no-untyped-def]
        seen = {host: list(packets) for host, packets in self.run_.seen.items()}
        change(seen)
        violations = check(replace(self.run_.evidence(), wire=Wire(seen)))
        self.assertTrue(any(expected in violation for violation in violations), violations)


class Parsing(unittest.TestCase):
    def test_addresses_lose_their_scope(self) -> None:
        self.assertEqual(parse_address("10.0.0.1:7443"), ("10.0.0.1", 7443))
        self.assertEqual(parse_address("[ff12::504c:4b31%3]:7443"), ("ff12::504c:4b31", 7443))

    def test_a_document_of_another_shape_is_refused(self) -> None:
        document: object
        for document in ({}, [], None, {"node": 1}):
            with self.assertRaises(BadTrace):
                trace.parse(document)


if __name__ == "__main__":
    unittest.main()
