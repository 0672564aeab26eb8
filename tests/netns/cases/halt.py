"""A halt keeps steps from starting; the one that runs ends, and `resume` goes on behind it."""

import time

from lab import slow
from lab.case import Lab
from lab.command import expect
from lab.slow import notes

# A node learns within a second of what changes for it; it has to have heard before its step ends.
HEARD_SECONDS = 2


def run(lab: Lab) -> None:
    fleet, node = slow.start(lab)
    fleet.order("halt")
    time.sleep(HEARD_SECONDS)
    slow.let_go(node)
    node.await_state("halted")
    expect(notes(node, "slow") == ["begun", "done"], f"slow: {notes(node, 'slow')}")
    expect(notes(node, "last") == [], "a step started in spite of the halt")
    fleet.order("resume")
    node.await_state("converged")
    expect(notes(node, "slow") == ["begun", "done"], f"slow: {notes(node, 'slow')}")
    expect(notes(node, "last") == ["done"], f"last: {notes(node, 'last')}")
