"""Audits of whether a blob can be read, while rosters change and somebody keeps everything to itself."""

from __future__ import annotations

from pathlib import Path

from tests.data.rooms import TASK, DataNet, blob, chunks, data_net, read


async def held_by_the_roster(running: DataNet, cid: bytes) -> int:
    """How many shards of the first block are where the roster of now has them."""
    room = running.nodes[0].data.room
    found = await running.nodes[0].data.find(cid)
    due = await room.due(TASK, cid, found.manifest)
    shards = [
        await running.of(key).data.room.shard(cid, (0, shard), found.manifest)
        for shard, key in enumerate(due[0])
    ]
    return sum(shard is not None for shard in shards)


async def test_a_blob_stays_available_when_the_roster_shrinks(tmp_path: Path) -> None:
    async with data_net(tmp_path, 7) as running:
        author, auditor = running.nodes[1], running.nodes[0]
        put = await author.data.put(TASK, chunks(blob(40_000)))
        assert (await auditor.data.availability(TASK, put.reference.manifest)).available
        running.told.members -= {running.nodes[5].key, running.nodes[6].key}
        assert await held_by_the_roster(running, put.reference.manifest) < 4
        assert await read(auditor, put.reference.manifest) == blob(40_000)
        assert (await auditor.data.availability(TASK, put.reference.manifest)).available


async def test_who_keeps_a_whole_blob_to_itself_has_not_put_it(tmp_path: Path) -> None:
    async with data_net(tmp_path, 9) as running:
        author, auditor, everybody = running.nodes[1], running.nodes[0], set(running.told.members)
        running.told.members -= everybody - {author.key}
        put = await author.data.put(TASK, chunks(blob(40_000)))
        running.told.members |= everybody
        assert await read(auditor, put.reference.manifest) == blob(40_000)
        found = await auditor.data.availability(TASK, put.reference.manifest)
        assert not found.available
        assert "4 are needed" in found.why
