"""A cable is pulled and plugged in again, and an address changes: the list is asked for within two seconds."""

import time

from lab.case import Lab, say
from lab.command import expect, wait_until
from lab.fleet import Fleet, Node
from lab.network import Host

LIMIT_MICROS = 2_000_000


def run(lab: Lab) -> None:
    published = lab.payload()
    fleet = lab.fleet()
    fleet.publish(published)
    fleet.assign()
    node = fleet.add_node("node1", 11)
    node.start()
    node.await_state("converged")

    fleet.capture()
    node.host.unplug()
    time.sleep(3)
    plugged = _now()
    node.host.plug()
    at, cause = _fetched_after(node, plugged, {"link-up", "address-changed"})
    say(f"cable plugged in: list asked for after {(at - plugged) / 1e3:.0f} ms ({cause})")
    _heard_in_time(fleet, node, plugged)

    for number, kind in ((61, "one more address"), (62, "another address")):
        fleet.capture()
        moved = _now()
        if number == 61:
            node.host.call("ip", "addr", "add", f"{Host('', number).ipv4}/24", "dev", "eth0")
        else:
            # The lease ended: the old addresses are gone, and with them every connection.
            node.host.call("ip", "addr", "del", f"{Host('', 61).ipv4}/24", "dev", "eth0")
            node.host = node.host.move_to(number)
        at, cause = _fetched_after(node, moved, {"address-changed"})
        say(f"{kind}: list asked for after {(at - moved) / 1e3:.0f} ms ({cause})")
        _heard_in_time(fleet, node, moved)
    node.await_state("converged")
    expect(len(node.mark_lines()) == 1, "the step ran again although nothing had changed")


def _now() -> int:
    return time.time_ns() // 1000


def _fetched_after(node: Node, since: int, causes: set[str]) -> tuple[int, str]:
    """When and why the node, by its trace, first asked for its list after a moment."""

    def probe() -> tuple[int, str] | None:
        fitting = (fetch for fetch in node.trace().fetches if fetch.at >= since and fetch.cause in causes)
        first = min(fitting, key=lambda fetch: fetch.at, default=None)
        return (first.at, first.cause) if first else None

    at, cause = wait_until(f"{node.name} to ask for its list because of {causes}", 30, probe)
    expect(at - since <= LIMIT_MICROS, f"the list was asked for only after {(at - since) / 1e6:.1f} s ({cause})")
    return at, cause


def _heard_in_time(fleet: Fleet, node: Node, since: int) -> None:
    """The server heard from the node, and answered, within the limit: by the wire."""
    wire = fleet.wire()
    asked = wire.segments(node.name, "server", since, since + LIMIT_MICROS)
    answered = wire.segments("server", node.name, since, since + LIMIT_MICROS)
    expect(asked and answered, f"within two seconds {asked} segments went to the server, {answered} came back")
