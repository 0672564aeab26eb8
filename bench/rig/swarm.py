"""BitTorrent swarms of libtorrent or aria2 nodes, with a tracker at the origin."""

from __future__ import annotations

import time
from pathlib import Path

from lab.command import Process, attempt, expect, wait_until
from lab.network import Host
from rig import torrent
from rig.payload import CONTENT, Payload

CLIENTS = ("libtorrent", "aria2")
# Debian's Python, for which there is python3-libtorrent.
PYTHON = "/usr/bin/python3"
# Not imported: the Python that runs this may lack libtorrent.
LEECHER = Path(__file__).with_name("leecher.py")


class Swarm:
    """A torrent, its tracker on the host `origin`, and clients on other hosts."""

    def __init__(self, client: str, origin: Host, payload: Payload, scratch: Path) -> None:
        self._client = client
        self._scratch = scratch
        self._payload = payload
        self._processes: list[Process] = []
        self._done: dict[str, Path] = {}
        scratch.mkdir()
        self._torrent = scratch / "payload.torrent"
        tracker = f"http://{origin.ipv4}:{torrent.TRACKER_PORT}/announce"
        self._torrent.write_bytes(torrent.make(payload.content, payload.paths, tracker))
        self._start(origin, "tracker", PYTHON, "-I", torrent.__file__, origin.ipv4, str(torrent.TRACKER_PORT))
        wait_until("the tracker", 20, lambda: self._listens(origin, torrent.TRACKER_PORT))

    def seed(self, host: Host, directory: Path) -> None:
        """Has a host give what is in `directory / content`."""
        self._run(host, directory, seed=True)
        wait_until(f"{host.name} to seed", 60, lambda: self._listens(host, 6881))

    def fetch(self, host: Host, directory: Path) -> float:
        """Starts a client that wants everything, and returns when: seconds since 1970."""
        directory.mkdir(parents=True)
        began = time.time()
        self._run(host, directory, seed=False)
        return began

    def finished(self, host: Host, seconds: float) -> float:
        """When a host had everything: seconds since 1970."""
        done = self._done[host.name]

        def probe() -> float:
            for process in self._processes:
                expect(process.running(), f"{process.name} ended:\n{process.output()}")
            return float(done.read_text() or 0) if done.exists() else 0.0

        return wait_until(f"{host.name} to have everything", seconds, probe)

    def kill(self, host: Host) -> None:
        """Takes a host's power."""
        self._processes = [process for process in self._processes if not process.name.endswith(f" {host.name}")]
        host.power_off()

    def check(self, directory: Path) -> None:
        wrong = self._payload.different(directory / CONTENT)
        expect(not wrong, f"{self._client}: {directory} differs in {wrong[:5]}")

    def stop(self) -> None:
        for process in self._processes:
            process.kill()

    def _run(self, host: Host, directory: Path, *, seed: bool) -> None:
        done = self._done[host.name] = self._scratch / f"{host.name}.done"
        if self._client == "libtorrent":
            self._start(host, f"libtorrent {host.name}", PYTHON, "-I", LEECHER, host.ipv4, self._torrent,
                        directory, done, *(["seed"] if seed else []))  # fmt: skip
            return
        hook = self._scratch / f"{host.name}.hook"
        hook.write_text(f"#!/bin/sh\ndate +%s.%N >{done}.new\nmv {done}.new {done}\n")
        hook.chmod(0o700)
        self._start(
            host, f"aria2 {host.name}", "aria2c", "--no-conf", "--quiet", "--dir", directory, "--file-allocation=none",
            "--enable-dht=false", "--enable-dht6=false", "--bt-enable-lpd=true", "--bt-lpd-interface=eth0",
            "--listen-port=6881", "--seed-ratio=0.0", "--bt-max-peers=55", "--bt-request-peer-speed-limit=1000M",
            "--disk-cache=64M", f"--on-bt-download-complete={hook}",
            *(["--check-integrity=true"] if seed else []), self._torrent,
        )  # fmt: skip

    def _start(self, host: Host, name: str, *argv: str | Path) -> None:
        log = self._scratch / f"{name.replace(' ', '-')}.log"
        self._processes.append(host.start(name, log, *argv))

    def _listens(self, host: Host, port: int) -> bool:
        for process in self._processes:
            expect(process.running(), f"{process.name} ended:\n{process.output()}")
        return attempt(*host.inside("bash", "-c", f"exec 3<>/dev/tcp/{host.ipv4}/{port}")).returncode == 0
