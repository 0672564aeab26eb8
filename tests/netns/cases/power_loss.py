"""Everything on a node dies while a step runs: it says so, and goes on behind the last step that was done."""

from lab import slow
from lab.case import Lab, say
from lab.command import expect, wait_until
from lab.slow import notes


def run(lab: Lab) -> None:
    fleet, node = slow.start(lab)
    node.host.power_off()
    expect(notes(node, "slow") == ["begun"], f"slow: {notes(node, 'slow')}")
    node.start(join=False)
    wait_until("the slow step to begin again", 60, lambda: notes(node, "slow") == ["begun", "begun"])
    slow.let_go(node)
    node.await_state("converged")
    expect(notes(node, "first") == ["done"], f"first ran again: {notes(node, 'first')}")
    expect(notes(node, "slow") == ["begun", "begun", "done"], f"slow: {notes(node, 'slow')}")
    expect(notes(node, "last") == ["done"], f"last: {notes(node, 'last')}")
    logs = fleet.order("logs", node.id)
    told = [line for line in logs.splitlines() if "interrupted" in line]
    expect(told, f"nobody said that a step was interrupted:\n{logs}")
    say(f"said: {told[0].strip()}")
