"""The DHT in a node: its presence is found by strangers, and its operator can look and find."""

from __future__ import annotations

import io
import json

import base58
import httpx
import pytest
import trio
from rich.console import Console, RenderableType

from koii_p2p.cli.dht import dht_line, dht_table, found_table
from koii_p2p.network.dht.presence import presence_key
from koii_p2p.network.identity import peer_id_text
from koii_p2p.node.api import create_app
from koii_p2p.node.dht import NodeDht, key_named
from koii_p2p.records.envelope import Verified, decode_record, verify
from koii_p2p.rounds.engine import RoundEngine
from tests.network.nets import Node, net
from tests.network.test_dht import DHT_QUICK, GENESIS, presence, secret, tables


class Engine:
    """What a task's engine is asked for here: the presences it knows."""

    def __init__(self, *records: bytes) -> None:
        self.records = [verify(decode_record(raw), GENESIS) for raw in records]

    def presences(self) -> tuple[Verified, ...]:
        return tuple(self.records)


def shown(what: RenderableType) -> str:
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(what)
    return console.export_text()


def desk(node: Node, *records: bytes) -> NodeDht:
    engine: RoundEngine = Engine(*records)  # type: ignore[assignment]
    return NodeDht(node.network, GENESIS, lambda: {"task": engine})


async def test_the_newest_own_presence_is_kept_and_strangers_find_it() -> None:
    async with net() as running, trio.open_nursery() as nursery:
        first = await running.add(1, limits=DHT_QUICK)
        second = await running.add(2, limits=DHT_QUICK, bootstrap=(first.address,))
        own = desk(first, presence(1, 5), presence(2, 9), presence(1, 7))
        other = desk(second)
        nursery.start_soon(own.run)
        await tables([first, second], 1)
        with trio.fail_after(20):
            while await second.network.dht.get(presence_key(first.key)) != presence(1, 7):
                await trio.sleep(0.1)
        assert first.network.statistics().dht.own_values == 1

        app = create_app(None, "secret", dht=lambda: other)  # type: ignore[arg-type]
        transport = httpx.ASGITransport(app=app)
        bearer = {"authorization": "Bearer secret"}
        async with httpx.AsyncClient(transport=transport, base_url="http://node", headers=bearer) as client:
            stat = (await client.get("/dht")).json()
            assert stat["table"] == 1
            assert stat["peers"] == [first.network.peer_id]
            found = (await client.get(f"/dht/find/{first.network.peer_id}")).json()
            assert found["peer_id"] == first.network.peer_id
            assert found["addresses"] == [first.address.partition("/p2p/")[0]]
            assert (await client.get("/dht/find/nonsense!")).status_code == 400
            denied = await client.get("/dht", headers={"authorization": "Bearer other"})
            assert denied.status_code == 401
        await second.stop()
        async with httpx.AsyncClient(transport=transport, base_url="http://node", headers=bearer) as client:
            assert (await client.get(f"/dht/find/{first.network.peer_id}")).status_code == 503

        json.dumps(stat)
        assert dht_line(stat).startswith("server, 1 peers")
        assert "server: it answers others" in shown(dht_table(stat))
        assert "/ip4/127.0.0.1/tcp/" in shown(found_table(found))
        nursery.cancel_scope.cancel()


def test_a_peer_is_named_by_its_peer_id_or_its_key() -> None:
    key = secret(5).public_key
    assert key_named(peer_id_text(key)) == key
    assert key_named(base58.b58encode(key).decode()) == key
    for wrong in ("", "0OIl", "abc", "1" * 200):
        with pytest.raises(ValueError):
            key_named(wrong)
