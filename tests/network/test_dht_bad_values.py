"""Values that are too large or whose time is over, over real hosts on loopback."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest
import trio

from koii_p2p.kademlia.refusals import Refusal, Refused
from koii_p2p.limits import Limits
from tests.kademlia.net import SignedByKey
from tests.network.nets import Node, net, until
from tests.network.test_dht import DHT_QUICK

KEY = b"/t/" + b"key"


def value(number: int, size: int = 0) -> bytes:
    return KEY + bytes(size) + number.to_bytes(4, "big")


class Padded(SignedByKey):
    """As `SignedByKey`, with any number of bytes between key and number."""

    def validate(self, key: bytes, value: bytes) -> bool:
        return len(value) >= len(key) + 4 and value.startswith(key)

    def select(self, key: bytes, values: Sequence[bytes]) -> int:
        return max(range(len(values)), key=lambda index: values[index][-4:])


@asynccontextmanager
async def three(first: Limits, others: Limits) -> AsyncIterator[list[Node]]:
    """Three nodes that know each other and have the same rules for /t/."""
    async with net() as running:
        found: list[Node] = []
        for seed, limits in ((1, first), (2, others), (3, others)):
            known = () if not found else (found[0].address,)
            found.append(await running.add(seed, bootstrap=known, limits=limits))
            found[-1].network.dht.add_namespace("t", Padded())
        await until(lambda: all(len(node.network.dht.table()) == 2 for node in found), seconds=30)
        yield found


def refused(node: Node, what: Refusal) -> int:
    return dict(node.network.statistics().dht.refused).get(what.value, 0)


async def test_one_that_is_too_large_for_others_is_taken_by_none_and_replaces_nothing() -> None:
    generous = replace(DHT_QUICK, dht_value_bytes=128 * 1024)
    async with three(generous, DHT_QUICK) as (first, second, third):
        assert await first.network.dht.put(KEY, value(1)) == 2
        with pytest.raises(Refused) as raised:
            await first.network.dht.put(KEY, value(2, 128 * 1024))
        assert raised.value.refusal is Refusal.VALUE_SIZE
        assert await first.network.dht.get(KEY) == value(1)
        assert await first.network.dht.put(KEY, value(2, 64 * 1024)) == 0
        assert all(refused(node, Refusal.VALUE_SIZE) for node in (second, third))
        assert await second.network.dht.get(KEY) == value(1), "theirs stands"
        assert refused(second, Refusal.BAD_VALUE), "and the large one is passed over"
        assert await first.network.dht.put(KEY, value(3)) == 2
        assert await third.network.dht.get(KEY) == value(3)
        assert all(len(node.peers()) == 2 for node in (first, second, third)), "nobody is disconnected for it"


async def test_one_whose_time_is_over_is_given_by_nobody_and_another_takes_its_place() -> None:
    brief = replace(DHT_QUICK, dht_life_seconds=1.5)
    async with three(brief, brief) as found:
        first, second, third = (node.network.dht for node in found)
        assert await first.put(KEY, value(9)) == 2
        assert await third.get(KEY) == value(9)
        with trio.fail_after(30):
            while await second.get(KEY) is not None:
                await trio.sleep(0.2)
        assert await first.get(KEY) is None
        assert await second.put(KEY, value(8)) == 2, "an older one than was there before"
        assert await third.get(KEY) == value(8)
