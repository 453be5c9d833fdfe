"""Two nodes that both think it is their turn to repair: turns are taken by hand, and held up where it matters."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import trio

from koii_p2p.data.placement import holders_of
from koii_p2p.data.repairing import Pace, _Looked
from tests.data.rooms import SEED, DataNet, DataNode, data_net, read
from tests.data.test_upkeep import live, manifest_of, put
from tests.network.nets import until

pytestmark = pytest.mark.timeout(60)
LOST = 3
"""Of 8 shards: fewer than k + margin are left."""


class HeldUp(Pace):
    """A node that has spent its bytes: it repairs when the test lets it."""

    def __init__(self) -> None:
        super().__init__(2**30)
        self.waits = trio.Event()
        self.go = trio.Event()

    async def ready(self) -> None:
        self.waits.set()
        await self.go.wait()


@dataclass
class Weak:
    """Blobs that have lost shards, and the first two of their holders."""

    net: DataNet
    blobs: dict[bytes, bytes]
    first: DataNode
    second: DataNode
    rest: list[DataNode]

    def repaired(self) -> list[int]:
        return [node.count("shards repaired") for node in (self.first, self.second)]

    def whole(self) -> bool:
        return all(len(live(self.rest, cid)) == 8 for cid in self.blobs)


@asynccontextmanager
async def weak_blobs(folder: Path, *, anyway: bool = False) -> AsyncIterator[Weak]:
    """A blob of one block in a net of nine; three of its holders leave the roster with what they have.

    Both nodes have heard nobody count for long; with `anyway` the second has, and has not looked for long itself.
    """
    async with data_net(folder, 9) as net:
        cid, data = await put(net, 20_000)
        block = (await manifest_of(net.nodes[0], cid)).blocks[0].cid
        due = holders_of(SEED, block, net.told.members, 8)
        gone = set(due[:LOST])
        net.told.members -= gone
        rest = [node for node in net.nodes if node.key not in gone]
        order = rest[0].data.room.keepers(cid, due[LOST:])
        first, second = net.of(order[0]), net.of(order[1])
        now = trio.current_time()
        first.data.upkeep._looked[cid] = _Looked(float("-inf"), now)
        second.data.upkeep._looked[cid] = _Looked(*((now, float("-inf")) if anyway else (float("-inf"), now)))
        yield Weak(net, {cid: data}, first, second, rest)


async def test_what_another_repaired_meanwhile_is_not_repaired_again(tmp_path: Path) -> None:
    async with weak_blobs(tmp_path) as weak, trio.open_nursery() as nursery:
        weak.first.data.upkeep._pace = slow = HeldUp()
        nursery.start_soon(weak.first.data.upkeep.turn)
        await slow.waits.wait()  # it has counted, and knows of the loss
        weak.second.data.upkeep._looked[next(iter(weak.blobs))].heard = float("-inf")
        await weak.second.data.upkeep.turn()
        assert weak.whole()
        slow.go.set()
        await until(lambda: weak.first.data.upkeep.statistics().weak == 1)
    assert weak.repaired() == [0, LOST]
    assert weak.first.count("repair bytes read") == 0


async def test_who_hears_one_that_comes_before_it_leaves_the_repair_to_it(tmp_path: Path) -> None:
    async with weak_blobs(tmp_path) as weak, trio.open_nursery() as nursery:
        first, second = (node.data.upkeep for node in (weak.first, weak.second))
        first._pace, second._pace = one, other = HeldUp(), HeldUp()
        nursery.start_soon(second.turn)
        await other.waits.wait()
        nursery.start_soon(first.turn)
        await one.waits.wait()  # the second has heard it count
        other.go.set()
        await until(lambda: weak.second.count("repairs left to others") == 1)
        assert not weak.whole()
        one.go.set()
        await until(weak.whole)
        for cid, data in weak.blobs.items():
            assert await read(weak.rest[-1], cid) == data
    assert weak.repaired() == [LOST, 0]


async def test_one_that_counts_and_does_nothing_is_not_waited_for(tmp_path: Path) -> None:
    async with weak_blobs(tmp_path, anyway=True) as weak, trio.open_nursery() as nursery:
        first, second = (node.data.upkeep for node in (weak.first, weak.second))
        first._pace, second._pace = idle, other = HeldUp(), HeldUp()
        nursery.start_soon(second.turn)
        await other.waits.wait()
        nursery.start_soon(first.turn)
        await idle.waits.wait()
        other.go.set()
        await until(lambda: weak.repaired() == [0, LOST])
        assert weak.whole()
        assert weak.second.count("repairs left to others") == 0
        nursery.cancel_scope.cancel()
