"""Many nodes are switched on at once, and nobody has the release; against BitTorrent swarms with one seed at the origin."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from lab.command import expect
from rig import payload, usage
from rig.fleet import Fleet
from rig.payload import CONTENT, Payload
from rig.room import Room, say
from rig.site import Sites
from rig.swarm import CLIENTS, Swarm
from rig.table import Figure

UPLINK, LAN, SLOW_LAN = 100, 1_000, 50
VARIANTS = ("together", "two-sites", "four-sites", "no-multicast", "staggered", "slow-half", "killed")
STAGGER_SECONDS = 0.5
KILLED = 2
SECONDS_MAX = 300
FIGURES = (
    Figure("uplink/payload", "Potluck: bytes over each uplink / payload, the worst", reach=1.07),
    Figure("last/ideal", "Potluck: last healthy node executed / ideal", reach=1.12),
    Figure("troubled uplink/payload", "Potluck: bytes over the uplink / payload"),
    Figure("troubled last/ideal", "Potluck: last healthy node executed / ideal", reach=1.3),
    Figure("complete/ideal", "Potluck: last healthy node's last chunk verified / ideal"),
    Figure("first/ideal", "Potluck: first node executed / ideal"),
    Figure("slow last/ideal", "Potluck: last slow node executed / ideal"),
    Figure("origin/payload", "Potluck: payload from the origin, by traces / payload, sum of sites / sites"),
    Figure("other sites/payload", "Potluck: bytes between sites / payload", reach=0.01),
    Figure("cpu", "Potluck: CPU of a node that lived, fetching, giving and executing, per payload", unit="s/GiB"),
    Figure("libtorrent uplink/payload", "libtorrent: bytes over each uplink / payload, the worst"),
    Figure("libtorrent last/ideal", "libtorrent: last healthy node complete / ideal"),
    Figure("aria2 uplink/payload", "aria2: bytes over each uplink / payload, the worst"),
    Figure("aria2 last/ideal", "aria2: last healthy node complete / ideal"),
    Figure("others", "CPU that other work took"),
)
DESCRIBED = {
    "together": "16 nodes start at once",
    "two-sites": "two sites of 8 nodes start at once",
    "four-sites": "four sites of 4 nodes start at once",
    "no-multicast": "16 nodes start at once, multicast is dropped",
    "staggered": "16 nodes start 0.5 s after each other, and time counts from the first",
    "slow-half": "16 nodes start at once, half of them with links of 50 Mbit/s",
    "killed": "16 nodes start at once, two lose power at half time",
}
SITES = {"two-sites": 2, "four-sites": 4}
TROUBLED = ("staggered", "slow-half", "killed")


def title(variant: str) -> str:
    return f"{DESCRIBED[variant]}; 1 Gbit/s each, uplink 100 Mbit/s, 128 MiB in 204 files; ideal = payload / uplink rate"


def measure(room: Room, variant: str) -> dict[str, float]:
    published = payload.mixed(room.scratch("web-edge"), room.scale(128, 16) * payload.MIB)
    return crowd(room, variant, published, room.scale(16, 4))


def crowd(room: Room, variant: str, published: Payload, count: int) -> dict[str, float]:
    """`count` nodes of each contender, one contender after another."""
    figures: dict[str, float] = {}
    plan = Plan(room, variant, published, count)
    swarms = [client for client in CLIENTS if room.wants(client)]
    room.in_turn(
        [lambda: figures.update(plan.potluck()), *((lambda c=client: figures.update(plan.swarm(c))) for client in swarms)]
    )
    return figures


class Plan:
    """When and where nodes of a variant start, and which of them count."""

    def __init__(self, room: Room, variant: str, published: Payload, count: int) -> None:
        self.room = room
        self.variant = variant
        self.published = published
        self.sites = SITES.get(variant, 1)
        self.count = count
        self.gap = STAGGER_SECONDS if variant == "staggered" else 0.0
        self.ideal = published.bytes * 8 / (UPLINK * 1e6)
        self.network = Sites(self.sites, uplink=UPLINK, lan=LAN)
        if variant == "no-multicast":
            self.network.block_multicast()
        self.fleet = Fleet(room.binary, self.network, room.directory)

    def slow(self, index: int) -> bool:
        return self.variant == "slow-half" and index % 2 == 1

    def dies(self, index: int) -> bool:
        return self.variant == "killed" and index in range(3, 3 + KILLED)

    def lan(self, index: int) -> int | None:
        return SLOW_LAN if self.slow(index) else None

    def start_all(self, start: Callable[[int], None], power_off: Callable[[int], None]) -> float:
        """Starts all nodes as the variant wants it, and returns when the first one started."""
        began = time.time()
        if self.variant == "killed":
            doomed = [index for index in range(self.count) if self.dies(index)]
            timer = threading.Timer(self.ideal / 2, lambda: [power_off(index) for index in doomed])
            timer.daemon = True
            timer.start()
        for index in range(self.count):
            time.sleep(max(0.0, began + index * self.gap - time.time()))
            start(index)
        return began

    def over_ideal(self, seconds: float) -> float:
        return seconds / self.ideal

    def uplinks(self) -> list[int]:
        return [self.network.uplink_bytes(site) for site in range(self.sites)]

    def potluck(self) -> dict[str, float]:
        fleet, room = self.fleet, self.room
        nodes = [
            fleet.place(f"node{index}", 10 + index, index % self.sites, lan=self.lan(index))
            for index in range(self.count)
        ]
        fleet.join_all(nodes)
        fleet.publish(self.published)  # type: ignore[arg-type]
        fleet.assign()
        living = [node for index, node in enumerate(nodes) if not self.dies(index)]
        before = self.uplinks()
        with room.others.watch():
            began = self.start_all(
                lambda index: fleet.launch(nodes[index]), lambda index: nodes[index].host.power_off()
            )
            fleet.await_marks(living, SECONDS_MAX)
        uplinks = [after - first for after, first in zip(self.uplinks(), before, strict=True)]
        spent = [
            (usage.cpu(node.agent.pid), usage.cpu(node.agent.network_process).own) for node in living if node.agent
        ]
        runs = {node.name: fleet.measure(node, began) for node in living}
        for node in living:
            fleet.check(node, self.published)
        healthy = [runs[node.name] for index, node in enumerate(nodes) if node in living and not self.slow(index)]
        slow = [runs[node.name] for index, node in enumerate(nodes) if self.slow(index)]
        for node in living:
            run = runs[node.name]
            say(f"{node.name}: complete {run.complete:.2f} s, executed {run.executed:.2f} s, "
                f"{run.peers / payload.MIB:.1f} MiB from peers, {run.origin / payload.MIB:.1f} from the server")  # fmt: skip
        last = self.over_ideal(max(run.executed for run in healthy))
        trouble = "troubled " if self.variant in TROUBLED else ""
        figures = {
            f"{trouble}uplink/payload": max(uplinks) / self.published.bytes,
            f"{trouble}last/ideal": last,
            "complete/ideal": self.over_ideal(max(run.complete for run in healthy)),
            "first/ideal": min(run.executed for run in healthy) / self.ideal,
            "cpu": sum(keeper.own + keeper.children + network for keeper, network in spent)
            * (payload.MIB << 10)
            / self.published.bytes
            / len(living),
            "origin/payload": sum(run.origin for run in runs.values()) / self.sites / self.published.bytes,
        }
        if slow:
            figures["slow last/ideal"] = max(run.executed for run in slow) / self.ideal
        if self.sites > 1:
            figures["other sites/payload"] = self.between_sites(uplinks, runs) / self.published.bytes
        for node in nodes:
            node.host.power_off()
            room.clear(node.data)
            room.clear(node.root)
        return figures

    def between_sites(self, uplinks: list[int], runs: dict[str, object]) -> float:
        """Bytes that nodes got from peers at other sites, by their traces."""
        site = {self.fleet.nodes_by_name[name].id: getattr(self.fleet.nodes_by_name[name].host, "site") for name in runs}
        total = 0
        for name in runs:
            node = self.fleet.nodes_by_name[name]
            for file in self.fleet.document(node)["files"]:
                total += sum(
                    each["len"]
                    for each in file["ranges"]
                    if isinstance(each["source"], dict) and site.get(each["source"]["peer"]) != site[node.id]
                )
        return float(total)

    def swarm(self, client: str) -> dict[str, float]:
        room = self.room
        swarm = Swarm(client, self.fleet.host, self.published, room.scratch(client))
        swarm.seed(self.fleet.host, self.published.directory)
        first = 40 + 20 * CLIENTS.index(client)
        hosts = [
            self.network.add_host(f"{client[:5]}{index}", first + index, index % self.sites, lan=self.lan(index))
            for index in range(self.count)
        ]
        directories = [room.scratch(f"{client}-files") / host.name for host in hosts]
        before = self.uplinks()
        with room.others.watch():
            began = self.start_all(
                lambda index: swarm.fetch(hosts[index], directories[index]), lambda index: swarm.kill(hosts[index])
            )
            living = [index for index in range(self.count) if not self.dies(index)]
            ends = {index: swarm.finished(hosts[index], SECONDS_MAX) for index in living}
        uplinks = [after - first for after, first in zip(self.uplinks(), before, strict=True)]
        swarm.stop()
        for index in living:
            swarm.check(directories[index])
        room.clear(room.scratch(f"{client}-files"))
        expect((self.published.directory / CONTENT).is_dir(), "the payload is gone")
        healthy = [end for index, end in ends.items() if not self.slow(index)]
        return {
            f"{client} uplink/payload": max(uplinks) / self.published.bytes,
            f"{client} last/ideal": self.over_ideal(max(healthy) - began),
        }
