"""Two groups of nodes on one switch cannot reach each other: each shares out alone, and gets everything once."""

from lab import plain
from lab.case import Lab, same_roots, say
from lab.command import expect

BYTES = 12 << 20
EACH = 3
MEGABITS = 50
COPIES_MAX = 1.15


def run(lab: Lab) -> None:
    fleet = lab.fleet()
    plain.publish(lab, fleet, BYTES)
    fleet.host.shape(megabits=MEGABITS)
    groups = [[fleet.add_node(f"{side}{index}", first + index) for index in range(1, EACH + 1)]
              for side, first in (("left", 10), ("right", 20))]  # fmt: skip
    for here, there in (groups, groups[::-1]):
        ports = ", ".join(f'"{node.host.port}"' for node in here)
        others = ", ".join(f'"{node.host.port}"' for node in there)
        fleet.network.forbid(f"iifname {{ {ports} }} oifname {{ {others} }}")
    fleet.join_string()
    fleet.capture()
    nodes = [node for group in groups for node in group]
    for node in nodes:
        node.start()
    for node in nodes:
        node.await_state("converged")
    wire = fleet.wire()
    for group in groups:
        copies = sum(node.trace().totals["origin"] for node in group) / BYTES
        say(f"{group[0].name} and its neighbours fetched {copies:.3f} copies from the server")
        expect(copies <= COPIES_MAX, "a group did not share out alone")
    crossed = [(here.name, there.name) for here in groups[0] for there in groups[1] if wire.bytes(here.name, there.name)]
    expect(not crossed, f"the groups reached each other: {crossed}")
    same_roots(nodes)
