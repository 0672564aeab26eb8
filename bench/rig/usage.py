"""What processes cost: CPU seconds, resident memory, and how busy the rest of the machine was meanwhile."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

TICKS = os.sysconf("SC_CLK_TCK")
CORES = os.cpu_count() or 1


@dataclass(frozen=True)
class Cpu:
    """CPU seconds of a process, and of the children that it has waited for."""

    own: float
    children: float


def cpu(pid: int) -> Cpu:
    """Of a process that runs, or has ended and was not waited for."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    user, system, children_user, children_system = (int(field) / TICKS for field in fields[11:15])
    return Cpu(user + system, children_user + children_system)


def memory(pid: int) -> tuple[int, int]:
    """Resident bytes now, and the most that there were."""
    lines = (line.partition(":") for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    found = {name: value.split()[0] for name, _, value in lines if name in ("VmRSS", "VmHWM")}
    return int(found["VmRSS"]) << 10, int(found["VmHWM"]) << 10


def clear_peak(pid: int) -> None:
    """Forgets the most memory that there was until now."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")


def end_of(pid: int, seconds: float) -> Cpu:
    """Waits until a child has ended, and leaves it to its owner to be waited for."""
    deadline = time.monotonic() + seconds
    while os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT | os.WNOHANG) is None:
        if time.monotonic() > deadline:
            raise TimeoutError(f"process {pid} runs longer than {seconds} s")
        time.sleep(0.005)
    return cpu(pid)


def end_of_agent(keeper: int, network_process: int, seconds: float) -> Cpu:
    """Waits until an agent has ended: what its network process took, and what the executing process took."""
    deadline = time.monotonic() + seconds
    own = 0.0
    while os.waitid(os.P_PID, keeper, os.WEXITED | os.WNOWAIT | os.WNOHANG) is None:
        if time.monotonic() > deadline:
            raise TimeoutError(f"process {keeper} runs longer than {seconds} s")
        try:
            own = max(own, cpu(network_process).own)
        except OSError:
            pass  # It ended meanwhile.
        time.sleep(0.005)
    total = cpu(keeper)
    return Cpu(total.own + own, max(0.0, total.children - own))


class Others:
    """How much of the machine's CPU others took while something was measured: 0 to 1."""

    def __init__(self) -> None:
        self.share = 0.0

    @contextmanager
    def watch(self) -> Iterator[None]:
        busy, own, started = _busy(), _own(), time.monotonic()
        yield
        seconds = time.monotonic() - started
        others = (_busy() - busy) - (_own() - own)
        self.share = max(self.share, min(1.0, max(0.0, others / (seconds * CORES))))


def _busy() -> float:
    """CPU seconds of the whole machine."""
    user, nice, system, _, _, interrupt, soft, *_ = map(int, Path("/proc/stat").read_text().split("\n")[0].split()[1:])
    return (user + nice + system + interrupt + soft) / TICKS


def _own() -> float:
    """CPU seconds of all processes of this world, also of those that have ended and were waited for."""
    total = 0.0
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                each = cpu(int(entry.name))
            except OSError:
                continue  # It ended meanwhile: its parent has its time.
            total += each.own + each.children
    return total
