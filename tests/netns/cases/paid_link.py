"""A node whose way out is a VPN takes and does not give, as it was told; once the VPN is gone, it gives."""

from lab import plain
from lab.case import Lab, same_roots, say
from lab.command import expect, wait_until

BYTES = 4 << 20
# `/sys` shows the interfaces of the network in which it was mounted.
OWN_SYS = ("unshare", "--mount", "sh", "-c", 'mount -t sysfs sysfs /sys && exec "$@"', "sh")


def run(lab: Lab) -> None:
    fleet = lab.fleet()
    plain.publish(lab, fleet, BYTES)
    traveller = fleet.add_node("traveller", 11)
    host = traveller.host
    host.call("ip", "tuntap", "add", "mode", "tun", "tun0")
    host.call("ip", "addr", "add", "10.99.0.1/24", "dev", "tun0")
    host.call("ip", "link", "set", "tun0", "up")
    host.call("ip", "route", "add", "default", "via", "10.99.0.2")
    traveller.start("--serve", "unmetered", under=OWN_SYS)
    traveller.await_state("converged")

    fleet.capture()
    first = fleet.add_node("first", 12)
    first.start()
    first.await_state("converged")
    wire = fleet.wire()
    totals = first.trace().totals
    say(f"over the VPN: {totals}")
    expect(totals["peers"] == 0 and wire.bytes("traveller", "first") == 0, "it gave over a VPN")
    first.host.power_off()

    host.call("ip", "link", "del", "tun0")
    wait_until("the traveller to give", 40, lambda: "this node gives" in traveller.log.read_text(errors="replace"))
    second = fleet.add_node("second", 13)
    second.start()
    second.await_state("converged")
    totals = second.trace().totals
    say(f"without it: {totals}")
    expect(totals["origin"] == 0, "it does not give")
    same_roots([traveller, second])
