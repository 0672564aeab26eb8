"""Bytes rot in a node's own store just before they are used: never executed, fetched again, and then executed."""

from __future__ import annotations

import shutil

from cases.damaged_store import cut, flip
from lab import slow
from lab.case import Lab, say
from lab.command import expect, wait_until
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
    # One after the other, each found when it is about to be used.
    flip(files[0])
    slow.let_go(node)
    wait_until("the image to be placed", 60, lambda: (node.root / "srv/image.bin").is_file())
    wait_until("the node to converge", 60, lambda: node.state() == "converged")
    expect(sha256(node.root / "srv/image.bin") == sha256(image), "other bytes were placed")
    told = [line for line in node.log.read_text().splitlines() if "store was damaged" in line]
    expect(len(told) == 1, f"said of damage: {told}")
    say(told[0].split("ERROR")[-1].strip()[:150])
    expect(notes(node, "first") == ["done"], "what had ended well was done again")
    expect(notes(node, "slow").count("done") == 1, f"slow: {notes(node, 'slow')}")

    # Now the file is cut, and the packs with the scripts rot; what was placed has to be placed again.
    node.kill_agent()
    (node.root / "srv/image.bin").unlink()
    shutil.rmtree(node.data / "execute/releases")
    cut(files[0])
    for pack in (node.data / "store/packs").iterdir():
        flip(pack)
    node.start(join=False)
    wait_until("the image to be placed again", 90, lambda: (node.root / "srv/image.bin").is_file())
    wait_until("the node to converge again", 60, lambda: node.state() == "converged")
    expect(sha256(node.root / "srv/image.bin") == sha256(image), "other bytes were placed")
