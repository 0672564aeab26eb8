"""CPU seconds of a node per GiB that it received and verified, against curl over TLS that writes to files."""

from __future__ import annotations

from lab.command import Process, expect
from lab.fleet import Node
from rig import payload, usage
from rig.fleet import Fleet
from rig.room import Room
from rig.site import Sites
from rig.table import Figure
from rig.web import Web

GIB = 1 << 30
SECONDS_MAX = 300
FIGURES = (
    Figure("origin/curl", "Potluck, from the server, without executing / curl", reach=1.3),
    Figure("peers/curl", "Potluck, from two peers, without executing / curl", reach=1.3),
    Figure("origin", "Potluck, from the server, without executing", "s/GiB"),
    Figure("origin executing", "Potluck, executing what came from the server (verify, place)", "s/GiB"),
    Figure("peers", "Potluck, from two peers, without executing", "s/GiB"),
    Figure("serving", "Potluck, a peer that gives", "s/GiB"),
    Figure("server", "Potluck, the server that gives", "s/GiB"),
    Figure("curl", "curl over TLS 1.3", "s/GiB"),
    Figure("nginx", "nginx that gives", "s/GiB"),
    Figure("curl b3sum", "curl, then b3sum of the files", "s/GiB"),
    Figure("others", "CPU that other work took"),
)


def title(_: str) -> str:
    return "512 MiB in 204 files, links without limit"


def measure(room: Room, _: str) -> dict[str, float]:
    published = payload.mixed(room.scratch("web-edge"), room.scale(512, 64) * payload.MIB)
    sites = Sites(uplink=None, lan=None)
    fleet = Fleet(room.binary, sites, room.directory)
    web = Web(fleet.host, published, room.scratch("web"))
    gib = published.bytes / GIB
    figures: dict[str, float] = {}
    first, second, third = (fleet.place(f"node{index}", 10 + index) for index in range(3))
    fleet.join_all([first, second, third])
    fleet.publish(published)  # type: ignore[arg-type]
    fleet.assign()

    def once(node: Node) -> usage.Cpu:
        with room.others.watch():
            fleet.launch(node, once=True)
            assert node.agent is not None
            spent = usage.end_of_agent(node.agent.pid, node.agent.network_process, SECONDS_MAX)
            expect(node.agent.wait(10) == 0, f"{node.name}: {node.agent.output()[-1000:]}")
        fleet.check(node, published)
        return spent

    def potluck() -> None:
        before = usage.cpu(fleet.server.pid).own
        spent = once(first)
        figures["server"] = (usage.cpu(fleet.server.pid).own - before) / gib
        figures["origin"], figures["origin executing"] = spent.own / gib, spent.children / gib
        second_spent = once(second)
        figures["origin"] = min(figures["origin"], second_spent.own / gib)
        for node in (first, second):
            fleet.launch(node)
        fleet.await_marks([first, second], 60)
        giving = [usage.cpu(node.agent.network_process).own for node in (first, second) if node.agent]
        figures["peers"] = once(third).own / gib
        given = [usage.cpu(node.agent.network_process).own for node in (first, second) if node.agent]
        expect(fleet.measure(third).origin == 0, "the third node loaded from the server")
        figures["serving"] = (sum(given) - sum(giving)) / gib
        for node in (first, second):
            node.host.power_off()

    def curl() -> None:
        host = sites.add_host("curl", 20)
        into = room.scratch("curl-files")
        nginx = sum(usage.cpu(pid).own for pid in web.nginx())
        with room.others.watch():
            process = web.curl(host, into)
            figures["curl"] = usage.end_of(process.pid, SECONDS_MAX).own / gib
            expect(process.wait(10) == 0, process.output())
        figures["nginx"] = (sum(usage.cpu(pid).own for pid in web.nginx()) - nginx) / gib
        sums = Process("b3sum", ["b3sum", *(into / path for path in published.paths)], room.scratch("b3sum.out"))
        figures["curl b3sum"] = figures["curl"] + usage.end_of(sums.pid, SECONDS_MAX).own / gib
        sums.wait(10)
        wrong = published.different(into)
        expect(not wrong, f"curl: differs in {wrong[:5]}")

    room.in_turn([potluck, curl])
    for name in ("origin", "peers"):
        figures[f"{name}/curl"] = figures[name] / figures["curl"]
    return figures
