"""Collections over real networks: writing, reading, liars, repair, feeds."""

from __future__ import annotations

from pathlib import Path
from random import Random

import pytest
import trio

from koii_p2p.data.collections import wire
from koii_p2p.data.collections.definition import Definition
from koii_p2p.data.collections.document import body_of, sign_document
from koii_p2p.data.collections.reasons import DocumentError, DocumentReason
from koii_p2p.errors import NetworkError, OperatorError
from koii_p2p.limits import Limits
from tests.data.collections.model import Model, operation
from tests.data.collections.nets import GENESIS, TASK, Clock, Member, members
from tests.network.nets import until

LINKS = Definition("links", shards=8, replicas=3, indexes=("n",))


def holders(net: list[Member], definition: Definition = LINKS) -> dict[int, list[Member]]:
    by_key = {one.key: one for one in net}
    replicas = net[0].collections.holding.replicas(definition)
    return {shard: [by_key[key] for key in keys] for shard, keys in enumerate(replicas)}


async def test_what_one_writes_others_read_from_its_replicas(tmp_path: Path) -> None:
    async with members(5, tmp_path, Clock()) as net:
        writer, reader = net[0].collections, net[4].collections
        written = await writer.put_many(LINKS, [{"_id": f"k{n}", "n": n} for n in range(40)])
        assert {(one.stored, one.asked) for one in written} == {(3, 3)}
        assert await reader.get(LINKS, "k7") == {"_id": "k7", "n": 7}
        assert await reader.get(LINKS, "nobody") is None
        found = await reader.find(LINKS, {"n": {"$gte": 35}}, sort={"n": -1})
        assert [row["n"] for row in found] == [39, 38, 37, 36, 35]
        assert await reader.count(LINKS) == 40
        assert await reader.find(
            LINKS, {}, sort={"n": 1}, skip=5, limit=2, projection={"n": 1, "_id": 0}
        ) == [
            {"n": 5},
            {"n": 6},
        ]
        assert await reader.remove(LINKS, {"n": {"$lt": 10}}, multi=True) == 10
        assert await writer.count(LINKS) == 30
        held = [len(one.state(LINKS)) for one in net]
        assert sum(held) == 3 * 40
        assert max(held) < 40
        for shard, replicas in holders(net).items():
            states = [
                {place: id for place, id in one.state(LINKS).items() if place[0] == shard} for one in replicas
            ]
            assert states[0] == states[1] == states[2]


async def test_random_operations_of_several_nodes_come_to_the_same_as_in_one_memory(tmp_path: Path) -> None:
    random, model = Random(3), Model()
    plain = Definition("story", shards=4, replicas=2, indexes=("a", "d.x", "l.x", "n.q"))
    compared = 0
    async with members(4, tmp_path, Clock()) as net:
        for _ in range(300):
            name, *given = operation(random)
            node = random.choice(net).collections
            ours: object = None
            theirs: object = None
            before = dict(model.documents)
            try:
                if name == "insert":
                    model.insert(given[0])
                elif name == "find":
                    theirs = model.find(*given[:3], given[3] or None, given[4])
                elif name == "update":
                    theirs = model.update(given[0], given[1], **given[2])
                else:
                    theirs = model.remove(given[0], **given[1])
            except DocumentError as error:
                model.documents = before
                theirs = error.reason
            try:
                if name == "insert":
                    assert await node.insert(plain, [given[0]]) == [given[0]]
                elif name == "find":
                    ours = await node.find(
                        plain,
                        given[0],
                        sort=given[1],
                        skip=given[2],
                        limit=given[3] or None,
                        projection=given[4],
                    )
                elif name == "update":
                    ours = await node.update(plain, given[0], given[1], **given[2])
                else:
                    ours = await node.remove(plain, given[0], **given[1])
            except DocumentError as error:
                ours = error.reason
            assert ours == theirs, (name, given)
            compared += 1
        everything = await net[0].collections.find(plain)
    assert compared == 300
    assert everything == sorted(model.documents.values(), key=lambda row: row["_id"])
    assert len(everything) > 3


async def test_a_replica_that_lags_or_withholds_does_not_hide_the_newest(tmp_path: Path) -> None:
    async with members(4, tmp_path, Clock()) as net:
        writer = net[0].collections
        await writer.put_many(LINKS, [{"_id": f"k{n}", "n": 1} for n in range(20)])
        shard_holders = holders(net)
        # One replica of each shard forgets half of its documents, and keeps old versions of the others.
        for shard, replicas in shard_holders.items():
            store = replicas[0].collections.store
            digests = [head.digest for head in store.heads(LINKS.id, shard)]
            store.remove(LINKS.id, shard, digests[::2])
        reader = net[3].collections
        assert await reader.count(LINKS, {"n": 1}) == 20
        liar = shard_holders[0][0]

        async def nothing(_asker: bytes, data: bytes) -> bytes:
            return wire.encode_outcomes([True] * len(wire.decode_put(data, liar.collections._limits).records))

        liar.collections.replicator.put = nothing  # type: ignore[method-assign]
        other = next(one for one in net if one is not liar).collections
        assert await other.update(LINKS, {}, {"$set": {"n": 2}}, multi=True) == 20
        assert await other.find(LINKS, {"n": 1}) == []
        assert await other.count(LINKS, {"n": 2}) == 20


async def test_a_liar_cannot_forge_answer_for_other_shards_or_send_without_bound(tmp_path: Path) -> None:
    async with members(3, tmp_path, Clock()) as net:
        honest, liar = net[0], net[1]
        await honest.collections.put_many(LINKS, [{"_id": f"k{n}", "n": n} for n in range(10)])
        stranger = sign_document(
            LINKS.id,
            "forged",
            body_of({"n": 3}),
            slot=100,
            seq=1,
            genesis=bytes(32),
            task=TASK,
            signer=liar.secret,
        )
        future = sign_document(
            LINKS.id,
            "future",
            body_of({"n": 3}),
            slot=10_000,
            seq=1,
            genesis=GENESIS,
            task=TASK,
            signer=liar.secret,
        )

        async def lie(_asker: bytes, _data: bytes) -> bytes:
            return wire.encode_found([stranger.raw, future.raw, b"x", stranger.raw[:-1]], False)

        liar.collections.reader.answer = lie  # type: ignore[method-assign]
        found = await honest.collections.find(LINKS, {"n": 3})
        assert [row["_id"] for row in found] == ["k3"]
        assert (statistics := honest.collections.statistics().reading).false == 1
        assert statistics.failed == 1

        async def endless(_asker: bytes, data: bytes) -> bytes:
            return wire.encode_found([future.raw] * 5001, True)

        liar.collections.reader.answer = endless  # type: ignore[method-assign]
        assert [row["_id"] for row in await honest.collections.find(LINKS, {"n": 3})] == ["k3"]

        async def too_much(_asker: bytes, _data: bytes) -> bytes:
            return wire.encode_refused(DocumentReason.TOO_MUCH)

        liar.collections.reader.answer = too_much  # type: ignore[method-assign]
        assert [row["_id"] for row in await honest.collections.find(LINKS, {"n": 3})] == ["k3"]


async def test_strangers_and_the_future_are_refused_at_the_door(tmp_path: Path) -> None:
    clock = Clock()
    async with members(4, tmp_path, clock, stakers=(1, 2, 3)) as net:
        stranger, staker = net[3], net[0]
        with pytest.raises(DocumentError) as caught:
            await stranger.collections.put(LINKS, {"_id": "k", "n": 1})
        assert caught.value.reason is DocumentReason.NOT_AN_AUTHOR
        assert await stranger.collections.count(LINKS) == 0
        clock.slot = 1000
        await staker.collections.put(LINKS, {"_id": "k", "n": 1})
        clock.slot = 900  # everybody's clock but the writer's sequence
        with pytest.raises(DocumentError) as caught:
            await staker.collections.put(LINKS, {"_id": "k", "n": 2})
        assert caught.value.reason is DocumentReason.TOO_EARLY
        clock.slot = 1000
        await staker.collections.put(LINKS, {"_id": "k", "n": 2})
        assert await stranger.collections.get(LINKS, "k") == {"_id": "k", "n": 2}


async def test_two_authors_in_one_slot_and_one_with_a_fast_clock(tmp_path: Path) -> None:
    async with members(3, tmp_path, Clock()) as net:
        first, second = net[0].collections, net[1].collections
        for n in range(5):
            await first.put(LINKS, {"_id": "k", "n": n})
        # The second has signed less, so in the same slot its sequence is the lower one.
        await second.put(LINKS, {"_id": "k", "n": 100})
        assert await first.get(LINKS, "k") == {"_id": "k", "n": 100}
        assert await first.update(LINKS, {"_id": "k"}, {"$inc": {"n": 1}}) == 1
        assert await second.get(LINKS, "k") == {"_id": "k", "n": 101}


async def test_a_node_that_was_away_catches_up_and_gives_what_only_it_has(tmp_path: Path) -> None:
    async with members(3, tmp_path, Clock()) as net:
        await net[0].collections.put_many(LINKS, [{"_id": f"k{n}", "n": n} for n in range(200)])
        # What two of them never got, and what the third lost.
        lost = net[2].collections.store
        for shard in range(LINKS.shards):
            digests = [head.digest for head in lost.heads(LINKS.id, shard)]
            lost.remove(LINKS.id, shard, digests[:5])
            net[2].collections.holding.forget_view(LINKS.id, shard)
        only = sign_document(
            LINKS.id,
            "only",
            body_of({"n": -1}),
            slot=100,
            seq=900,
            genesis=GENESIS,
            task=TASK,
            signer=net[2].secret,
        )
        assert net[2].collections.holding.keep(LINKS, [only]) == [True]
        await net[2].collections.replicator.sync_with(net[0].key)
        assert net[0].state(LINKS) == net[2].state(LINKS)
        assert len(net[0].state(LINKS)) == 201
        before = net[2].collections.statistics().replication
        await net[2].collections.replicator.sync_with(net[0].key)
        after = net[2].collections.statistics().replication
        assert after.pulled == before.pulled == 40
        assert after.pushed == before.pushed == 1
        assert after.bytes_sent + after.bytes_received - before.bytes_sent - before.bytes_received < 400


async def test_when_stakers_change_shards_move_and_are_dropped_where_they_were(tmp_path: Path) -> None:
    async with members(5, tmp_path, Clock(), stakers=(1, 2, 3, 4)) as net:
        await net[0].collections.put_many(LINKS, [{"_id": f"k{n}", "n": n} for n in range(100)])
        assert net[4].state(LINKS) == {}
        for one in net:
            one.collections.set_stakers([member.key for member in net])

        def settled() -> bool:
            everything = [
                {one.key for one in net if any(place[0] == shard for place in one.state(LINKS))}
                == {one.key for one in replicas}
                for shard, replicas in holders(net).items()
            ]
            return all(everything)

        for _ in range(5):
            for one in net:
                one.collections.replicator.sync_soon(one.peers())
            await trio.sleep(0.5)
        await until(settled)
        assert len(net[4].state(LINKS)) > 0
        assert await net[1].collections.count(LINKS) == 100
        assert sum(one.collections.statistics().replication.handed_over for one in net) > 0


async def test_in_full_replica_mode_every_staker_and_every_full_node_holds_everything(tmp_path: Path) -> None:
    small = Definition("small", shards=2, full=True)
    async with members(5, tmp_path, Clock(), stakers=(1, 2, 3), full=(5,)) as net:
        await net[0].collections.put_many(small, [{"_id": f"k{n}"} for n in range(30)])
        assert [len(one.state(small)) for one in net[:3]] == [30, 30, 30]
        await net[0].collections.put_many(LINKS, [{"_id": f"k{n}"} for n in range(30)])
        await net[4].collections.replicator.sync([one.key for one in net[:3]])
        assert (len(net[4].state(small)), len(net[4].state(LINKS))) == (30, 30)
        assert len(net[3].state(small)) == 0
        assert await net[3].collections.count(small) == 30


async def test_a_reader_is_told_of_changes_wherever_they_are_stored(tmp_path: Path) -> None:
    async with members(4, tmp_path, Clock()) as net:
        await net[0].collections.put(LINKS, {"_id": "before", "n": 0})
        seen: dict[str, object] = {}
        with trio.fail_after(30):
            async with net[3].collections.watch(LINKS) as changes:
                await net[0].collections.put_many(LINKS, [{"_id": f"k{n}", "n": n} for n in range(20)])
                await net[1].collections.remove(LINKS, {"n": 3})
                async for change in changes:
                    seen[change.key] = change.value
                    if len(seen) == 20 and seen["k3"] is None:
                        break
            assert "before" not in seen
            assert seen["k5"] == {"_id": "k5", "n": 5}
            async with net[3].collections.watch(LINKS, from_start=True) as changes:
                found = set()
                async for change in changes:
                    found.add(change.key)
                    if len(found) == 21:
                        break
        assert net[3].collections.feed.readers == 0


async def test_without_any_replica_a_question_fails_and_does_not_come_back_with_holes(tmp_path: Path) -> None:
    async with members(4, tmp_path, Clock()) as net:
        two = Definition("two", shards=4, replicas=1)
        await net[0].collections.put_many(two, [{"_id": f"k{n}"} for n in range(20)])
        gone = next(one for one in holders(net, two)[0] if one)
        reader = next(one for one in net if one is not gone)
        await gone.stop()
        with pytest.raises(NetworkError, match="cannot be read"):
            await reader.collections.find(two)
        with pytest.raises(OperatorError):
            await reader.collections.put_many(two, [{"_id": f"x{n}"} for n in range(20)])


async def test_after_a_forged_document_nothing_of_the_request_is_looked_at(tmp_path: Path) -> None:
    async with members(2, tmp_path, Clock()) as net:
        liar, honest = net

        def signed(key: str, genesis: bytes = GENESIS) -> bytes:
            return sign_document(
                LINKS.id, key, body_of({}), slot=1, seq=1, genesis=genesis, task=TASK, signer=liar.secret
            ).raw

        records = (signed("one"), signed("two", bytes(32)), signed("three"))
        request = wire.encode_put(wire.PutRequest(TASK, LINKS, records))
        answer = await liar.network.request(honest.key, wire.PUT_PROTOCOL, request)
        forged = DocumentReason.BAD_RECORD
        assert wire.decode_outcomes(answer, 3, honest.collections._limits) == [True, forged, forged]
        assert len(honest.state(LINKS)) == 1
        again = wire.encode_put(wire.PutRequest(TASK, LINKS, records[:1]))
        answer = await liar.network.request(honest.key, wire.PUT_PROTOCOL, again)
        assert wire.decode_outcomes(answer, 1, honest.collections._limits) == [False]
        assert dict(honest.collections.statistics().refused) == {"bad_record": 2}


async def test_strangers_open_no_collections(tmp_path: Path) -> None:
    """Else anybody who can connect fills a node with collections whose only author is himself."""
    async with members(2, tmp_path, lambda: 1000, stakers=[1]) as (staker, stranger):
        definition = Definition("strange", shards=1, authors=(stranger.key,))
        own = sign_document(
            definition.id, "k", b"{}", slot=1000, seq=1, genesis=GENESIS, task=TASK, signer=stranger.secret
        )
        request = wire.encode_put(wire.PutRequest(TASK, definition, (own.raw,)))

        async def put() -> object:
            answer = await stranger.network.request(staker.key, wire.PUT_PROTOCOL, request)
            return wire.decode_outcomes(answer, 1, Limits())[0]

        assert await put() is DocumentReason.NOT_AN_AUTHOR
        assert staker.collections.store.definitions() == ()
        staker.collections.open(definition)
        assert await put() is True
