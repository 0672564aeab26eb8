"""A node's disk is too small, fills up while it fetches, and while it places: it says so, and goes on when there is room."""

from __future__ import annotations

import os
from pathlib import Path

from cases.server_returns import stored
from lab import slow
from lab.case import Lab, same_roots, say
from lab.command import call, expect, wait_until
from lab.fleet import Fleet, Node

MIB = 1 << 20
# The server's word for a release that was fetched and executed; trouble is forgotten then.
DONE = "converged"


def run(lab: Lab) -> None:
    published = lab.payload()
    fleet = lab.fleet()
    fleet.publish(published)
    fleet.assign()
    small = too_small(fleet)
    filling = full_while_fetching(fleet)
    same_roots([small, filling])
    fleet.order("unassign", "web-edge")
    full_while_placing(lab, fleet)


def too_small(fleet: Fleet) -> Node:
    """What does not fit is not even begun."""
    node = fleet.add_node("small", 11)
    disk(node.data, 24)
    fleet.capture()
    node.start()
    trouble = node.await_trouble("does not fit", "are needed on the file system of", "are free")
    say(trouble)
    came = fleet.wire().bytes("server", node.name)
    expect(came < MIB, f"{came} bytes were fetched in vain")
    grow(node.data, 200)
    node.await_state(DONE)
    expect(node.info()["progress"].get("trouble") is None, "the trouble is told still")
    return node


def full_while_fetching(fleet: Fleet) -> Node:
    """There was room when it began, and then somebody else took it: nothing is lost, and it is told all the same."""
    node = fleet.add_node("filling", 12)
    disk(node.data, 200)
    # From the server alone, and slowly.
    fleet.nodes_by_name["small"].kill_agent()
    fleet.host.shape(megabits=40)
    node.start()
    wait_until("some of it to be here", 60, lambda: stored(node) >= 4 * MIB)
    ballast = fill(node.data)
    say(node.await_trouble("nothing can be stored", "no room left"))
    expect(not (node.root / "srv").exists(), "it was over too early: the case shows nothing")
    here = stored(node)
    ballast.unlink()
    node.await_state(DONE)
    totals = node.trace().totals
    expect(totals["held"] + totals["peers"] + totals["origin"] >= here, f"trace: {totals}")
    fleet.nodes_by_name["small"].start(join=False)
    return node


def full_while_placing(lab: Lab, fleet: Fleet) -> None:
    """A step finds no room: it fails, is told, and is executed again until it does."""
    source = slow.write(lab)
    (source / "image.bin").write_bytes(os.urandom(8 * MIB))
    # Right behind the slow step: the next one has something to write as well.
    placing = '[[step]]\nid = "image"\nfile = "image.bin"\ndest = "/srv/image.bin"\n\n[[step]]\nid = "last"'
    (source / "configuration.toml").write_text(slow.CONFIGURATION.replace('[[step]]\nid = "last"', placing))
    fleet.order("publish", source)
    node = fleet.add_node("placing", 13)
    disk(node.root, 32)
    node.start()
    node.await_state("unassigned")
    fleet.order("assign", "slow", "--node", node.id)
    wait_until("the slow step to begin", 60, lambda: slow.notes(node, "slow") == ["begun"])
    # A file without bytes takes no room.
    ballast = fill(node.root)
    slow.let_go(node)
    wait_until("the step to fail for want of room", 60, lambda: "is executed again in" in node.log.read_text())
    expect(not (node.root / "srv/image.bin").exists(), "half a file was placed")
    ballast.unlink()
    wait_until("the node to converge", 90, lambda: node.state() == DONE)
    expect((node.root / "srv/image.bin").read_bytes() == (source / "image.bin").read_bytes(), "other bytes were placed")
    left = [path.name for path in node.root.rglob("*") if path.name.startswith(".potluck")]
    expect(not left, f"left behind: {left}")


def disk(path: Path, mebibytes: int) -> None:
    """A file system of its own."""
    path.mkdir(parents=True, exist_ok=True)
    call("mount", "-t", "tmpfs", "-o", f"size={mebibytes}m,mode=0755", "tmpfs", path)


def grow(path: Path, mebibytes: int) -> None:
    call("mount", "-o", f"remount,size={mebibytes}m", path)


def fill(path: Path) -> Path:
    """Takes all the room there is."""
    ballast = path / "ballast"
    # Without a buffer: what did not fit would be tried again when the file is closed, and fail there.
    with ballast.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(64 << 10))
        except OSError:
            pass
    return ballast
