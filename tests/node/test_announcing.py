from __future__ import annotations

import itertools
import random

import pytest
import trio
from trio.testing import MockClock

from koii_p2p.limits import Limits
from koii_p2p.node.announcing import LONGEST_SECONDS, LOOK_SECONDS, announce
from koii_p2p.records.schema import Presence, Statement
from tests.node.peers import NOW, engine_with
from tests.rounds.net import TERMS

HERE = ("/ip4/127.0.0.1/tcp/4001",)
THERE = ("/ip4/127.0.0.1/tcp/4002",)


class Announced:
    """What a node said, when; and where it listens."""

    def __init__(self) -> None:
        self.at: tuple[str, ...] | None = HERE
        self.said: list[tuple[float, Statement]] = []
        self.learned = 0

    async def learn(self) -> None:
        self.learned += 1

    async def run(self, seconds: float, slot_seconds: float = 0.4, limits: Limits | None = None) -> None:
        with trio.move_on_after(seconds):
            await announce(
                engine_with(()),
                lambda: self.at,
                lambda statement: self.said.append((trio.current_time(), statement)),
                self.learn,
                lambda: slot_seconds,
                random.Random(1),
                limits or Limits(),
            )

    def pauses(self) -> list[float]:
        times = [when for when, _statement in self.said]
        return [after - before for before, after in itertools.pairwise(times)]


async def test_a_node_says_where_it_is_often_at_first_and_rarely_later(autojump_clock: MockClock) -> None:
    node = Announced()
    await node.run(3600)
    assert len([when for when, _ in node.said if when < 60]) >= 4
    assert 3600 / (1.5 * LONGEST_SECONDS) < len(node.said) < 3600 / (0.5 * LONGEST_SECONDS) + 8
    assert max(node.pauses()) <= 1.5 * LONGEST_SECONDS + LOOK_SECONDS
    assert node.learned == len(node.said)
    statement = node.said[0][1]
    assert (statement.slot, statement.seq, statement.round) == (NOW, NOW, TERMS.clock.period(NOW))
    assert isinstance(statement.body, Presence)
    assert statement.body.addresses == HERE


@pytest.mark.parametrize("slot_seconds", [0.05, 0.1])
async def test_no_presence_goes_stale_where_slots_are_short(
    autojump_clock: MockClock, slot_seconds: float
) -> None:
    node = Announced()
    await node.run(3600, slot_seconds)
    assert max(node.pauses()) < Limits().presence_slots * slot_seconds


async def test_one_that_listens_elsewhere_says_so_at_once(autojump_clock: MockClock) -> None:
    node = Announced()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(node.run, 3600)
        await trio.sleep(3000)
        node.at, moved = THERE, trio.current_time()
    when = next(when for when, one in node.said if when >= moved)
    assert when - moved <= LOOK_SECONDS
    assert isinstance(body := node.said[-1][1].body, Presence)
    assert body.addresses == THERE


async def test_one_that_takes_no_connections_says_nothing_and_still_learns(autojump_clock: MockClock) -> None:
    node = Announced()
    node.at = None
    await node.run(600)
    assert node.said == []
    assert node.learned > 3


async def test_a_presence_has_no_more_addresses_than_it_may(autojump_clock: MockClock) -> None:
    node = Announced()
    node.at = tuple(f"/ip4/127.0.0.1/tcp/{port}" for port in range(1, 40))
    await node.run(5)
    assert isinstance(body := node.said[0][1].body, Presence)
    assert body.addresses == node.at[: Limits().presence_addresses]
