"""With known sites only and the server away, a neighbour that proves itself vouches for the network; strangers do not."""

import time

from lab import plain
from lab.case import Lab, same_roots, say
from lab.command import attempt, expect, wait_until

PEER_PORT = 7443
# Longer than the kernel looks for somebody else with the same address.
SETTLE_SECONDS = 3
BYTES = 2 << 20


def run(lab: Lab) -> None:
    fleet = lab.fleet()
    settings = lab.directory / "server.toml"
    settings.write_text('[[site]]\nname = "branch"\nnetworks = ["10.82.0.0/24"]\n')
    fleet.server.kill()
    fleet.server_arguments = ("--config", str(settings))
    fleet.start_server()
    plain.publish(lab, fleet, BYTES, "first")
    nodes = [fleet.add_node(name, number) for number, name in enumerate(("holder", "wary"), 11)]
    for node in nodes:
        node.start("--peering", "known-sites")
    for node in nodes:
        node.await_state("converged")
    holder, wary = nodes
    # So that each is told of the other.
    wait_until("the wary node to know its neighbour", 90, lambda: holder.id in (wary.data / "head.json").read_text())
    # An address that becomes usable later is a change of the network: the holder would need somebody to vouch itself.
    time.sleep(SETTLE_SECONDS)
    wary.kill_agent()
    fleet.server.kill()

    # Nobody can be reached: it stays alone.
    holder.host.refuse(f"tcp dport {PEER_PORT} drop")
    wary.start("--peering", "known-sites", join=False)
    wary.agent.await_line("going on with what it said last", 30)
    expect(not reachable(fleet, wary.host.ipv4), "the peer port is open, and nobody vouched")
    wary.kill_agent()
    holder.host.call("nft", "delete", "table", "inet", "firewall")

    # With its neighbour there, what it has lost comes from it although the server is away.
    (wary.root / "srv/large").unlink()
    for file in (wary.data / "store").rglob("*"):
        if file.is_file():
            file.unlink()
    wary.start("--peering", "known-sites", join=False)
    wait_until("somebody to vouch", 60, lambda: "has proven itself on this network" in wary.log.read_text(errors="replace"))
    wait_until("the file to be there again", 60, (wary.root / "srv/large").exists)
    say("what was lost came from the neighbour that vouched, without the server")
    same_roots(nodes)


def reachable(fleet, address: str) -> bool:
    probe = f"import socket; socket.create_connection(('{address}', {PEER_PORT}), 2)"
    return attempt(*fleet.host.inside("python3", "-c", probe)).returncode == 0
