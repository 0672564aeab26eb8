"""`agent --once` executes what is designated, changes nothing the second time, and its exit code says so."""

from __future__ import annotations

from lab import payload
from lab.case import Lab, say
from lab.command import attempt, expect
from lab.fleet import Fleet, Node

# docs/operating.md
CONVERGED, CHANGED, UNASSIGNED = 0, 2, 3


def run(lab: Lab) -> None:
    published = lab.payload()
    fleet = lab.fleet()
    node = fleet.add_node("node1", 11)
    _once(fleet, node, UNASSIGNED, "--join", fleet.join_string())

    fleet.publish(published)
    fleet.assign()
    _once(fleet, node, CHANGED)
    before = _stamps(node)
    told = _once(fleet, node, CONVERGED)
    expect("changed=0 unchanged=4 failed=0" in told, f"the second run said:\n{told}")
    expect(_stamps(node) == before, "the second run touched files")
    expect(len(node.mark_lines()) == 1, "the script ran twice")

    # One file of the next release is new: it alone is fetched, and its step alone changes something.
    page = published.directory / "site/0/page-000.html"
    page.write_text("another page\n")
    fleet.publish(published)
    told = _once(fleet, node, CHANGED)
    expect("changed=1 unchanged=3 failed=0" in told, f"the run of the next release said:\n{told}")
    expect(payload.sha256(node.root / "srv/www/0/page-000.html") == payload.sha256(page), "the page is not the new one")
    totals = node.trace().totals
    expect(totals["origin"] + totals["peers"] == page.stat().st_size, f"more than the new page was fetched: {totals}")
    say(f"next release: {totals}")

    fleet.order("unassign", "web-edge")
    _once(fleet, node, UNASSIGNED)
    expect((node.root / "srv/www/0/page-000.html").exists(), "unassigning took files away")


def _once(fleet: Fleet, node: Node, code: int, *more: str) -> str:
    """Runs the agent once and returns what it printed."""
    done = attempt(
        *node.host.inside(fleet.binary, "agent", "--data", node.data, "--root", node.root),
        "--once", "--detailed-exit-code", *more,
        seconds=90,
    )  # fmt: skip
    node.log.open("a").write(done.stdout + done.stderr)
    expect(done.returncode == code, f"exit code {done.returncode}, not {code}:\n{done.stdout}{done.stderr}")
    return done.stdout + done.stderr


def _stamps(node: Node) -> dict[str, tuple[int, int]]:
    """Inode and time of each file: what is written again has others."""
    files = (path for path in node.root.rglob("*") if path.is_file())
    return {str(path): (path.stat().st_ino, path.stat().st_mtime_ns) for path in files}
