"""Four nodes are switched on at once, and nobody has the release: all converge, and share what they fetch."""

from lab.case import Lab, same_roots, say, verify
from lab.command import expect

# What the server may send of one node's payload; without sharing it would be 4.
ORIGIN_RATIO_MAX = 1.5


def run(lab: Lab) -> None:
    published = lab.payload()
    fleet = lab.fleet()
    fleet.host.shape(megabits=100)
    fleet.publish(published)
    fleet.assign()
    nodes = [fleet.add_node(f"node{index}", 10 + index) for index in range(1, 17 if lab.large else 5)]
    fleet.join_string()
    fleet.capture()
    for node in nodes:
        node.start()
    for node in nodes:
        node.await_state("converged")
    wire = fleet.wire()

    same_roots(nodes)
    sent = sum(wire.bytes("server", node.name) for node in nodes)
    traced = 0
    for node in nodes:
        # Nodes that fetch from each other while they fetch may give up more transfers than ones that join later.
        evidence = lab.evidence(fleet, node, wire, published, waste=4 << 20)
        totals = evidence.trace.totals
        traced += totals["origin"]
        say(f"{node.name}: {totals['peers']:,} bytes from peers, {totals['origin']:,} from the server")
        verify(evidence)
    ratio = traced / published.bytes()
    say(f"the server sent {traced:,} bytes of payload ({ratio:.3f} times it), {sent:,} bytes of TCP payload in all")
    expect(ratio <= ORIGIN_RATIO_MAX, f"the server sent the payload {ratio:.2f} times")
