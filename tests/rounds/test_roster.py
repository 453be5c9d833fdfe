from __future__ import annotations

import random
from dataclasses import replace

import pytest

from koii_p2p.rounds.roster import Checkpoint, Roster, RosterEntry, RosterError, StakeHistory, roster_at
from tests.rounds.net import STAKE, TERMS, key, roster

CLOCK = TERMS.clock
START = CLOCK.work(3).opens


def history(index: int, *points: tuple[int, int, int], unstake: int | None = None) -> StakeHistory:
    return StakeHistory(key(index), key(index + 100), tuple(Checkpoint(*p) for p in points), unstake)


def at(*histories: StakeHistory) -> Roster:
    return roster_at(histories, 3, CLOCK, STAKE)


def test_the_last_checkpoint_before_the_period_counts() -> None:
    found = at(
        history(0, (START - 50, STAKE, 0), (START - 1, STAKE * 2, 5), (START, 0, STAKE)),
        history(1, (START, STAKE, 0)),
        history(2, (START - 1, STAKE - 1, 0)),
        history(3),
    )
    assert found.entries == (RosterEntry(key(0), STAKE * 2, 5, key(100)),)


def test_an_unstake_request_counts_from_the_next_period_on() -> None:
    assert key(0) not in at(history(0, (1, STAKE, 0), unstake=START - 1))
    assert key(0) in at(history(0, (1, STAKE, 0), unstake=START))


def test_of_two_changes_in_one_slot_the_later_one_counts() -> None:
    assert at(history(0, (1, STAKE, 0), (1, STAKE + 7, 0))).stake_of(key(0)) == STAKE + 7


def test_the_order_of_the_histories_does_not_matter() -> None:
    histories = [history(index, (1, STAKE + index, 0)) for index in range(20)]
    shuffled = histories[:]
    random.Random(1).shuffle(shuffled)
    assert at(*histories) == at(*shuffled)
    assert at(*histories).root == at(*shuffled).root


def test_what_a_roster_answers() -> None:
    members = roster(4, stakes={0: 5 * STAKE})
    assert len(members) == 4
    assert list(members.keys) == sorted(key(index) for index in range(4))
    assert members.total_stake == 8 * STAKE
    assert members.stake_of(key(0)) == 5 * STAKE
    assert members.stake_of(key(9)) == 0
    assert key(9) not in members
    assert members.entry(key(0)).stake == 5 * STAKE


def test_the_root_depends_on_everything() -> None:
    members = roster(2)
    first, second = members.entries
    roots = {members.root, Roster(3, (first,)).root, Roster(3, ()).root}
    for change in ({"stake": 1}, {"slash_settled": 1}, {"beneficiary": bytes(32)}):
        roots.add(Roster(3, (replace(first, **change), second)).root)  # type: ignore[arg-type]
    assert len(roots) == 6


def test_total_stake_may_exceed_64_bits() -> None:
    huge = 2**64 - 1
    assert roster(3, stakes=dict.fromkeys(range(3), huge)).total_stake == 3 * huge


def test_contradictions_are_refused() -> None:
    entries = roster(2).entries
    for bad in (entries[::-1], (entries[0], entries[0])):
        with pytest.raises(RosterError):
            Roster(3, bad)
    for change in (
        {"key": b"k"},
        {"beneficiary": b"b"},
        {"stake": -1},
        {"stake": 2**64},
        {"slash_settled": -1},
    ):
        with pytest.raises(RosterError):
            Roster(3, (replace(entries[0], **change),))  # type: ignore[arg-type]
    with pytest.raises(RosterError):
        at(history(0, (5, STAKE, 0), (4, STAKE, 0)))
    with pytest.raises(RosterError):
        at(history(0, (5, STAKE, 0)), history(0, (5, STAKE, 0)))
