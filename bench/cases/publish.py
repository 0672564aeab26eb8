"""Publishing to a server on the same machine, against tools that only hash or copy the same files."""

from __future__ import annotations

from pathlib import Path

from lab.command import Process
from rig import payload
from rig.fleet import Fleet
from rig.room import Room
from rig.site import Sites
from rig.table import Figure

FIGURES = (
    Figure("publish/b3sum", "`publish`, everything is new / b3sum"),
    Figure("publish/b3sum-single", "`publish`, everything is new / b3sum --num-threads 1"),
    Figure("publish/sha256sum", "`publish`, everything is new / sha256sum"),
    Figure("publish/cp", "`publish`, everything is new / cp -r"),
    Figure("again/b3sum", "`publish`, nothing has changed / b3sum"),
    Figure("publish", "`publish`, everything is new", "s"),
    Figure("again", "`publish`, nothing has changed", "s"),
    Figure("b3sum", "b3sum", "s"),
    Figure("b3sum-single", "b3sum --num-threads 1", "s"),
    Figure("sha256sum", "sha256sum", "s"),
    Figure("cp", "cp -r", "s"),
    Figure("others", "CPU that other work took"),
)


def title(_: str) -> str:
    return "512 MiB in 204 files, the server on the same machine"


def measure(room: Room, _: str) -> dict[str, float]:
    published = payload.mixed(room.scratch("web-edge"), room.scale(512, 32) * payload.MIB)
    fleet = Fleet(room.binary, Sites(), room.directory)
    files = [published.content / path for path in published.paths]
    figures: dict[str, float] = {}

    def run(name: str, *argv: str | Path) -> None:
        log = room.scratch(f"{name}.out")
        figures[name] = room.timed(lambda: Process(name, fleet.host.inside(*argv), log))

    def publish() -> None:
        publishing = (room.binary, "--data", fleet.data, "publish", published.directory)
        run("publish", *publishing)
        run("again", *publishing)

    room.in_turn(
        [
            publish,
            lambda: run("b3sum", "b3sum", *files),
            lambda: run("b3sum-single", "b3sum", "--num-threads", "1", *files),
            lambda: run("sha256sum", "sha256sum", *files),
            lambda: run("cp", "cp", "-r", published.content, room.scratch("copy")),
        ]
    )
    for name in ("b3sum", "b3sum-single", "sha256sum", "cp"):
        figures[f"publish/{name}"] = figures["publish"] / figures[name]
    figures["again/b3sum"] = figures["again"] / figures["b3sum"]
    return figures
