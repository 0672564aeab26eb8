"""A node joins later: at least 99 % of its payload comes from peers, by its trace and by the wire."""

from dataclasses import replace

from lab.case import Lab, same_roots, say, verify, warm_up
from lab.checker import Evidence, check
from lab.command import expect
from lab.falsify import lies
from lab.fleet import Fleet, Node
from lab.wire import Wire

PEERS_RATIO_MIN = 0.99
# Of the list, TLS and the API's talk.
TALK_BYTES_MAX = 512 << 10


def run(lab: Lab) -> None:
    published = lab.payload()
    fleet = lab.fleet()
    fleet.publish(published)
    fleet.assign()
    nodes = warm_up(fleet, 3)
    newcomer, wire = join(fleet)
    evidence = lab.evidence(fleet, newcomer, wire, published)
    verify(evidence)
    from_peers(evidence)
    same_roots([*nodes, newcomer])
    notices_lies(evidence)


def join(fleet: Fleet) -> tuple[Node, Wire]:
    """One more node joins, captured from its first packet to its last step."""
    newcomer = fleet.add_node("newcomer", 50)
    fleet.capture()
    newcomer.start()
    newcomer.await_state("converged")
    return newcomer, fleet.wire()


def from_peers(evidence: Evidence) -> None:
    """Fails the case unless the payload came from peers."""
    payload, totals = evidence.payload.bytes(), evidence.trace.totals
    wired = sum(evidence.wire.bytes(host, evidence.node) for host in evidence.hosts.values())
    server = evidence.wire.bytes(evidence.server, evidence.node)
    say(f"payload {payload:,}; trace: {totals}; wire: {wired:,} bytes from peers, {server:,} from the server")
    expect(totals["peers"] >= PEERS_RATIO_MIN * payload, "too little came from peers, by the trace")
    expect(wired >= PEERS_RATIO_MIN * payload, "too little came from peers, by the wire")
    server_max = (1 - PEERS_RATIO_MIN) * payload + TALK_BYTES_MAX
    expect(server <= server_max, f"the server sent {server} bytes, by the wire")


def notices_lies(evidence: Evidence) -> None:
    """The checker that found nothing wrong with this trace finds every lie in false ones."""
    believed = [name for name, false in lies(evidence.trace) if not check(replace(evidence, trace=false))]
    expect(not believed, f"the checker believes: {believed}")
    say(f"the checker refused {len(list(lies(evidence.trace)))} false versions of the trace")
