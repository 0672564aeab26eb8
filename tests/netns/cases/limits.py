"""Nodes keep to their limits: what they send to peers, fetch and write, and that they give nothing."""

import time

from lab import plain
from lab.case import Lab, say
from lab.command import expect
from lab.fleet import Fleet, Node
from lab.wire import Wire

BYTES = 6 << 20
RATE = 1_000_000
LIMIT = "8 Mbit/s"
# TLS and frames.
RATIO_MAX = 1.05
# What may come at once: of an upload, a burst; of a download, what the receiver's kernel takes before it is read.
UPLOAD_SLACK_BYTES = 200_000
DOWNLOAD_SLACK_BYTES = 1_200_000
SECOND = 1_000_000


def run(lab: Lab) -> None:
    fleet = lab.fleet()
    plain.publish(lab, fleet, BYTES)
    thrifty, taker = fleet.add_node("thrifty", 11), fleet.add_node("taker", 12)
    thrifty.start("--upload-limit", LIMIT)
    thrifty.await_state("converged")
    taker.start("--no-serve")
    taker.await_state("converged")

    wire = joins(fleet, fleet.add_node("asker", 13))
    fastest(wire, ["thrifty"], "asker", UPLOAD_SLACK_BYTES)
    from_taker = wire.bytes("taker", "asker")
    expect(from_taker < 64 << 10, f"the taker gave {from_taker:,} bytes")
    answered = [datagram for datagram in wire.datagrams if datagram.sender == "taker" and "asker" in datagram.reached]
    expect(not answered, f"the taker answered: {answered[:3]}")
    server = wire.bytes("server", "asker")
    say(f"{wire.bytes('thrifty', 'asker'):,} bytes from the thrifty node, {server:,} from the server, {from_taker:,} from the taker")

    wire = joins(fleet, fleet.add_node("modest", 14), "--download-limit", LIMIT)
    total = fastest(wire, wire.senders_to("modest"), "modest", DOWNLOAD_SLACK_BYTES)
    expect(total <= BYTES * RATIO_MAX, "much was fetched twice")

    # What is fetched is written. It may arrive before, as much as is asked for at a time, so only the whole is judged.
    begin = time.monotonic()
    joins(fleet, fleet.add_node("gentle", 15), "--disk-limit", LIMIT)
    took = time.monotonic() - begin
    say(f"gentle: {BYTES:,} bytes written in {took:.1f} s at {LIMIT}")
    expect(took >= (BYTES - DOWNLOAD_SLACK_BYTES) / RATE, "written faster than the limit")


def joins(fleet: Fleet, node: Node, *more: str) -> Wire:
    fleet.capture()
    node.start(*more)
    node.await_state("converged")
    return fleet.wire()


def fastest(wire: Wire, senders: list[str], receiver: str, slack: int) -> int:
    """Fails the case if more came in any two seconds than the limit allows; all that came."""

    def until(at: int) -> int:
        return sum(wire.bytes(sender, receiver, at) for sender in senders)

    total = sum(wire.bytes(sender, receiver) for sender in senders)
    begin = next(datagram.at for datagram in wire.datagrams)
    end = begin
    while until(end) < total:
        end += SECOND // 4
    most = max(until(at + 2 * SECOND) - until(at) for at in range(begin, end + 1, SECOND // 4))
    say(f"{receiver}: {total:,} bytes from {', '.join(senders)}; at most {most:,} in two seconds at {LIMIT}")
    expect(total > BYTES // 2, "too little to tell")
    expect(most <= 2 * RATE * RATIO_MAX + slack, "more than the limit")
    return total
