"""A node loses power again and again, while it fetches, places and executes: in the end all is there once, and right."""

from __future__ import annotations

import random
import time

from cases.server_returns import IN_FLIGHT_BYTES_MAX, stored
from lab.case import Lab, same_roots, say
from lab.command import expect, wait_until

# Deaths while it fetches, and after that.
FETCHING = 6
EXECUTING = 10
COMPLETE = "everything is here and verified"


def run(lab: Lab) -> None:
    published = lab.payload()
    fleet = lab.fleet()
    fleet.host.shape(megabits=200)
    fleet.publish(published)
    fleet.assign()
    untouched = fleet.add_node("untouched", 20)
    untouched.start()
    untouched.await_state("converged")
    untouched.host.power_off()

    node = fleet.add_node("node1", 11)
    dice = random.Random(82)
    fleet.capture()
    node.start()
    lives: list[str] = []
    times = 3 if lab.large else 1

    def die() -> None:
        # Also if it has only just been started, and is not on its host yet.
        node.kill_agent()
        node.host.power_off()
        image = (node.root / "srv/image.bin").exists()
        pages = len(list((node.root / "srv/www").rglob("*.html")))
        placed = f"image {'' if image else 'not '}placed, {pages} pages, {len(node.mark_lines())} runs"
        lives.append(f"{stored(node) >> 20} MiB here, {placed}")
        node.start(join=not (node.data / "node.json").exists())

    for death in range(FETCHING * times):
        time.sleep(dice.uniform(0.05, 0.25) + 0.05 * death)
        die()
    for death in range(EXECUTING * times):
        here = node.log.read_text().count(COMPLETE)
        wait_until("everything to be here", 60, lambda: node.log.read_text().count(COMPLETE) > here)
        time.sleep(dice.uniform(0, 0.04) + 0.04 * (death % EXECUTING))
        die()
    node.await_state("converged")
    sent = fleet.wire().bytes("server", node.name)
    for life in lives:
        say(life)
    say(f"{published.bytes():,} bytes of payload, {sent:,} on the wire")
    expect(sent <= published.bytes() * 1.05 + len(lives) * IN_FLIGHT_BYTES_MAX, "much was fetched again")
    marks = node.mark_lines()
    # Once, and once more for each time that it was cut off between its line and the note that it ended.
    expect(1 <= len(marks) <= 1 + len(lives) // 3, f"the script ran {len(marks)} times")
    left = [str(path) for path in node.root.rglob("*") if "potluck" in path.name]
    expect(not left, f"left behind: {left}")
    for path in (untouched.root / "var/mark", node.root / "var/mark"):
        path.unlink()
    same_roots([untouched, node])
