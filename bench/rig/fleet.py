"""Potluck as the cases use it: a fleet whose nodes start at a known time, and when each was done."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lab.command import Process, expect, wait_until
from lab.fleet import Fleet as LabFleet
from lab.fleet import Node
from rig.payload import MARKED, PLACED, Payload
from rig.site import Sites

UNASSIGNED = 3
MICROS = 1_000_000


@dataclass(frozen=True)
class Run:
    """One node's run, in seconds since its start."""

    complete: float
    """Until the last chunk was verified."""
    executed: float
    """Until the last step had ended."""
    peers: int
    """Bytes from peers."""
    origin: int
    """Bytes from the server."""


class Fleet(LabFleet):
    """A server, and nodes at sites."""

    network: Sites  # type: ignore[assignment]

    def __init__(self, binary: Path, network: Sites, directory: Path) -> None:
        super().__init__(binary, network, directory)  # type: ignore[arg-type]
        self._began: dict[str, float] = {}

    def place(self, name: str, number: int, site: int = 0, *, lan: int | None = None) -> Node:
        """A machine with a node on it that does not run yet."""
        node = Node(self, self.network.add_host(name, number, site, lan=lan))
        self.nodes_by_name[name] = node
        return node

    def join_all(self, nodes: list[Node]) -> None:
        """Has nodes join the fleet, while nothing is assigned, and stops them."""
        for node in nodes:
            self.launch(node, join=True, once=True)
        for node in nodes:
            code = _agent(node).wait(60)
            expect(code == UNASSIGNED, f"{node.name}: exit code {code} instead of {UNASSIGNED}\n{_agent(node).output()}")

    def launch(self, node: Node, *, join: bool = False, once: bool = False) -> None:
        """Starts a node's agent."""
        joining = ["--join", self.join_string()] if join else []
        ending = ["--once"] if once else []
        argv = [self.binary, "agent", "--data", node.data, "--root", node.root, *joining, *ending]
        self._began[node.name] = time.time()
        node.agent = node.host.start(f"agent-{node.name}", node.log, *argv)

    def began(self, node: Node) -> float:
        """When its agent was started: seconds since 1970."""
        return self._began[node.name]

    def await_marks(self, nodes: list[Node], seconds: float, release: int = 1) -> None:
        """Waits until the last step of a release has run on each node, without asking anybody."""
        for node in nodes:
            mark = node.root / MARKED

            def probe(node: Node = node, mark: Path = mark) -> bool:
                expect(_agent(node).running(), f"the agent of {node.name} ended")
                return mark.exists() and mark.read_text().strip() == str(release)

            wait_until(f"{node.name} to execute release {release}", seconds, probe)

    def await_release(self, nodes: list[Node], release: int, seconds: float) -> None:
        """Waits until the server knows that these nodes have converged to a release."""
        ids = [node.id for node in nodes]

        def probe() -> bool:
            known = self.nodes()
            infos = [known[node] for node in ids]
            assigned = all(info["assigned"] and info["assigned"]["release"] == release for info in infos)
            return assigned and all(info["progress"]["state"] == "converged" for info in infos)

        wait_until(f"all nodes to converge to release {release}", seconds, probe)

    def document(self, node: Node, release: int = 1) -> dict[str, Any]:
        """The trace of a node's last run, once it says that everything of this release is executed."""

        def probe() -> dict[str, Any] | None:
            document: dict[str, Any] = self.operate("trace", node.id)
            return document if document["executed"] and document["release"] == release else None

        return wait_until(f"{node.name} to report", 30, probe)

    def measure(self, node: Node, began: float | None = None, release: int = 1) -> Run:
        """What a node did since `began`, or since its start."""
        document = self.document(node, release)
        (self.directory / f"{node.name}.trace.json").write_text(json.dumps({"began": self.began(node), **document}))
        expect(not document["recap"]["failed"], f"{node.name}: {document['recap']}")
        start = self.began(node) if began is None else began
        return Run(
            complete=document["complete"] / MICROS - start,
            executed=document["executed"] / MICROS - start,
            peers=document["totals"]["peer_bytes"],
            origin=document["totals"]["origin_bytes"],
        )

    def check(self, node: Node, payload: Payload) -> None:
        """Fails the round unless every file is where it belongs, with its bytes."""
        wrong = payload.different(node.root / PLACED)
        expect(not wrong, f"{node.name} differs in {wrong[:5]}")


def _agent(node: Node) -> Process:
    expect(node.agent is not None, f"{node.name} was never started")
    assert node.agent is not None
    return node.agent
