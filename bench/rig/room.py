"""What a round of a case is given."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from lab.command import Process, expect
from rig import usage

T = TypeVar("T")


@dataclass
class Room:
    """An empty world for one round: the program under test, and a directory in memory that vanishes with the round."""

    binary: Path
    directory: Path
    round: int
    quick: bool
    """Fewer nodes and bytes: for trying the harness, not for figures."""
    contenders: frozenset[str]
    """Names of other tools that are to run; Potluck always does."""
    others: usage.Others = field(default_factory=usage.Others)

    def scale(self, full: int, quick: int) -> int:
        return quick if self.quick else full

    def scratch(self, name: str) -> Path:
        """A path that does not exist yet."""
        return self.directory / name

    def wants(self, contender: str) -> bool:
        return contender in self.contenders

    def in_turn(self, runs: Sequence[Callable[[], T]]) -> list[T]:
        """Runs all, each round beginning with another one; results are in the order of `runs`."""
        results: dict[int, T] = {}
        for offset in range(len(runs)):
            index = (offset + self.round) % len(runs)
            results[index] = runs[index]()
        return [results[index] for index in range(len(runs))]

    def timed(self, start: Callable[[], Process], seconds: float = 600) -> float:
        """Seconds from the start of a program to its end. An exit code other than 0 fails the round."""
        with self.others.watch():
            began = time.time()
            process = start()
            code = process.wait(seconds)
            took = time.time() - began
        expect(code == 0, f"{process.name} exited with {code}\n{process.output()[-2000:]}")
        return took

    def clear(self, directory: Path) -> None:
        shutil.rmtree(directory, ignore_errors=True)


def say(text: str) -> None:
    """A line for the log of the round."""
    print(f"    {text}", flush=True)
