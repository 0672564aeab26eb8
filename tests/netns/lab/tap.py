"""Writes what passes an interface to a pcap file, until SIGINT: `tap.py INTERFACE FILE`.

tcpdump would do, but for one thing: it gives up root's identity when it starts, which is not allowed where there is no
other identity to take on, as in these namespaces. The kernel writes into a ring that is shared with this process, so
that packets wait there while it is slow; see https://docs.kernel.org/networking/packet_mmap.html.
"""

from __future__ import annotations

import mmap
import select
import signal
import socket
import struct
import sys
from typing import BinaryIO

# A frame of the ring holds the kernel's header (some 70 bytes) and as much of the packet as fits: its headers and the
# head of its payload. Lengths are in the headers.
FRAME_BYTES = 256
BLOCK_BYTES = 1 << 20
BLOCKS = 48
FRAMES = BLOCKS * BLOCK_BYTES // FRAME_BYTES
POLL_MILLIS = 50
# From linux/if_ether.h and linux/if_packet.h; Python has no names for them.
ETH_P_ALL, SOL_PACKET = 3, 263
PACKET_RX_RING, PACKET_STATISTICS, PACKET_VERSION, TPACKET_V2 = 5, 6, 10, 1
STATUS_KERNEL, STATUS_USER = 0, 1
# status, length, captured, offset of the link header, offset of the network header, seconds, nanoseconds
HEADER = struct.Struct("@IIIHHII")
STATUS = struct.Struct("@I")
MAGIC_NANOS, ETHERNET = 0xA1B23C4D, 1


def main(interface: str, path: str) -> int:
    tap = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
    tap.setsockopt(SOL_PACKET, PACKET_VERSION, TPACKET_V2)
    tap.setsockopt(SOL_PACKET, PACKET_RX_RING, struct.pack("@IIII", BLOCK_BYTES, BLOCKS, FRAME_BYTES, FRAMES))
    ring = mmap.mmap(tap.fileno(), BLOCKS * BLOCK_BYTES)
    tap.bind((interface, ETH_P_ALL))
    stopping: list[int] = []
    signal.signal(signal.SIGINT, lambda number, _: stopping.append(number))
    poll = select.poll()
    poll.register(tap, select.POLLIN)
    with open(path, "wb", buffering=BLOCK_BYTES) as file:
        file.write(struct.pack("<IHHiIII", MAGIC_NANOS, 2, 4, 0, 0, FRAME_BYTES, ETHERNET))
        print("listening", flush=True)
        position = 0
        while not stopping:
            poll.poll(POLL_MILLIS)
            position = copy(ring, position, file)
        copy(ring, position, file)
    _, dropped = struct.unpack("@II", tap.getsockopt(SOL_PACKET, PACKET_STATISTICS, 8))
    print(f"dropped {dropped}", flush=True)
    return 0


def copy(ring: mmap.mmap, position: int, file: BinaryIO) -> int:
    """Writes the packets that wait from frame `position` on, gives the frames back, and returns the next position."""
    while True:
        start = position * FRAME_BYTES
        status, length, captured, offset, _, seconds, nanos = HEADER.unpack_from(ring, start)
        if not status & STATUS_USER:
            return position
        file.write(struct.pack("<IIII", seconds, nanos, captured, length))
        file.write(ring[start + offset : start + offset + captured])
        STATUS.pack_into(ring, start, STATUS_KERNEL)
        position = (position + 1) % FRAMES


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
