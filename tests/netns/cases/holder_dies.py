"""Holders die in the middle of a transfer, one and then the only other one: the rest comes from the server."""

from cases.server_returns import stored
from lab.case import Lab, same_roots, say, verify, warm_up
from lab.command import expect, wait_until


def run(lab: Lab) -> None:
    published = lab.payload()
    fleet = lab.fleet()
    fleet.publish(published)
    fleet.assign()
    first, second, third = warm_up(fleet, 3)
    for node in (first, second):
        # So slow that they die in the middle, and share what they have.
        node.host.shape(megabits=24)
    third.host.power_off()

    newcomer = fleet.add_node("newcomer", 50)
    hosts = fleet.hosts_by_id()
    fleet.capture()
    newcomer.start()
    for dying, mebibytes in ((first, 3), (second, 8)):
        wait_until(f"{mebibytes} MiB to arrive", 60, lambda: stored(newcomer) >= mebibytes << 20)
        expect(not (newcomer.root / "srv/image.bin").exists(), "it was over too early: the case shows nothing")
        dying.host.power_off()
    newcomer.await_state("converged")
    evidence = lab.evidence(fleet, newcomer, fleet.wire(), published, waste=6 << 20)
    expect(evidence.hosts.keys() >= hosts.keys(), "the server forgot its nodes")
    totals = evidence.trace.totals
    say(f"trace: {totals}")
    expect(totals["peers"] >= 3 << 20, "what had come from the dead counts for nothing")
    expect(totals["origin"] > 0, "it all came from the dead")
    verify(evidence)
    for node in (first, second, third):
        node.start(join=False)
    for node in (first, second, third):
        node.await_state("converged")
    same_roots([first, second, third, newcomer])
