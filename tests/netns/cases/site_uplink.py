"""Three nodes of a site with a limit for its uplink start at once: together they get no more than that, and about one copy."""

from lab import plain
from lab.case import Lab, same_roots, say
from lab.command import expect

BYTES = 6 << 20
LIMIT, RATE = "8 Mbit/s", 1_000_000
NODES = 3
SETTINGS = f'[[site]]\nname = "branch"\nnetworks = ["10.82.0.0/24"]\nuplink-limit = "{LIMIT}"\n'
COPIES_MAX = 1.1
# TLS, HTTP, and the talk about lists and reports.
RATIO_MAX = 1.08
# What may go at once, and what the nodes say and are told besides contents.
SLACK_BYTES = 400_000
SECOND = 1_000_000


def run(lab: Lab) -> None:
    fleet = lab.fleet()
    settings = lab.directory / "server.toml"
    settings.write_text(SETTINGS)
    fleet.server.kill()
    fleet.server_arguments = ("--config", str(settings))
    fleet.start_server()
    plain.publish(lab, fleet, BYTES)
    nodes = [fleet.add_node(f"node{index}", 10 + index) for index in range(1, NODES + 1)]
    fleet.join_string()
    fleet.capture()
    for node in nodes:
        node.start()
    for node in nodes:
        node.await_state("converged")
    wire = fleet.wire()

    def until(at: int) -> int:
        return sum(wire.bytes("server", node.name, at) for node in nodes)

    total = until(wire.ended)
    begin = min(datagram.at for datagram in wire.datagrams)
    most = max(until(at + 2 * SECOND) - until(at) for at in range(begin, wire.ended, SECOND // 4))
    copies = sum(node.trace().totals["origin"] for node in nodes) / BYTES
    say(f"{copies:.3f} copies from the server, {total:,} bytes in all; at most {most:,} in two seconds at {LIMIT}")
    expect(most <= 2 * RATE * RATIO_MAX + SLACK_BYTES, "more than the limit")
    expect(copies <= COPIES_MAX, "too much came from the server")
    same_roots(nodes)
