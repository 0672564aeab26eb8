"""The server dies in the middle and returns, and so does the node: each goes on, and no byte is fetched twice."""

from lab.case import Lab, say
from lab.command import expect, wait_until
from lab.fleet import Node

# What may be on its way when a cable or a process is cut: some chunks on each of a few connections, and TLS around all.
IN_FLIGHT_BYTES_MAX = 4 << 20


def run(lab: Lab) -> None:
    published = lab.payload()
    fleet = lab.fleet()
    fleet.host.shape(megabits=50)
    fleet.publish(published)
    fleet.assign()
    node = fleet.add_node("node1", 11)
    fleet.capture()
    node.start()
    deaths = 0
    for mebibytes, dies in ((4, "server"), (10, "agent"), (16, "server"), (22, "agent")):
        wait_until(f"{mebibytes} MiB to arrive", 60, lambda: stored(node) >= mebibytes << 20)
        expect(not (node.root / "srv").exists(), "it was over too early: the case shows nothing")
        if dies == "server":
            fleet.server.kill()
            fleet.start_server()
        else:
            node.host.power_off()
            node.start(join=False)
        deaths += 1
    node.await_state("converged")
    sent = fleet.wire().bytes("server", node.name)
    payload = published.bytes()
    say(f"{payload:,} bytes of payload, {sent:,} on the wire, {deaths} deaths")
    expect(sent <= payload * 1.03 + deaths * IN_FLIGHT_BYTES_MAX, f"{sent} bytes were sent for {payload}")
    totals = node.trace().totals
    expect(sum(totals[source] for source in ("held", "peers", "origin")) == payload, f"trace: {totals}")
    expect(totals["held"] >= 18 << 20, f"what was here before the last start was fetched again: {totals}")
    expect(len(node.mark_lines()) == 1, "the script did not run once")


def stored(node: Node) -> int:
    """Bytes on the disk of the node's store."""
    found = 0
    for file in (node.data / "store").glob("*/*"):
        try:
            found += file.stat().st_blocks * 512
        except FileNotFoundError:
            continue
    return found
