"""The tools of today that download from one server: nginx with curl over TLS 1.3, and the rsync daemon."""

from __future__ import annotations

from pathlib import Path

from lab.command import Process, attempt, call, expect, wait_until
from lab.network import Host
from rig.payload import Payload

HTTPS_PORT, RSYNC_PORT = 8443, 8730

NGINX = """\
daemon off;
pid {scratch}/nginx.pid;
error_log {scratch}/nginx-error.log;
user root;
worker_processes 1;
events {{ worker_connections 1024; }}
http {{
    access_log off;
    sendfile on;
    tcp_nopush on;
    keepalive_requests 1000000;
    client_body_temp_path {scratch}/nginx-a;
    proxy_temp_path {scratch}/nginx-b;
    fastcgi_temp_path {scratch}/nginx-c;
    uwsgi_temp_path {scratch}/nginx-d;
    scgi_temp_path {scratch}/nginx-e;
    server {{
        listen {address}:{port} ssl;
        ssl_certificate {scratch}/web.crt;
        ssl_certificate_key {scratch}/web.key;
        ssl_protocols TLSv1.3;
        root {content};
    }}
}}
"""

RSYNCD = """\
use chroot = no
reverse lookup = no
[content]
path = {content}
"""


class Web:
    """nginx and the rsync daemon on a host, with the content of a payload."""

    def __init__(self, host: Host, payload: Payload, scratch: Path) -> None:
        self._host = host
        self._payload = payload
        self._scratch = scratch
        scratch.mkdir()
        call("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2",
             "-subj", "/CN=bench", "-addext", f"subjectAltName=IP:{host.ipv4}",
             "-keyout", scratch / "web.key", "-out", scratch / "web.crt")  # fmt: skip
        (scratch / "nginx.conf").write_text(
            NGINX.format(scratch=scratch, address=host.ipv4, port=HTTPS_PORT, content=payload.content)
        )
        (scratch / "rsyncd.conf").write_text(RSYNCD.format(content=payload.content))
        self._processes = [
            host.start("nginx", scratch / "nginx.log", "nginx", "-c", scratch / "nginx.conf", "-e", scratch / "e.log"),
            # As root it would change its groups, which namespaces without root forbid.
            host.start("rsyncd", scratch / "rsyncd.log", "unshare", "--user", "--map-user=1000", "--map-group=1000",
                       "rsync", "--daemon", "--no-detach", "--port", str(RSYNC_PORT), "--config",
                       scratch / "rsyncd.conf"),
        ]  # fmt: skip
        for port in (HTTPS_PORT, RSYNC_PORT):
            wait_until(f"port {port}", 20, lambda port=port: self._listens(port))

    def curl(self, host: Host, into: Path, *, parallel: bool = False) -> Process:
        """One process for all files, over connections that it keeps."""
        into.mkdir(parents=True)
        config = self._scratch / f"{host.name}-{into.name}.curl"
        base = f"https://{self._host.ipv4}:{HTTPS_PORT}"
        config.write_text(
            "".join(f'url = "{base}/{path}"\noutput = "{into / path}"\n' for path in self._payload.paths)
        )
        options = ["--parallel", "--parallel-max", "8"] if parallel else []
        return host.start(
            f"curl {host.name}", self._scratch / f"{host.name}-curl.log",
            "curl", "--silent", "--show-error", "--fail", "--http1.1", "--tlsv1.3", "--create-dirs",
            "--cacert", self._scratch / "web.crt", *options, "--config", config,
        )  # fmt: skip

    def rsync(self, host: Host, into: Path) -> Process:
        """Without encryption, and without comparing to files that are not there."""
        into.mkdir(parents=True)
        return host.start(
            f"rsync {host.name}", self._scratch / f"{host.name}-rsync.log",
            "rsync", "--archive", "--no-owner", "--no-group", "--whole-file", f"rsync://{self._host.ipv4}:{RSYNC_PORT}/content/", f"{into}/",
        )  # fmt: skip

    def nginx(self) -> list[int]:
        """Process ids of the web server."""
        master = self._processes[0].pid
        return [master, *map(int, Path(f"/proc/{master}/task/{master}/children").read_text().split())]

    def stop(self) -> None:
        for process in self._processes:
            process.kill()

    def _listens(self, port: int) -> bool:
        for process in self._processes:
            expect(process.running(), f"{process.name} ended:\n{process.output()}")
        return attempt(*self._host.inside("bash", "-c", f"exec 3<>/dev/tcp/{self._host.ipv4}/{port}")).returncode == 0
