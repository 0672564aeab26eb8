"""A server that sends content to one node at a time: the others come back as they are asked to, and get everything."""

from lab import plain
from lab.case import Lab, same_roots, say
from lab.command import expect


def run(lab: Lab) -> None:
    fleet = lab.fleet()
    fleet.server.kill()
    fleet.server_arguments = ("--downloads-max", "1")
    fleet.start_server()
    plain.publish(lab, fleet, 4 << 20)
    fleet.host.shape(megabits=20)
    nodes = [fleet.add_node(f"node{index}", 10 + index) for index in range(1, 4)]
    for node in nodes:
        # Nobody vouches for this network, so everything has to come from the server.
        node.start("--peering", "known-sites")
    for node in nodes:
        node.await_state("converged")
    same_roots(nodes)
    failures = [failure for node in nodes for failure in fleet.operate("trace", node.id)["failures"]]
    expect(not failures, f"being asked to come back is no failure: {failures}")
    millis = [node.info()["progress"]["millis"] for node in nodes]
    say(f"complete after {', '.join(f'{number / 1000:.1f}' for number in sorted(millis))} s")
