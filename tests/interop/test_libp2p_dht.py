"""An unmodified js-libp2p kad-dht from npm in one DHT with ours: values, providers and peers, each way."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest
import trio

from koii_p2p.network.dht.presence import NAMESPACE, PresenceRules, presence_key
from koii_p2p.network.identity import key_of_peer_id
from koii_p2p.records.cid import cid_of
from tests.interop.js_peer import Peer, js_peer
from tests.network.nets import Node, net, until
from tests.network.test_dht import DHT_QUICK, GENESIS, presence

pytestmark = pytest.mark.slow


@asynccontextmanager
async def mixed(folder: Path) -> AsyncIterator[tuple[list[Node], list[Peer], list[str]]]:
    """Three nodes of ours and two of js-libp2p that all know the first of ours; ready when the tables are full."""
    async with net() as running, AsyncExitStack() as stack:
        ours = [await running.add(1, limits=DHT_QUICK, dht="server")]
        for seed in (2, 3):
            ours.append(await running.add(seed, limits=DHT_QUICK, bootstrap=(ours[0].address,), dht="server"))
        theirs, names = [], []
        for _ in range(2):
            peer, name, _address = await stack.enter_async_context(js_peer(folder, "dht_peer.mjs"))
            await peer.do("dial", address=ours[0].address)
            theirs.append(peer)
            names.append(name)
        for node in ours:
            node.network.dht.add_namespace(NAMESPACE, PresenceRules(GENESIS))
        await until(lambda: all(set(names) <= set(node.network.dht.table()) for node in ours), seconds=60)
        for peer in theirs:
            with trio.fail_after(60):
                while (await peer.do("table"))["size"] < 3:
                    await trio.sleep(0.1)
        yield ours, theirs, names


async def test_values_go_both_ways_and_only_signed_ones(js_folder: Path) -> None:
    async with mixed(js_folder) as (ours, theirs, _names):
        first, second = presence(1, 1), presence(1, 2)
        for value in (first, second):
            for peer in theirs:
                await peer.do("allow", value=value.hex())
        key = presence_key(ours[0].key)
        assert await ours[0].network.dht.put(key, first) == 4
        for peer in theirs:
            assert (await peer.do("get", key=key.hex()))["value"] == first.hex()

        said = await theirs[0].do("put", key=key.hex(), value=second.hex())
        assert said["taken"] >= 3
        for node in ours:
            assert await node.network.dht.get(key) == second
        assert (await theirs[1].do("get", key=key.hex()))["value"] == second.hex()

        forged = presence(2, 3)
        for peer in theirs:
            await peer.do("allow", value=forged.hex())
        await theirs[0].do("put", key=key.hex(), value=forged.hex())
        assert await ours[2].network.dht.get(key) == second
        refused = [dict(node.network.statistics().dht.refused).get("invalid_value", 0) for node in ours]
        assert sum(refused) == 3


async def test_providers_go_both_ways(js_folder: Path) -> None:
    async with mixed(js_folder) as (ours, theirs, names):
        one, two = cid_of(b"one"), cid_of(b"two")
        await ours[1].network.provide(one)
        for peer in theirs:
            assert (await peer.do("providers", cid=one.hex()))["providers"] == [ours[1].network.peer_id]
        await theirs[0].do("provide", cid=two.hex())
        for node in ours:
            found = await node.network.find_providers(two, count=1, deadline=10)
            assert found == (key_of_peer_id(names[0]),)


async def test_peers_are_found_both_ways(js_folder: Path) -> None:
    async with mixed(js_folder) as (ours, theirs, names):
        where = await ours[2].network.dht.find_peer(key_of_peer_id(names[1]), deadline=10)
        assert where
        assert all(text.startswith("/ip4/127.0.0.1/tcp/") for text in where)
        assert key_of_peer_id(names[1]) in ours[2].peers()
        found = await theirs[0].do("find", id=ours[2].network.peer_id)
        assert any(text.startswith(ours[2].address.partition("/p2p/")[0]) for text in found["addresses"])
