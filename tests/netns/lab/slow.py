"""A configuration whose middle step waits until the case lets it go on."""

from __future__ import annotations

from pathlib import Path

from lab.case import Lab
from lab.command import wait_until
from lab.fleet import Fleet, Node

CONFIGURATION = """\
name = "slow"

[[step]]
id = "first"
run = "first.sh"

[[step]]
id = "slow"
run = "slow.sh"

[[step]]
id = "last"
run = "last.sh"
"""
NOTE = '#!/bin/sh\nset -eu\nmkdir -p "$POTLUCK_ROOT/var"\necho done >>"$POTLUCK_ROOT/var/{name}"\n'
# Every line says what happened, so that the file tells how often.
SLOW = """\
#!/bin/sh
set -eu
echo begun >>"$POTLUCK_ROOT/var/slow"
until [ -e "$POTLUCK_ROOT/var/go" ]; do sleep 0.1; done
echo done >>"$POTLUCK_ROOT/var/slow"
"""


def write(lab: Lab) -> Path:
    """The directory to be published."""
    directory = lab.directory / "slow"
    directory.mkdir()
    (directory / "configuration.toml").write_text(CONFIGURATION)
    (directory / "slow.sh").write_text(SLOW)
    for name in ("first", "last"):
        (directory / f"{name}.sh").write_text(NOTE.format(name=name))
    return directory


def publish_and_start(lab: Lab, directory: Path) -> tuple[Fleet, Node]:
    """A fleet of one node, in the middle of the slow step of what is in the directory."""
    fleet = lab.fleet()
    fleet.order("publish", directory)
    fleet.order("assign", "slow", "--all")
    node = fleet.add_node("node1", 11)
    node.start()
    wait_until("the slow step to begin", 60, lambda: notes(node, "slow") == ["begun"])
    return fleet, node


def start(lab: Lab) -> tuple[Fleet, Node]:
    """A fleet of one node, in the middle of its slow step."""
    return publish_and_start(lab, write(lab))


def notes(node: Node, step: str) -> list[str]:
    """What a step has noted so far."""
    file: Path = node.root / "var" / step
    return file.read_text().split() if file.exists() else []


def let_go(node: Node) -> None:
    (node.root / "var/go").touch()
