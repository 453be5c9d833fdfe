"""An unmodified js-libp2p GossipSub from npm as a peer of our router, without signatures and with our message ids."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from hashlib import sha256
from pathlib import Path

import pytest
import trio

from koii_p2p.network.identity import key_of_peer_id
from tests.interop.js_peer import Peer, js_peer
from tests.network.nets import QUICK, TOPIC, Node, net, until

pytestmark = pytest.mark.slow

PROTOCOLS = ("/meshsub/1.1.0", "/meshsub/1.2.0")


def payload(name: str, number: int, size: int) -> bytes:
    return f"{name} {number} ".encode().ljust(size, b"\0")


def mesh_size(node: Node) -> int:
    gossip = node.network.statistics().gossip
    assert gossip is not None
    return gossip.topics[0].mesh


async def heard(peer: Peer, count: int) -> set[str]:
    """Wait until the peer has received so many messages, and return their hashes."""
    with trio.fail_after(30):
        while len(received := (await peer.do("received"))["received"]) < count:
            await trio.sleep(0.05)
    assert len(received) == count
    return set(received)


@asynccontextmanager
async def meshed(folder: Path, protocol: str, *, we_dial: bool) -> AsyncIterator[tuple[Node, Peer]]:
    """A node of ours and a js peer, each with the other in the mesh of the topic."""
    async with net() as running, js_peer(folder, "gossip_peer.mjs", protocol) as (peer, js_id, address):
        await peer.do("subscribe", topic=TOPIC)
        ours = await running.add(1, bootstrap=(address,) if we_dial else (), limits=QUICK)
        if not we_dial:
            await peer.do("dial", address=ours.address)
        await until(lambda: key_of_peer_id(js_id) in ours.peers() and mesh_size(ours) == 1)
        with trio.fail_after(10):
            while ours.network.peer_id not in (await peer.do("mesh", topic=TOPIC))["peers"]:
                await trio.sleep(0.05)
        assert (await peer.do("protocols"))["streams"].count(protocol) == 2
        yield ours, peer


@pytest.mark.parametrize("we_dial", [True, False])
@pytest.mark.parametrize("protocol", PROTOCOLS)
async def test_every_message_goes_both_ways(js_folder: Path, protocol: str, we_dial: bool) -> None:
    async with meshed(js_folder, protocol, we_dial=we_dial) as (ours, peer):
        sent = [payload("ours", number, 512) for number in range(100)]
        sent += [payload("ours large", number, 60 * 1024) for number in range(10)]
        for data in sent:
            assert await ours.network.publish(TOPIC, data) == 1
        assert await heard(peer, 110) == {sha256(data).hexdigest() for data in sent}

        for name, count, size in (("theirs", 100, 512), ("theirs large", 10, 60 * 1024)):
            said = await peer.do("publish", topic=TOPIC, name=name, count=count, size=size)
            assert said["recipients"] == [1] * count
            expected = {payload(name, number, size) for number in range(count)}
            await until(lambda expected=expected: expected <= set(ours.received))  # type: ignore[misc]
        assert len(ours.received) == 110
        assert ours.network.statistics().bans == 0


async def test_messages_pass_through_us_and_through_a_js_peer(js_folder: Path) -> None:
    async with (
        net() as running,
        js_peer(js_folder, "gossip_peer.mjs", "/meshsub/1.2.0") as (first, first_id, _),
        js_peer(js_folder, "gossip_peer.mjs", "/meshsub/1.2.0") as (second, second_id, second_address),
    ):
        # js - ours - js - ours, a line: whatever reaches an end has gone through both
        middle = await running.add(1, bootstrap=(second_address,))
        end = await running.add(2, bootstrap=(second_address,), target_peers=1)
        for peer in (first, second):
            await peer.do("subscribe", topic=TOPIC)
        await first.do("dial", address=middle.address)
        await until(lambda: {key_of_peer_id(first_id), key_of_peer_id(second_id)} <= middle.peers())
        await until(lambda: mesh_size(middle) == 2 and mesh_size(end) == 1)
        with trio.fail_after(10):
            while len((await second.do("mesh", topic=TOPIC))["peers"]) < 2:
                await trio.sleep(0.05)
        assert end.peers() == {key_of_peer_id(second_id)}

        await first.do("publish", topic=TOPIC, name="from js", count=50, size=2000)
        from_js = {payload("from js", number, 2000) for number in range(50)}
        await until(lambda: set(end.received) == from_js)
        assert set(middle.received) == from_js

        sent = [payload("from us", number, 2000) for number in range(50)]
        for data in sent:
            await end.network.publish(TOPIC, data)
        assert await heard(first, 50) == {sha256(data).hexdigest() for data in sent}


async def test_our_leaving_and_coming_back_is_seen(js_folder: Path) -> None:
    async with (
        net() as running,
        js_peer(js_folder, "gossip_peer.mjs", "/meshsub/1.2.0") as (peer, _, address),
    ):
        await peer.do("subscribe", topic=TOPIC)
        ours = await running.add(1, bootstrap=(address,))
        await until(lambda: mesh_size(ours) == 1)
        await ours.stop()
        with trio.fail_after(10):
            while (await peer.do("mesh", topic=TOPIC))["peers"]:
                await trio.sleep(0.05)
        again = await running.add(1, bootstrap=(address,))
        await until(lambda: mesh_size(again) == 1)
        assert await again.network.publish(TOPIC, b"back") == 1
        assert await heard(peer, 1) == {sha256(b"back").hexdigest()}
