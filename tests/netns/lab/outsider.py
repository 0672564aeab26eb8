"""What somebody can do who is on the network and does not belong to the fleet: listen to whole frames, and send whatever he likes.

    outsider.py listen INTERFACE FILE          until SIGINT; each frame as a length (4 bytes, little endian) and its bytes
    outsider.py send OWN SOURCE < lines        each line: ADDRESS PORT HEX; sent as UDP from SOURCE, whoever that is
"""

from __future__ import annotations

import signal
import socket
import struct
import sys
from ipaddress import IPv4Address
from pathlib import Path

FRAME_BYTES_MAX = 1 << 16
RECEIVE_BUFFER = 64 << 20
ETH_P_ALL, SOL_PACKET, PACKET_STATISTICS, SO_RCVBUFFORCE = 3, 263, 6, 33
POLL_SECONDS = 0.05
LENGTH = struct.Struct("<I")
PEER_PORT = 7443
IPV4, UDP = 0x0800, 17


def listen(interface: str, path: str) -> None:
    tap = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
    try:
        tap.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, RECEIVE_BUFFER)
    except PermissionError:
        tap.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
    tap.bind((interface, ETH_P_ALL))
    tap.settimeout(POLL_SECONDS)
    stopping: list[int] = []
    signal.signal(signal.SIGINT, lambda number, _: stopping.append(number))
    with open(path, "wb") as file:
        print("listening", flush=True)
        while True:
            try:
                frame = tap.recv(FRAME_BYTES_MAX)
            except TimeoutError:
                if stopping:
                    break
                continue
            file.write(LENGTH.pack(len(frame)) + frame)
    _, dropped = struct.unpack("@II", tap.getsockopt(SOL_PACKET, PACKET_STATISTICS, 8))
    print(f"dropped {dropped}", flush=True)


def send(own: str, source: str) -> None:
    raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
    raw.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, IPv4Address(own).packed)
    raw.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_LOOP, 0)
    for line in sys.stdin:
        address, port, payload = line.split(" ", 2)
        body = bytes.fromhex(payload)
        udp = struct.pack(">HHHH", PEER_PORT, int(port), 8 + len(body), 0) + body
        head = struct.pack(
            ">BBHHHBBH4s4s", 0x45, 0, 20 + len(udp), 0, 0, 1, UDP, 0, IPv4Address(source).packed, IPv4Address(address).packed
        )  # fmt: skip
        raw.sendto(head + udp, (address, int(port)))


def frames(path: Path) -> list[bytes]:
    data, offset, found = path.read_bytes(), 0, []
    while offset < len(data):
        (length,) = LENGTH.unpack_from(data, offset)
        found.append(data[offset + LENGTH.size : offset + LENGTH.size + length])
        offset += LENGTH.size + length
    return found


def udp(frame: bytes) -> tuple[str, str, int, bytes] | None:
    """Source, destination, destination port and payload of a UDP datagram over IPv4."""
    if len(frame) < 42 or struct.unpack_from(">H", frame, 12)[0] != IPV4 or frame[23] != UDP:
        return None
    start = 14 + (frame[14] & 0x0F) * 4
    (port, length) = struct.unpack_from(">HH", frame, start + 2)
    source, destination = str(IPv4Address(frame[26:30])), str(IPv4Address(frame[30:34]))
    return source, destination, port, frame[start + 8 : start + length]


if __name__ == "__main__":
    if sys.argv[1] == "listen":
        listen(sys.argv[2], sys.argv[3])
    else:
        send(sys.argv[2], sys.argv[3])
