"""The agent is killed while a step runs: the step goes on, and a new agent takes over where the old one was."""

from lab import slow
from lab.case import Lab
from lab.command import expect
from lab.slow import notes


def run(lab: Lab) -> None:
    _, node = slow.start(lab)
    node.kill_agent()
    slow.let_go(node)
    node.start(join=False)
    node.await_state("converged")
    expect(notes(node, "first") == ["done"], f"first: {notes(node, 'first')}")
    expect(notes(node, "slow") == ["begun", "done"], f"slow: {notes(node, 'slow')}")
    expect(notes(node, "last") == ["done"], f"last: {notes(node, 'last')}")
