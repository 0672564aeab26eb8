"""Bytes rot in a node's own store just before they are used: never executed, fetched again, and then executed."""

from __future__ import annotations

import shutil
from pathlib import Path

from cases.damaged_store import cut, flip
from lab import slow
from lab.case import Lab, say
from lab.command import expect, wait_until
from lab.fleet import Node
from lab.payload import sha256
from lab.slow import notes

MORE = """\

[[step]]
id = "image"
file = "image.bin"
dest = "/srv/image.bin"

[[step]]
id = "small"
run = "after.sh"
"""
AFTER = '#!/bin/sh\nset -eu\necho done >>"$POTLUCK_ROOT/var/after"\n'


def run(lab: Lab) -> None:
    source = slow.write(lab)
    image = source / "image.bin"
    image.write_bytes(bytes(range(256)) * 40_000)
    (source / "after.sh").write_text(AFTER)
    with (source / "configuration.toml").open("a") as configuration:
        configuration.write(MORE)
    fleet, node = slow.publish_and_start(lab, source)
    files = list((node.data / "store/files").iterdir())
    expect(len(files) == 1, f"files of the store: {files}")
    # It was copied and verified before it rotted.
    flip(files[0])
    slow.let_go(node)
    wait_until("the image to be placed", 60, lambda: (node.root / "srv/image.bin").is_file())
    wait_until("the node to converge", 60, lambda: node.state() == "converged")
    expect(sha256(node.root / "srv/image.bin") == sha256(image), "other bytes were placed")
    expect(told(node) == [], f"said of damage: {told(node)}")

    # What was placed has to be placed again, from the bytes that have rotted.
    again(node, image)
    expect(len(told(node)) == 1, f"said of damage: {told(node)}")
    say(told(node)[0].split("ERROR")[-1].strip()[:150])
    expect(notes(node, "first") == ["done"], "what had ended well was done again")
    expect(notes(node, "slow").count("done") == 1, f"slow: {notes(node, 'slow')}")

    # Now the file is cut, and the packs with the scripts rot. One after the other, each found when it is about to be used.
    again(node, image, cut_too=files[0])


def again(node: Node, image: Path, cut_too: Path | None = None) -> None:
    """Has the image placed again by a new agent, from a damaged store."""
    node.kill_agent()
    (node.root / "srv/image.bin").unlink()
    shutil.rmtree(node.data / "execute/releases", ignore_errors=True)
    if cut_too:
        cut(cut_too)
        for pack in (node.data / "store/packs").iterdir():
            flip(pack)
    node.start(join=False)
    wait_until("the image to be placed again", 90, lambda: (node.root / "srv/image.bin").is_file())
    wait_until("the node to converge again", 60, lambda: node.state() == "converged")
    expect(sha256(node.root / "srv/image.bin") == sha256(image), "other bytes were placed")


def told(node: Node) -> list[str]:
    return [line for line in node.log.read_text().splitlines() if "store was damaged" in line]
