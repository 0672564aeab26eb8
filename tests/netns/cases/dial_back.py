"""The only holder hears requests, and nobody can connect to it: it dials the asker, and gives."""

from lab import plain
from lab.case import Lab, same_roots, say
from lab.command import expect

BYTES = 6 << 20
PEER_PORT = 7443


def run(lab: Lab) -> None:
    fleet = lab.fleet()
    plain.publish(lab, fleet, BYTES)
    holder = fleet.add_node("holder", 11)
    holder.start()
    holder.await_state("converged")
    # Also what is dropped in silence, as most firewalls do.
    holder.host.refuse(f"tcp dport {PEER_PORT} drop")
    newcomer = fleet.add_node("newcomer", 12)
    newcomer.start()
    newcomer.await_state("converged")
    totals = newcomer.trace().totals
    say(f"{totals}")
    expect(totals["origin"] == 0, "the holder did not give")
    same_roots([holder, newcomer])
