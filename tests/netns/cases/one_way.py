"""Nodes whose firewall lets nobody in share a flash crowd's work all the same: they dial out, take, and give."""

from lab import plain
from lab.case import Lab, same_roots, say
from lab.command import expect

BYTES = 12 << 20
MEGABITS = 50
# Those behind firewalls do not hear each other's claims, so some stripes are fetched by both; unshared it would be 4.
COPIES_MAX = 1.8
# Of the payload, that all others have from the nodes behind a firewall.
GIVEN_MIN = 0.2


def run(lab: Lab) -> None:
    fleet = lab.fleet()
    plain.publish(lab, fleet, BYTES)
    fleet.host.shape(megabits=MEGABITS)
    open_nodes = [fleet.add_node(f"open{index}", 10 + index) for index in (1, 2)]
    closed = [fleet.add_node(f"closed{index}", 20 + index) for index in (1, 2)]
    for node in closed:
        node.host.close_inwards()
    fleet.join_string()
    fleet.capture()
    nodes = open_nodes + closed
    for node in nodes:
        node.start()
    for node in nodes:
        node.await_state("converged")
    wire = fleet.wire()
    copies = sum(node.trace().totals["origin"] for node in nodes) / BYTES
    given = {node.name: sum(wire.bytes(node.name, other.name) for other in nodes if other is not node) / BYTES for node in closed}
    say(f"{copies:.3f} copies from the server; given by those behind a firewall: "
        + ", ".join(f"{name} {share:.2f}" for name, share in given.items()))  # fmt: skip
    expect(copies <= COPIES_MAX, "too much came from the server")
    expect(sum(given.values()) >= GIVEN_MIN, "the nodes behind a firewall gave nothing")
    same_roots(nodes)
