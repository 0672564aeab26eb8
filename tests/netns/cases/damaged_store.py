"""Bytes rot in a peer's store, are cut off and deleted: nobody is given them, and the peer fetches them again."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from lab.case import Lab, same_roots, say, verify, warm_up
from lab.command import expect, wait_until
from lab.fleet import Node


def run(lab: Lab) -> None:
    published = lab.payload()
    fleet = lab.fleet()
    fleet.publish(published)
    fleet.assign()
    holder = warm_up(fleet, 1)[0]
    say(f"damaged: {rot(holder, flip, cut)}")

    newcomer = fleet.add_node("newcomer", 50)
    fleet.capture()
    newcomer.start()
    newcomer.await_state("converged")
    evidence = lab.evidence(fleet, newcomer, fleet.wire(), published)
    verify(evidence)
    totals = evidence.trace.totals
    say(f"the newcomer's trace: {totals}")
    expect(totals["peers"] > 0, "the peer was not asked for what is good")
    expect(totals["origin"] > 0, "what the peer had lost came from it all the same")
    told = holder.log.read_text()
    expect("damaged" in told, "the holder says nothing of damage")
    same_roots([holder, newcomer])

    # What is damaged while the agent is away is found when it is used: nothing of it is placed.
    holder.kill_agent()
    for file in [holder.root / "srv/image.bin", *(holder.root / "srv/www").rglob("*.html")]:
        file.unlink()
    say(f"damaged: {rot(holder, Path.unlink, flip)}")
    holder.start(join=False)
    pages = len(list((newcomer.root / "srv/www").rglob("*.html")))
    wait_until("all to be placed again", 60, lambda: len(list((holder.root / "srv").rglob("*.html"))) == pages)
    wait_until("the holder to converge", 60, lambda: holder.state() == "converged")
    same_roots([holder, newcomer])
    expect("store was damaged" in holder.log.read_text(), "the holder did not say why it fetched again")


def rot(node: Node, *harms: Callable[[Path], None]) -> list[str]:
    """Does harm to the largest files of the store, one kind to each, and flips bytes of the packs."""
    store = node.data / "store"
    files = sorted((store / "files").iterdir(), key=lambda file: file.stat().st_size, reverse=True)
    expect(len(files) >= len(harms), f"the store has only these files: {files}")
    done = []
    for file, harm in zip(files, harms):
        harm(file)
        done.append(f"{harm.__name__} {file.name[:8]}")
    for pack in sorted((store / "packs").iterdir()):
        flip(pack)
        done.append(f"flip pack {pack.name}")
    return done


def flip(file: Path) -> None:
    """Inverts a byte in the middle, and one in every quarter of it."""
    size = file.stat().st_size
    with file.open("r+b") as opened:
        for place in (size // 4, size // 2, size - size // 4):
            opened.seek(place)
            byte = opened.read(1)[0]
            opened.seek(place)
            opened.write(bytes([byte ^ 0xFF]))


def cut(file: Path) -> None:
    """Cuts off the second half."""
    with file.open("r+b") as opened:
        opened.truncate(file.stat().st_size // 2)
