"""What gossip costs: nets of our nodes beside nets of js-libp2p nodes, each net in one process over loopback.

    python scripts/bench/gossip.py [--json] [--rounds 1] [--cases burst] [--profile CASE]

Both have the same links, the same mesh degrees, no signatures and the same message ids, and take turns in one run; the
ratios are what counts on another machine. A burst is published by all nodes as fast as they are let; the other cases
have a steady rate. js-libp2p is installed by npm once, in the versions of `tests/interop/libp2p/package.json`.

`--json` prints `cpu_ratio_to_js`, the median over the cases of our CPU per delivery to that of js-libp2p, and
`delivered`, the least share of ours that was delivered, above the figures of every case.
"""

from __future__ import annotations

import argparse
import cProfile
import gc
import json
import logging
import os
import pstats
import random
import re
import resource
import socket
import statistics
import struct
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import structlog
import trio

from koii_p2p.gossip.parameters import GossipParameters, degrees_for
from koii_p2p.network.gossip import GossipVerdict
from koii_p2p.network.network import Network, NetworkSettings
from koii_p2p.network.settings import parse_peer_address
from koii_p2p.records.keys import SecretKey

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

TOPIC = "bench"
LOOPBACK = "/ip4/127.0.0.1/tcp/0"
LINKS = 4
"""How many others each node dials, so that it has twice as many links."""
SETTLE_SECONDS = 4.0
WARM_MESSAGES = 50
PATIENCE_SECONDS = 60.0
UNCOUNTED = 1_000_000
"""Messages from this number on warm the net up."""


@dataclass(frozen=True, slots=True)
class Case:
    """`messages` of `size` bytes among `nodes`, so many a second, or 0: as fast as they go."""

    nodes: int
    messages: int
    size: int
    rate: float = 0.0

    @property
    def name(self) -> str:
        """Its name in reports and for `--cases`."""
        pace = f"{self.rate:g}/s" if self.rate else "burst"
        return f"{self.nodes} nodes, {pace} of {self.messages} x {self.size}"


CASES = tuple(
    Case(nodes, messages, size, rate)
    for nodes, steady in ((10, 20.0), (30, 5.0))
    for messages, size, rate in (
        (100, 512, 0.0),
        (500, 512, 0.0),
        (100, 16 * 1024, 0.0),
        (100, 512, steady),
        (100, 16 * 1024, steady),
    )
)


@dataclass(frozen=True, slots=True)
class Figure:
    """What one net did; all but the first are per delivery or of the whole process."""

    delivered: float
    p50_ms: float
    p99_ms: float
    cpu_ms: float
    bytes: float
    """Written to sockets, per delivery."""
    memory_mb: float
    """At the peak, of the whole process."""


def links_of(nodes: int) -> list[tuple[int, int]]:
    """Return who dials whom: each node some earlier and later ones, by chance, the same for everybody."""
    source = random.Random(nodes)
    linked: set[tuple[int, int]] = set()
    for number in range(nodes):
        others = [other for other in range(nodes) if other != number and (other, number) not in linked]
        linked |= {(number, other) for other in source.sample(others, min(LINKS, len(others)))}
    return sorted(linked)


def publishers_of(case: Case) -> list[int]:
    """Return who publishes which message."""
    source = random.Random(case.messages)
    return [source.randrange(case.nodes) for _ in range(case.messages)]


class Net:
    """Our nodes, and what they deliver."""

    def __init__(self, case: Case) -> None:
        self._case = case
        settings = NetworkSettings(listen=(LOOPBACK,), expected_peers=case.nodes, target_peers=0)
        self.nodes = [
            Network(SecretKey.from_seed(bytes([number + 1]) * 32), settings) for number in range(case.nodes)
        ]
        self.latencies: list[float] = []
        self._published: dict[int, float] = {}

    def _deliver(self, _sender: bytes, data: bytes) -> GossipVerdict:
        began = self._published.get(int.from_bytes(data[:4], "big"))
        if began is not None:
            self.latencies.append(time.perf_counter() - began)
        return GossipVerdict.ACCEPT

    async def start(self, nursery: trio.Nursery) -> None:
        """Start all nodes, link and subscribe them, and wait until the meshes have formed."""
        for node in self.nodes:
            await node.join_topic(TOPIC, self._deliver)
            await nursery.start(node.run)
        for number, other in links_of(self._case.nodes):
            target = self.nodes[other]
            await self.nodes[number]._dial(target.key, parse_peer_address(target.addresses[0]).transport)
        await trio.sleep(SETTLE_SECONDS)
        for number in range(WARM_MESSAGES):
            await self._publish(number % self._case.nodes, UNCOUNTED + number)
            await trio.sleep(0.02)
        await trio.sleep(1.5)

    async def _publish(self, node: int, number: int) -> None:
        if number < UNCOUNTED:
            self._published[number] = time.perf_counter()
        await self.nodes[node].publish(TOPIC, number.to_bytes(4, "big").ljust(self._case.size, b"\0"))

    async def _publish_all(self, node: int, publishers: Sequence[int]) -> None:
        for number, publisher in enumerate(publishers):
            if publisher == node:
                await self._publish(node, number)

    async def publish(self, nursery: trio.Nursery) -> None:
        """Publish everything, and wait until it has been delivered."""
        case = self._case
        publishers = publishers_of(case)
        began = trio.current_time()
        if case.rate:
            for number, publisher in enumerate(publishers):
                await trio.sleep_until(began + number / case.rate)
                nursery.start_soon(self._publish, publisher, number)
        else:
            for node in range(case.nodes):
                nursery.start_soon(self._publish_all, node, publishers)
        wanted = case.messages * (case.nodes - 1)
        with trio.move_on_at(began + PATIENCE_SECONDS):
            while len(self.latencies) < wanted:
                await trio.sleep(0.02)


async def measure(case: Case, profile: cProfile.Profile | None = None) -> Figure:
    """Run a net of ours through a case."""
    net = Net(case)
    async with trio.open_nursery() as nursery:
        await net.start(nursery)
        gc.collect()
        gc.freeze()  # as the node does once it has started
        sent, cpu = bytes_sent(), time.process_time()
        if profile is not None:
            profile.enable()
        await net.publish(nursery)
        if profile is not None:
            profile.disable()
        cpu, sent = time.process_time() - cpu, bytes_sent() - sent
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
        nursery.cancel_scope.cancel()
    taken = sorted(net.latencies) or [0.0]
    count = max(1, len(net.latencies))
    return Figure(
        delivered=len(net.latencies) / (case.messages * (case.nodes - 1)),
        p50_ms=taken[len(taken) // 2] * 1e3,
        p99_ms=taken[int(len(taken) * 0.99)] * 1e3,
        cpu_ms=cpu / count * 1e3,
        bytes=sent / count,
        memory_mb=memory,
    )


def bytes_sent() -> int:
    """Return how many bytes the other ends of this process's TCP sockets have acknowledged (Linux, `tcp_info`)."""
    total = 0
    for name in os.listdir("/proc/self/fd"):
        try:
            if not re.match("socket:", os.readlink(f"/proc/self/fd/{name}")):
                continue
            with socket.socket(fileno=os.dup(int(name))) as copy:
                info = copy.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 192)
        except OSError:
            continue  # closed since, or not TCP
        if len(info) >= 128:
            total += struct.unpack_from("=Q", info, 120)[0]
    return total


def run_ours(case: Case) -> Figure:
    """Run a net of ours in a process of its own."""
    return _figure([sys.executable, __file__, "--one", case.name], Path.cwd())


def run_js(case: Case, folder: Path) -> Figure:
    """Run a net of js-libp2p nodes in a process of its own."""
    parameters = GossipParameters(degrees=degrees_for(case.nodes))
    given = {
        **asdict(case),
        "degrees": asdict(parameters.degrees),
        "idontwant": parameters.idontwant_bytes,
        "links": links_of(case.nodes),
        "publishers": publishers_of(case),
        "settle": SETTLE_SECONDS,
        "warm": WARM_MESSAGES,
        "patience": PATIENCE_SECONDS,
    }
    return _figure(["node", "--import", "./polyfill.mjs", "gossip.mjs", json.dumps(given)], folder)


def _figure(command: Sequence[str], folder: Path) -> Figure:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300, check=False)
    if done.returncode:
        raise RuntimeError(f"{command[0]} failed: {done.stderr[-2000:]}")
    return Figure(**json.loads(done.stdout.splitlines()[-1]))


def measure_all(cases: Sequence[Case], rounds: int) -> dict[str, dict[str, Figure]]:
    """Run the cases with ours and js in turns; return the medians. Raises `NotInstalled` without npm."""
    from tests.interop.js_peer import js_libp2p_folder

    folder = js_libp2p_folder(Path(__file__).with_suffix(".mjs"))
    found: dict[str, dict[str, Figure]] = {}
    for case in cases:
        runs: dict[str, list[Figure]] = {"ours": [], "js": []}
        for _ in range(rounds):
            runs["ours"].append(run_ours(case))
            runs["js"].append(run_js(case, folder))
        found[case.name] = {arm: _median(figures) for arm, figures in runs.items()}
        print(_line(case.name, found[case.name]), file=sys.stderr, flush=True)
    return found


def _median(figures: Sequence[Figure]) -> Figure:
    middle = {
        name: statistics.median(getattr(figure, name) for figure in figures) for name in Figure.__slots__
    }
    middle["delivered"] = min(figure.delivered for figure in figures)
    return Figure(**middle)


HEADER = f"{'case':34} {'CPU ratio':>9}   delivered   CPU ms/delivery   p50 ms        p99 ms          kB/delivery    MB"


def _line(name: str, arms: dict[str, Figure]) -> str:
    ours, js = arms["ours"], arms["js"]
    return (
        f"{name:34} {ours.cpu_ms / js.cpu_ms:9.2f}   {ours.delivered:.3f} {js.delivered:.3f}"
        f"  {ours.cpu_ms:7.3f} {js.cpu_ms:7.3f}  {ours.p50_ms:6.0f} {js.p50_ms:6.0f}"
        f"  {ours.p99_ms:6.0f} {js.p99_ms:6.0f}  {ours.bytes / 1e3:7.2f} {js.bytes / 1e3:7.2f}"
        f"  {ours.memory_mb:4.0f} {js.memory_mb:4.0f}"
    )


def summary(found: dict[str, dict[str, Figure]]) -> dict[str, object]:
    """Return what `--json` prints."""
    return {
        "cpu_ratio_to_js": statistics.median(
            arms["ours"].cpu_ms / arms["js"].cpu_ms for arms in found.values()
        ),
        "delivered": min(arms["ours"].delivered for arms in found.values()),
        "cases": {
            name: {arm: asdict(figure) for arm, figure in arms.items()} for name, arms in found.items()
        },
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    parser.add_argument("--rounds", type=int, default=1, help="how often each is measured; medians are given")
    parser.add_argument("--cases", default="", help="only the cases in whose names this is")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("--profile", help="print where the time of the cases named like this goes in ours")
    options = parser.parse_args()
    logging.getLogger("libp2p").setLevel(logging.CRITICAL)
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    if options.one:
        case = next(case for case in CASES if case.name == options.one)
        print(json.dumps(asdict(trio.run(measure, case))))
        return
    if options.profile:
        for case in (case for case in CASES if options.profile in case.name):
            profile = cProfile.Profile()
            print(f"\n{case.name}: {trio.run(partial(measure, case, profile))}")
            pstats.Stats(profile).sort_stats("tottime").print_stats(45)
        return
    found = measure_all([case for case in CASES if options.cases in case.name], options.rounds)
    if options.json:
        print(json.dumps(summary(found), indent=1))
    else:
        print(HEADER, *(_line(name, arms) for name, arms in found.items()), sep="\n")


if __name__ == "__main__":
    main()
