"""The server dies in the middle of a flash crowd and returns: everybody finishes, and next to nothing is fetched twice."""

import time

from lab import plain
from lab.case import Lab, same_roots, say
from lab.command import expect, wait_until

BYTES = 16 << 20
NODES = 6
MEGABITS = 50
AWAY_SECONDS = 2
# What may be on its way when the server dies: a piece of each answer that it is sending, 4 to each node, and what the
# nodes asked for again from each other's shares meanwhile.
IN_FLIGHT_BYTES_MAX = NODES * (1 << 20)
# What may be stored twice: two stripes, which somebody takes over from an owner that waits for the server as well.
TWICE_BYTES_MAX = 2 << 20


def run(lab: Lab) -> None:
    fleet = lab.fleet()
    plain.publish(lab, fleet, BYTES)
    fleet.host.shape(megabits=MEGABITS)
    nodes = [fleet.add_node(f"node{index}", 10 + index) for index in range(1, NODES + 1)]
    fleet.join_string()
    fleet.capture()
    for node in nodes:
        node.start()
    wait_until("half of it to arrive", 60, lambda: fleet.host.sent_bytes() > BYTES // 2)
    fleet.server.kill()
    expect(not any((node.root / "srv/large").exists() for node in nodes), "it was over before the server died")
    time.sleep(AWAY_SECONDS)
    fleet.start_server()
    for node in nodes:
        node.await_state("converged")
    wire = fleet.wire()
    traced = sum(node.trace().totals["origin"] for node in nodes)
    sent = sum(wire.bytes("server", node.name) for node in nodes)
    say(f"{traced / BYTES:.3f} copies from the server by the traces, {sent / BYTES:.3f} on the wire")
    expect(sent <= 1.1 * BYTES + IN_FLIGHT_BYTES_MAX, "much was fetched again")
    expect(traced <= BYTES + TWICE_BYTES_MAX, "more than two stripes were fetched again")
    same_roots(nodes)
