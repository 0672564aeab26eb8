"""A BitTorrent node with libtorrent: `leecher.py ADDRESS TORRENT DIRECTORY DONE [seed]`. Writes the time to DONE.

A program of its own, because the system's Python has libtorrent, and the one that runs the benchmarks may be another.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import libtorrent

# Local networks and short runs: nothing is encrypted, nothing is searched for in the Internet, nothing is limited.
SETTINGS = {
    "enable_dht": False,
    "enable_lsd": True,
    "enable_upnp": False,
    "enable_natpmp": False,
    "enable_outgoing_utp": False,
    "enable_incoming_utp": False,
    "in_enc_policy": 2,
    "out_enc_policy": 2,
    "connection_speed": 200,
    "min_reconnect_time": 1,
    "unchoke_slots_limit": 16,
    "allow_multiple_connections_per_ip": True,
    "alert_mask": libtorrent.alert.category_t.status_notification | libtorrent.alert.category_t.error_notification,
}


def main(address: str, torrent: str, directory: str, done: str, *seed: str) -> None:
    session = libtorrent.session({**SETTINGS, "listen_interfaces": f"{address}:6881"})
    parameters = libtorrent.add_torrent_params()
    parameters.ti = libtorrent.torrent_info(torrent)
    parameters.save_path = directory
    parameters.flags &= ~libtorrent.torrent_flags.auto_managed
    parameters.flags &= ~libtorrent.torrent_flags.paused
    if seed:
        parameters.flags |= libtorrent.torrent_flags.seed_mode
    handle = session.add_torrent(parameters)
    said = False
    while True:
        session.wait_for_alert(100)
        for alert in session.pop_alerts():
            if isinstance(alert, (libtorrent.torrent_error_alert, libtorrent.file_error_alert)):
                print(alert.message(), flush=True)
        if not said and handle.status().is_seeding:
            # What is not written yet is in the page cache's hands or in libtorrent's: ask for the latter.
            handle.flush_cache()
            Path(done).write_text(repr(time.time()))
            said = True


if __name__ == "__main__":
    main(*sys.argv[1:])
