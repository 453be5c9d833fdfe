from __future__ import annotations

from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import pytest

from koii_p2p.data import protocol
from koii_p2p.data.blob import BlobEncoder
from koii_p2p.data.durability import Level
from koii_p2p.data.erasure import Code
from koii_p2p.data.putting import PutSettings
from koii_p2p.data.reasons import DataError, DataReason
from koii_p2p.records.cid import cid_of
from tests.data.rooms import TASK, blob, chunks, data_net, read

pytestmark = pytest.mark.timeout(120)


async def test_what_one_node_puts_every_other_reads(tmp_path: Path) -> None:
    async with data_net(tmp_path, 9) as net:
        data = blob(3 * 1024 * 1024 + 17)
        result = await net.nodes[0].data.put(TASK, chunks(data))
        assert (result.size, result.content) == (len(data), cid_of(data))
        assert result.placed.waiting == 0
        assert result.placed.placed == 8 * 4
        for node in net.nodes:
            assert await read(node, result.reference.manifest) == data
        assert await read(net.nodes[5], cid_of(data)) == data, "by the CID of its bytes as well"


@pytest.mark.parametrize("size", [0, 1, 1024, 8 * 1024 * 1024])
async def test_sizes(tmp_path: Path, size: int) -> None:
    async with data_net(tmp_path, 8) as net:
        data = blob(size)
        result = await net.nodes[0].data.put(TASK, chunks(data))
        assert await read(net.nodes[7], result.reference.manifest) == data


@pytest.mark.parametrize("level", list(Level))
async def test_levels_with_as_many_holders_lost_as_promised(tmp_path: Path, level: Level) -> None:
    async with data_net(tmp_path, 10) as net:
        data = blob(100_000)
        result = await net.nodes[0].data.put(TASK, chunks(data), PutSettings(level))
        lost = (
            (10 * (level.code.shards - level.code.needed)) // level.code.shards
            if level.code.shards > 1
            else 0
        )
        for node in net.nodes[1 : 1 + min(lost, 5)]:
            await node.node.stop()
        assert await read(net.nodes[9], result.reference.manifest) == data


async def test_a_private_blob_needs_its_key(tmp_path: Path) -> None:
    async with data_net(tmp_path, 5) as net:
        data = blob(5000)
        result = await net.nodes[0].data.put(TASK, chunks(data), PutSettings(private=True))
        assert result.reference.key is not None
        assert await read(net.nodes[4], result.reference.manifest, result.reference.key) == data
        assert result.content != cid_of(data)


async def test_bytes_that_pass_for_others_are_never_whole(tmp_path: Path) -> None:
    """A manifest may name the CID of any content; who reads by that CID must not get all of something else."""
    wanted, other = blob(2048, seed=1), blob(2048, seed=2)
    encoder = BlobEncoder(Code(1, 1), block_bytes=1024)
    coded = [block for start in (0, 1024) for block in encoder.feed(other[start : start + 1024])]
    false = replace(encoder.finish()[1], digest=sha256(wanted).digest())
    async with data_net(tmp_path, 1) as net:
        node = net.nodes[0]
        shards = {(block.number, 0): block.shards[0] for block in coded}
        node.store.add(TASK, false.cid, false.content, false.encode(), until=9, shards=shards)
        pieces: list[bytes] = []

        async def take(piece: bytes) -> None:
            pieces.append(piece)

        found = await node.data.find(cid_of(wanted))
        with pytest.raises(DataError) as error:
            await node.data.read(found, None, take)
        assert error.value.reason is DataReason.FALSE_MANIFEST
        assert b"".join(pieces) == other[:1024]


async def test_nobody_holds_shards_whose_roots_are_false(tmp_path: Path) -> None:
    """Else whoever puts such a blob has all its holders taken for liars by everybody who challenges them."""
    encoder = BlobEncoder(Code(1, 1))
    encoder.feed(b"data")
    (block,), manifest = encoder.finish()
    false = replace(manifest, blocks=(replace(manifest.blocks[0], roots=(bytes(32),)),))
    async with data_net(tmp_path, 2) as net:
        asker, holder = net.nodes
        for one, wanted in ((manifest, protocol.Stored.DONE), (false, protocol.Stored.WRONG)):
            shards = (((0, 0), block.shards[0]),)
            request = protocol.StoreRequest(TASK, one.cid, 20, shards, one.encode())
            answer = await asker.data.room.ask(holder.key, protocol.STORE, protocol.encode_store(request))
            assert protocol.decode_stored(answer).stored is wanted
        assert [one.cid for one in holder.store.blobs()] == [manifest.cid]


async def test_members_are_found_once_for_a_roster_and_follow_who_is_gone(tmp_path: Path) -> None:
    async with data_net(tmp_path, 3) as net:
        room, gone = net.nodes[0].data.room, net.nodes[1].key
        everybody = room.members(TASK)
        assert everybody == {node.key for node in net.nodes}
        assert room.members(TASK, frozenset({gone})) == everybody - {gone}
        room.holders.lied(gone, "leaf")
        room.holders.lied(room.own, "leaf")
        assert room.members(TASK) == everybody - {gone}
