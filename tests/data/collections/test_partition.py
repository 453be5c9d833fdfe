"""Twelve nodes, 20 000 documents: each holds its share, and two halves that were apart come to the same again."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import base58
import pytest
import trio

from koii_p2p.conditions import RESET, Conditions, encode_conditions
from koii_p2p.data.collections.definition import Definition
from koii_p2p.data.collections.document import key_digest
from koii_p2p.data.collections.sharding import shard_of
from koii_p2p.limits import Limits
from tests.data.collections.nets import Clock, Member, members
from tests.data.collections.rows import check_rows
from tests.network.nets import until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

NODES, DOCUMENTS, AT_ONCE = 12, 20_000, 500
PATIENT = replace(Limits(), dial_backoff_first=0.1, dial_backoff_longest=1.0, request_deadline=60.0)
"""Twelve nodes share one thread, and that perhaps a busy machine: none of them is as quick as it would be alone."""
WORK = Definition("work", shards=64, replicas=3, indexes=("round",))


def name(member: Member) -> str:
    return base58.b58encode(member.key).decode()


def in_step(net: list[Member]) -> bool:
    """Whether the replicas of each shard hold the same versions."""
    states = {one.key: one.state(WORK) for one in net}
    for shard, replicas in enumerate(net[0].collections.holding.replicas(WORK)):
        found = [{place: id for place, id in states[key].items() if place[0] == shard} for key in replicas]
        if any(one != found[0] for one in found):
            return False
    return True


def lacking(net: list[Member]) -> tuple[int, int]:
    """(versions, bytes) that replicas lack of the newest that any of them has."""
    by_key = {one.key: one for one in net}
    versions = size = 0
    for shard, replicas in enumerate(net[0].collections.holding.replicas(WORK)):
        held = [
            {head.digest: head.version for head in by_key[key].collections.store.heads(WORK.id, shard)}
            for key in replicas
        ]
        for digest in set().union(*held):
            newest = max(one[digest] for one in held if digest in one)
            having = next(n for n, one in enumerate(held) if one.get(digest) == newest)
            raw = by_key[replicas[having]].collections.store.get(WORK.id, shard, digest)
            assert raw is not None
            missing = sum(one.get(digest) != newest for one in held)
            versions += missing
            size += missing * len(raw)
    return versions, size


def traffic(net: list[Member]) -> tuple[int, int, int]:
    """(bytes, versions, exchanges) of reconciliation so far: questions and answers, once each."""
    found = [one.collections.statistics().replication for one in net]
    return (
        sum(one.bytes_sent + one.bytes_received for one in found),
        sum(one.pulled + one.pushed for one in found),
        sum(one.syncs for one in found),
    )


async def write_in_part(half: list[Member], start: int, count: int, changed: range) -> int:
    """New documents, and changes of some that are there, of shards that have a replica in the half."""
    writer, keys = half[0].collections, {one.key for one in half}
    replicas = writer.holding.replicas(WORK)

    def reachable(key: str) -> bool:
        return not keys.isdisjoint(replicas[shard_of(WORK, key_digest(key))])

    rows = [{"_id": f"new{n}", "round": n, "half": start} for n in range(start, start + count)]
    rows += [{"_id": f"k{n}", "round": -1, "half": start} for n in changed]
    rows = [row for row in rows if reachable(str(row["_id"]))]
    await writer.put_many(WORK, rows)  # type: ignore[arg-type]
    return len(rows)


async def test_every_node_holds_its_share_and_halves_come_together_again(tmp_path: Path) -> None:
    file = tmp_path / "conditions.json"
    file.write_bytes(encode_conditions(Conditions()))
    clock = Clock()
    async with members(NODES, tmp_path, clock, limits=PATIENT, conditions=file, sync_seconds=4.0) as net:
        began = trio.current_time()
        for start in range(0, DOCUMENTS, AT_ONCE):
            numbers = range(start, start + AT_ONCE)
            rows = [{"_id": f"k{n}", "round": n // 100, "text": "x" * 100} for n in numbers]
            await net[start // AT_ONCE % NODES].collections.put_many(WORK, rows)  # type: ignore[arg-type]
        print(f"\n{DOCUMENTS} documents written in {trio.current_time() - began:.0f} s")
        shares = [one.collections.statistics().collections[0] for one in net]
        print(
            "documents of each node:",
            [one.documents for one in shares],
            "shards:",
            [one.own_shards for one in shares],
        )
        assert sum(one.documents for one in shares) == 3 * DOCUMENTS
        assert in_step(net)
        fair = DOCUMENTS * 3 / NODES
        assert all(fair * 0.4 < one.documents < fair * 1.8 for one in shares)
        found = await net[5].collections.find(WORK, {"round": 7}, sort={"_id": 1})
        assert len(found) == 100

        halves = net[: NODES // 2], net[NODES // 2 :]
        groups = tuple(frozenset(name(one) for one in half) for half in halves)
        file.write_bytes(encode_conditions(Conditions(groups=groups, cut=RESET)))
        await until(lambda: all(len(one.peers()) == NODES // 2 - 1 for one in net), 60)
        clock.slot += 10
        written = 0
        for number, half in enumerate(halves):
            written += await write_in_part(half, number * 1000, 300, range(50))
        assert not in_step(net)
        versions, size = lacking(net)
        before = traffic(net)

        file.write_bytes(encode_conditions(Conditions()))
        await until(lambda: all(len(one.peers()) == NODES - 1 for one in net), 120)
        with trio.fail_after(240):
            while not in_step(net):  # which looks at all they hold, in their own thread: not too often
                await trio.sleep(5)
        bytes_moved, moved, syncs = (now - then for now, then in zip(traffic(net), before, strict=True))
        print(f"apart, {written} written; replicas lacked {versions} versions of {size} bytes")
        print(f"healed with {bytes_moved} bytes, {moved} versions moved, in {syncs} exchanges:", end=" ")
        print(f"{bytes_moved / size:.2f} bytes for each byte that was lacking")

        before = traffic(net)
        for one in net[:3]:
            assert await one.collections.replicator.sync(sorted(one.peers())) == NODES - 1
        same, none_moved, idle = (now - then for now, then in zip(traffic(net), before, strict=True))
        print(f"{idle} exchanges without a difference: {same / idle:.0f} bytes each")
        assert none_moved == 0
        assert same / idle < 400
        # Versions that two replicas give at the same time are given twice, and older ones cross newer ones.
        assert moved <= 3 * versions
        assert bytes_moved < 4 * size + syncs * 64 * 200
        for one in net:
            check_rows(one.collections.store, WORK)
        both = await net[0].collections.find(WORK, {"half": {"$exists": True}, "round": -1})
        assert {row["half"] for row in both} <= {0, 1000}
        assert len(both) == 50
