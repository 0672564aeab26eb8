"""The configuration that the cases publish: 32 MiB in 100 files, one of them of 16 MiB; the same bytes each time."""

from __future__ import annotations

import hashlib
import io
import random
import tarfile
from dataclasses import dataclass
from pathlib import Path

MIB = 1 << 20
LARGE_BYTES = 16 * MIB
SMALL_FILES = 96
ARCHIVED_FILES = 12

CONFIGURATION = """\
name = "web-edge"

[[step]]
id = "image"
file = "image.bin"
dest = "/srv/image.bin"

[[step]]
id = "site"
file = "site"
dest = "/srv/www"

[[step]]
id = "unpack"
archive = "data.tar.gz"
dest = "/srv/data"

[[step]]
id = "mark"
run = "mark.sh"
needs = ["site"]
"""

# What the step leaves behind shows that the very script of the release ran, where, and how often.
MARK = """\
#!/bin/sh
set -eu
mkdir -p "$POTLUCK_ROOT/var"
echo "$POTLUCK_CONFIGURATION $POTLUCK_RELEASE $(sha256sum <"$0" | cut -d' ' -f1)" >>"$POTLUCK_ROOT/var/mark"
echo "marked $POTLUCK_NODE"
"""


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@dataclass(frozen=True)
class Placed:
    """A file of the release that ends up at a path under the root."""

    path: str


@dataclass(frozen=True)
class Unpacked:
    """An archive, and where its files end up: path under the root and SHA-256 of each."""

    files: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Executed:
    """A script, and the file to which it adds a line with its own SHA-256."""

    mark: str


Fate = Placed | Unpacked | Executed


@dataclass(frozen=True)
class Payload:
    """A published directory and what is to become of each of its files."""

    directory: Path
    fates: dict[str, Fate]
    """By path in the directory; `configuration.toml` itself is not part of a release."""
    steps: tuple[str, ...]

    def size(self, path: str) -> int:
        return (self.directory / path).stat().st_size

    def bytes(self) -> int:
        """Bytes of the different contents: what one node has to get."""
        return sum({sha256(self.directory / path): self.size(path) for path in self.fates}.values())


def make(directory: Path, seed: int = 82) -> Payload:
    """Writes the configuration into a new directory. Another seed gives other bytes at the same paths."""
    dice = random.Random(seed)
    fates: dict[str, Fate] = {}

    def write(path: str, data: bytes, fate: Fate) -> None:
        file = directory / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)
        fates[path] = fate

    directory.mkdir(parents=True)
    (directory / "configuration.toml").write_text(CONFIGURATION)
    write("image.bin", dice.randbytes(LARGE_BYTES), Placed("srv/image.bin"))
    for index in range(SMALL_FILES):
        # From some bytes to half a MiB, most of them small.
        size = int(2 ** dice.uniform(5, 19)) if index % 2 else dice.randrange(150_000, 400_000)
        path = f"site/{index % 7}/page-{index:03}.html"
        write(path, dice.randbytes(size), Placed(f"srv/www/{path.removeprefix('site/')}"))
    archive, unpacked = _archive(dice)
    write("data.tar.gz", archive, Unpacked(unpacked))
    write("mark.sh", MARK.encode(), Executed("var/mark"))
    return Payload(directory, fates, ("image", "site", "unpack", "mark"))


def _archive(dice: random.Random) -> tuple[bytes, tuple[tuple[str, str], ...]]:
    buffer = io.BytesIO()
    files = []
    with tarfile.open(fileobj=buffer, mode="w:gz", compresslevel=1) as archive:
        for index in range(ARCHIVED_FILES):
            data = dice.randbytes(64 << 10)
            info = tarfile.TarInfo(f"part/{index:02}.dat")
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
            files.append((f"srv/data/part/{index:02}.dat", hashlib.sha256(data).hexdigest()))
    return buffer.getvalue(), tuple(files)


def is_done(fate: Fate, source: Path, root: Path) -> str | None:
    """Whether a file of the release has met its fate under `root`: None, or what is wrong."""
    match fate:
        case Placed(path):
            return _same(root / path, sha256(source))
        case Unpacked(files):
            wrong = (_same(root / path, digest) for path, digest in files)
            return next(filter(None, wrong), None)
        case Executed(mark):
            lines = (root / mark).read_text().splitlines() if (root / mark).exists() else []
            if not any(line.endswith(sha256(source)) for line in lines):
                return f"{source.name} left no mark in {mark}"
            return None


def _same(path: Path, digest: str) -> str | None:
    if not path.is_file():
        return f"{path} is not there"
    if sha256(path) != digest:
        return f"{path} has other bytes"
    return None
