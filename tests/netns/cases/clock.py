"""Clocks that are a day off, one behind and one ahead: the nodes join, converge, share, and say by how much it is wrong."""

from __future__ import annotations

import shutil

from lab.case import Lab, same_roots, say
from lab.command import expect


def run(lab: Lab) -> None:
    expect(shutil.which("faketime"), "faketime is not installed (Debian: faketime)")
    published = lab.payload()
    fleet = lab.fleet()
    fleet.publish(published)
    fleet.assign()
    nodes = []
    for number, (name, offset, word) in enumerate((("behind", "-1d", "behind"), ("ahead", "+1d", "ahead of"))):
        node = fleet.add_node(name, 11 + number)
        # What counts seconds since the start is not what people set.
        node.start(under=("env", "FAKETIME_DONT_FAKE_MONOTONIC=1", "faketime", "-f", offset))
        node.await_state("converged")
        told = [line for line in node.log.read_text().splitlines() if "this machine's clock is" in line]
        expect(len(told) == 1 and f"1d {word}" in told[0], f"{name} said of its clock: {told}")
        say(told[0].split("ERROR")[-1].strip())
        nodes.append(node)
    right = fleet.add_node("right", 20)
    right.start()
    right.await_state("converged")
    expect("this machine's clock" not in right.log.read_text(), "a clock that is right was blamed")
    totals = right.trace().totals
    say(f"from nodes whose clocks are wrong: {totals}")
    expect(totals["peers"] >= 0.99 * published.bytes(), "nodes with other clocks are no peers")
    same_roots([*nodes, right])
