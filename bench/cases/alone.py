"""A node that nobody else can help, against curl and rsync from the same server over the same link."""

from __future__ import annotations

from lab.command import expect
from rig import payload
from rig.fleet import Fleet
from rig.room import Room
from rig.site import Sites
from rig.table import Figure
from rig.web import Web

UPLINK = 100
FIGURES = (
    Figure("complete/curl", "Potluck, last chunk verified / curl", reach=1.05),
    Figure("executed/curl", "Potluck, executed / curl"),
    Figure("once/curl", "Potluck, `agent --once` from start to exit / curl"),
    Figure("complete/ideal", "Potluck, last chunk verified / ideal"),
    Figure("executed/ideal", "Potluck, executed / ideal"),
    Figure("curl/ideal", "curl / ideal"),
    Figure("curl-parallel/ideal", "curl --parallel / ideal"),
    Figure("rsync/ideal", "rsync daemon, no encryption / ideal"),
    Figure("uplink/payload", "Potluck: bytes over the uplink / payload"),
    Figure("curl uplink/payload", "curl: bytes over the uplink / payload"),
    Figure("others", "CPU that other work took"),
)


def title(_: str) -> str:
    return "one node, uplink 100 Mbit/s, 128 MiB in 204 files; ideal = payload / uplink rate"


def measure(room: Room, _: str) -> dict[str, float]:
    published = payload.mixed(room.scratch("web-edge"), room.scale(128, 16) * payload.MIB)
    return compare(room, published)


def compare(room: Room, published: payload.Payload) -> dict[str, float]:
    """All contenders, one after another, each on its own machine."""
    sites = Sites(uplink=UPLINK)
    fleet = Fleet(room.binary, sites, room.directory)
    web = Web(fleet.host, published, room.scratch("web"))
    ideal = published.bytes * 8 / (UPLINK * 1e6)
    figures: dict[str, float] = {}
    node = fleet.place("potluck", 10)
    fleet.join_all([node])
    fleet.publish(published)  # type: ignore[arg-type]
    fleet.assign()

    def potluck() -> None:
        before = sites.uplink_bytes()

        def start():  # type: ignore[no-untyped-def]
            fleet.launch(node, once=True)
            return node.agent

        figures["once"] = room.timed(start)
        figures["uplink/payload"] = (sites.uplink_bytes() - before) / published.bytes
        run = fleet.measure(node)
        fleet.check(node, published)
        expect(run.peers == 0, "peers helped a node that is alone")
        figures.update(complete=run.complete, executed=run.executed)

    def download(name: str) -> None:
        host = sites.add_host(name, {"curl": 20, "curl-parallel": 21, "rsync": 22}[name])
        into = room.scratch(f"{name}-files")
        before = sites.uplink_bytes()
        if name == "rsync":
            figures[name] = room.timed(lambda: web.rsync(host, into))
        else:
            figures[name] = room.timed(lambda: web.curl(host, into, parallel=name == "curl-parallel"))
        figures[f"{name} uplink/payload"] = (sites.uplink_bytes() - before) / published.bytes
        wrong = published.different(into)
        expect(not wrong, f"{name}: differs in {wrong[:5]}")
        room.clear(into)

    tools = [name for name in ("curl", "curl-parallel", "rsync") if room.wants(name)]
    room.in_turn([potluck, *((lambda name=name: download(name)) for name in tools)])
    for name in ("complete", "executed", "once", *tools):
        figures[f"{name}/ideal"] = figures[name] / ideal
        if "curl" in figures and name != "curl":
            figures[f"{name}/curl"] = figures[name] / figures["curl"]
    return figures
