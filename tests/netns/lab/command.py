"""Programs that are run, awaited and ended."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")

POLL_SECONDS = 0.05


class Failure(Exception):
    """A case did not show what it is there to show."""


def expect(condition: object, message: str) -> None:
    """Fails the case unless `condition` holds. (`assert` vanishes under `python -O`.)"""
    if not condition:
        raise Failure(message)


def call(*argv: str | Path, seconds: float = 30, cwd: Path | None = None) -> str:
    """Runs a program to its end and returns what it printed; an exit code other than 0 fails the case."""
    done = attempt(*argv, seconds=seconds, cwd=cwd)
    if done.returncode != 0:
        line = " ".join(map(str, argv))
        raise Failure(f"`{line}` exited with {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout


def attempt(*argv: str | Path, seconds: float = 30, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Runs a program to its end, whatever its exit code."""
    try:
        return subprocess.run(
            [str(arg) for arg in argv],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=seconds,
            cwd=cwd,
            check=False,
        )
    except subprocess.TimeoutExpired as late:
        line = " ".join(map(str, argv))
        raise Failure(f"`{line}` took longer than {seconds} s") from late


def wait_until(what: str, seconds: float, probe: Callable[[], T | None]) -> T:
    """Asks `probe` again and again until it gives something true; fails the case after `seconds`."""
    deadline = time.monotonic() + seconds
    while True:
        found = probe()
        if found:
            return found
        if time.monotonic() > deadline:
            raise Failure(f"waited {seconds} s in vain: {what}")
        time.sleep(POLL_SECONDS)


class Process:
    """A program that goes on until it is ended. What it prints is in `log`."""

    def __init__(self, name: str, argv: Sequence[str | Path], log: Path) -> None:
        self.name = name
        self.log = log
        with log.open("ab") as out:
            self._child = subprocess.Popen(
                [str(arg) for arg in argv], stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True
            )

    @property
    def pid(self) -> int:
        return self._child.pid

    @property
    def network_process(self) -> int:
        """Of an agent: the process that does the work. The one that was started keeps it, and starts executing processes."""
        for status in Path("/proc").glob("[0-9]*/stat"):
            try:
                parent = int(status.read_text().rsplit(")", 1)[1].split()[1])
                if parent == self.pid and b"--network-process" in (status.parent / "cmdline").read_bytes():
                    return int(status.parent.name)
            except OSError:
                continue  # It ended meanwhile.
        raise Failure(f"{self.name} has no network process")

    def running(self) -> bool:
        return self._child.poll() is None

    def output(self) -> str:
        return self.log.read_text(errors="replace")

    def await_line(self, text: str, seconds: float) -> None:
        """Waits until the program has printed `text`; fails at once if it ends instead."""

        def probe() -> bool:
            if text in self.output():
                return True
            if not self.running():
                raise Failure(f"{self.name} ended before it said {text!r}")
            return False

        wait_until(f"{self.name} to say {text!r}", seconds, probe)

    def interrupt(self, seconds: float = 10) -> int:
        """Asks the program to end, as Ctrl-C does, and returns its exit code."""
        self._child.send_signal(signal.SIGINT)
        try:
            return self._child.wait(seconds)
        except subprocess.TimeoutExpired as late:
            self.kill()
            raise Failure(f"{self.name} did not end within {seconds} s of SIGINT") from late

    def wait(self, seconds: float) -> int:
        """Waits until the program ends by itself and returns its exit code."""
        try:
            return self._child.wait(seconds)
        except subprocess.TimeoutExpired as late:
            raise Failure(f"{self.name} did not end within {seconds} s") from late

    def kill(self) -> None:
        """Ends the program as a crash would."""
        self._child.kill()
        self._child.wait()
