"""The server's disk is nearly full, and then full: uploads are refused with what to do, the fleet goes on."""

from __future__ import annotations

import os

from cases.disk_full import disk, fill
from lab.case import Lab, same_roots, say
from lab.command import attempt, expect, wait_until

MIB = 1 << 20
DISK_MIB = 160


def run(lab: Lab) -> None:
    data = lab.directory / "server"
    disk(data, DISK_MIB)
    fleet = lab.fleet()
    fleet.publish(lab.payload())
    fleet.assign()
    first = fleet.add_node("first", 11)
    first.start()
    first.await_state("converged")

    # More than there is room for: what was uploaded stays for another try, and room for reports stays free.
    large = lab.directory / "large"
    (large / "files").mkdir(parents=True)
    (large / "files/image.bin").write_bytes(os.urandom(DISK_MIB * MIB))
    refused = attempt(*fleet._operator("publish", large))
    say(refused.stderr.strip().splitlines()[0])
    expect(refused.returncode == 1, f"exit code {refused.returncode}")
    for part in ("the server's disk has", "MiB left", "potluck gc"):
        expect(part in refused.stderr, f"{part!r} is not in {refused.stderr}")
    free = os.statvfs(data).f_bavail * os.statvfs(data).f_frsize
    say(f"{free // MIB} MiB are left")
    expect(free >= DISK_MIB * MIB // 20, f"only {free} bytes are left for reports")
    second = fleet.add_node("second", 12)
    second.start()
    second.await_state("converged")

    # Somebody else takes all the rest: nothing can be written, but what is there is served.
    fleet.assign()
    ballast = fill(data)
    refused = attempt(*fleet._operator("publish", lab.directory / "web-edge", "--version", "next"))
    say(refused.stderr.strip().splitlines()[0])
    expect(refused.returncode == 1 and "disk" in refused.stderr, refused.stderr)
    for command in (("halt",), ("join-token",)):
        attempt(*fleet._operator(*command))
    expect(fleet.server.running(), "the server ended")
    expect(len(fleet.nodes()) == 2, "the server does not tell of its nodes")
    # A node that starts again is given its list, and its report waits on its own disk.
    before = fleet.operate("trace", first.id)["boot"]
    first.kill_agent()
    first.start(join=False)
    events = first.data / "events.jsonl"
    wait_until("a report to wait", 60, lambda: '"executed"' in events.read_text())

    # Killed while the disk is full, it says why it does not start, or does.
    fleet.server.kill()
    started = attempt("timeout", "5", *fleet.host.inside(
        fleet.binary, "server", "--data", fleet.data, "--listen", fleet.listen, "--advertise", fleet.address,
    ))  # fmt: skip
    say(f"started on a full disk: exit code {started.returncode}: {started.stderr.strip().splitlines()[-1]}")
    expect(started.returncode in (0, 124) or "no room left" in started.stderr, started.stderr)

    ballast.unlink()
    fleet.start_server()
    fleet.order("resume")
    third = fleet.add_node("third", 13)
    third.start()
    for node in (first, second, third):
        node.await_state("converged")
    wait_until("the report that waited to arrive", 60, lambda: fleet.operate("trace", first.id)["boot"] > before)
    same_roots([first, second, third])
    fleet.order("publish", lab.directory / "web-edge")
