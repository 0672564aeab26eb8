"""Nodes that may have no more than 64 files open, one of them besieged by connections that say nothing: all converge."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from lab.case import Lab, same_roots, say, verify
from lab.command import expect, wait_until

LIMIT = ("prlimit", "--nofile=64:64")
SIEGE = 60
# Connections that never say a word.
BESIEGE = """
import socket, sys, time
connections = [socket.create_connection((sys.argv[1], int(sys.argv[2]))) for _ in range(int(sys.argv[3]))]
print("besieged", flush=True)
time.sleep(600)
"""
# A loop that does nothing but fail to accept takes the whole of it.
CPU_SHARE_MAX = 0.6
PEER_PORT = 7443


def run(lab: Lab) -> None:
    published = lab.payload()
    fleet = lab.fleet()
    fleet.publish(published)
    fleet.assign()
    nodes = [fleet.add_node(f"node{index}", 10 + index) for index in (1, 2, 3)]
    for node in nodes[:2]:
        node.start(under=LIMIT)
    for node in nodes[:2]:
        node.await_state("converged")

    besieged = nodes[0]
    pid = next(pid for pid in besieged.host.processes() if b"agent" in Path(f"/proc/{pid}/cmdline").read_bytes())
    limits = Path(f"/proc/{pid}/limits").read_text()
    expect("Max open files            64" in limits, f"it has other limits:\n{limits}")
    siege = fleet.host.start(
        "siege", lab.directory / "siege.log", sys.executable, "-c", BESIEGE, besieged.host.ipv4, str(PEER_PORT), str(SIEGE)
    )
    siege.await_line("besieged", 30)
    newcomer = nodes[2]
    fleet.capture()
    before, began = cpu(pid), os.times().elapsed
    newcomer.start(under=LIMIT)
    newcomer.await_state("converged")
    wait_until("three seconds", 10, lambda: os.times().elapsed - began >= 3)
    share = (cpu(pid) - before) / (os.times().elapsed - began)
    say(f"{SIEGE} connections besieged it; it took {share:.0%} of a processor")
    expect(share < CPU_SHARE_MAX, "it spins")
    verify(lab.evidence(fleet, newcomer, fleet.wire(), published))
    same_roots(nodes)
    siege.kill()


def cpu(pid: int) -> float:
    """Seconds of processor time that a process has taken."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
