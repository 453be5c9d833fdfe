"""An unmodified js-libp2p from npm as the other end of our transport: TCP, Noise, Yamux, identify, ping, streams."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import trio

from koii_p2p.network.identity import key_of_peer_id
from koii_p2p.network.network import PeerStream
from tests.interop.npm import NotInstalled, packages
from tests.network.nets import QUICK, Node, net, until

HERE = Path(__file__).parent / "libp2p"
ANSWER_SECONDS = 60
ECHO = "/interop/echo/1"
LIMITS = replace(QUICK, peer_stall_seconds=60.0)  # the js peer has no gossip, which is no fault here

pytestmark = pytest.mark.slow


@pytest.fixture(scope="session")
def js_folder() -> Path:
    """A folder with the peer beside the pinned packages, as ES modules want it; skips where they cannot be had."""
    try:
        folder = packages(HERE).parent
    except NotInstalled as missing:
        pytest.skip(str(missing))
    for name in ("peer.mjs", "polyfill.mjs"):
        shutil.copy(HERE / name, folder)
    return folder


class Peer:
    """A running js-libp2p peer."""

    def __init__(self, process: trio.Process) -> None:
        self._process = process
        self._rest = b""

    async def answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        with trio.fail_after(ANSWER_SECONDS):
            while b"\n" not in self._rest:
                more = await self._process.stdout.receive_some()
                assert more, "the js peer has ended"
                self._rest += more
        line, _, self._rest = self._rest.partition(b"\n")
        result: dict[str, Any] = json.loads(line)
        return result

    async def do(self, op: str, **arguments: object) -> dict[str, Any]:
        assert self._process.stdin is not None
        await self._process.stdin.send_all(json.dumps({"op": op, **arguments}).encode() + b"\n")
        result = await self.answer()
        assert result["ok"], result
        return result


@asynccontextmanager
async def js_peer(folder: Path) -> AsyncIterator[tuple[Peer, str, str]]:
    """Run a peer; yield it with its id and its address."""
    async with trio.open_nursery() as nursery:
        process = await nursery.start(
            lambda task_status: trio.run_process(
                ["node", "--import", "./polyfill.mjs", "peer.mjs"],
                cwd=folder,
                env={**os.environ, "NODE_OPTIONS": ""},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                check=False,
                task_status=task_status,
            )
        )
        peer = Peer(process)
        said = await peer.answer()
        yield peer, said["id"], said["address"]
        nursery.cancel_scope.cancel()


async def echo(stream: PeerStream) -> None:
    while data := await stream.read_some():
        await stream.write(data)


def pattern(size: int) -> bytes:
    return (bytes(range(251)) * (size // 251 + 1))[:size]


async def our_echo(node: Node, key: bytes, data: bytes) -> bytes:
    """Send through the peer's echo and return what comes back."""
    stream = await node.network.open_stream(key, ["/nobody/speaks/1", ECHO], deadline=10)
    assert stream.protocol == ECHO
    received = bytearray()

    async def send() -> None:
        await stream.write(data)
        await stream.close()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(send)
        while piece := await stream.read_some():
            received += piece
    return bytes(received)


async def test_js_libp2p_dials_us(js_folder: Path) -> None:
    async with net() as running, js_peer(js_folder) as (peer, js_id, _):
        ours = await running.add(1, limits=LIMITS)
        ours.network.handle(ECHO, echo)
        assert await peer.do("dial", address=ours.address) == {
            "ok": True,
            "muxer": "/yamux/1.0.0",
            "encryption": "/noise",
        }
        await until(lambda: key_of_peer_id(js_id) in ours.peers())
        assert (await peer.do("ping", address=ours.address))["ms"] >= 0
        for size in (1, 100, 70_000, 3_000_000):  # the last is many windows
            seen = await peer.do("echo", address=ours.address, size=size)
            assert (seen["size"], seen["sha256"]) == (size, sha256(pattern(size)).hexdigest())
        await peer.do("many", address=ours.address, count=300)  # more than may be open at once
        for _ in range(5):
            await peer.do("abort", address=ours.address)
        assert ECHO in (await peer.do("known", id=ours.network.peer_id))["protocols"]
        assert await our_echo(ours, key_of_peer_id(js_id), pattern(500_000)) == pattern(500_000)


async def test_we_dial_js_libp2p(js_folder: Path) -> None:
    async with net() as running, js_peer(js_folder) as (peer, js_id, address):
        ours = await running.add(1, bootstrap=(address,), limits=LIMITS)
        key = key_of_peer_id(js_id)
        await until(lambda: key in ours.peers())
        for size in (1, 100, 70_000, 3_000_000):
            assert await our_echo(ours, key, pattern(size)) == pattern(size)
        for number in range(300):
            assert await our_echo(ours, key, b"%d" % number) == b"%d" % number
        await until(lambda: ours.network._host is not None and not _open_streams(ours))
        await ours.stop()
        with trio.fail_after(10):
            while (await peer.do("connections"))["count"]:
                await trio.sleep(0.05)


def _open_streams(node: Node) -> int:
    """How many of our own streams are open beside the library's."""
    host = node.network._host
    assert host is not None
    return sum(
        stream.get_protocol() == ECHO
        for connection in host.swarm.get_connections()
        for stream in connection.get_streams()
    )
