"""What a node does when K2 takes blocks back: it reads the beacon's block again, and anchors its commitment again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
import trio
import trio.testing

from koii_p2p.errors import ChainError
from koii_p2p.node.forks import FINAL_SLOTS, MISSING_SLOTS, OwnCommitments, blockhashes_after
from koii_p2p.rounds.anchors import AnchoredRound
from koii_p2p.rounds.clock import RoundClock
from koii_p2p.rounds.events import AnchorCommitment

CLOCK = RoundClock(starting_slot=0, round_time=100, submission_window=35, audit_window=35)
COMMITMENT = AnchorCommitment(0, 0, b"d" * 32, b"commitment", b"bundle")
HELD = AnchoredRound(0, 0, b"d" * 32, 171, b"k" * 32)
OPENS, CLOSES = CLOCK.commitment(0).opens, CLOCK.commitment(0).closes


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


def test_what_k2_has_taken_back_is_anchored_again_while_it_is_in_time() -> None:
    own = OwnCommitments(CLOCK)
    assert own.undone({}, OPENS) == []
    own.landed(COMMITMENT, OPENS)
    # A read that began before it landed does not show it.
    assert own.undone({}, OPENS + MISSING_SLOTS - 1) == []
    assert own.undone({0: HELD}, OPENS + MISSING_SLOTS) == []
    gone = OPENS + 2 * MISSING_SLOTS
    assert own.undone({}, gone - 1) == []
    assert own.undone({}, gone) == [COMMITMENT]
    own.landed(COMMITMENT, gone)
    assert own.undone({}, gone + 1) == []
    assert own.undone({}, gone + MISSING_SLOTS) == [COMMITMENT]
    assert own.undone({}, CLOSES) == []
    assert own.undone({}, gone + MISSING_SLOTS) == [], "it was forgotten when its window closed"


def test_a_later_attempt_is_gone_when_k2_is_back_at_the_one_before() -> None:
    own = OwnCommitments(CLOCK)
    second = replace(COMMITMENT, attempt=1)
    slot = CLOCK.commitment(0, 1).opens + 1
    own.landed(second, slot - MISSING_SLOTS)
    assert own.undone({0: replace(HELD, rejected=True)}, slot) == [second]
    assert own.undone({0: replace(HELD, attempt=1)}, slot) == []
    # Somebody else's commitment stands: there is nothing to do again.
    assert own.undone({0: replace(HELD, attempt=1, commitment=b"e" * 32)}, slot) == []
