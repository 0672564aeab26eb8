"""The next release of a large file of which little changed: what crosses the uplink of a site that has the last one."""

from __future__ import annotations

import time

from lab.command import expect
from rig import payload
from rig.fleet import Fleet
from rig.room import Room, say
from rig.site import Sites
from rig.table import Figure

UPLINK, LAN, NODES = 100, 1_000, 8
PLACES = 20
RATIO = 0.05
FIGURES = (
    Figure("uplink/changed", "bytes over the uplink, all 8 nodes / changed bytes", reach=1.5),
    Figure("origin/changed", "payload from the origin, by traces / changed bytes"),
    Figure("fetched/changed", "payload that a node fetched from anywhere, the worst / changed bytes"),
    Figure("one uplink/changed", "a node alone: bytes over the uplink / changed bytes", reach=1.5),
    Figure("last", "from `publish` having ended to the last node having executed", "s"),
    Figure("uploaded/changed", "bytes that `publish` uploaded / changed bytes"),
    Figure("others", "CPU that other work took"),
)


def title(_: str) -> str:
    return "96 MiB file, 5 % changed in 20 places, 1 Gbit/s each, uplink 100 Mbit/s"


def measure(room: Room, _: str) -> dict[str, float]:
    size = room.scale(96, 24) * payload.MIB
    figures: dict[str, float] = {}
    published = payload.single(room.scratch("web-edge"), size)
    sites = Sites(2, uplink=UPLINK, lan=LAN)
    fleet = Fleet(room.binary, sites, room.directory)
    crowd = [fleet.place(f"node{index}", 10 + index) for index in range(room.scale(NODES, 2))]
    alone = fleet.place("alone", 10, 1)
    fleet.publish(published)  # type: ignore[arg-type]
    fleet.assign()
    nodes = [*crowd, alone]
    for node in nodes:
        fleet.launch(node, join=True)
    fleet.await_marks(nodes, 300)
    changed = payload.change(published, "image.bin", RATIO, PLACES)
    # The last node's reports of the first release must not count for the second.
    for node in nodes:
        fleet.document(node)
    before = [sites.uplink_bytes(site) for site in range(2)]
    with room.others.watch():
        said = fleet.operate("publish", published.directory)
        began = time.time()
        # The script has not changed, so that it does not run: wait for what nodes report.
        fleet.await_release(nodes, 2, 300)
    uplinks = [sites.uplink_bytes(site) - first for site, first in enumerate(before)]
    say(f"publish said {said}")
    runs = []
    for node in nodes:
        fleet.check(node, published)
        runs.append(fleet.measure(node, began, release=2))
    expect(all(run.peers + run.origin for run in runs), "a node fetched nothing")
    figures["uplink/changed"] = uplinks[0] / changed
    figures["one uplink/changed"] = uplinks[1] / changed
    figures["origin/changed"] = sum(run.origin for run in runs[:-1]) / changed
    figures["fetched/changed"] = max(run.origin + run.peers for run in runs) / changed
    figures["last"] = max(run.executed for run in runs)
    figures["uploaded/changed"] = said["uploaded_bytes"] / changed
    return figures
