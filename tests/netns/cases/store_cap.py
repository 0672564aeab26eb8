"""A node that is to keep little drops the release before, never what it needs, however small the cap."""

from __future__ import annotations

from cases.server_returns import stored
from lab import payload
from lab.case import Lab, say, verify
from lab.command import expect, wait_until
from lab.fleet import Node

MIB = 1 << 20


def run(lab: Lab) -> None:
    first = lab.payload()
    fleet = lab.fleet()
    fleet.publish(first)
    fleet.assign()
    node = fleet.add_node("node1", 11)
    tiny = fleet.add_node("tiny", 12)
    node.start("--store-max", "48MiB")
    tiny.start("--store-max", "1MiB")
    for each in (node, tiny):
        each.await_state("converged")
        expect(stored(each) >= first.bytes(), "what is needed was not kept")
    # Other bytes under the same names: two releases are too much.
    second = payload.make(lab.directory / "again/web-edge", seed=83)
    fleet.capture()
    fleet.publish(second)
    for each in (node, tiny):
        wait_until(f"{each.name} to have the next release", 90, lambda: _release(each) == 2)
        each.await_state("converged")
    wire = fleet.wire()
    for each in (node, tiny):
        wait_until(f"the first release to go from {each.name}", 30, lambda: stored(each) < 48 * MIB)
        expect(stored(each) >= second.bytes(), "what is needed was removed")
        say(f"{each.name} keeps {stored(each):,} bytes for a release of {second.bytes():,}")
        verify(lab.evidence(fleet, each, wire, second, waste=4 << 20))
    expect("kept all the same" in tiny.log.read_text(), "a cap that cannot be kept is not told of")
    # Nothing that is needed was touched: a restart without the server has it all.
    fleet.server.kill()
    node.kill_agent()
    (node.root / "srv/image.bin").unlink()
    node.start(join=False)
    wait_until("the image to be placed from the store", 60, lambda: (node.root / "srv/image.bin").is_file())


def _release(node: Node) -> int:
    release: int = node.info()["assigned"]["release"]
    return release
