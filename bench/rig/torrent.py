"""A torrent file and a tracker, as BEP 3 and BEP 23 describe them (https://www.bittorrent.org/beps/bep_0003.html).

    torrent.py ADDRESS PORT        runs the tracker
"""

from __future__ import annotations

import hashlib
import socket
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote_to_bytes, urlsplit

PIECE_BYTES = 256 << 10
INTERVAL_SECONDS = 5
PEERS_MAX = 50
TRACKER_PORT = 6969


def encode(value: Any) -> bytes:
    """Bencoding."""
    match value:
        case int():
            return b"i%de" % value
        case str():
            return encode(value.encode())
        case bytes():
            return b"%d:%b" % (len(value), value)
        case list():
            return b"l" + b"".join(map(encode, value)) + b"e"
        case dict():
            return b"d" + b"".join(encode(key) + encode(value[key]) for key in sorted(value)) + b"e"
    raise TypeError(type(value).__name__)


def make(directory: Path, paths: tuple[str, ...], tracker: str) -> bytes:
    """The torrent file of these files. Clients put them below a directory with the name of `directory`."""
    pieces, rest = [], b""
    for path in paths:
        with (directory / path).open("rb") as file:
            while data := file.read(PIECE_BYTES - len(rest)):
                rest += data
                if len(rest) == PIECE_BYTES:
                    pieces.append(hashlib.sha1(rest).digest())
                    rest = b""
    if rest:
        pieces.append(hashlib.sha1(rest).digest())
    files = [{"length": (directory / path).stat().st_size, "path": path.split("/")} for path in paths]
    info = {"files": files, "name": directory.name, "piece length": PIECE_BYTES, "pieces": b"".join(pieces)}
    return encode({"announce": tracker, "info": info})


class Tracker(BaseHTTPRequestHandler):
    """Tells everybody of everybody."""

    peers: dict[tuple[str, int], float] = {}

    def do_GET(self) -> None:
        query = dict(part.partition("=")[::2] for part in urlsplit(self.path).query.split("&"))
        me = (self.client_address[0], int(unquote_to_bytes(query.get("port", "0"))))
        if query.get("event") == "stopped":
            self.peers.pop(me, None)
        else:
            self.peers[me] = time.monotonic()
        others = [peer for peer in list(self.peers) if peer != me][:PEERS_MAX]
        compact = b"".join(socket.inet_aton(address) + port.to_bytes(2, "big") for address, port in others)
        answer = encode({"interval": INTERVAL_SECONDS, "min interval": 1, "peers": compact})
        self.send_response(200)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_: object) -> None:
        """Says nothing."""


if __name__ == "__main__":
    ThreadingHTTPServer((sys.argv[1], int(sys.argv[2])), Tracker).serve_forever()
