"""Nodes keep to their share of a processor, one that fetches and one that gives, and get everything all the same."""

import os
import time
from pathlib import Path

from lab import plain
from lab.case import Lab, say
from lab.command import expect
from lab.fleet import Node

BYTES = 64 << 20
PERCENT = 5
# What a process uses before its limit holds: its start, and a burst.
START_SECONDS = 0.3
SHARE_MIN = 0.5 * PERCENT / 100
SHARE_MAX = 1.4 * PERCENT / 100


def run(lab: Lab) -> None:
    fleet = lab.fleet()
    plain.publish(lab, fleet, BYTES)
    giver, taker = fleet.add_node("giver", 11), fleet.add_node("taker", 12)
    share = watch(giver, lambda: fetch(giver, "--cpu-limit", f"{PERCENT}%"))
    say(f"while it fetched, the giver used {share:.3f} of a processor")
    expect(share >= SHARE_MIN, "too little to tell")
    expect(share <= SHARE_MAX, "it used more than its share")
    share = watch(giver, lambda: fetch(taker))
    totals = taker.trace().totals
    say(f"while it gave, {share:.3f}; the taker has {totals}")
    expect(share <= SHARE_MAX, "it used more than its share")
    expect(sum(totals.values()) == BYTES, "not everything came")


def fetch(node: Node, *more: str) -> None:
    node.start(*more)
    node.await_state("converged")


def watch(node: Node, action) -> float:
    """The share of a processor that the agent used during `action`, but for its start."""
    before, began = used(node), time.monotonic()
    start = 0.0 if node.agent else START_SECONDS
    action()
    return max(0.0, used(node) - before - start) / (time.monotonic() - began)


def used(node: Node) -> float:
    if node.agent is None:
        return 0.0
    fields = Path(f"/proc/{node.agent.network_process}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
