"""An unmodified js-libp2p from npm as the other end of our transport: TCP, Noise, Yamux, identify, ping, streams."""

from __future__ import annotations

from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import pytest
import trio

from koii_p2p.network.identity import key_of_peer_id
from koii_p2p.network.network import PeerStream
from tests.interop.js_peer import js_peer
from tests.network.nets import QUICK, Node, net, until

ECHO = "/interop/echo/1"
LIMITS = replace(QUICK, peer_stall_seconds=60.0)  # the js peer has no gossip, which is no fault here

pytestmark = pytest.mark.slow


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
    async with net() as running, js_peer(js_folder, "peer.mjs") as (peer, js_id, _):
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
    async with net() as running, js_peer(js_folder, "peer.mjs") as (peer, js_id, address):
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
