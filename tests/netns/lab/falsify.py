"""Lies that a trace could tell. The checker must notice every one of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

from lab.trace import HELD, ORIGIN, Answer, Fetch, File, Range, Request, Step, Trace

HOUR = 3_600_000_000


def lies(trace: Trace) -> Iterator[tuple[str, Trace]]:
    """False versions of a true trace of a node that took its largest file from peers."""
    large = max(trace.files, key=lambda file: file.size)
    peers = sorted({part.source for part in large.ranges} - {HELD, ORIGIN})

    def of_large(change: Callable[[File], File]) -> Trace:
        return _of(trace, lambda file: change(file) if file.path == large.path else file)

    def of_all(change: Callable[[File], File]) -> Trace:
        return _of(trace, change)

    def sources(change: Callable[[Range], Range]) -> Callable[[File], File]:
        return lambda file: replace(file, ranges=tuple(map(change, file.ranges)))

    for other in (HELD, ORIGIN):
        false = of_large(sources(lambda part, other=other: replace(part, source=other)))  # type: ignore[misc]
        yield f"the largest file came from {other}", false
        # Also where the totals agree with the lie.
        yield f"the largest file came from {other}, totals and all", _with_sums(false)
    for peer in peers[:1] if len(peers) > 1 else []:
        yield (
            "the largest file came from one peer alone",
            _with_sums(of_large(sources(lambda p: replace(p, source=peer)))),
        )
    yield "the largest file came from nobody known", of_large(sources(lambda part: replace(part, source="00" * 8)))
    yield "bytes came before they were sent", of_all(sources(lambda part: replace(part, at=trace.fetches[0].at)))
    yield "a range is missing", of_large(lambda file: replace(file, ranges=file.ranges[1:]))
    yield "a range came twice", of_large(lambda file: replace(file, ranges=file.ranges[:1] + file.ranges))
    yield "a file is missing", replace(trace, files=trace.files[1:])
    yield "a file was never published", replace(trace, files=(*trace.files, replace(large, path="other.bin")))
    yield "a file has another size", of_large(lambda file: replace(file, size=file.size + 1))
    yield "a total is too small", replace(trace, totals={**trace.totals, "peers": trace.totals["peers"] - 1})

    def requests(change: Callable[[Request], Request]) -> Trace:
        false = of_all(lambda file: replace(file, requests=tuple(map(change, file.requests))))
        return replace(false, list_requests=tuple(map(change, false.list_requests)))

    def answers(change: Callable[[Answer], Answer]) -> Trace:
        return of_all(lambda file: replace(file, answers=tuple(map(change, file.answers))))

    yield "nobody was asked", replace(of_all(lambda file: replace(file, requests=())), list_requests=())
    first = min((answer for file in trace.files for answer in file.answers), key=lambda answer: answer.at)
    yield (
        "only one peer was asked",
        replace(
            of_all(lambda file: replace(file, requests=tuple(r for r in file.requests if r.to == first.address))),
            list_requests=tuple(r for r in trace.list_requests if r.to == first.address),
        ),
    )
    yield "somebody was asked who was not", requests(lambda request: replace(request, to="10.82.0.250:7443"))
    yield "somebody was asked on no interface", requests(lambda request: replace(request, to="[fe80::1]:7443"))
    yield "it asked at another time", requests(lambda request: replace(request, at=request.at - HOUR))
    yield "a stranger answered", answers(lambda answer: replace(answer, peer="00" * 8))
    yield "answers came before the requests", answers(lambda answer: replace(answer, at=answer.at - HOUR))
    yield "nobody's request was answered", answers(lambda answer: replace(answer, number=answer.number + 1_000_000))
    yield "the list was never asked for", replace(trace, fetches=())
    yield (
        "the list was asked for at another time",
        replace(trace, fetches=tuple(Fetch(fetch.at - HOUR, fetch.cause) for fetch in trace.fetches)),
    )
    yield "a step is missing", replace(trace, steps=trace.steps[1:])
    yield "a step failed", replace(trace, steps=(Step(trace.steps[0].id, "failed", ""), *trace.steps[1:]))
    yield "the recap counts one more", replace(trace, recap={**trace.recap, "changed": trace.recap["changed"] + 1})


def _of(trace: Trace, change: Callable[[File], File]) -> Trace:
    return replace(trace, files=tuple(map(change, trace.files)))


def _with_sums(trace: Trace) -> Trace:
    sums = trace.bytes_by_source()
    held, origin = sums.pop(HELD, 0), sums.pop(ORIGIN, 0)
    return replace(trace, totals={"held": held, "origin": origin, "peers": sum(sums.values())})
