"""What a node does when K2 takes blocks back: it reads the beacon's block again.

(What K2 held of a round is anchored again by the engines: `tests/rounds/test_engine.py`.)
"""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import trio
import trio.testing

from koii_p2p.errors import ChainError
from koii_p2p.node.forks import FINAL_SLOTS, blockhashes_after


class Chain:
    """Answers one after the other, two slots apart; the last one for ever."""

    def __init__(self, answers: Sequence[tuple[int, bytes] | ChainError | None], slot: int = 10) -> None:
        self.answers = list(answers)
        self.slot = slot
        self.reads = 0

    async def read(self, _slot: int) -> tuple[int, bytes] | None:
        await trio.lowlevel.checkpoint()
        self.reads += 1
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, ChainError):
            raise answer
        return answer

    def now(self) -> int:
        self.slot += 2
        return self.slot

    async def blockhashes(self) -> list[bytes]:
        return [found async for found in blockhashes_after(10, self.read, self.now, lambda: 0.1)]


AWAY = ChainError("K2 is away.", "It was killed.", "Start it.")


async def test_a_block_that_stays_is_told_once_and_watched_until_it_is_final(
    autojump_clock: trio.testing.MockClock,
) -> None:
    chain = Chain([(10, b"one")])
    assert await chain.blockhashes() == [b"one"]
    assert chain.slot > 10 + FINAL_SLOTS
    assert chain.reads == FINAL_SLOTS // 2 + 1


async def test_a_block_that_takes_its_place_is_told_and_watched_as_long(
    autojump_clock: trio.testing.MockClock,
) -> None:
    chain = Chain([(10, b"one"), AWAY, None, (14, b"two")])
    assert await chain.blockhashes() == [b"one", b"two"]
    assert chain.slot > 14 + FINAL_SLOTS


async def test_without_a_block_there_is_nothing_to_tell_and_a_k2_that_is_away_says_so() -> None:
    chain = Chain([None])
    assert (await chain.blockhashes(), chain.reads) == ([], 1)
    with pytest.raises(ChainError):
        await Chain([AWAY]).blockhashes()
