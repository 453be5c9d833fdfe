"""What a simulated message costs in the lab, beside a public simulator and a bare heap of events.

    python scripts/bench/lab_gossip.py [--nodes 100,250] [--messages 10] [--peer-python PATH] [--published] [--json]

Nets of real routers (`lab.gossip_net`) and of p2psimpy, a simulator of peer-to-peer nets on PyPI (0.1.0, on SimPy), on
the same links, 10 to 150 ms long, with the same authors and one message a second. p2psimpy's gossip has a fanout and
hops to live, no mesh, no encoding and no scores; its copies and their receipt are what both have in common. CPU is that
of all the virtual time in which messages travel, heartbeats here and pings there with it. The ratio is theirs to ours,
of CPU per copy; above 1 ours is cheaper. p2psimpy is installed for the run into a folder of its own, unless
`--peer-python` names an interpreter that has it.

Events are counted beside those that a loop of `heapq` alone does, which is the most that Python can. `--published`
plays gerbil-simsub's nets instead (100 to 1000 nodes) and prints what was published of them.
"""

from __future__ import annotations

import argparse
import heapq
import json
import math
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from koii_p2p.lab.clockwork import SECOND
from koii_p2p.lab.gossip_net import (
    GossipNet,
    Version,
    published_network,
    published_setting,
    spread,
    spread_of,
)

HERE: Final = Path(__file__).resolve().parent
FANOUT: Final = 6
SOURCES: Final = 5
CONNECT: Final = 20
SEED: Final = 1
HEAP_EVENTS: Final = 500_000
LONGEST_SECONDS: Final = 600.0
PEER: Final = ("simpy>=4.1", "networkx<3.5", "pyyaml", "scipy", "numpy")
PUBLISHED: Final = {100: (10, 6_280, 6_738), 250: (60, 96_320, 100_112), 500: (60, 189_451, 193_171)} | {
    1000: (60, 377_370, 381_920)
}
"""Messages, and copies that v1.0 and v1.1 sent (vyzo/gerbil-simsub, README.org and gists of its author)."""


@dataclass(frozen=True, slots=True)
class Figure:
    """One net: per copy of a message, and in all. `delivered` is the share of deliveries."""

    nodes: int
    ours_us_per_copy: float
    theirs_us_per_copy: float
    ratio: float
    ours_us_per_delivery: float
    theirs_us_per_delivery: float
    ours_delivered: float
    theirs_delivered: float
    events_per_second: float
    heap_events_per_second: float


def measure(nodes: int, messages: int, peer_python: Path, heap: float) -> Figure:
    """Play one net in both simulators."""
    net = GossipNet(published_network(nodes), SEED, published_setting(Version.V1_0))
    net.subscribe()
    net.connect_randomly(range(nodes), CONNECT)
    net.run(5 * SECOND)
    authors = net.random.sample(range(nodes), SOURCES)
    events, copies, began = net.clock.happened, net.copies, time.process_time()
    for number in range(messages):
        net.publish(authors[number % SOURCES])
        net.run(SECOND)
    net.run(10 * SECOND)
    took = time.process_time() - began
    ours = spread_of(net, copies)
    links = [(one, other) for one in range(nodes) for other in net.linked(one) if one < other]
    setting = {
        "nodes": nodes,
        "links": links,
        "authors": authors,
        "messages": messages,
        "fanout": FANOUT,
        # So many hops that thrice as many copies are sent as there are nodes: a copy may be the second of its node.
        "ttl": max(1, math.ceil(math.log(3 * nodes) / math.log(FANOUT)) - 1),
        "seed": SEED,
        "low_ms": 10,
        "high_ms": 150,
    }
    command = [str(peer_python), str(HERE / "lab_gossip_p2psimpy.py"), json.dumps(setting)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=LONGEST_SECONDS, check=True)
    theirs = json.loads(done.stdout)
    due = messages * nodes
    per_copy = took * 1e6 / ours.copies, theirs["cpu_s"] * 1e6 / theirs["copies"]
    return Figure(
        nodes=nodes,
        ours_us_per_copy=per_copy[0],
        theirs_us_per_copy=per_copy[1],
        ratio=per_copy[1] / per_copy[0],
        ours_us_per_delivery=took * 1e6 / ours.deliveries,
        theirs_us_per_delivery=theirs["cpu_s"] * 1e6 / theirs["delivered"],
        ours_delivered=ours.deliveries / due,
        theirs_delivered=theirs["delivered"] / due,
        events_per_second=(net.clock.happened - events) / took,
        heap_events_per_second=heap,
    )


def heap_speed() -> float:
    """Events per second of CPU that `heapq` alone does, a thousand of them waiting."""
    happened = 0

    def happen() -> None:
        nonlocal happened
        happened += 1

    waiting: list[tuple[int, int, Callable[[], None]]] = [(number, number, happen) for number in range(1000)]
    began = time.process_time()
    for number in range(HEAP_EVENTS):
        when, _, what = heapq.heappop(waiting)
        what()
        heapq.heappush(waiting, (when + 1000, number, what))
    return happened / (time.process_time() - began)


def installed(folder: Path) -> Path:
    """An interpreter with p2psimpy, made in a folder."""
    venv.create(folder, with_pip=True)
    python = folder / "bin" / "python"
    pip = [str(python), "-m", "pip", "install", "-q", "--disable-pip-version-check"]
    subprocess.run([*pip, *PEER], check=True)
    # It asks for a Python below 3.11, and runs with later ones.
    subprocess.run([*pip, "--ignore-requires-python", "--no-deps", "p2psimpy==0.1.0"], check=True)
    return python


def play_published(sizes: list[int]) -> None:
    """Print what was published of each net, and what ours comes to."""
    print("nodes version  messages  published copies    ours  of it  delivered  CPU s  shares per 100 ms")
    for nodes in sizes:
        messages, *copies = PUBLISHED[nodes]
        for version, published in zip(Version, copies, strict=True):
            began = time.process_time()
            found = spread(nodes, messages, version, SEED)
            took = time.process_time() - began
            shares = " ".join(f"{count / len(found.latencies):.3f}" for count in found.histogram())
            print(
                f"{nodes:5} {version.value:7} {messages:9} {published:17} {found.copies:7}"
                f" {found.copies / published:6.3f} {found.deliveries / (nodes * messages):10.4f}"
                f" {took:6.1f}  {shares}",
                flush=True,
            )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--nodes", default="100,250", help="how many, one net after the other")
    parser.add_argument("--messages", type=int, default=10)
    parser.add_argument("--peer-python", type=Path, help="an interpreter that has p2psimpy")
    parser.add_argument("--published", action="store_true", help="the nets of gerbil-simsub instead")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    options = parser.parse_args()
    sizes = [int(text) for text in options.nodes.split(",")]
    if options.published:
        play_published(sizes)
        return
    with tempfile.TemporaryDirectory() as folder:
        python = options.peer_python or installed(Path(folder))
        heap = heap_speed()
        figures = [measure(nodes, options.messages, python, heap) for nodes in sizes]
    if options.json:
        print(json.dumps([asdict(one) for one in figures], indent=1))
        return
    print(
        "nodes  us/copy: ours  p2psimpy  ratio  us/delivery: ours  p2psimpy  delivered  events/s  bare heap"
    )
    for one in figures:
        print(
            f"{one.nodes:5} {one.ours_us_per_copy:14.1f} {one.theirs_us_per_copy:9.1f} {one.ratio:6.1f}"
            f" {one.ours_us_per_delivery:18.1f} {one.theirs_us_per_delivery:9.1f}"
            f" {one.ours_delivered:5.3f}, {one.theirs_delivered:.3f} {one.events_per_second:9.0f}"
            f" {one.heap_events_per_second:10.0f}"
        )


if __name__ == "__main__":
    main()
