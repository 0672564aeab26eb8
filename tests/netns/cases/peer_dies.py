"""The only peer dies while it is served from: what it failed to deliver comes from the server."""

from lab.case import Lab, same_roots, say, verify, warm_up
from lab.command import expect, wait_until

# Of the payload, so that some came and most is still to come.
BEFORE_BYTES = 6 << 20


def run(lab: Lab) -> None:
    published = lab.payload()
    fleet = lab.fleet()
    fleet.publish(published)
    fleet.assign()
    (peer,) = warm_up(fleet, 1)
    peer.host.shape(megabits=32)

    newcomer = fleet.add_node("newcomer", 50)
    fleet.capture()
    newcomer.start()
    wait_until("some bytes to arrive", 60, lambda: newcomer.host.received_bytes() > BEFORE_BYTES)
    peer.host.power_off()
    newcomer.await_state("converged")
    # What was under way when the peer died has crossed the wire, and no trace has it.
    evidence = lab.evidence(fleet, newcomer, fleet.wire(), published, waste=16 << 20)
    totals = evidence.trace.totals
    why = {part.why for file in evidence.trace.files for part in file.ranges if part.source == "origin"}
    say(f"trace: {totals}; from the server because of {sorted(why)}")
    expect(totals["peers"] > 0, "nothing came from the peer: the case shows nothing")
    expect("peer-failed" in why, "no range says that its peer failed")
    verify(evidence)
    same_roots([peer, newcomer])
