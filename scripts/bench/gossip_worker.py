"""A process of the gossip benchmark: some Python nodes of one net, told by JSON lines what to do.

    python scripts/bench/gossip_worker.py ARM CASE NODES

ARM is `ours` or `py-libp2p`; CASE is `gossip_cases.described`, NODES the numbers of those that run here, both JSON.
Each line of stdin is a step, and answered by a line of stdout once it is done:

    {"do": "start"}                                  {"addresses": [...]} in the order of NODES
    {"do": "dial", "links": [[node, address]]}       {}
    {"do": "warm", "count": 50}                      {}   each node publishes its share
    {"do": "mark"}                                   {}   count CPU and bytes from here on
    {"do": "run", "at": t, "patience": s, "quiet": s}  {}   publish from `t` on, until all is delivered or nothing came
    {"do": "figures"}                                {"latencies": [ms], "cpu": s, "bytes": n, "memory_mb": n}

Times are of CLOCK_MONOTONIC, which all processes of a machine share: a payload begins with the number of the message
and the nanosecond in which it was published. `gossip.mjs` is the same for js-libp2p.
"""

from __future__ import annotations

import cProfile
import gc
import json
import logging
import os
import pstats
import re
import socket
import struct
import sys
import time
from pathlib import Path
from typing import Any

import structlog
import trio

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from gossip_arms import Node, OurNode, StockNode
from gossip_cases import OURS

from koii_p2p.gossip.parameters import Degrees

STAMP = struct.Struct("!IQ")
"""At the start of a payload: the number of the message, and when it was published in nanoseconds."""
UNCOUNTED = 1_000_000
"""Messages from this number on warm the net up."""
WARM_PAUSE = 0.02
LOOK_SECONDS = 0.02


class Worker:
    """The nodes of this process."""

    def __init__(self, arm: str, case: dict[str, Any], numbers: list[int], nursery: trio.Nursery) -> None:
        self._case = case
        self._nursery = nursery
        make = OurNode if arm == OURS else StockNode
        degrees = Degrees(**case["degrees"])
        self._publishers: list[int] = case["publishers"]
        self._latencies: list[float] = []
        self._nodes: dict[int, Node] = {
            number: make(number, case["nodes"], degrees, self._hears(number)) for number in numbers
        }
        self._cpu = 0.0
        self._bytes = 0

    def _hears(self, node: int) -> Any:
        """Return what one node calls for each payload: the first of each message of another counts."""
        heard: set[int] = set()

        def deliver(data: bytes) -> None:
            number, published = STAMP.unpack_from(data)
            if number >= UNCOUNTED or number in heard or self._publishers[number] == node:
                return
            heard.add(number)
            self._latencies.append((time.monotonic_ns() - published) / 1e6)

        return deliver

    async def start(self) -> dict[str, Any]:
        """Start the nodes."""
        for node in self._nodes.values():
            await self._nursery.start(node.run)
        return {"addresses": [node.address for node in self._nodes.values()]}

    async def dial(self, links: list[tuple[int, str]]) -> dict[str, Any]:
        """Link nodes of this process to others."""
        for number, address in links:
            await self._nodes[number].dial(address)
        return {}

    async def warm(self, count: int) -> dict[str, Any]:
        """Publish what is not counted, so that code is warm and queues have been used."""
        for number in range(count):
            node = number % self._case["nodes"]
            if node in self._nodes:
                await self._publish(node, UNCOUNTED + number)
            await trio.sleep(WARM_PAUSE)
        return {}

    async def mark(self) -> dict[str, Any]:
        """Begin to count."""
        gc.collect()
        gc.freeze()  # as the node does once it has started
        self._cpu, self._bytes = time.process_time(), bytes_sent()
        return {}

    async def run(self, at: float, patience: float, quiet: float) -> dict[str, Any]:
        """Publish everything, and wait until it has been delivered here."""
        await trio.sleep(max(0.0, at - time.monotonic()))
        here = [(number, node) for number, node in enumerate(self._publishers) if node in self._nodes]
        wanted = len(self._publishers) * len(self._nodes) - len(here)
        async with trio.open_nursery() as nursery:
            if rate := self._case["rate"]:
                nursery.start_soon(self._publish_steadily, here, rate, at)
            else:
                for node in self._nodes:
                    numbers = [number for number, publisher in here if publisher == node]
                    nursery.start_soon(self._publish_all, node, numbers)
        newest, count = time.monotonic(), len(self._latencies)
        while len(self._latencies) < wanted and time.monotonic() < at + patience:
            await trio.sleep(LOOK_SECONDS)
            if len(self._latencies) > count:
                newest, count = time.monotonic(), len(self._latencies)
            elif time.monotonic() > newest + quiet:
                break
        return {}

    async def figures(self) -> dict[str, Any]:
        """What was counted."""
        return {
            "latencies": self._latencies,
            "cpu": time.process_time() - self._cpu,
            "bytes": bytes_sent() - self._bytes,
            "memory_mb": peak_memory(),
        }

    async def _publish_steadily(self, here: list[tuple[int, int]], rate: float, at: float) -> None:
        async with trio.open_nursery() as nursery:
            for number, node in here:
                await trio.sleep(max(0.0, at + number / rate - time.monotonic()))
                nursery.start_soon(self._publish, node, number)

    async def _publish_all(self, node: int, numbers: list[int]) -> None:
        for number in numbers:
            await self._publish(node, number)

    async def _publish(self, node: int, number: int) -> None:
        data = STAMP.pack(number, time.monotonic_ns()).ljust(self._case["size"], b"\0")
        try:
            await self._nodes[node].publish(data)
        except Exception as error:  # noqa: BLE001 - a node that a fault has ended: what it had to say is not delivered
            logging.getLogger("bench").error("not published: %r", error)


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
            total += int(struct.unpack_from("=Q", info, 120)[0])
    return total


def peak_memory() -> float:
    """Return the most memory this process ever had, in MB (proc(5), VmHWM: since it became this program)."""
    text = Path("/proc/self/status").read_text(encoding="ascii")
    kib = next(line.split()[1] for line in text.splitlines() if line.startswith("VmHWM:"))
    return int(kib) * 1024 / 1e6


async def main(arm: str, case: str, numbers: str) -> None:
    profile = cProfile.Profile() if os.environ.get("BENCH_PROFILE") else None
    async with trio.open_nursery() as nursery:
        worker = Worker(arm, json.loads(case), json.loads(numbers), nursery)
        while line := await trio.to_thread.run_sync(sys.stdin.readline):
            step = json.loads(line)
            name = step.pop("do")
            if name == "run" and profile is not None:
                profile.enable()
            answer = await getattr(worker, name)(**step)
            if name == "run" and profile is not None:
                profile.disable()
                pstats.Stats(profile, stream=sys.stderr).sort_stats("tottime").print_stats(45)
            print(json.dumps(answer), flush=True)
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    logging.getLogger("libp2p").setLevel(logging.CRITICAL)
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
    try:
        trio.run(main, sys.argv[1], sys.argv[2], sys.argv[3])
    finally:
        os._exit(0 if sys.exc_info()[0] is None else 1)  # py-libp2p leaves threads that never end
