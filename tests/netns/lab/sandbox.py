"""A world of its own for a case: user, mount, network and process namespaces that need no root.

Everything in it dies with its first process, so that nothing is left behind however a case ends.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

UNSHARE = (
    "unshare",
    "--user",
    "--map-root-user",
    "--net",
    "--mount",
    "--pid",
    "--fork",
    "--mount-proc",
    "--kill-child=SIGKILL",
)


def run_inside(argv: Sequence[str | Path], log: Path, seconds: float) -> int | None:
    """Runs a program in new namespaces and returns its exit code, or None if it had to be killed after `seconds`."""
    with log.open("wb") as out:
        child = subprocess.Popen(
            [*UNSHARE, *map(str, argv)], stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT
        )
    try:
        return child.wait(seconds)
    except subprocess.TimeoutExpired:
        return None
    finally:
        child.kill()
        child.wait()


def furnish() -> None:
    """Inside: a place for the names of network namespaces, and a loopback interface that works."""
    # `/run` may be read-only or owned by somebody else; in here an empty one does.
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", "/run"], check=True)
    os.mkdir("/run/netns")
    # Process ids are small in here and come again; names that are made of them (faketime's) must not meet those of other runs.
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", "/dev/shm"], check=True)
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
