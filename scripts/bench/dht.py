"""What the DHT costs: a net of ours beside one of js-libp2p's kad-dht and one of the `kademlia` package of PyPI.

    python -m venv ENV && ENV/bin/pip install -e '.[test]' kademlia==2.2.3
    ENV/bin/python scripts/bench/dht.py [--json] [--rounds 1] [--nodes 32] [--operations 40]

`kademlia` (MIT) is for this alone; without it its ratios are left out. js-libp2p is installed by npm once, in the
versions of `tests/interop/libp2p/package.json`.

Each net is one process over loopback, with k = 20 and values of 256 bytes that nobody signs; operations come one at a
time: writes from all nodes in turn, reads from four more that hold nothing themselves (clients; of `kademlia`, which
has none, nodes whose storage is emptied first). Ours keeps 32 connections for searches: with more nodes it dials anew
what the others still have. js-libp2p speaks TCP, Noise and Yamux as ours does. `kademlia` sends bare UDP and has
neither encryption nor identities, nor providers: a value that names the node stands for a provider record. A get of
ours wants four values, one of js-libp2p is over with the first, and one of `kademlia` with what the first three that
it asks say.

`--json` prints `cpu_ratio_to_js` and `cpu_ratio_to_kademlia`, the medians over the operations of our CPU per operation
to theirs, `latency_ratio_to_js` and `latency_ratio_to_kademlia` likewise of the median latency, and `done`, the least
share of ours that succeeded.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib.util
import json
import logging
import statistics
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict, dataclass, replace
from hashlib import sha256
from pathlib import Path

import structlog
import trio

from koii_p2p.network.network import Network, NetworkSettings
from koii_p2p.network.settings import parse_peer_address
from koii_p2p.records.cid import cid_of
from koii_p2p.records.keys import SecretKey

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

LOOPBACK = "/ip4/127.0.0.1/tcp/0"
READERS = 4
LINKS = 4
"""How many earlier nodes each node dials at first."""
VALUE_BYTES = 256
SETTLE_SECONDS = 60.0
QUIET_SECONDS = 3.0
"""A net has settled when no table has grown for so long."""
WARM = 3
NET_SECONDS = 600
OPERATIONS = ("put", "get", "provide", "find")
READS = ("get", "find")


@dataclass(frozen=True, slots=True)
class Figure:
    """One operation in one net."""

    p50_ms: float
    p99_ms: float
    cpu_ms: float
    """Of the whole process, per operation: all nodes together."""
    done: float
    """Share that succeeded."""


class Anything:
    """Rules under which every value may stand."""

    def validate(self, key: bytes, value: bytes) -> bool:
        """Take everything."""
        return True

    def select(self, key: bytes, values: Sequence[bytes]) -> int:
        """Prefer the first."""
        return 0


def key_of(number: int) -> bytes:
    return b"/bench/" + sha256(b"value %d" % number).hexdigest().encode()


def value_of(number: int) -> bytes:
    return bytes([number % 256]) * VALUE_BYTES


def content_of(number: int) -> bytes:
    return cid_of(b"content %d" % number)


async def timed(
    work: Callable[[int, int], Awaitable[bool]], name: str, nodes: int, operations: int
) -> dict[str, object]:
    """Do one kind of operation, `work(node, number)`, on the nodes in turn; the readers come behind the others."""
    first, count = (nodes, READERS) if name in READS else (0, nodes)
    for number in range(WARM):
        await work(first + number, number if name in READS else operations + number)
    latencies, done = [], 0
    cpu = time.process_time()
    for number in range(operations):
        began = time.perf_counter()
        done += await work(first + number % count, number)
        latencies.append(1e3 * (time.perf_counter() - began))
    cpu = time.process_time() - cpu
    return {"latencies": latencies, "cpu_ms": 1e3 * cpu / operations, "done": done / operations}


async def run_ours(nodes: int, operations: int) -> dict[str, object]:
    """Run a net of ours through all operations."""
    server = NetworkSettings(listen=(LOOPBACK,), target_peers=0, dht="server")
    roles = [server] * nodes + [replace(server, dht="client")] * READERS
    net = [
        Network(SecretKey.from_seed(bytes([number + 1]) * 32), settings)
        for number, settings in enumerate(roles)
    ]

    async def put(node: int, number: int) -> bool:
        return await net[node].dht.put(key_of(number), value_of(number)) > 0

    async def get(node: int, number: int) -> bool:
        return await net[node].dht.get(key_of(number)) == value_of(number)

    async def provide(node: int, number: int) -> bool:
        await net[node].provide(content_of(number))
        return True

    async def find(node: int, number: int) -> bool:
        return bool(await net[node].find_providers(content_of(number), count=1, deadline=10))

    async with trio.open_nursery() as nursery:
        for number, node in enumerate(net):
            node.dht.add_namespace("bench", Anything())
            await nursery.start(node.run)
            for other in net[max(0, min(number, nodes) - LINKS) : min(number, nodes)]:
                await node._dial(other.key, parse_peer_address(other.addresses[0]).transport)
        known, ends = -1, trio.current_time() + SETTLE_SECONDS
        while trio.current_time() < ends and (now := sum(len(node.dht.table()) for node in net)) != known:
            known = now
            await trio.sleep(QUIET_SECONDS)
        result: dict[str, object] = {"tables": min(len(node.dht.table()) for node in net)}
        for name, work in (("put", put), ("get", get), ("provide", provide), ("find", find)):
            result[name] = await timed(work, name, nodes, operations)
        nursery.cancel_scope.cancel()
    return result


async def run_kademlia(nodes: int, operations: int) -> dict[str, object]:
    """Run a net of the `kademlia` package through the operations that it has."""
    from kademlia.network import Server  # type: ignore[import-not-found]

    net = [Server(ksize=20) for _ in range(nodes + READERS)]
    ports = []
    for server in net:
        await server.listen(0, interface="127.0.0.1")
        ports.append(server.transport.get_extra_info("sockname")[1])
    for number, server in enumerate(net):
        if number:
            await server.bootstrap([("127.0.0.1", port) for port in ports[max(0, number - LINKS) : number]])
    for server in net:
        await server.bootstrap([("127.0.0.1", ports[0])])

    async def put(node: int, number: int) -> bool:
        return bool(await net[node].set(key_of(number), value_of(number)))

    async def get(node: int, number: int) -> bool:
        return bool(await net[node].get(key_of(number)) == value_of(number))

    async def provide(node: int, number: int) -> bool:
        return bool(await net[node].set(content_of(number), value_of(node)))

    async def find(node: int, number: int) -> bool:
        return bool(await net[node].get(content_of(number)) is not None)

    result: dict[str, object] = {"tables": min(len(server.bootstrappable_neighbors()) for server in net)}
    for name, work in (("put", put), ("get", get), ("provide", provide), ("find", find)):
        if name in READS:
            for server in net[nodes:]:
                server.storage.data.clear()
        result[name] = await timed(work, name, nodes, operations)
    for server in net:
        server.stop()
    return result


def run_js(nodes: int, operations: int) -> dict[str, object]:
    """Run a net of js-libp2p through all operations. Raises `NotInstalled`."""
    from tests.interop.js_peer import js_libp2p_folder

    folder = js_libp2p_folder(Path(__file__).with_name("dht.mjs"))
    return _output_of(
        ["node", "--import", "./polyfill.mjs", "dht.mjs", str(nodes), str(operations), str(VALUE_BYTES)],
        folder,
    )


def in_own_process(name: str, nodes: int, operations: int) -> dict[str, object]:
    """Run a net of this file in a process of its own, as that of js is."""
    return _output_of(
        [sys.executable, __file__, "--net", name, "--nodes", str(nodes), "--operations", str(operations)],
        ROOT,
    )


def _output_of(command: Sequence[str], folder: Path) -> dict[str, object]:
    try:
        done = subprocess.run(
            command, cwd=folder, capture_output=True, text=True, timeout=NET_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        raise SystemExit(f"{' '.join(command)} took more than {NET_SECONDS} s: take fewer --nodes.") from None
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr[-3000:]}")
    found: dict[str, object] = json.loads(done.stdout.splitlines()[-1])
    return found


def figures(results: Sequence[dict[str, object]]) -> dict[str, Figure]:
    """Put the rounds of one kind of net together."""
    found = {}
    for name in OPERATIONS:
        parts = [part for result in results if isinstance(part := result.get(name), dict)]
        if parts:
            latencies = sorted(one for part in parts for one in part["latencies"])
            found[name] = Figure(
                p50_ms=statistics.median(latencies),
                p99_ms=latencies[min(len(latencies) - 1, int(0.99 * len(latencies)))],
                cpu_ms=statistics.median(part["cpu_ms"] for part in parts),
                done=min(part["done"] for part in parts),
            )
    return found


def ratio(ours: dict[str, Figure], theirs: dict[str, Figure], what: str) -> float | None:
    """Return the median over the common operations of our figure to theirs; None where there is none."""
    both = [getattr(ours[name], what) / getattr(theirs[name], what) for name in ours if name in theirs]
    return round(statistics.median(both), 2) if both else None


def report(found: dict[str, dict[str, Figure]]) -> list[str]:
    """Every figure, and below those of an operation the ratios of ours to them."""
    lines = [f"{'operation':10}{'net':10}{'p50 ms':>9}{'p99 ms':>9}{'CPU ms':>9}{'done':>7}"]
    for name in OPERATIONS:
        for net, parts in found.items():
            if name in parts:
                one = parts[name]
                lines.append(
                    f"{name:10}{net:10}{one.p50_ms:9.2f}{one.p99_ms:9.1f}{one.cpu_ms:9.2f}{one.done:7.0%}"
                )
        for net, parts in found.items():
            if net != "ours" and name in parts:
                ours, other = found["ours"][name], parts[name]
                lines.append(
                    f"{'':10}{'to ' + net:12}{ours.p50_ms / other.p50_ms:7.2f}x"
                    f"{ours.p99_ms / other.p99_ms:8.2f}x{ours.cpu_ms / other.cpu_ms:8.2f}x"
                )
    return lines


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="What the DHT costs, beside js-libp2p's and kademlia's.")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--nodes", type=int, default=32)
    parser.add_argument("--operations", type=int, default=40)
    parser.add_argument("--net", choices=("ours", "kademlia"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    size = (options.nodes, options.operations)
    if options.net == "ours":
        print(json.dumps(trio.run(run_ours, *size)))
        return
    if options.net == "kademlia":
        print(json.dumps(asyncio.run(run_kademlia(*size))))
        return

    kinds: dict[str, Callable[[], dict[str, object]]] = {"ours": lambda: in_own_process("ours", *size)}
    kinds["js"] = lambda: run_js(*size)
    if importlib.util.find_spec("kademlia") is not None:
        kinds["kademlia"] = lambda: in_own_process("kademlia", *size)
    results: dict[str, list[dict[str, object]]] = {name: [] for name in kinds}
    for _ in range(options.rounds):
        for name, run in kinds.items():
            results[name].append(run())
    found = {name: figures(parts) for name, parts in results.items()}
    theirs = [name for name in found if name != "ours"]
    summary: dict[str, object] = {
        f"{title}_ratio_to_{name}": ratio(found["ours"], found[name], what)
        for name in theirs
        for title, what in (("cpu", "cpu_ms"), ("latency", "p50_ms"))
    }
    summary["done"] = min(figure.done for figure in found["ours"].values())
    if options.json:
        nets = {net: {name: asdict(one) for name, one in parts.items()} for net, parts in found.items()}
        print(json.dumps({**summary, "nodes": options.nodes, "nets": nets}))
        return
    print("\n".join(report(found)))
    for what, value in summary.items():
        print(f"{what} {value}")


if __name__ == "__main__":
    main()
