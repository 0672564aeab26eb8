"""A node joins where the switch drops multicast: nothing may depend on it."""

from cases.warm_join import from_peers, join
from lab.case import Lab, same_roots, say, verify, warm_up
from lab.command import expect


def run(lab: Lab) -> None:
    published = lab.payload()
    fleet = lab.fleet()
    fleet.network.block_multicast()
    fleet.publish(published)
    fleet.assign()
    nodes = warm_up(fleet, 3)
    newcomer, wire = join(fleet)

    # It is blocked: what went to groups left the newcomer and reached nobody.
    multicast = [datagram for datagram in wire.datagrams if datagram.sender == newcomer.name and datagram.multicast]
    expect(multicast, "the newcomer sent no multicast")
    through = [datagram for datagram in wire.datagrams if datagram.multicast and datagram.reached]
    expect(not through, f"multicast was not blocked: {through[:3]}")
    say(f"{len(multicast)} datagrams of the newcomer went to groups and reached nobody")

    evidence = lab.evidence(fleet, newcomer, wire, published)
    verify(evidence)
    from_peers(evidence)
    same_roots([*nodes, newcomer])
