"""5,000 files of 0.5 to 16 KiB: cold with 8 nodes, warm, and alone."""

from __future__ import annotations

from cases import alone, flash, warm
from rig import payload
from rig.room import Room
from rig.table import Figure

NODES = 8
VARIANTS = ("cold", "warm", "alone")
FIGURES = (
    Figure("last/ideal", "Potluck: last of 8 nodes executed / ideal", reach=1.35),
    Figure("uplink/payload", "Potluck: bytes over the uplink / payload"),
    Figure("complete/ideal", "Potluck: (last) node's last chunk verified / ideal"),
    Figure("executed/ideal", "Potluck: executed / ideal"),
    Figure("joining executed/ideal", "Potluck: from the join string to executed / ideal"),
    Figure("complete/curl", "Potluck: last chunk verified / curl"),
    Figure("complete/rsync", "Potluck: last chunk verified / rsync"),
    Figure("executed/rsync", "Potluck: executed / rsync"),
    Figure("complete/libtorrent", "Potluck: last chunk verified / libtorrent"),
    Figure("origin/payload", "Potluck: payload from the origin / payload"),
    Figure("curl/ideal", "curl / ideal"),
    Figure("curl-parallel/ideal", "curl --parallel / ideal"),
    Figure("rsync/ideal", "rsync daemon / ideal"),
    Figure("libtorrent/ideal", "libtorrent / ideal"),
    Figure("libtorrent last/ideal", "libtorrent: last node complete / ideal"),
    Figure("libtorrent uplink/payload", "libtorrent: bytes over the uplink / payload"),
    Figure("aria2 last/ideal", "aria2: last node complete / ideal"),
    Figure("aria2 uplink/payload", "aria2: bytes over the uplink / payload"),
    Figure("others", "CPU that other work took"),
)
DESCRIBED = {
    "cold": "8 nodes at once; ideal = payload / uplink rate",
    "warm": "one node joins four holders; ideal = payload / 1 Gbit/s",
    "alone": "one node and the server; ideal = payload / uplink rate",
}


def title(variant: str) -> str:
    return f"5,000 files of 0.5 to 16 KiB, 1 Gbit/s, uplink 100 Mbit/s, {DESCRIBED[variant]}"


def measure(room: Room, variant: str) -> dict[str, float]:
    published = payload.small(room.scratch("web-edge"), room.scale(5_000, 1_000))
    match variant:
        case "cold":
            return flash.crowd(room, "together", published, room.scale(NODES, 3))
        case "warm":
            return warm.join(room, published, servers=False)
        case _:
            figures = alone.compare(room, published)
            if room.wants("rsync"):
                for name in ("complete", "executed"):
                    figures[f"{name}/rsync"] = figures[name] / figures["rsync"]
            return figures
