"""A halt keeps every step that has not started from starting; the one that runs ends, and `resume` goes on behind it."""

from lab import slow
from lab.case import Lab
from lab.command import expect
from lab.slow import notes


def run(lab: Lab) -> None:
    fleet, node = slow.start(lab)
    fleet.order("halt")
    # The node has to hear of it before its step ends.
    fleet.await_heard(node)
    slow.let_go(node)
    node.await_state("halted")
    expect(notes(node, "slow") == ["begun", "done"], f"slow: {notes(node, 'slow')}")
    expect(notes(node, "last") == [], "a step started in spite of the halt")
    fleet.order("resume")
    node.await_state("converged")
    expect(notes(node, "slow") == ["begun", "done"], f"slow: {notes(node, 'slow')}")
    expect(notes(node, "last") == ["done"], f"last: {notes(node, 'last')}")
