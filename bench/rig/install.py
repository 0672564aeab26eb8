"""The programs that the comparisons need, from Debian's packages."""

from __future__ import annotations

import os
import shutil
import subprocess

PACKAGES = {
    "ip": "iproute2",
    "tc": "iproute2",
    "nft": "nftables",
    "unshare": "util-linux",
    "nginx": "nginx-light",
    "curl": "curl",
    "rsync": "rsync",
    "openssl": "openssl",
    "aria2c": "aria2",
    "b3sum": "b3sum",
}
PYTHON = "/usr/bin/python3"


def missing() -> list[str]:
    """Packages whose program is not there."""
    packages = {package for program, package in PACKAGES.items() if shutil.which(program) is None}
    probe = subprocess.run([PYTHON, "-I", "-c", "import libtorrent"], capture_output=True, check=False)
    if probe.returncode:
        packages.add("python3-libtorrent")
    return sorted(packages)


def install(packages: list[str]) -> None:
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    subprocess.run(["apt-get", "-q", "update"], check=True)
    command = ["apt-get", "-q", "-y", "--no-install-recommends", "install", *packages]
    subprocess.run(command, check=True, env=environment)
