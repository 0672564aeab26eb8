"""What is moved: directories of bytes that do not compress, the same in each run, and whether they arrived."""

from __future__ import annotations

import filecmp
import random
from dataclasses import dataclass
from pathlib import Path

MIB = 1 << 20
CONTENT = "content"
MARK = "mark.sh"
PLACED = Path("srv/content")
MARKED = Path("var/mark")

CONFIGURATION = """\
name = "web-edge"

[[step]]
id = "content"
file = "content"
dest = "/srv/content"

[[step]]
id = "mark"
run = "mark.sh"
"""

# The last step. The file that it leaves behind tells the harness that all is done, without asking anybody.
MARK_SCRIPT = """\
#!/bin/sh
set -eu
mkdir -p "$POTLUCK_ROOT/var"
echo "$POTLUCK_RELEASE" >"$POTLUCK_ROOT/var/mark"
"""


@dataclass(frozen=True)
class Payload:
    """A directory that Potluck can publish. `content` below it is what everybody moves."""

    directory: Path
    paths: tuple[str, ...]
    """Below `content`."""
    bytes: int

    @property
    def content(self) -> Path:
        return self.directory / CONTENT

    def different(self, there: Path) -> list[str]:
        """Paths that `there` lacks, or has with other bytes."""
        _, wrong, missing = filecmp.cmpfiles(self.content, there, self.paths, shallow=False)
        return sorted([*wrong, *missing])


def mixed(directory: Path, total: int = 128 * MIB, seed: int = 82) -> Payload:
    """204 files with the script: one of 3/8 of the bytes, three of 1/8 each, and 199 small ones of 2 to 1,000 KiB."""
    dice = random.Random(seed)
    sizes = {"image.bin": total * 3 // 8} | {f"volume-{index}.bin": total // 8 for index in range(3)}
    rest = total - sum(sizes.values())
    weights = [2 ** dice.uniform(1, 10) for _ in range(199)]
    small = [int(rest * weight / sum(weights)) for weight in weights]
    small[0] += rest - sum(small)
    sizes |= {f"site/{index % 7}/page-{index:03}.html": size for index, size in enumerate(small)}
    return _write(directory, sizes, dice)


def small(directory: Path, count: int = 5_000, seed: int = 83) -> Payload:
    """Files of 0.5 to 16 KiB, their sizes spread evenly over the powers of two."""
    dice = random.Random(seed)
    sizes = {f"{index % 50:02}/{index:05}.conf": int(2 ** dice.uniform(9, 14)) for index in range(count)}
    return _write(directory, sizes, dice)


def single(directory: Path, size: int, seed: int = 84) -> Payload:
    """One file."""
    return _write(directory, {"image.bin": size}, random.Random(seed))


def change(payload: Payload, path: str, ratio: float, places: int, seed: int = 85) -> int:
    """Overwrites `ratio` of a file in so many places that lie apart, and returns how many bytes that were."""
    dice = random.Random(seed)
    file = payload.content / path
    size = file.stat().st_size
    run = int(size * ratio / places)
    with file.open("r+b") as out:
        for place in range(places):
            first = place * (size // places)
            out.seek(first + dice.randrange(size // places - run))
            out.write(dice.randbytes(run))
    return run * places


def _write(directory: Path, sizes: dict[str, int], dice: random.Random) -> Payload:
    for path, size in sizes.items():
        file = directory / CONTENT / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(dice.randbytes(size))
    (directory / "configuration.toml").write_text(CONFIGURATION)
    (directory / MARK).write_text(MARK_SCRIPT)
    return Payload(directory, tuple(sorted(sizes)), sum(sizes.values()))
