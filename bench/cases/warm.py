"""A node joins a site where four hold the release, against four libtorrent seeds, and against the server alone."""

from __future__ import annotations

from lab.command import expect
from rig import payload
from rig.fleet import Fleet
from rig.room import Room
from rig.site import Sites
from rig.swarm import Swarm
from rig.table import Figure
from rig.web import Web

UPLINK, LAN = 100, 1_000
HOLDERS = 4
FIGURES = (
    Figure("complete/ideal", "Potluck, joined before: last chunk verified / ideal", reach=1.12),
    Figure("executed/ideal", "Potluck, joined before: executed / ideal"),
    Figure("joining executed/ideal", "Potluck, from the join string to executed / ideal", reach=1.25),
    Figure("origin/payload", "Potluck: payload from the origin / payload", reach=0.0, always=True),
    Figure("uplink/payload", "Potluck: bytes over the uplink / payload"),
    Figure("libtorrent/ideal", "libtorrent, complete / ideal"),
    Figure("complete/libtorrent", "Potluck, last chunk verified / libtorrent"),
    Figure("curl/ideal", "curl from the server / ideal"),
    Figure("rsync/ideal", "rsync from the server / ideal"),
    Figure("others", "CPU that other work took"),
)


def title(_: str) -> str:
    return "four holders, 1 Gbit/s each, uplink 100 Mbit/s, 128 MiB in 204 files; ideal = payload / 1 Gbit/s"


def measure(room: Room, _: str) -> dict[str, float]:
    published = payload.mixed(room.scratch("web-edge"), room.scale(128, 32) * payload.MIB)
    return join(room, published)


def join(room: Room, published: payload.Payload, *, servers: bool = True) -> dict[str, float]:
    """One newcomer after another; `servers`: also those that have to load from the server."""
    sites = Sites(uplink=UPLINK, lan=LAN)
    fleet = Fleet(room.binary, sites, room.directory)
    ideal = published.bytes * 8 / (LAN * 1e6)
    figures: dict[str, float] = {}
    joined = fleet.place("joined", 20)
    newcomer = fleet.place("newcomer", 21)
    fleet.join_all([joined])
    fleet.publish(published)  # type: ignore[arg-type]
    fleet.assign()
    holders = [fleet.place(f"holder{index}", 10 + index) for index in range(HOLDERS)]
    for holder in holders:
        fleet.launch(holder, join=True)
    fleet.await_marks(holders, 120)

    def potluck(prefix: str) -> None:
        node = newcomer if prefix else joined
        before = sites.uplink_bytes()
        with room.others.watch():
            fleet.launch(node, join=bool(prefix))
            fleet.await_marks([node], 120)
        uplink = sites.uplink_bytes() - before
        run = fleet.measure(node)
        fleet.check(node, published)
        node.host.power_off()
        figures[f"{prefix}complete/ideal"] = run.complete / ideal
        figures[f"{prefix}executed/ideal"] = run.executed / ideal
        figures["origin/payload"] = max(figures.get("origin/payload", 0), run.origin / published.bytes)
        figures["uplink/payload"] = max(figures.get("uplink/payload", 0), uplink / published.bytes)
        room.clear(node.root)

    def libtorrent() -> None:
        swarm = Swarm("libtorrent", fleet.host, published, room.scratch("libtorrent"))
        for index in range(HOLDERS):
            swarm.seed(sites.add_host(f"seed{index}", 40 + index), published.directory)
        host = sites.add_host("leecher", 50)
        into = room.scratch("libtorrent-files")
        with room.others.watch():
            began = swarm.fetch(host, into)
            took = swarm.finished(host, 120) - began
        swarm.stop()
        swarm.check(into)
        figures["libtorrent/ideal"] = took / ideal

    def download(name: str) -> None:
        web = Web(fleet.host, published, room.scratch(f"web-{name}"))
        host = sites.add_host(name, 60 + len(name))
        into = room.scratch(f"{name}-files")
        figures[f"{name}/ideal"] = room.timed(lambda: web.curl(host, into) if name == "curl" else web.rsync(host, into)) / ideal
        web.stop()
        wrong = published.different(into)
        expect(not wrong, f"{name}: differs in {wrong[:5]}")

    tools = [name for name in ("curl", "rsync") if servers and room.wants(name)]
    room.in_turn(
        [
            lambda: potluck(""),
            *([libtorrent] if room.wants("libtorrent") else []),
            lambda: potluck("joining "),
            *((lambda name=name: download(name)) for name in tools),
        ]
    )
    if "libtorrent/ideal" in figures:
        figures["complete/libtorrent"] = figures["complete/ideal"] / figures["libtorrent/ideal"]
    return figures
