#!/usr/bin/env python3
"""Stands where the management server should be, and behaves badly. Run as a program on the server's host.

    bad_server.py proxy LISTEN_PORT SERVER_PORT MODE_FILE   passes TCP on, as the mode in the file says
    bad_server.py errors LISTEN_PORT CERTIFICATE KEY        answers every request with 500

Modes: `pass`; `cut`: connections break after some hundred KiB; `trickle`: from then on connections pass 64 bytes a second,
also when the mode has changed since. Connections from this very host are always passed on.
"""

from __future__ import annotations

import random
import socket
import ssl
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


def proxy(listen: int, server: int, mode_file: Path) -> None:
    dice = random.Random(82)
    listener = socket.create_server(("0.0.0.0", listen))
    print("ready", flush=True)
    while True:
        client, address = listener.accept()
        own = address[0] == client.getsockname()[0]
        allowance = dice.randrange(100_000, 900_000)
        threading.Thread(target=carry, args=(client, server, mode_file, own, allowance), daemon=True).start()


def carry(client: socket.socket, server_port: int, mode_file: Path, own: bool, allowance: int) -> None:
    """One connection. `allowance` is what it may carry before it is cut."""
    with client:
        try:
            server = socket.create_connection(("127.0.0.1", server_port))
        except OSError:
            return
        threading.Thread(target=pump, args=(client, server), daemon=True).start()
        with server:
            answer(client, server, mode_file, own, allowance)
            # Closing alone says nothing to the other end while a thread still reads.
            for end in (client, server):
                try:
                    end.shutdown(socket.SHUT_RDWR)
                except OSError:
                    pass


def answer(client: socket.socket, server: socket.socket, mode_file: Path, own: bool, allowance: int) -> None:
    carried, slow = 0, False
    while True:
        mode = "pass" if own else mode_file.read_text()
        slow |= mode == "trickle"
        try:
            data = server.recv(64 if slow else 16_384)
            if not data:
                return
            client.sendall(data)
        except OSError:
            return
        carried += len(data)
        if mode == "cut" and carried > allowance:
            return
        if slow:
            time.sleep(1)


def pump(source: socket.socket, sink: socket.socket) -> None:
    try:
        while data := source.recv(16_384):
            sink.sendall(data)
        sink.shutdown(socket.SHUT_WR)
    except OSError:
        pass


class Errors(BaseHTTPRequestHandler):
    """Every request is answered, and none as it should be."""

    protocol_version = "HTTP/1.1"

    def answer(self) -> None:
        self.rfile.read(int(self.headers.get("content-length") or 0))
        body = b"something went wrong\n"
        self.send_response(500)
        self.send_header("content-type", "text/plain")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_PUT = do_POST = answer

    def log_message(self, format: str, *arguments: object) -> None:
        print(f"request {self.command} {self.path.partition('?')[0]}", flush=True)


def errors(listen: int, certificate: str, key: str) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_cert_chain(certificate, key)
    server = ThreadingHTTPServer(("0.0.0.0", listen), Errors)
    server.daemon_threads = True
    # In the thread of the connection, so that nobody holds up the others.
    accept = server.get_request
    server.get_request = lambda: _wrapped(context, *accept())  # type: ignore[method-assign]
    print("ready", flush=True)
    server.serve_forever()


def _wrapped(context: ssl.SSLContext, connection: socket.socket, address: object) -> tuple[socket.socket, object]:
    return context.wrap_socket(connection, server_side=True, do_handshake_on_connect=False), address


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["proxy", listen, server, mode]:
            proxy(int(listen), int(server), Path(mode))
        case ["errors", listen, certificate, key]:
            errors(int(listen), certificate, key)
        case _:
            sys.exit(__doc__)
