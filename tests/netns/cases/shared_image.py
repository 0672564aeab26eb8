"""Three configurations share an image, and six nodes want them at once: it crosses the uplink once, as do its lists."""

import random
from pathlib import Path

from lab.case import Lab, say
from lab.command import expect
from lab.fleet import Fleet

IMAGE_BYTES, OWN_BYTES = 12 << 20, 512 << 10
CONFIGURATIONS = ("red", "green", "blue")
NODES_EACH = 2
MEGABITS = 50
STEPS = '[[step]]\nid = "image"\nfile = "image.bin"\ndest = "/srv/image.bin"\n\n[[step]]\nid = "own"\nfile = "own"\ndest = "/srv/own"\n'
# Of what is different: nodes that do not know of each other yet may begin with the same.
ORIGIN_RATIO_MAX = 1.1
COPIES_MAX = 1.15


def run(lab: Lab) -> None:
    fleet = lab.fleet()
    fleet.host.shape(megabits=MEGABITS)
    image = random.Random(1).randbytes(IMAGE_BYTES)
    for seed, name in enumerate(CONFIGURATIONS):
        publish(fleet, lab.directory / name, name, image, seed)
    wanted = [name for name in CONFIGURATIONS for _ in range(NODES_EACH)]
    nodes = [fleet.add_node(f"{name}{index}", 11 + index) for index, name in enumerate(wanted)]
    for name in CONFIGURATIONS:
        fleet.order("assign", name, "--where", f"wants={name}")
    joins = {name: fleet.order("join-token", "--uses", "9", "--label", f"wants={name}").strip() for name in CONFIGURATIONS}
    fleet.capture()
    for node, name in zip(nodes, wanted, strict=True):
        node.start("--join", joins[name], join=False)
    for node in nodes:
        node.await_state("converged")
    wire = fleet.wire()

    different = IMAGE_BYTES + len(CONFIGURATIONS) * OWN_BYTES
    traces = {node.name: node.trace() for node in nodes}
    origin = sum(trace.totals["origin"] for trace in traces.values())
    sent = sum(wire.bytes("server", node.name) for node in nodes)
    files = {name: next(file for file in trace.files if file.path == "image.bin") for name, trace in traces.items()}
    copies = {
        "image": of_server([file.ranges for file in files.values()]) / IMAGE_BYTES,
        "its chunk list": of_server([file.chunk_list for file in files.values()]) / length(next(iter(files.values())).chunk_list),
    }
    for name in CONFIGURATIONS:
        lists = [traces[node.name].list_ranges for node, of in zip(nodes, wanted, strict=True) if of == name]
        copies[f"list of {name}"] = of_server(lists) / length(lists[0])
    say(f"the server sent {origin / different:.3f} times what is different by the traces, {sent / different:.3f} on the wire; "
        + ", ".join(f"{what} {count:.2f} times" for what, count in copies.items()))  # fmt: skip
    for node in nodes:
        expect((node.root / "srv/image.bin").read_bytes() == image, f"{node.name} has another image")
    expect(origin <= ORIGIN_RATIO_MAX * different, "too much came from the server")
    expect(copies["image"] <= COPIES_MAX, "the image crossed the uplink more than once")
    # What is one chunk may have been asked for by two who had not heard of each other: never by all.
    expect(copies["its chunk list"] <= len(nodes) / 2, "its chunk list did not come from peers")


def publish(fleet: Fleet, directory: Path, name: str, image: bytes, seed: int) -> None:
    directory.mkdir()
    (directory / "configuration.toml").write_text(f'name = "{name}"\n\n{STEPS}')
    (directory / "image.bin").write_bytes(image)
    (directory / "own").write_bytes(random.Random(f"own {seed}").randbytes(OWN_BYTES))
    fleet.order("publish", directory)


def length(ranges) -> int:
    return sum(part.length for part in ranges)


def of_server(each) -> int:
    return sum(part.length for ranges in each for part in ranges if part.source == "origin")
