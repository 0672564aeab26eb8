"""With known sites only, a node has nothing to do with peers until the server's site map names its network."""

from lab import plain
from lab.case import Lab, say
from lab.command import attempt, expect, wait_until

PEER_PORT = 7443


def run(lab: Lab) -> None:
    fleet = lab.fleet()
    plain.publish(lab, fleet, 2 << 20, "first")
    holder = fleet.add_node("holder", 11)
    holder.start()
    holder.await_state("converged")
    wary = fleet.add_node("wary", 12)
    fleet.capture()
    wary.start("--peering", "known-sites")
    wary.await_state("converged")
    wire = fleet.wire()

    expect(wary.info()["site"] == "10.82.0.0/24, fd82::/64", f"the site is {wary.info()['site']}")
    told = [datagram for datagram in wire.datagrams if datagram.sender == "wary" and PEER_PORT == datagram.destination_port]
    expect(not told, f"datagrams on a network that nobody vouches for: {told[:3]}")
    for peer in ("holder", "wary"):
        other = "wary" if peer == "holder" else "holder"
        expect(wire.bytes(peer, other) == 0, f"{peer} sent TCP payload to {other}")
    expect(not reachable(fleet, wary.host.ipv4), "the peer port is open")
    say(f"{wire.bytes('server', 'wary'):,} bytes from the server, none from or to the peer")

    # The map names the network: nothing on the nodes changes.
    settings = lab.directory / "server.toml"
    settings.write_text('[[site]]\nname = "branch"\nnetworks = ["10.82.0.0/24"]\n')
    fleet.server.kill()
    fleet.server_arguments = ("--config", str(settings))
    fleet.start_server()
    wait_until("the peer port to open", 60, lambda: reachable(fleet, wary.host.ipv4))
    expect(wary.info()["site"] == "branch", f"the site is {wary.info()['site']}")
    newcomer = fleet.add_node("newcomer", 13)
    newcomer.start("--peering", "known-sites")
    newcomer.await_state("converged")
    totals = newcomer.trace().totals
    say(f"once the site is known: {totals}")
    expect(totals["origin"] == 0, "not all came from peers")


def reachable(fleet, address: str) -> bool:
    probe = f"import socket; socket.create_connection(('{address}', {PEER_PORT}), 2)"
    return attempt(*fleet.host.inside("python3", "-c", probe)).returncode == 0
