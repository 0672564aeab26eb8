"""Compares what a node says it did (`potluck trace`) with what was captured on the wire and lies on its disk.

What is encrypted cannot be told apart by file, so bytes are compared by source and time: at each moment at which the
trace says that a range had come from a source, the wire must have carried at least as many bytes from there as all
ranges up to then; and at the end hardly more, from nobody else more than talk. A trace that moves less than the
allowance (`waste`) from one source to another passes; what is larger does not.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from lab import payload
from lab.payload import Payload
from lab.trace import HELD, ORIGIN, File, Request, Trace
from lab.wire import Datagram, Wire

# What the node noted and what the capture noted of the same datagram may be this far apart.
DATAGRAM_MICROS = 250_000
# Bytes are captured before the node can have read them; both use the machine's one clock.
BYTES_MICROS = 5_000
# Within this after the node says that it asked for its list, the server must hear from it.
FETCH_MICROS = 2_000_000
GOOD_OUTCOMES = {"changed", "unchanged", "skipped"}


@dataclass(frozen=True)
class Evidence:
    """All that is known of one run of one node."""

    trace: Trace
    wire: Wire
    payload: Payload
    root: Path
    node: str
    """The host that ran."""
    server: str
    """The host of the management server."""
    hosts: Mapping[str, str]
    """Host by node id, of all nodes."""
    waste: int = 1 << 20
    """Bytes beyond the traced ones that each host may have sent: talk, TLS, transfers that were given up."""
    waste_ratio: float = 0.05
    """The same, as a share of what was traced from it."""


def check(evidence: Evidence) -> list[str]:
    """Everything in the trace that the wire or the disk contradicts; empty if they agree."""
    return [
        violation
        for rule in (_lists, _files, _coverage, _totals, _requests, _answers, _asked_first, _bytes, _fates, _steps)
        for violation in rule(evidence)
    ]


def _lists(evidence: Evidence) -> Iterator[str]:
    """The list was asked for, and the server heard it."""
    trace = evidence.trace
    if not trace.fetches:
        yield "the trace says of no request for the list"
    for fetch in trace.fetches:
        if not evidence.wire.segments(
            evidence.node, evidence.server, fetch.at - DATAGRAM_MICROS, fetch.at + FETCH_MICROS
        ):
            yield f"list asked for at {fetch.at} ({fetch.cause}), but nothing went to the server then"
    if trace.configuration != "web-edge":
        yield f"the trace is of {trace.configuration!r}"


def _files(evidence: Evidence) -> Iterator[str]:
    """The trace has the files that were published, and no others."""
    traced = {file.path: file for file in evidence.trace.files}
    if len(traced) != len(evidence.trace.files):
        yield "a file stands twice in the trace"
    for path in evidence.payload.fates.keys() - traced.keys():
        yield f"{path} was published, and is not in the trace"
    for path in traced.keys() - evidence.payload.fates.keys():
        yield f"{path} is in the trace, and was never published"
    for path in traced.keys() & evidence.payload.fates.keys():
        if traced[path].size != evidence.payload.size(path):
            yield f"{path} has {evidence.payload.size(path)} bytes, the trace says {traced[path].size}"


def _coverage(evidence: Evidence) -> Iterator[str]:
    """Every byte of every file came from somewhere, once."""
    for file in evidence.trace.files:
        end = 0
        for part in sorted(file.ranges, key=lambda part: part.offset):
            if part.offset != end:
                yield f"{file.path}: ranges {'overlap' if part.offset < end else 'leave a gap'} at {end}"
                break
            end += part.length
        else:
            if end != file.size:
                yield f"{file.path}: {file.size - end} bytes came from nowhere"
        for part in file.ranges:
            if part.source not in (HELD, ORIGIN) and part.source not in evidence.hosts:
                yield f"{file.path}: bytes from {part.source}, which is no node"


def _totals(evidence: Evidence) -> Iterator[str]:
    """The totals are the sums of the ranges."""
    sums = evidence.trace.bytes_by_source()
    held, origin = sums.pop(HELD, 0), sums.pop(ORIGIN, 0)
    for name, bytes_ in (("held", held), ("origin", origin), ("peers", sum(sums.values()))):
        if evidence.trace.totals[name] != bytes_:
            yield f"total of {name}: {evidence.trace.totals[name]}, but the ranges add up to {bytes_}"


def _requests(evidence: Evidence) -> Iterator[str]:
    """Every existence request was on the wire; no file was fetched without any."""
    seen: set[Request] = set(evidence.trace.list_requests)
    for file in evidence.trace.files:
        seen.update(file.requests)
        if not file.requests and any(part.source != HELD for part in file.ranges):
            yield f"{file.path} was fetched, and no peer had been asked for it"
    for request in sorted(seen, key=lambda request: request.at):
        if request.to.startswith("[fe80:") and "%" not in request.to:
            yield f"request {request.number} to {request.to}: a link-local address without its interface"
        if _datagram(evidence, request) is None:
            yield f"request {request.number} to {request.to} at {request.at} was not on the wire"


def _answers(evidence: Evidence) -> Iterator[str]:
    """Every answer was on the wire, from that peer, after its request."""
    asked = _first_request(evidence)
    for answer in sorted({answer for file in evidence.trace.files for answer in file.answers}, key=lambda it: it.at):
        name = f"the answer of {answer.peer} to request {answer.number} at {answer.at}"
        host = evidence.hosts.get(answer.peer)
        if host is None:
            yield f"{name}: no such node"
        elif answer.number not in asked:
            yield f"{name}: no such request"
        elif answer.at < asked[answer.number]:
            yield f"{name}: before the request"
        elif _heard(evidence, host, asked[answer.number] - DATAGRAM_MICROS, answer.at + BYTES_MICROS) is None:
            yield f"{name}: was not on the wire"


def _asked_first(evidence: Evidence) -> Iterator[str]:
    """For each file, at least two peers had been asked before the first answer came."""
    peers = set(evidence.hosts.values()) - {evidence.node}
    wanted = min(2, len(peers))
    for file in evidence.trace.files:
        first = _first_answer(evidence, file)
        if first is None:
            continue
        reached: set[str] = set()
        # Who was asked for the list was asked for what is in it.
        for request in (*evidence.trace.list_requests, *file.requests):
            datagram = _datagram(evidence, request)
            if datagram and datagram.at < first:
                reached |= datagram.reached & peers
        if len(reached) < wanted:
            yield f"{file.path}: before the first answer only {sorted(reached)} had been asked"


def _bytes(evidence: Evidence) -> Iterator[str]:
    """The bytes came from where the trace says, when it says, and from nobody else."""
    parts = [(part, "the list") for part in evidence.trace.list_ranges]
    for file in evidence.trace.contents():
        parts += [(part, file.path) for part in (*file.chunk_list, *file.ranges)]
    traced: dict[str, int] = {}
    late: set[str] = set()
    for part, what in sorted(parts, key=lambda pair: pair[0].at):
        if part.source == HELD:
            continue
        host = evidence.server if part.source == ORIGIN else evidence.hosts.get(part.source, part.source)
        traced[host] = traced.get(host, 0) + part.length
        carried = evidence.wire.bytes(host, evidence.node, until=part.at + BYTES_MICROS)
        if carried < traced[host] and host not in late:
            late.add(host)
            yield f"{what}: {host} had sent {carried} bytes by {part.at}, the trace says {traced[host]}"
    for host in evidence.wire.senders_to(evidence.node):
        carried, said = evidence.wire.bytes(host, evidence.node), traced.get(host, 0)
        if carried > said * (1 + evidence.waste_ratio) + evidence.waste:
            yield f"{host} sent {carried} bytes, the trace says {said}"


def _fates(evidence: Evidence) -> Iterator[str]:
    """Every file was executed or placed."""
    for path, fate in evidence.payload.fates.items():
        wrong = payload.is_done(fate, evidence.payload.directory / path, evidence.root)
        if wrong:
            yield f"{path}: {wrong}"


def _steps(evidence: Evidence) -> Iterator[str]:
    """Every step ended well, and the recap counts them."""
    steps = evidence.trace.steps
    if tuple(step.id for step in steps) != evidence.payload.steps:
        yield f"steps {[step.id for step in steps]}, published were {list(evidence.payload.steps)}"
    for step in steps:
        if step.outcome not in GOOD_OUTCOMES:
            yield f"step {step.id}: {step.outcome} {step.message}"
    counts: dict[str, int] = {}
    for step in steps:
        counts[step.outcome] = counts.get(step.outcome, 0) + 1
    if counts != {key: value for key, value in evidence.trace.recap.items() if value}:
        yield f"the recap says {evidence.trace.recap}, the steps {counts}"


def _datagram(evidence: Evidence, request: Request) -> Datagram | None:
    """The datagram that carried a request."""
    address, port = parse_address(request.to)
    near = (
        datagram
        for datagram in evidence.wire.datagrams
        if datagram.sender == evidence.node
        and datagram.destination == address
        and datagram.destination_port == port
        and abs(datagram.at - request.at) <= DATAGRAM_MICROS
    )
    return min(near, key=lambda datagram: abs(datagram.at - request.at), default=None)


def _heard(evidence: Evidence, host: str, since: int, until: int) -> Datagram | None:
    """The last datagram from a host to the node in a time."""
    fitting = (
        datagram
        for datagram in evidence.wire.datagrams
        if datagram.sender == host
        and evidence.node in datagram.reached
        and not datagram.multicast
        and since <= datagram.at <= until
    )
    return max(fitting, key=lambda datagram: datagram.at, default=None)


def _first_request(evidence: Evidence) -> dict[int, int]:
    """By number of a request: when the first of its datagrams went out, as traced."""
    first: dict[int, int] = {}
    requests = [request for file in evidence.trace.files for request in file.requests]
    for request in (*evidence.trace.list_requests, *requests):
        first[request.number] = min(request.at, first.get(request.number, request.at))
    return first


def _first_answer(evidence: Evidence, file: File) -> int | None:
    """When the first answer about a file arrived, by the wire."""
    asked = _first_request(evidence)
    times = []
    for answer in file.answers:
        host = evidence.hosts.get(answer.peer)
        if host and answer.number in asked:
            since = asked[answer.number] - DATAGRAM_MICROS
            datagram = _heard(evidence, host, since, answer.at + BYTES_MICROS)
            times.append(datagram.at if datagram else answer.at)
    return min(times, default=None)


def parse_address(text: str) -> tuple[str, int]:
    """`1.2.3.4:7443` or `[ff12::1%3]:7443`: address without scope, and port."""
    host, _, port = text.rpartition(":")
    return str(ipaddress.ip_address(host.strip("[]").partition("%")[0])), int(port)
