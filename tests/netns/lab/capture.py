"""Captures what each host sends and receives."""

from __future__ import annotations

import sys
from pathlib import Path

from lab import pcap, tap
from lab.command import Process, expect
from lab.network import Host


class Capture:
    """A tap on one host's `eth0`, behind its queues: what it shows as sent has left."""

    def __init__(self, host: Host, directory: Path) -> None:
        self.host = host
        self._file = directory / f"{host.name}.pcap"
        self._tap = Process(
            f"tap on {host.name}",
            host.inside(sys.executable, "-I", tap.__file__, "eth0", self._file),
            directory / f"{host.name}.tap.log",
        )
        self._tap.await_line("listening", 10)

    def stop(self) -> list[pcap.Packet]:
        """Ends the capture and returns its packets. One that lost packets is no evidence and fails the case."""
        expect(self._tap.running(), f"{self._tap.name} ended early:\n{self._tap.output()}")
        self._tap.interrupt()
        said = self._tap.output()
        expect("dropped 0" in said, f"the capture on {self.host.name} is incomplete:\n{said}")
        return list(pcap.read(self._file.read_bytes()))
