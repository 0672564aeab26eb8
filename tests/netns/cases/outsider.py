"""Somebody on the bridge who is no node sees no name and no digest of what travels, and what he sends draws nothing, or less than it."""

import random
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from lab import outsider
from lab.case import Lab, say
from lab.command import Process, expect
from lab.fleet import Fleet
from lab.network import Host

NAME = "quarterly-figures"
FILES = 60
GROUP = "239.255.74.43"
# Longer than anybody waits before it answers.
SILENCE_SECONDS = 3.0

# Source, destination, port, payload.
Datagram = tuple[str, str, int, bytes]


def run(lab: Lab) -> None:
    fleet = lab.fleet()
    needles = publish(fleet, lab.directory / NAME)
    # Listeners on every host: what an outsider sees at a switch, and more.
    him, victim = (fleet.network.add_host(name, number) for name, number in (("outsider", 77), ("victim", 78)))
    nodes = [fleet.add_node(f"node{index}", 10 + index) for index in range(3)]
    hosts = [fleet.host, him, victim, *(node.host for node in nodes)]
    listening = [Listener(host, lab.directory, "fetching") for host in hosts]
    for node in nodes:
        node.start()
        node.await_state("converged")
    seen = [frame for listener in listening for frame in listener.stop()]
    totals = nodes[-1].trace().totals
    expect(totals["peers"] > 0, f"nothing travelled between nodes: {totals}")
    for what, needle in {**needles, **digests(fleet)}.items():
        expect(not any(needle in frame for frame in seen), f"{what} can be read on the wire")
    say(f"{len(seen)} frames, {sum(map(len, seen)):,} bytes: no name, no digest, no content")

    # What reached him by himself: sealed datagrams to the group. The last node's reached all others as well.
    heard = [found for frame in seen if (found := outsider.udp(frame)) and found[1:3] == (GROUP, outsider.PEER_PORT)]
    last = {payload for source, _, _, payload in heard if source == nodes[-1].host.ipv4}
    before = {payload for _, _, _, payload in heard} - last
    expect(last and before, "too few datagrams went to the group")
    dice = random.Random(82)
    garbage = [dice.randbytes(size) for size in (0, 1, 32, 60, 200, 1_400)]
    changed = [bytes([*payload[:-1], payload[-1] ^ 1]) for payload in last | before]
    attack = Attack(him, victim, [GROUP, *(node.host.ipv4 for node in nodes)], lab.directory)
    sent, drawn = attack.send("known", [*sorted(last), *changed, *garbage])
    expect(not drawn, f"{len(drawn)} datagrams came back, {drawn[:1]}")
    say(f"{len(sent)} datagrams that are known, changed or made up drew nothing")
    # What a node has not heard, as it was not there yet, may be answered: by fewer bytes than it got.
    sent, drawn = attack.send("missed", sorted(before))
    expect(nodes[0].host.ipv4 not in {source for source, *_ in drawn}, "who had heard all of it answered again")
    got, gave = (sum(len(payload) for *_, payload in found) for found in (sent, drawn))
    expect(gave <= got, f"{gave} bytes were drawn with {got}")
    say(f"{got:,} bytes, of which some nodes had heard nothing, drew {gave:,}")
    for node in nodes:
        expect(node.agent is not None and node.agent.running(), f"{node.name} has ended")


@dataclass(frozen=True)
class Attack:
    """Datagrams from the outsider, in his own name and in that of a victim."""

    outsider: Host
    victim: Host
    targets: list[str]
    directory: Path

    def send(self, name: str, payloads: list[bytes]) -> tuple[list[Datagram], list[Datagram]]:
        """Sends each to each target; what left, and what came for either of the two."""
        lines = "".join(f"{to} {outsider.PEER_PORT} {payload.hex()}\n" for payload in payloads for to in self.targets)
        nobody = {self.outsider.ipv4, self.victim.ipv4}
        listening = [Listener(host, self.directory, name) for host in (self.outsider, self.victim)]
        for source in sorted(nobody):
            argv = (sys.executable, "-I", outsider.__file__, "send", self.outsider.ipv4, source)
            subprocess.run(self.outsider.inside(*argv), input=lines, text=True, check=True)
        time.sleep(SILENCE_SECONDS)
        at_him, at_victim = ([outsider.udp(frame) for frame in listener.stop()] for listener in listening)
        sent = [found for found in at_him if found and found[0] in nobody]
        drawn = [found for found in (*at_him, *at_victim) if found and found[1] in nobody and found[0] not in nobody]
        expect(len(sent) == 2 * len(payloads) * len(self.targets), f"only {len(sent)} datagrams left")
        return sent, drawn


class Listener:
    """Whole frames at one host."""

    def __init__(self, host: Host, directory: Path, name: str) -> None:
        self.host = host
        self._file = directory / f"{host.name}.{name}.frames"
        argv = host.inside(sys.executable, "-I", outsider.__file__, "listen", "eth0", self._file)
        self._process = Process(f"listener on {host.name}", argv, directory / f"{host.name}.{name}.log")
        self._process.await_line("listening", 10)

    def stop(self) -> list[bytes]:
        self._process.interrupt()
        said = self._process.output()
        expect("dropped 0" in said, f"what was heard on {self.host.name} is incomplete: {said}")
        return outsider.frames(self._file)


def publish(fleet: Fleet, directory: Path) -> dict[str, bytes]:
    """What must not be seen: names and contents."""
    needles = {"the configuration's name": NAME.encode()}
    files = directory / "files" / "srv"
    files.mkdir(parents=True)
    for index in range(FILES):
        name, line = f"salary-of-{index:03}.csv", f"canary {index:03} in the coal mine\n".encode()
        (files / name).write_bytes(line * 400)
        needles[name], needles[f"the content of {name}"] = name.encode(), line
    fleet.order("publish", directory)
    fleet.order("assign", NAME, "--all")
    return needles


def digests(fleet: Fleet) -> dict[str, bytes]:
    """As they are in memory, and in hexadecimal digits."""
    found: dict[str, bytes] = {}
    for node in fleet.nodes_by_name.values():
        trace = node.trace()
        for text in (trace.list_digest, *(file.digest for file in trace.files)):
            found[f"the digest {text}"] = text.encode()
            found[f"the digest {text} (binary)"] = bytes.fromhex(text)
    expect(found, "no digest is known")
    return found
