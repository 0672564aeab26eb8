"""A cable that is slow, long and bad: `relay.py ONE OTHER [--kilobits N] [--delay MS] [--loss P] [--twice P] [--late P]`.

netem does this in the kernel, but not every kernel has it. Copies packets between two interfaces, and in each direction
lets so many kilobits pass in a second out of a queue of QUEUE_SECONDS, delays each packet, loses, doubles and holds back so
many in a hundred. Packets keep the kernel's notes about them (PACKET_VNET_HDR), such as that a checksum is still to be
filled in. Ends with SIGTERM.
"""

from __future__ import annotations

import argparse
import heapq
import random
import select
import socket
import sys
import time

ETH_P_ALL = 3
# From linux/if_packet.h; Python has no names for them.
SOL_PACKET, PACKET_VNET_HDR, PACKET_IGNORE_OUTGOING = 263, 15, 23
VNET_HEADER_BYTES = 10
PACKET_BYTES_MAX = 65_536 + 64
BUFFER_BYTES = 4 << 20
# What a modem of that rate keeps; what does not fit is lost.
QUEUE_SECONDS = 0.4
QUEUE_BYTES_MIN = 64 << 10
# A packet that is held back comes so much later than those sent after it.
LATE_SECONDS = 0.04
SEED = 82


class Direction:
    """What waits to come out at one end."""

    def __init__(self, come_in: socket.socket, go_out: socket.socket, given: argparse.Namespace, seed: int) -> None:
        self.come_in, self.go_out, self.given = come_in, go_out, given
        self.dice = random.Random(seed)
        self.waiting: list[tuple[float, int, bytes]] = []
        self.number = 0
        # When the link will have sent all that was put into it.
        self.free = 0.0

    def take(self, now: float) -> None:
        """Puts all that has come into the queue."""
        while True:
            try:
                packet = self.come_in.recv(PACKET_BYTES_MAX)
            except BlockingIOError:
                return
            self.put(now, packet)

    def put(self, now: float, packet: bytes) -> None:
        given = self.given
        sent = now
        if given.kilobits:
            rate = given.kilobits * 125
            sent = max(now, self.free)
            if (sent - now) * rate > max(QUEUE_BYTES_MIN, QUEUE_SECONDS * rate):
                return
            sent = self.free = sent + (len(packet) - VNET_HEADER_BYTES) / rate
        if self.dice.random() * 100 < given.loss:
            return
        late = LATE_SECONDS if self.dice.random() * 100 < given.late else 0.0
        for _ in range(2 if self.dice.random() * 100 < given.twice else 1):
            self.number += 1
            heapq.heappush(self.waiting, (sent + given.delay / 1e3 + late, self.number, packet))

    def give(self, now: float) -> None:
        """Lets out what is due."""
        while self.waiting and self.waiting[0][0] <= now:
            packet = heapq.heappop(self.waiting)[2]
            try:
                self.go_out.send(packet)
            except OSError as error:
                # A cable that is pulled loses what is in it.
                print(f"lost a packet of {len(packet)} bytes: {error}", flush=True)

    def due(self) -> float | None:
        return self.waiting[0][0] if self.waiting else None


def end(interface: str) -> socket.socket:
    opened = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    opened.setsockopt(SOL_PACKET, PACKET_IGNORE_OUTGOING, 1)
    opened.setsockopt(SOL_PACKET, PACKET_VNET_HDR, 1)
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER_BYTES)
    opened.setblocking(False)
    opened.bind((interface, ETH_P_ALL))
    return opened


def main() -> int:
    arguments = argparse.ArgumentParser()
    arguments.add_argument("ends", nargs=2, metavar="INTERFACE")
    arguments.add_argument("--kilobits", type=int, default=0)
    arguments.add_argument("--delay", type=float, default=0.0)
    arguments.add_argument("--loss", type=float, default=0.0)
    arguments.add_argument("--twice", type=float, default=0.0)
    arguments.add_argument("--late", type=float, default=0.0)
    given = arguments.parse_args()
    one, other = (end(interface) for interface in given.ends)
    directions = [Direction(one, other, given, SEED), Direction(other, one, given, SEED + 1)]
    poll = select.poll()
    for opened in (one, other):
        poll.register(opened, select.POLLIN)
    print("relaying", flush=True)
    while True:
        due = [at for direction in directions if (at := direction.due()) is not None]
        wait = None if not due else max(0.0, min(due) - time.monotonic()) * 1e3
        poll.poll(wait)
        now = time.monotonic()
        for direction in directions:
            direction.take(now)
            direction.give(now)


if __name__ == "__main__":
    sys.exit(main())
