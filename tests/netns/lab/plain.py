"""A configuration of random bytes, as many as a case needs: one large file and small ones."""

from __future__ import annotations

import random

from lab.case import Lab
from lab.fleet import Fleet

CONFIGURATION = '[[step]]\nid = "files"\nfile = "files"\ndest = "/srv"\n'
SMALL_BYTES = 24 << 10


def publish(lab: Lab, fleet: Fleet, size: int, name: str = "plain") -> None:
    """Publishes `size` bytes and assigns them to all: a quarter in small files, the rest in one."""
    dice = random.Random(size)
    directory = lab.directory / name
    (directory / "files").mkdir(parents=True)
    (directory / "configuration.toml").write_text(f'name = "{name}"\n\n{CONFIGURATION}')
    small = size // 4 // SMALL_BYTES
    for index in range(small):
        (directory / f"files/{index:04}").write_bytes(dice.randbytes(SMALL_BYTES))
    (directory / "files/large").write_bytes(dice.randbytes(size - small * SMALL_BYTES))
    fleet.order("publish", directory)
    fleet.order("assign", name, "--all")
