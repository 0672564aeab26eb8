"""A link of 1 Mbit/s that loses every twentieth packet: slow, and no transfer is given up."""

# What is not here: 600 ms of delay, which takes netem, and not every kernel has it.

import time

from lab import plain
from lab.case import Lab, say
from lab.command import expect

BYTES = 1_200_000
MEGABITS = 1
SECONDS_MAX = 120
# Of the payload: TLS, the list, and what was asked for twice.
SENT_RATIO_MAX = 1.25


def run(lab: Lab) -> None:
    fleet = lab.fleet()
    plain.publish(lab, fleet, BYTES)
    fleet.host.shape(megabits=MEGABITS)
    fleet.network.lose(percent=5)
    node = fleet.add_node("node1", 11)
    fleet.join_string()
    fleet.capture()
    started = time.monotonic()
    node.start()
    node.await_state("converged", seconds=SECONDS_MAX)
    took = time.monotonic() - started
    sent = fleet.wire().bytes("server", "node1")
    ideal = BYTES * 8 / MEGABITS / 1e6
    say(f"{took:.1f} s, {took / ideal:.2f} times what the link takes; {sent:,} bytes of TCP payload, {sent / BYTES:.3f}")
    failures = fleet.operate("trace", node.id)["failures"]
    expect(not failures, f"transfers were given up: {failures}")
    expect(sent <= SENT_RATIO_MAX * BYTES, "the server sent too much")
