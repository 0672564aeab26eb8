"""In the middle of a download the network is cut for a while, then addresses change: the node goes on where it was."""

from __future__ import annotations

import time

from cases.server_returns import IN_FLIGHT_BYTES_MAX, stored
from lab.case import Lab, say
from lab.command import expect, wait_until

MIB = 1 << 20
# Of a dead connection TCP itself says nothing for minutes.
GO_ON_SECONDS = 15


def run(lab: Lab) -> None:
    published = lab.payload()
    fleet = lab.fleet()
    fleet.host.shape(megabits=40)
    fleet.publish(published)
    fleet.assign()
    node = fleet.add_node("node1", 11)
    fleet.capture()
    node.start()
    # Whose it is, is found by its address, and that will change.
    say(f"the node is {node.id}")
    wait_until("6 MiB to arrive", 60, lambda: stored(node) >= 6 * MIB)
    node.host.unplug()
    # What came before the cut still has to be written.
    time.sleep(60 if lab.large else 12)
    before = stored(node)
    node.host.plug()
    plugged = time.monotonic()
    wait_until("the download to go on", 60, lambda: stored(node) > before + MIB)
    say(f"it goes on after {time.monotonic() - plugged:.1f} s")
    expect(not (node.root / "srv").exists(), "it was over too early: the case shows nothing")

    wait_until("20 MiB to be here", 60, lambda: stored(node) >= 20 * MIB)
    node.host = node.host.move_to(61)
    moved = time.monotonic()
    before = stored(node)
    wait_until("the download to go on", 60, lambda: stored(node) > before + MIB)
    took = time.monotonic() - moved
    say(f"with another address it goes on after {took:.1f} s")
    expect(took < GO_ON_SECONDS, "connections that lead nowhere were waited for")
    expect(not (node.root / "srv").exists(), "it was over too early: the case shows nothing")
    node.await_state("converged")
    sent = fleet.wire().bytes("server", node.name)
    say(f"{published.bytes():,} bytes of payload, {sent:,} on the wire")
    expect(sent <= published.bytes() * 1.03 + 2 * IN_FLIGHT_BYTES_MAX, "what was here was fetched again")
    expect(len(node.mark_lines()) == 1, "the script did not run once")
