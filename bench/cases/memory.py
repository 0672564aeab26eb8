"""Resident memory of server and agent, idle and at work, the program's size, and the CPU of an idle agent."""

from __future__ import annotations

import time

from lab.command import expect
from lab.fleet import Node
from rig import payload, usage
from rig.fleet import Fleet
from rig.room import Room
from rig.site import Sites
from rig.table import Figure

MIB = 1 << 20
IDLE_SECONDS = 10
FIGURES = (
    Figure("agent idle", "agent, joined, nothing assigned", "MiB", reach=20),
    Figure("agent after", "agent, 10 s after it has executed 128 MiB in 204 files", "MiB", reach=20),
    Figure("agent restarted", "agent, restarted with the release in place", "MiB", reach=20),
    Figure("agent peak", "agent, most while it fetches and gives", "MiB"),
    Figure("keeper idle", "keeper of an idle agent", "MiB"),
    Figure("server idle", "server, idle, nothing published", "MiB"),
    Figure("server after", "server, after publish and a fetch", "MiB"),
    Figure("server peak", "server, most while it takes and gives", "MiB"),
    Figure("publish peak", "`publish`, most", "MiB"),
    Figure("agent cpu", "CPU of an idle agent, per cent of a core", "%"),
    Figure("binary", "the program", "MiB"),
)


def title(_: str) -> str:
    return "resident memory (VmRSS, VmHWM)"


def measure(room: Room, _: str) -> dict[str, float]:
    published = payload.mixed(room.scratch("web-edge"), room.scale(128, 16) * MIB)
    fleet = Fleet(room.binary, Sites(), room.directory)
    first, second = (fleet.place(f"node{index}", 10 + index) for index in range(2))
    figures = {"binary": room.binary.stat().st_size / MIB}
    figures["server idle"] = usage.memory(fleet.server.pid)[0] / MIB
    for node in (first, second):
        fleet.launch(node, join=True)
    for node in (first, second):
        node.await_state("unassigned", "waiting")
    time.sleep(IDLE_SECONDS)
    figures["agent idle"] = usage.memory(_pid(first))[0] / MIB
    assert first.agent is not None
    figures["keeper idle"] = usage.memory(first.agent.pid)[0] / MIB
    before = usage.cpu(_pid(first)).own
    time.sleep(IDLE_SECONDS)
    figures["agent cpu"] = (usage.cpu(_pid(first)).own - before) / IDLE_SECONDS * 100

    publishing = fleet.host.start(
        "publish", room.scratch("publish.out"), room.binary, "--data", fleet.data, "publish", published.directory
    )
    peak = 0
    while publishing.running():
        try:
            peak = max(peak, usage.memory(publishing.pid)[1])
        except (OSError, KeyError):
            break  # It ended meanwhile.
        time.sleep(0.002)
    expect(publishing.wait(60) == 0, publishing.output())
    figures["publish peak"] = peak / MIB
    fleet.assign()
    fleet.await_marks([first, second], 120)
    for node in (first, second):
        fleet.document(node)
        fleet.check(node, published)
    time.sleep(IDLE_SECONDS)
    figures["agent after"], figures["agent peak"] = (each / MIB for each in usage.memory(_pid(first)))
    figures["server after"], figures["server peak"] = (each / MIB for each in usage.memory(fleet.server.pid))
    first.kill_agent()
    fleet.launch(first)
    first.await_state("converged")
    time.sleep(IDLE_SECONDS)
    figures["agent restarted"] = usage.memory(_pid(first))[0] / MIB
    return figures


def _pid(node: Node) -> int:
    expect(node.agent is not None and node.agent.running(), f"the agent of {node.name} does not run")
    assert node.agent is not None
    return node.agent.network_process
