"""A management server and managed nodes: the real program on hosts of a network, run as an operator would."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from lab import trace
from lab.capture import Capture
from lab.command import Failure, Process, attempt, call, expect, wait_until
from lab.network import Host, Network
from lab.payload import Payload
from lab.trace import Trace
from lab.wire import Wire

SERVER_PORT = 7440
# From assignment to the last step, on a machine that has other things to do.
CONVERGE_SECONDS = 90


class Node:
    """A managed node: its host, its state, its root, and the agent while it runs."""

    def __init__(self, fleet: Fleet, host: Host) -> None:
        self._fleet = fleet
        self.host = host
        self.name = host.name
        self.data = fleet.directory / host.name / "data"
        self.root = fleet.directory / host.name / "root"
        self.root.mkdir(parents=True)
        self.log = fleet.directory / f"{host.name}.log"
        self.agent: Process | None = None
        self._id: str | None = None

    @property
    def id(self) -> str:
        """The id that the server gave it. Waits until it has joined."""
        if self._id is None:
            self._id = wait_until(f"{self.name} to join", 30, lambda: self._fleet.ids().get(self.name))
        return self._id

    def start(self, *more: str | Path, join: bool = True, under: tuple[str, ...] = ()) -> None:
        """Starts the agent with `more` arguments; `join` is for the first time, `under` a program that runs it."""
        # A process whose threads still wait for the disk is not gone yet, however it was killed.
        if agent := self.agent:
            wait_until(f"the agent of {self.name} before this one to be gone", 30, lambda: not agent.running())
        joining = ["--join", self._fleet.join_string()] if join else []
        self.agent = self.host.start(
            f"agent {self.name}", self.log,
            *under, self._fleet.binary, "agent", "--data", self.data, "--root", self.root, "-v", *joining, *more,
        )  # fmt: skip

    def kill_agent(self) -> None:
        """Ends the agent as a crash would. What executes steps is another process."""
        if self.agent:
            self.agent.kill()

    def info(self) -> dict[str, Any]:
        """What the server knows of it."""
        node = self.id
        return self._fleet.nodes()[node]

    def state(self) -> str:
        state: str = self.info()["progress"]["state"]
        return state

    def await_trouble(self, *words: str, seconds: float = 60) -> str:
        """Waits until the server shows a trouble of this node in which all the words occur, and returns it."""

        def probe() -> str | None:
            trouble: str = self.info()["progress"].get("trouble") or ""
            return trouble if all(word in trouble for word in words) else None

        return wait_until(f"{self.name} to tell of {' and '.join(words)}", seconds, probe)

    def await_state(self, *states: str, seconds: float = CONVERGE_SECONDS) -> None:
        def probe() -> bool:
            expect(self.agent is None or self.agent.running(), f"the agent of {self.name} ended")
            now = self.state()
            if now == "failed" and "failed" not in states:
                raise Failure(f"{self.name} failed: {self.info()['progress']}")
            return now in states

        wait_until(f"{self.name} to be {' or '.join(states)}", seconds, probe)

    def trace(self) -> Trace:
        """The trace of its last run; `--keep` keeps the document."""
        document = self._fleet.operate("trace", self.id)
        (self._fleet.directory / f"{self.name}.trace.json").write_text(json.dumps(document, indent=1))
        return trace.parse(document)

    def mark_lines(self) -> list[str]:
        """What the run step left behind: one line for each time that it ran."""
        mark = self.root / "var/mark"
        return mark.read_text().splitlines() if mark.exists() else []


class Fleet:
    """The server on a host of its own, and nodes."""

    def __init__(self, binary: Path, network: Network, directory: Path) -> None:
        self.binary = binary
        self.network = network
        self.directory = directory
        self.host = network.add_host("server", 1)
        self.data = directory / "server"
        self.log = directory / "server.log"
        self.nodes_by_name: dict[str, Node] = {}
        self._captures: list[Capture] = []
        self._captured = 0
        self._join: str | None = None
        self.server_arguments: tuple[str, ...] = ()
        address = self.host.ipv4 if network.ipv4 else f"[{self.host.ipv6}]"
        self.address = f"{address}:{SERVER_PORT}"
        self.listen = f"{'0.0.0.0' if network.ipv4 else '[::]'}:{SERVER_PORT}"
        self.start_server()

    def start_server(self) -> None:
        self.server = self.host.start(
            "server", self.log,
            self.binary, "server", "--data", self.data, "--listen", self.listen, "--advertise", self.address,
            *self.server_arguments,
        )  # fmt: skip

        def probe() -> bool:
            expect(self.server.running(), "the server ended")
            return attempt(*self._operator("status", "--json")).returncode == 0

        wait_until("the server to answer", 30, probe)

    def _operator(self, *argv: str | Path) -> list[str]:
        return self.host.inside(self.binary, "--data", self.data, *argv)

    def operate(self, *argv: str | Path, seconds: float = 60) -> Any:
        """An operator's command, with `--json`: what it answered."""
        return json.loads(call(*self._operator("--json", *argv), seconds=seconds))

    def order(self, *argv: str | Path, seconds: float = 60) -> str:
        """An operator's command as a person gives it: what it printed."""
        return call(*self._operator(*argv), seconds=seconds)

    def join_string(self) -> str:
        if self._join is None:
            self._join = self.order("join-token", "--uses", "100", "--ttl", "1h").strip()
        return self._join

    def publish(self, payload: Payload) -> None:
        self.order("publish", payload.directory)

    def assign(self) -> None:
        self.order("assign", "web-edge", "--all")

    def add_node(self, name: str, number: int) -> Node:
        """Puts a host with a node on the network; its agent is not started yet."""
        node = Node(self, self.network.add_host(name, number))
        self.nodes_by_name[name] = node
        return node

    def nodes(self) -> dict[str, dict[str, Any]]:
        """What the server knows, by id."""
        return {info["node"]: info for info in self.operate("status")["nodes"]}

    def ids(self) -> dict[str, str]:
        """Id by host, of the nodes that have said where they are."""
        hosts = {
            address: host.name for host in self.network.hosts.values() for address in (host.ipv4, f"[{host.ipv6}]")
        }
        found = {}
        for node, info in self.nodes().items():
            for address in info["addresses"]:
                host = hosts.get(address.rpartition(":")[0])
                if host:
                    found[host] = node
        return found

    def hosts_by_id(self) -> dict[str, str]:
        return {node.id: node.name for node in self.nodes_by_name.values() if node.agent}

    def capture(self) -> None:
        """From now on what passes is captured, on every host there is."""
        self._captured += 1
        taps = self.directory / f"capture-{self._captured}"
        taps.mkdir()
        self._captures = [Capture(host, taps) for host in self.network.hosts.values()]

    def wire(self) -> Wire:
        """Ends the capture."""
        # One is ended after the other: what happens meanwhile is seen by some of them only.
        until = time.time_ns() // 1_000
        return Wire({capture.host: capture.stop() for capture in self._captures}, until)
