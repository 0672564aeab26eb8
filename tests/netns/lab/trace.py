"""`potluck trace NODE --json`, parsed strictly: a field that is missing or of another kind is an error."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

HELD, ORIGIN = "held", "origin"


class BadTrace(Exception):
    """The document does not have the shape of a trace."""


@dataclass(frozen=True)
class Fetch:
    """The node asked the server for its list."""

    at: int
    cause: str


@dataclass(frozen=True)
class Request:
    """An existence request that named the file."""

    number: int
    at: int
    to: str
    interface: str | None


@dataclass(frozen=True)
class Answer:
    """A peer said that it has the file, or is fetching it."""

    number: int
    at: int
    peer: str
    address: str
    state: str


@dataclass(frozen=True)
class Range:
    """Bytes of the file, and where they came from: `held`, `origin`, or a node's id."""

    offset: int
    length: int
    source: str
    why: str
    at: int


@dataclass(frozen=True)
class File:
    path: str
    size: int
    digest: str
    requests: tuple[Request, ...]
    answers: tuple[Answer, ...]
    ranges: tuple[Range, ...]
    chunk_list: tuple[Range, ...]
    """Where the bytes of its chunk list came from, if it has one."""


@dataclass(frozen=True)
class Step:
    id: str
    outcome: str
    message: str


@dataclass(frozen=True)
class Trace:
    node: str
    list_digest: str
    configuration: str
    release: int
    fetches: tuple[Fetch, ...]
    list_requests: tuple[Request, ...]
    """Existence requests for the list itself: peers that know it answer at once for its files."""
    list_ranges: tuple[Range, ...]
    """Where the bytes of the list itself came from."""
    files: tuple[File, ...]
    steps: tuple[Step, ...]
    totals: dict[str, int]
    """Bytes by `held`, `peers` and `origin`."""
    recap: dict[str, int]

    def captured_until(self, end: int) -> Trace:
        """Without the requests for the list of which a capture that ended at `end` could not show anything."""
        return replace(self, fetches=tuple(fetch for fetch in self.fetches if fetch.at <= end))

    def contents(self) -> list[File]:
        """One file for each different content: equal files are fetched once."""
        return list({file.digest: file for file in self.files}.values())

    def bytes_by_source(self) -> dict[str, int]:
        sums: dict[str, int] = {}
        for file in self.contents():
            for part in file.ranges:
                sums[part.source] = sums.get(part.source, 0) + part.length
        return sums


def parse(document: Any) -> Trace:
    try:
        totals = document["totals"]
        return Trace(
            node=_text(document["node"]),
            list_digest=_text(document["list"]),
            configuration=_text(document["configuration"]),
            release=_number(document["release"]),
            fetches=tuple(Fetch(_number(each["at"]), _text(each["cause"])) for each in document["list_fetches"]),
            list_requests=_requests(document["list_content"]["requests"]),
            list_ranges=_ranges(document["list_content"]["ranges"]),
            files=tuple(map(_file, document["files"])),
            steps=tuple(
                Step(_text(each["id"]), _text(each["outcome"]), each.get("message") or "") for each in document["steps"]
            ),
            totals={
                "held": _number(totals["held_bytes"]),
                "peers": _number(totals["peer_bytes"]),
                "origin": _number(totals["origin_bytes"]),
            },
            recap={key: _number(value) for key, value in document["recap"].items()},
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise BadTrace(f"{type(error).__name__}: {error}") from error


def _file(each: Any) -> File:
    return File(
        path=_text(each["path"]),
        size=_number(each["size"]),
        digest=_text(each["digest"]),
        requests=_requests(each["requests"]),
        answers=tuple(
            Answer(_number(one["request"]), _number(one["at"]), _text(one["peer"]), _text(one["from"]),
                   _text(one["state"]))
            for one in each["answers"]
        ),
        ranges=_ranges(each["ranges"]),
        chunk_list=_ranges(each["chunk_list"]),
    )  # fmt: skip


def _requests(each: Any) -> tuple[Request, ...]:
    return tuple(
        Request(_number(one["request"]), _number(one["at"]), _text(one["to"]), one.get("interface")) for one in each
    )


def _ranges(each: Any) -> tuple[Range, ...]:
    return tuple(
        Range(
            _number(one["offset"]), _number(one["len"]), _source(one["source"]), _text(one["why"]), _number(one["at"])
        )
        for one in each
    )


def _source(value: Any) -> str:
    if value in (HELD, ORIGIN):
        return str(value)
    return _text(value["peer"])


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is no text")
    return value


def _number(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{value!r} is no whole number")
    return value
