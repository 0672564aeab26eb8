"""A link of 1 Mbit/s with 600 ms of delay that loses, doubles and reorders: slow, but nothing is given up or sent twice."""

import time

from lab import plain
from lab.case import Lab, say
from lab.command import expect
from lab.fleet import SERVER_PORT

BYTES = 1 << 20
KILOBITS = 1_000
DELAY_MILLIS = 300
LOSS_PERCENT, TWICE_PERCENT, LATE_PERCENT = 5, 1, 1
SECONDS_MAX = 120
# Of the payload, by the trace: what was asked for twice would be in it.
ORIGIN_RATIO_MAX = 1.1
# Of the payload, on the wire: TLS, the list, the API's talk as well.
SENT_RATIO_MAX = 1.25


def run(lab: Lab) -> None:
    fleet = lab.fleet()
    plain.publish(lab, fleet, BYTES)
    node = fleet.add_node("node1", 11)
    fleet.join_string()
    cable = fleet.network.lengthen(
        node.host, lab.directory / "cable.log",
        kilobits=KILOBITS, delay=DELAY_MILLIS, loss=LOSS_PERCENT, twice=TWICE_PERCENT, late=LATE_PERCENT,
    )  # fmt: skip
    delay = node.host.round_trip(fleet.host.ipv4, SERVER_PORT)
    expect(delay >= 2 * DELAY_MILLIS / 1e3, f"the cable is too short: {delay:.3f} s there and back")
    fleet.capture()
    started = time.monotonic()
    node.start()
    node.await_state("converged", seconds=SECONDS_MAX)
    took = time.monotonic() - started
    sent = fleet.wire().bytes("server", "node1")
    expect(cable.running(), "the cable broke")
    ideal = BYTES * 8 / KILOBITS / 1e3
    traced = node.trace().totals["origin"]
    say(f"{took:.1f} s, {took / ideal:.2f} times what the link takes; {traced / BYTES:.3f} payloads from the server by the "
        f"trace, {sent / BYTES:.3f} on the wire")  # fmt: skip
    failures = fleet.operate("trace", node.id)["failures"]
    expect(not failures, f"transfers were given up: {failures}")
    expect(traced <= ORIGIN_RATIO_MAX * BYTES, "something was fetched twice")
    expect(sent <= SENT_RATIO_MAX * BYTES, "the server sent too much")
