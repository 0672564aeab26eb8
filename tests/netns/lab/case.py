"""What a case is given."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from lab import payload
from lab.checker import Evidence, check
from lab.command import Failure, expect
from lab.fleet import Fleet, Node
from lab.network import Network
from lab.payload import Payload
from lab.wire import Wire

# A request for the list that was noted so shortly before the capture ended may have gone out after it.
LAST_MICROS = 50_000


@dataclass(frozen=True)
class Lab:
    """An empty world: the program under test, and a directory that vanishes with the case."""

    binary: Path
    directory: Path
    large: bool
    """Whether there is time for more nodes."""

    def fleet(self, *, ipv4: bool = True) -> Fleet:
        """A network with a server; without IPv4, if that is said."""
        return Fleet(self.binary, Network(ipv4=ipv4), self.directory)

    def payload(self) -> Payload:
        """The configuration that most cases publish."""
        return payload.make(self.directory / "web-edge")

    def evidence(self, fleet: Fleet, node: Node, wire: Wire, published: Payload, waste: int | None = None) -> Evidence:
        return Evidence(
            # An address may still change while the capture is being read.
            trace=node.trace().captured_until(wire.ended - LAST_MICROS),
            wire=wire,
            payload=published,
            root=node.root,
            node=node.name,
            server=fleet.host.name,
            hosts=fleet.hosts_by_id(),
            **({} if waste is None else {"waste": waste}),
        )


def verify(evidence: Evidence) -> None:
    """Fails the case if the trace, the wire and the disk do not agree."""
    violations = check(evidence)
    if violations:
        shown = "\n".join(f"  {violation}" for violation in violations[:20])
        raise Failure(f"{evidence.node}: {len(violations)} contradictions\n{shown}")


def say(text: str) -> None:
    """A figure for the log of the run."""
    print(f"    {text}", flush=True)


def warm_up(fleet: Fleet, count: int) -> list[Node]:
    """Nodes 1 to `count`, converged."""
    nodes = [fleet.add_node(f"node{index}", 10 + index) for index in range(1, count + 1)]
    for node in nodes:
        node.start()
    for node in nodes:
        node.await_state("converged")
    return nodes


def same_roots(nodes: list[Node]) -> None:
    """Fails the case unless all files under all roots are the same."""

    def tree(node: Node) -> dict[str, str]:
        return {
            str(path.relative_to(node.root)): payload.sha256(path)
            for path in node.root.rglob("*")
            if path.is_file() and not path.is_symlink()
        }

    first = tree(nodes[0])
    expect(first, f"nothing under {nodes[0].root}")
    for node in nodes[1:]:
        other = tree(node)
        different = sorted(path for path in first.keys() | other.keys() if first.get(path) != other.get(path))
        expect(not different, f"{nodes[0].name} and {node.name} differ in {different[:10]}")
