"""A node's collections follow the rosters of their tasks, and answer for the task that is asked about."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from koii_p2p.cli.main import run
from koii_p2p.cli.output import configure_logs
from koii_p2p.data.collections import wire
from koii_p2p.data.collections.definition import Definition
from koii_p2p.data.space import Space
from koii_p2p.limits import Limits
from koii_p2p.network.network import Network, NetworkSettings
from koii_p2p.network.requests import RequestFailed
from koii_p2p.node.collections import ROSTER_SECONDS, open_collections
from koii_p2p.node.slots import SlotClock
from koii_p2p.node.views import base58
from koii_p2p.records.keys import SecretKey
from koii_p2p.storage.database import Database
from tests.network.nets import LOOPBACK, QUICK
from tests.node.test_task_life import KOII, World, world  # noqa: F401 - a fixture

FIRST, SECOND = b"1" * 32, b"2" * 32
OWN, OTHER = (SecretKey.from_seed(bytes((n,)) * 32) for n in (1, 2))


async def slot() -> int:
    return 100


async def test_shards_follow_the_roster_and_keep_the_last_between_two(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    members: dict[bytes, frozenset[bytes]] = {FIRST: frozenset(), SECOND: frozenset()}
    spaces = [Space(task, lambda task=task: members[task], lambda: 0, lambda: bytes(32)) for task in members]  # type: ignore[misc]
    links = Definition("links", shards=8, replicas=1)
    network = Network(OWN, NetworkSettings(listen=LOOPBACK), Limits())
    with Database.open(tmp_path / "db") as database:
        found = open_collections(spaces, bytes(32), OWN, database, network, SlotClock(slot), Limits())
        first, second = found[base58(FIRST)].collections, found[base58(SECOND)].collections
        async with trio.open_nursery() as nursery:
            for one in found.values():
                await nursery.start(one.run)
            assert first.holding.own_shards(links) == frozenset()
            members[FIRST] = frozenset({OWN.public_key})
            await trio.sleep(2 * ROSTER_SECONDS)
            assert first.holding.own_shards(links) == frozenset(range(8))
            assert second.holding.own_shards(links) == frozenset()
            await first.put(links, {"_id": "k"})
            members[FIRST] = frozenset()
            await trio.sleep(2 * ROSTER_SECONDS)
            assert first.holding.own_shards(links) == frozenset(range(8))
            members[FIRST] = frozenset({OWN.public_key, OTHER.public_key})
            await trio.sleep(2 * ROSTER_SECONDS)
            assert 0 < len(first.holding.own_shards(links)) < 8
            nursery.cancel_scope.cancel()
        assert first.store.totals(links.id).documents == 1
        assert second.store.definitions() == ()


async def test_peers_are_answered_for_the_task_they_ask_about_and_for_no_other(tmp_path: Path) -> None:
    network = Network(OWN, NetworkSettings(listen=LOOPBACK), QUICK)
    spaces = [Space(FIRST, frozenset, lambda: 0, lambda: bytes(32))]
    with Database.open(tmp_path / "db") as database:
        open_collections(spaces, bytes(32), OWN, database, network, SlotClock(slot), QUICK)
        async with trio.open_nursery() as nursery:
            await nursery.start(network.run)
            other = Network(OTHER, NetworkSettings(listen=LOOPBACK, bootstrap=(network.addresses[0],)), QUICK)
            await nursery.start(other.run)
            question = wire.encode_collections(FIRST, bytes(32))
            answer = await other.request(network.key, wire.COLLECTIONS_PROTOCOL, question)
            assert wire.decode_definitions(answer, QUICK) == []
            for wrong in (wire.encode_collections(SECOND, bytes(32)), b"", b"\xa1\x00", bytes(5000)):
                for protocol in (wire.COLLECTIONS_PROTOCOL, wire.PUT_PROTOCOL, wire.FIND_PROTOCOL):
                    with pytest.raises(RequestFailed):
                        await other.request(network.key, protocol, wrong)
            nursery.cancel_scope.cancel()


@pytest.mark.slow
async def test_a_node_on_k2_keeps_documents_of_its_task_and_its_operator_reads_them(
    world: World,  # noqa: F811 - the fixture that is imported
    capsys: pytest.CaptureFixture[str],
) -> None:
    configure_logs(0, "error")

    async def collection(*words: str) -> Any:
        line = ["collection", *words, "--home", str(running.home.path), "--output", "json"]
        capsys.readouterr()  # what the node said until now
        code = await trio.to_thread.run_sync(run, line)
        said = capsys.readouterr()
        assert code == 0, said
        return json.loads(said.out)

    with trio.fail_after(180):
        task = await world.make_task(starts_in=30)
        running = await world.node("one", (task,), stake=2 * KOII)
        while (await collection("stat"))["stakers"] == 0:
            await trio.sleep(0.2)
        assert (await collection("put", "links", '{"_id": "k", "n": 1}'))[0]["stored"] == 1
        assert await collection("update", "links", "{}", '{"$inc": {"n": 1}}') == 1
        assert await collection("query", "links", '{"n": {"$gt": 1}}') == [{"_id": "k", "n": 2}]
        stat = (await collection("stat"))["collections"][0]
        assert (stat["name"], stat["documents"], stat["own_shards"]) == ("links", 1, 64)
