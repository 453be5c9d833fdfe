"""What peers must not send, and stores that are full: a clear result each time, and nothing lost."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import pytest
import trio

from koii_p2p.data import protocol
from koii_p2p.data.blob import BlobEncoder
from koii_p2p.data.erasure import Code
from koii_p2p.data.manifest import Manifest
from koii_p2p.data.placement import holders_of
from koii_p2p.data.protocol import Stored, StoreReply, StoreRequest
from koii_p2p.data.putting import PutSettings
from koii_p2p.data.reasons import DataError, DataReason
from koii_p2p.network.requests import Handler
from koii_p2p.storage.faults import LimitExceeded
from koii_p2p.storage.shards import Place
from tests.data.rooms import FAST, SEED, TASK, DataNet, DataNode, blob, chunks, data_net, read

pytestmark = pytest.mark.timeout(120)


async def put(net: DataNet, size: int, seed: int = 1) -> tuple[bytes, Manifest, bytes]:
    data = blob(size, seed)
    result = await net.nodes[0].data.put(TASK, chunks(data))
    found = await net.nodes[0].data.find(result.reference.manifest)
    return found.cid, found.manifest, data


def due_of(net: DataNet, manifest: Manifest) -> tuple[bytes, ...]:
    return holders_of(SEED, manifest.blocks[0].cid, net.told.members, manifest.code.shards)


async def stored(asker: DataNode, holder: DataNode, request: StoreRequest) -> StoreReply:
    payload = protocol.encode_store(request)
    return protocol.decode_stored(await asker.network.request(holder.key, protocol.STORE, payload))


def answer_finds(node: DataNode, handler: Handler) -> None:
    """Have a node answer questions for manifests in another way than nodes do."""
    host = node.network._host
    assert host is not None
    node.network._requests._register(host, protocol.FIND, handler)


Lie = Callable[[Manifest, Place], bytes]

LIES: dict[str, tuple[Lie, str]] = {
    "a byte too long": (lambda manifest, place: bytes(manifest.shard_length(place[0]) + 1), "wrong_length"),
    "a byte too short": (lambda manifest, place: bytes(manifest.shard_length(place[0]) - 1), "wrong_length"),
    "nothing": (lambda _manifest, _place: b"", "wrong_length"),
    "a block": (lambda _manifest, _place: bytes(1024 * 1024), "wrong_length"),
    "zeros": (lambda manifest, place: bytes(manifest.shard_length(place[0])), "wrong_hash"),
}


@pytest.mark.parametrize("lie", list(LIES))
async def test_a_wrong_shard_costs_its_sender_and_nobody_else(tmp_path: Path, lie: str) -> None:
    wrong, verdict = LIES[lie]
    async with data_net(tmp_path, 9) as net:
        cid, manifest, data = await put(net, 50_000)
        due = due_of(net, manifest)
        liar = net.of(due[0])
        reader = next(node for node in net.nodes if node.key not in due)

        async def lied(_cid: bytes, place: Place, asked: Manifest) -> bytes:
            return wrong(asked, place)

        liar.data.room.shard = lied  # type: ignore[method-assign, assignment]
        assert await read(reader, cid) == data
        statistics = reader.data.statistics()
        assert dict(statistics.holders.blamed) == {verdict: 1}
        assert statistics.holders.liars == 1
        assert await read(reader, cid) == data
        assert dict(reader.data.statistics().holders.blamed) == {verdict: 1}, "it is asked no more"


@pytest.mark.parametrize("lie", [*LIES, "another shard"])
async def test_a_wrong_shard_is_not_stored(tmp_path: Path, lie: str) -> None:
    async with data_net(tmp_path, 3) as net:
        liar, holder, _ = net.nodes
        cid, manifest, data = await put(net, 50_000)
        held = dict(holder.store.blob(cid).held)  # type: ignore[union-attr]
        used = holder.store.used()
        place = next((0, shard) for shard in range(8) if (0, shard) not in held)
        if lie == "another shard":
            other = next(iter(held))
            shard = await holder.data.room.shard(cid, other, manifest)
            assert shard is not None
            content, verdict = shard, "wrong_hash"
        else:
            content, verdict = LIES[lie][0](manifest, place), LIES[lie][1]
        reply = await stored(liar, holder, StoreRequest(TASK, cid, 20, ((place, content),)))
        assert reply.stored is Stored.WRONG
        assert "to blame" in reply.text
        assert dict(holder.data.statistics().holders.blamed) == {verdict: 1}
        assert holder.store.blob(cid).held == held  # type: ignore[union-attr]
        assert holder.store.used() == used
        assert await read(holder, cid) == data


async def test_a_manifest_of_another_blob_is_blamed_and_the_right_one_found(tmp_path: Path) -> None:
    async with data_net(tmp_path, 9) as net:
        cid, manifest, data = await put(net, 20_000)
        other, _, _ = await put(net, 20_000, seed=2)
        members = list(net.nodes)
        false = next(one for node in members if (one := node.store.manifest(other)) is not None)
        some, none = await net.add(member=False), await net.add(member=False)
        await net.connect()
        index = await members[0].data.room.index_holders(TASK, cid, manifest)

        async def lied(_asker: bytes, _question: bytes) -> bytes:
            return protocol.encode_manifests([false])

        for key in index[:4]:
            answer_finds(net.of(key), lied)
        assert (await some.data.find(cid)).manifest == manifest
        assert dict(some.data.statistics().holders.blamed).keys() <= {"manifest"}
        assert await read(some, cid) == data
        for node in members:
            answer_finds(node, lied)
        with pytest.raises(DataError) as refused:
            await none.data.find(cid)
        assert refused.value.reason is DataReason.NOT_FOUND
        assert dict(none.data.statistics().holders.blamed) == {"manifest": len(members)}
        keeper = next(node for node in members if node.store.blob(cid) is not None)
        assert await read(keeper, cid) == data, "who has the manifest reads on"


async def test_a_manifest_of_another_cid_is_not_stored(tmp_path: Path) -> None:
    async with data_net(tmp_path, 2) as net:
        liar, holder = net.nodes
        cid, manifest, data = await put(net, 20_000)
        other = manifest.blocks[0].cid
        used = holder.store.used()
        for content in (manifest.encode(), b"", b"\xa0", manifest.encode()[:-1]):
            reply = await stored(liar, holder, StoreRequest(TASK, other, 20, (), content))
            assert reply.stored is Stored.WRONG, content[:4]
            assert reply.text
        assert dict(holder.data.statistics().holders.blamed) == {"manifest": 4}
        assert holder.store.blob(other) is None
        assert holder.store.used() == used
        assert await read(holder, cid) == data


async def test_a_put_that_fills_the_quota_half_way_leaves_nothing_and_costs_nothing(tmp_path: Path) -> None:
    quota = 4 * 1024 * 1024
    async with data_net(tmp_path, 1, replace(FAST, data_bytes=quota)) as net:
        (node,) = net.nodes
        cid, _, data = await put(net, 200_000)
        used = node.store.used()
        with pytest.raises(LimitExceeded) as refused:  # its second block does not fit any more
            await node.data.put(TASK, chunks(blob(3 * 1024 * 1024, 2)))
        assert f"of {quota}, this node's quota for task data" in refused.value.why
        assert "--data-quota" in refused.value.remedy
        assert node.store.used() == used
        assert node.store.statistics().blobs == 1
        assert node.store.statistics().refused >= 1
        assert await read(node, cid) == data


async def test_what_no_holder_has_room_for_waits_at_the_putter_and_is_brought_later(tmp_path: Path) -> None:
    async with data_net(tmp_path, 1) as net:
        putter = net.nodes[0]
        for _ in range(4):
            await net.add(replace(FAST, data_bytes=100_000))
        await net.connect()
        old = await putter.data.put(TASK, chunks(blob(150_000, 1)), PutSettings(rounds=3))
        data = blob(150_000, 2)
        new = await putter.data.put(TASK, chunks(data), PutSettings(rounds=30))
        assert new.placed.waiting > 0
        assert new.placed.placed + new.placed.waiting == 8
        assert putter.count("turned away: no_room") > 0
        full = [node for node in net.nodes[1:] if node.count("refused: no_room")]
        assert full
        for node in net.nodes:
            assert await read(node, new.reference.manifest) == data
            assert await read(node, old.reference.manifest) == blob(150_000, 1)
        net.told.round += 4  # the first one's term is over
        await trio.sleep(2 * FAST.data_upkeep_seconds)  # for so long who is full is left alone
        await putter.data.upkeep.turn()
        view = await putter.data.stat(new.reference.manifest, ask=True)
        assert view.live == (8,)
        due = holders_of(SEED, (await putter.data.find(view.cid)).manifest.blocks[0].cid, net.told.members, 8)
        for node in net.nodes:
            held = node.store.blob(view.cid)
            assert held is not None
            assert {shard for _, shard in held.held} == {i for i, key in enumerate(due) if key == node.key}
            assert await read(node, new.reference.manifest) == data


async def test_one_author_cannot_fill_a_holder(tmp_path: Path) -> None:
    """Of a task's quota each who brings data has a part; the shards go to others, and others' go on to be taken."""
    limits = replace(FAST, data_task_bytes=400_000, data_author_part=4)
    async with data_net(tmp_path, 2, limits) as net:
        author, holder = net.nodes
        for seed in range(1, 9):
            await author.data.put(TASK, chunks(blob(20_000, seed)))
        assert holder.store.used() <= 100_000 + 20_000, "its own shards of what comes back count for itself"
        assert holder.count("refused: share_full") > 0
        assert author.count("turned away: share_full") > 0
        result = await holder.data.put(TASK, chunks(blob(20_000, 20)))
        assert result.placed.waiting == 0, "who has brought less is served"
        assert await read(author, result.reference.manifest) == blob(20_000, 20)


async def test_a_seed_that_is_no_beacon_is_counted_against_everybody_together(tmp_path: Path) -> None:
    limits = replace(FAST, data_task_bytes=400_000, data_author_part=4)
    async with data_net(tmp_path, 3, limits) as net:
        author, holder, other = net.nodes
        chosen = sha256(b"whose disk comes first").digest()
        kept = []
        for seed, asker in enumerate([author, other] * 20):
            encoder = BlobEncoder(Code(1, 1), seed=chosen)
            blocks = encoder.feed(blob(9_000, seed))
            last, manifest = encoder.finish()
            shard = (*blocks, *last)[0].shards[0]
            request = StoreRequest(TASK, manifest.cid, 20, (((0, 0), shard),), manifest.encode())
            kept.append((await stored(asker, holder, request)).stored)
        assert set(kept) == {Stored.DONE, Stored.SHARE_FULL}
        assert holder.store.used() <= 100_000
        assert holder.count("blobs under unknown seeds") == kept.count(Stored.DONE)
        result = await author.data.put(TASK, chunks(blob(20_000, 99)))
        assert result.placed.waiting == 0, "who takes the beacon is served"
        assert holder.store.knows_seed(TASK, SEED)


async def test_a_busy_holder_is_asked_again_when_its_shard_is_needed(tmp_path: Path) -> None:
    async with data_net(tmp_path, 9, replace(FAST, request_deadline=1.0)) as net:
        cid, manifest, data = await put(net, 50_000)
        due = due_of(net, manifest)
        reader = next(node for node in net.nodes if node.key not in due)
        for shard, key in enumerate(due[:4]):
            net.of(key).store.drop_shards(cid, [(0, shard)])
        busy = net.of(due[5])
        served = busy.data.room.shard
        asked = 0

        async def slow_at_first(cid: bytes, place: Place, manifest: Manifest) -> bytes | None:
            nonlocal asked
            asked += 1
            if asked == 1:
                await trio.sleep(5)
            return await served(cid, place, manifest)

        busy.data.room.shard = slow_at_first  # type: ignore[method-assign]
        assert await read(reader, cid) == data
        assert asked >= 2
        assert reader.data.statistics().holders.blamed == ()
