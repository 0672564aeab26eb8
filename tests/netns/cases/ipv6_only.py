"""A node joins in a network without IPv4."""

from cases.warm_join import from_peers, join
from lab.case import Lab, same_roots, verify, warm_up
from lab.command import expect


def run(lab: Lab) -> None:
    published = lab.payload()
    fleet = lab.fleet(ipv4=False)
    fleet.publish(published)
    fleet.assign()
    nodes = warm_up(fleet, 3)
    newcomer, wire = join(fleet)
    expect(all(":" in datagram.destination for datagram in wire.datagrams), "somebody used IPv4")
    evidence = lab.evidence(fleet, newcomer, wire, published)
    verify(evidence)
    from_peers(evidence)
    same_roots([*nodes, newcomer])
