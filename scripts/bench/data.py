"""What putting and getting a blob costs, beside a plain copy of the same bytes over one libp2p stream.

    python scripts/bench/data.py [--nodes 10] [--rounds 15] [--size 1024 ...] [--out figures.json]

All nodes run in this process over loopback and share one core, each with a store on disk that waits for it (fsync): a
put of level standard stores twice the bytes, hashes them at both ends and reads them back once before they are sent.
The copy is one stream between two of the nodes, into memory. Ratios come first; they are what counts elsewhere. CPU is
that of all nodes together, for one call: its ratios hold on a machine that has other work as well.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from hashlib import sha256
from pathlib import Path

import structlog
import trio

from koii_p2p.data.durability import DEFAULT_LEVEL, Level
from koii_p2p.data.putting import PutSettings
from koii_p2p.data.service import DataRoom
from koii_p2p.data.space import Space
from koii_p2p.limits import Limits
from koii_p2p.network.network import Network, NetworkSettings, PeerStream
from koii_p2p.network.settings import parse_peer_address
from koii_p2p.records.keys import SecretKey
from koii_p2p.storage.shards import ShardStore

LOOPBACK = "/ip4/127.0.0.1/tcp/0"
COPY = "/koii-p2p/bench-copy/1"
TASK = bytes(32)
SEED = sha256(b"bench").digest()
SIZES = (1024, 64 * 1024, 1024 * 1024, 8 * 1024 * 1024)
PIECE = 64 * 1024


@dataclass(frozen=True, slots=True)
class Figure:
    """Seconds of one kind of call: median, 99th percentile (the largest, of fewer than 100), median of CPU."""

    median: float
    p99: float
    cpu: float


def figure(measured: list[tuple[float, float]]) -> Figure:
    """Of all that were measured: seconds, and of CPU."""
    seconds = sorted(wall for wall, _ in measured)
    return Figure(
        statistics.median(seconds),
        seconds[min(len(seconds) - 1, int(0.99 * len(seconds)))],
        statistics.median(cpu for _, cpu in measured),
    )


class Bench:
    """Some nodes that know each other, all of them on the roster."""

    def __init__(self, stack: ExitStack, folder: Path, nodes: int) -> None:
        limits = replace(Limits(), connections_per_private_range=4096)
        settings = NetworkSettings(listen=(LOOPBACK,), heartbeat=60.0, target_peers=nodes)
        self.networks = [Network(SecretKey.generate(), settings, limits) for _ in range(nodes)]
        members = frozenset(network.key for network in self.networks)
        self.rooms = [
            DataRoom(
                stack.enter_context(ShardStore.open(folder / str(index), limits)),
                network,
                [Space(TASK, lambda: members, lambda: 0, lambda: SEED)],
                limits=limits,
            )
            for index, network in enumerate(self.networks)
        ]
        self.received = 0
        self.done = trio.Event()
        self.networks[1].handle(COPY, self._take)

    async def start(self, nursery: trio.Nursery) -> None:
        """Run them all, and wait until each is connected with each."""
        for network in self.networks:
            await nursery.start(network.run)
        for network in self.networks:
            for other in self.networks:
                if other is not network:
                    network.learn(other.key, [parse_peer_address(other.addresses[0]).transport])
        with trio.fail_after(60):
            while any(len(network.peers()) < len(self.networks) - 1 for network in self.networks):
                await trio.sleep(0.05)

    async def _take(self, stream: PeerStream) -> None:
        count = int.from_bytes(await stream.read_some(8), "big")
        while count:
            count -= len(await stream.read_some(PIECE))
        await stream.write(b"!")

    async def copy(self, data: bytes) -> None:
        """Send the bytes over a fresh stream, and wait for the word that they are there."""
        stream = await self.networks[0].open_stream(self.networks[1].key, [COPY], deadline=5)
        await stream.write(len(data).to_bytes(8, "big"))
        for start in range(0, len(data), PIECE):
            await stream.write(data[start : start + PIECE])
        await stream.read_some(1)
        await stream.close()

    async def measure(self, size: int, rounds: int, level: Level) -> dict[str, Figure]:
        """Copy, put and get blobs of one size in turns; each is another blob, read by a node that holds none of it."""
        seconds: dict[str, list[tuple[float, float]]] = {"copy": [], "put": [], "get": []}

        async def timed(what: str, work: Callable[[], Awaitable[object]]) -> object:
            began, cpu = time.perf_counter(), time.process_time()
            result = await work()
            seconds[what].append((time.perf_counter() - began, time.process_time() - cpu))
            return result

        for number in range(rounds + 1):
            data = os.urandom(size)
            await timed("copy", lambda data=data: self.copy(data))  # type: ignore[misc]
            putter, reader = (self.rooms[(number + offset) % len(self.rooms)] for offset in (0, 1))

            async def put(putter: DataRoom = putter, data: bytes = data) -> bytes:
                settings = PutSettings(level)
                return (await putter.put(TASK, _chunks(data), settings)).reference.manifest

            cid = await timed("put", put)
            assert isinstance(cid, bytes)
            found = bytearray()

            async def take(piece: bytes, found: bytearray = found) -> None:
                found.extend(piece)

            async def get(cid: bytes = cid, reader: DataRoom = reader) -> None:
                await reader.read(await reader.find(cid), None, take)

            await timed("get", get)
            if bytes(found) != data:
                raise RuntimeError("A blob was read that was not put.")
        return {name: figure(times[1:]) for name, times in seconds.items()}  # the first opens connections


async def _chunks(data: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(data), PIECE):
        yield data[start : start + PIECE]


async def run(nodes: int, rounds: int, sizes: tuple[int, ...], level: Level) -> dict[int, dict[str, Figure]]:
    """Measure every size."""
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        bench = Bench(stack, Path(folder), nodes)
        async with trio.open_nursery() as nursery:
            await bench.start(nursery)
            found = {size: await bench.measure(size, rounds, level) for size in sizes}
            nursery.cancel_scope.cancel()
    return found


def report(found: dict[int, dict[str, Figure]]) -> str:
    """The figures as text, ratios first."""
    lines = [f"{'bytes':>10} {'put / copy':>11} {'get / copy':>11} {'put, CPU':>11} {'get, CPU':>11}"]
    for size, figures in found.items():
        copy, put, get = figures["copy"], figures["put"], figures["get"]
        lines.append(
            f"{size:10} {put.median / copy.median:11.1f} {get.median / copy.median:11.1f} "
            f"{put.cpu / copy.cpu:11.1f} {get.cpu / copy.cpu:11.1f}"
        )
    lines += ["", f"{'bytes':>10} {'':6} {'median ms':>10} {'p99 ms':>10} {'CPU ms':>10} {'MiB/s':>8}"]
    for size, figures in found.items():
        for name, one in figures.items():
            rate = size / one.median / 2**20
            milliseconds = " ".join(f"{1000 * value:10.1f}" for value in (one.median, one.p99, one.cpu))
            lines.append(f"{size:10} {name:6} {milliseconds} {rate:8.1f}")
    return "\n".join(lines)


def main() -> None:
    """Measure, print, and write the figures where asked."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--nodes", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=15, help="blobs of each size")
    parser.add_argument("--size", type=int, nargs="*", default=list(SIZES), help="bytes of a blob")
    parser.add_argument("--level", choices=[level.title for level in Level], default=DEFAULT_LEVEL.title)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(40))
    level = Level[arguments.level.upper()]
    found = trio.run(run, arguments.nodes, arguments.rounds, tuple(arguments.size), level)
    print(report(found))
    if arguments.out is not None:
        written = {
            str(size): {name: asdict(one) for name, one in figures.items()} for size, figures in found.items()
        }
        arguments.out.write_text(json.dumps(written, indent=1))


if __name__ == "__main__":
    main()
