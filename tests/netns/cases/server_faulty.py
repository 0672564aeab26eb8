"""The server cuts connections, answers 500, and trickles: a node that has nobody else goes on, and does not hammer it."""

from __future__ import annotations

import sys
import time
from pathlib import Path

from cases.server_returns import stored
from lab import bad_server
from lab.case import Lab, say
from lab.command import Process, call, expect, wait_until
from lab.fleet import SERVER_PORT, Fleet

MIB = 1 << 20
BEHIND = SERVER_PORT + 1
ERROR_SECONDS = 8
# Four transfers, the head and reports, each with a back-off that doubles.
REQUESTS_MAX = 120


def run(lab: Lab) -> None:
    published = lab.payload()
    fleet = lab.fleet()
    fleet.publish(published)
    fleet.assign()
    fleet.join_string()
    mode = lab.directory / "mode"
    mode.write_text("cut")
    fleet.server.kill()
    proxy = stand_in(lab, fleet, "proxy", str(BEHIND), mode)
    fleet.listen = f"0.0.0.0:{BEHIND}"
    fleet.start_server()
    fleet.host.shape(megabits=60)
    node = fleet.add_node("node1", 11)
    fleet.capture()
    node.start()
    wait_until("8 MiB to arrive over connections that are cut", 90, lambda: stored(node) >= 8 * MIB)
    say("connections that break: 8 MiB arrived all the same")

    proxy.kill()
    errors = stand_in(lab, fleet, "errors", *certificate(lab, fleet))
    time.sleep(ERROR_SECONDS)
    requests = errors.output().count("request ")
    say(f"{requests} requests in {ERROR_SECONDS} s were answered with 500")
    expect(0 < requests <= REQUESTS_MAX, f"{requests} requests: none, or too many")
    expect(not (node.root / "srv").exists(), "it was over too early: the case shows nothing")
    errors.kill()

    mode.write_text("pass")
    stand_in(lab, fleet, "proxy", str(BEHIND), mode)
    before = stored(node)
    wait_until("the download to go on", 60, lambda: stored(node) > before + MIB)
    mode.write_text("trickle")
    time.sleep(2)
    expect(not (node.root / "srv").exists(), "it was over too early: the case shows nothing")
    # New connections are good again; those that trickle go on trickling.
    mode.write_text("pass")
    trickling = time.monotonic()
    node.await_state("converged", seconds=120)
    say(f"transfers that trickled were given up, and all was there after {time.monotonic() - trickling:.0f} s")
    sent = fleet.wire().bytes("server", node.name)
    say(f"{published.bytes():,} bytes of payload, {sent:,} on the wire")
    expect(sent <= published.bytes() * 1.6, "much was fetched more than once")
    expect(len(node.mark_lines()) == 1, "the script did not run once")


def stand_in(lab: Lab, fleet: Fleet, kind: str, *more: str | Path) -> Process:
    program = Path(bad_server.__file__)
    process = fleet.host.start(
        f"bad server ({kind})", lab.directory / f"{kind}-{time.monotonic_ns()}.log",
        sys.executable, program, kind, str(SERVER_PORT), *more,
    )  # fmt: skip
    process.await_line("ready", 20)
    return process


def certificate(lab: Lab, fleet: Fleet) -> tuple[Path, Path]:
    """A certificate of the fleet's own CA for the server's name, and its key."""
    authority = fleet.data / "keys/ca.pem"
    key, request, leaf = (lab.directory / f"stand-in.{kind}" for kind in ("key", "csr", "pem"))
    extensions = lab.directory / "stand-in.ext"
    extensions.write_text("subjectAltName=DNS:server.potluck.internal\nextendedKeyUsage=serverAuth\n")
    call(
        "openssl", "req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
        "-subj", "/CN=stand-in", "-keyout", key, "-out", request,
    )  # fmt: skip
    call(
        "openssl", "x509", "-req", "-in", request, "-CA", authority, "-CAkey", authority, "-days", "2",
        "-CAserial", lab.directory / "serial", "-CAcreateserial", "-extfile", extensions, "-out", leaf,
    )  # fmt: skip
    # Joining nodes see the CA behind the certificate.
    leaf.write_text(leaf.read_text() + authority.read_text().partition("-----BEGIN PRIVATE KEY-----")[0])
    return leaf, key
