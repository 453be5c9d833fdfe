"""What a stream between two nodes costs, beside an unmodified py-libp2p host and a bare TCP stream of trio.

    python scripts/bench/transport.py [--rounds 5] [--scale 1.0] [--profile] [--out figures.json]

Both ends run in this process over loopback, so CPU time is that of sender and receiver together. All three take turns
in the same run, and the ratios are what counts on another machine; they are printed first.

    single   512 bytes, one write each       what a chatty protocol does
    batched  512 bytes, 128 to a write       what the gossip driver does with a queue
    large    16 KiB, one write each          what bulk requests do
    echo     512 bytes there and back        one round trip; only the time is given, not MB/s
"""

from __future__ import annotations

import argparse
import cProfile
import json
import logging
import platform
import pstats
import statistics
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import structlog
import trio
from libp2p import new_host
from libp2p.abc import IHost, INetStream
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.crypto.x25519 import create_new_key_pair as create_noise_key_pair
from libp2p.custom_types import TProtocol
from libp2p.network.swarm import Swarm
from libp2p.security.noise.transport import PROTOCOL_ID as NOISE
from libp2p.security.noise.transport import Transport as NoiseTransport
from libp2p.stream_muxer.yamux.yamux import PROTOCOL_ID as YAMUX
from libp2p.stream_muxer.yamux.yamux import Yamux
from multiaddr import Multiaddr

from koii_p2p import __version__
from koii_p2p.network.network import Network, NetworkSettings, PeerStream
from koii_p2p.network.settings import parse_peer_address
from koii_p2p.records.keys import SecretKey

PROTOCOL = "/koii-p2p/bench/1"
LOOPBACK = "/ip4/127.0.0.1/tcp/0"
READ_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class Pipe:
    """One end of a stream: read some bytes, write bytes."""

    read: Callable[[], Awaitable[bytes]]
    write: Callable[[bytes], Awaitable[None]]


Serve = Callable[[Pipe], Awaitable[None]]

#: `open(serve)`: the sending end of a stream whose other end is given to `serve`.
Open = Callable[[Serve], AbstractAsyncContextManager[Pipe]]


@asynccontextmanager
async def bare(serve: Serve) -> AsyncIterator[Pipe]:
    """A TCP stream of trio."""

    def pipe(stream: trio.SocketStream) -> Pipe:
        return Pipe(lambda: stream.receive_some(READ_BYTES), stream.send_all)

    async def handle(stream: trio.SocketStream) -> None:
        await serve(pipe(stream))

    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, handle, listeners)
        stream = await trio.open_tcp_stream("127.0.0.1", listeners[0].socket.getsockname()[1])
        yield pipe(stream)
        await stream.aclose()
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def stock(serve: Serve) -> AsyncIterator[Pipe]:
    """A stream between two hosts of py-libp2p as it comes, over TCP, Noise and Yamux."""

    def pipe(stream: INetStream) -> Pipe:
        return Pipe(lambda: stream.read(READ_BYTES), stream.write)

    async def handle(stream: INetStream) -> None:
        await serve(pipe(stream))

    first, second = _stock_host(), _stock_host()
    async with first.run([Multiaddr(LOOPBACK)]), second.run([Multiaddr(LOOPBACK)]):
        second.set_stream_handler(TProtocol(PROTOCOL), handle)
        swarm = first.get_network()
        assert isinstance(swarm, Swarm)
        await swarm.dial_addr(second.get_addrs()[0], second.get_id())
        await trio.sleep(0.3)  # identify runs by itself and would be counted
        yield pipe(await first.new_stream(second.get_id(), [TProtocol(PROTOCOL)]))
        for host in (first, second):
            await host.close()


def _stock_host() -> IHost:
    keys = create_new_key_pair()
    noise = NoiseTransport(keys, noise_privkey=create_noise_key_pair().private_key)
    return new_host(
        key_pair=keys,
        sec_opt={NOISE: noise},
        muxer_opt={YAMUX: Yamux},  # type: ignore[dict-item]
        listen_addrs=[Multiaddr(LOOPBACK)],
    )


@asynccontextmanager
async def ours(serve: Serve) -> AsyncIterator[Pipe]:
    """A stream between two of our networks."""

    def pipe(stream: PeerStream) -> Pipe:
        return Pipe(lambda: stream.read_some(READ_BYTES), stream.write)

    async def handle(stream: PeerStream) -> None:
        await serve(pipe(stream))

    first, second = (
        Network(SecretKey.generate(), NetworkSettings(listen=(LOOPBACK,), heartbeat=60.0)) for _ in range(2)
    )
    second.handle(PROTOCOL, handle)
    async with trio.open_nursery() as nursery:
        await nursery.start(first.run)
        await nursery.start(second.run)
        first.learn(second.key, [parse_peer_address(second.addresses[0]).transport])
        with trio.fail_after(10):
            while not first.peers():
                await trio.sleep(0.01)
        await trio.sleep(0.3)
        yield pipe(await first.open_stream(second.key, [PROTOCOL], deadline=5))
        nursery.cancel_scope.cancel()


ARMS: dict[str, Open] = {"bare": bare, "ours": ours, "py-libp2p": stock}


@dataclass(frozen=True, slots=True)
class Case:
    """What is sent: frames of `size` bytes, `batch` of them to a write."""

    name: str
    size: int
    batch: int
    count: int
    back: bool = False


CASES = (
    Case("single", 512, 1, 4000),
    Case("batched", 512, 128, 20_000),
    Case("large", 16 * 1024, 1, 1500),
    Case("echo", 512, 1, 500, back=True),
)


@dataclass(frozen=True, slots=True)
class Figure:
    """CPU of both ends and time that passed, both in microseconds per frame, and MB/s."""

    cpu: float
    wall: float
    rate: float


async def measure(opened: Open, case: Case, scale: float, profile: cProfile.Profile | None) -> Figure:
    """Send what a case says through a fresh pair, and return what it cost."""
    writes = max(1, int(case.count * scale / case.batch))
    frames = writes * case.batch
    total = frames * case.size
    done = trio.Event()

    async def serve(pipe: Pipe) -> None:
        received = 0
        while received < total:
            data = await pipe.read()
            if not data:
                raise RuntimeError("The stream ended early.")
            received += len(data)
            if case.back:
                await pipe.write(data)
        done.set()
        await trio.sleep_forever()

    async with opened(serve) as pipe:
        data = bytes(case.size * case.batch)
        if profile is not None:
            profile.enable()
        cpu, wall = time.process_time(), time.perf_counter()
        for _ in range(writes):
            await pipe.write(data)
            if case.back:
                left = len(data)
                while left:
                    left -= len(await pipe.read())
        await done.wait()
        cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
        if profile is not None:
            profile.disable()
    return Figure(cpu=cpu / frames * 1e6, wall=wall / frames * 1e6, rate=total / wall / 1e6)


def measure_all(rounds: int, scale: float) -> dict[str, dict[str, Figure]]:
    """Run every case with every arm in turns; return the medians by case and arm."""
    found: dict[str, dict[str, Figure]] = {}
    for case in CASES:
        runs: dict[str, list[Figure]] = {name: [] for name in ARMS}
        for _ in range(rounds):
            for name, opened in ARMS.items():
                runs[name].append(trio.run(measure, opened, case, scale, None))
        found[case.name] = {
            name: Figure(
                cpu=statistics.median(figure.cpu for figure in figures),
                wall=statistics.median(figure.wall for figure in figures),
                rate=statistics.median(figure.rate for figure in figures),
            )
            for name, figures in runs.items()
        }
    return found


def report(found: dict[str, dict[str, Figure]]) -> str:
    """Return the figures as text, ratios first."""
    lines = [
        f"{'case':8} {'CPU: ours / bare':>18} {'CPU: py-libp2p / ours':>22} {'time: py-libp2p / ours':>23}"
    ]
    for name, figures in found.items():
        mine, plain, theirs = figures["ours"], figures["bare"], figures["py-libp2p"]
        lines.append(
            f"{name:8} {mine.cpu / plain.cpu:18.2f} {theirs.cpu / mine.cpu:22.2f} {theirs.wall / mine.wall:23.2f}"
        )
    lines += ["", f"{'case':8} {'':10} {'CPU us/frame':>13} {'time us/frame':>14} {'MB/s':>8}"]
    for name, figures in found.items():
        for arm, figure in figures.items():
            rate = "" if name == "echo" else f"{figure.rate:8.1f}"
            lines.append(f"{name:8} {arm:10} {figure.cpu:13.1f} {figure.wall:14.1f} {rate:>8}")
    return "\n".join(lines)


def main() -> None:
    """Measure, print, and write the figures where asked."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5, help="how often each is measured; medians are given")
    parser.add_argument("--scale", type=float, default=1.0, help="how much is sent, as a factor")
    parser.add_argument(
        "--profile", action="store_true", help="print where the time of each case goes in ours"
    )
    parser.add_argument("--out", type=Path, help="write the figures to this file as JSON")
    options = parser.parse_args()
    logging.getLogger("libp2p").setLevel(logging.CRITICAL)
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    if options.profile:
        for case in CASES:
            profile = cProfile.Profile()
            trio.run(measure, ours, case, options.scale, profile)
            print(f"\n{case.name}")
            pstats.Stats(profile).sort_stats("tottime").print_stats(18)
        return
    found = measure_all(options.rounds, options.scale)
    print(report(found))
    if options.out is not None:
        figures = {
            "version": __version__,
            "python": platform.python_version(),
            "machine": platform.machine(),
            "cases": {
                name: {arm: {"cpu_us": f.cpu, "wall_us": f.wall, "mb_s": f.rate} for arm, f in arms.items()}
                for name, arms in found.items()
            },
        }
        options.out.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
