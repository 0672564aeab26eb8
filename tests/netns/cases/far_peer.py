"""A holder on the same link is 60 ms away, the others are not: round trips split a site, so nothing comes from the far one."""

from lab import plain
from lab.case import Lab, same_roots, say
from lab.command import expect

BYTES = 4 << 20
DELAY_MILLIS = 30
NEAR = 3
MEGABITS = 16
# The most bytes of TCP payload: connections are made, and holdings told.
TALK_BYTES_MAX = 64 << 10


def run(lab: Lab) -> None:
    fleet = lab.fleet()
    plain.publish(lab, fleet, BYTES)
    near = [fleet.add_node(f"near{index}", 10 + index) for index in range(1, NEAR + 1)]
    far = fleet.add_node("far", 20)
    fleet.network.lengthen(far.host, lab.directory / "cable.log", delay=DELAY_MILLIS)
    for node in (*near, far):
        node.start()
    for node in (*near, far):
        node.await_state("converged")
    # So that it takes a while, and help would be welcome.
    for node in near:
        node.host.shape(megabits=MEGABITS)
    newcomer = fleet.add_node("newcomer", 30)
    fleet.capture()
    newcomer.start()
    newcomer.await_state("converged")
    wire = fleet.wire()
    totals, of_far = newcomer.trace().totals, wire.bytes("far", "newcomer")
    say(f"{totals}; {of_far:,} bytes from the far holder")
    expect(totals["origin"] == 0, "not all came from the near ones")
    expect(of_far <= TALK_BYTES_MAX, "the far holder was asked")
    same_roots([*near, far, newcomer])
