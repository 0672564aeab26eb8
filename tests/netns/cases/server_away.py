"""The server dies once a node has its list: the node finishes from peers, executes, and reports later."""

from lab.case import Lab, same_roots, say, verify, warm_up
from lab.command import expect, wait_until

# Of the payload, so that some came and most is still to come.
BEFORE_BYTES = 6 << 20


def run(lab: Lab) -> None:
    published = lab.payload()
    fleet = lab.fleet()
    fleet.publish(published)
    fleet.assign()
    nodes = warm_up(fleet, 2)
    for node in nodes:
        # About eight seconds for the payload: the server dies in the middle.
        node.host.shape(megabits=16)

    newcomer = fleet.add_node("newcomer", 50)
    hosts = {**fleet.hosts_by_id()}
    fleet.capture()
    newcomer.start()
    wait_until("some bytes to arrive", 60, lambda: newcomer.host.received_bytes() > BEFORE_BYTES)
    image = published.size("image.bin")
    fleet.server.kill()
    expect(not (newcomer.root / "srv/image.bin").exists(), "it was over before the server died: the case shows nothing")

    def marked() -> bool:
        expect(newcomer.agent and newcomer.agent.running(), "the agent ended")
        return bool(newcomer.mark_lines())

    wait_until("the newcomer to execute without the server", 60, marked)
    expect(not fleet.server.running(), "the server came back by itself")
    wire = fleet.wire()

    fleet.start_server()
    newcomer.await_state("converged")
    evidence = lab.evidence(fleet, newcomer, wire, published)
    expect(evidence.hosts.keys() >= hosts.keys(), "the server forgot its nodes")
    totals = evidence.trace.totals
    say(f"trace: {totals}")
    expect(totals["peers"] >= image, "the image did not come from peers")
    verify(evidence)
    same_roots([*nodes, newcomer])
