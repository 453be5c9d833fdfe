from __future__ import annotations

import random
from dataclasses import replace

import pytest

from koii_p2p.rounds.audit_rules import Weights
from koii_p2p.rounds.roster import (
    LOCK_PERIODS,
    MAX_ENTRIES,
    Checkpoint,
    Roster,
    RosterEntry,
    RosterError,
    StakeHistory,
    roster_at,
)
from koii_p2p.rounds.terms import U64_MAX
from tests.rounds.net import STAKE, TERMS, key, roster, with_rules

CLOCK = TERMS.clock
START = CLOCK.work(3).opens


def history(index: int, *points: tuple[int, int, int], unstake: int | None = None) -> StakeHistory:
    return StakeHistory(key(index), key(index + 100), tuple(Checkpoint(*p) for p in points), unstake)


def at(*histories: StakeHistory) -> Roster:
    return roster_at(histories, 3, TERMS)


def test_the_last_checkpoint_before_the_period_counts() -> None:
    found = at(
        history(0, (START - 50, STAKE, 0), (START - 1, STAKE * 2, 5), (START, 0, STAKE)),
        history(1, (START, STAKE, 0)),
        history(2, (START - 1, STAKE - 1, 0)),
        history(3),
    )
    assert found.entries == (RosterEntry(key(0), STAKE * 2, 5, key(100), STAKE * 2),)


def test_an_unstake_request_counts_from_the_next_period_on() -> None:
    assert key(0) not in at(history(0, (1, STAKE, 0), unstake=START - 1))
    assert key(0) in at(history(0, (1, STAKE, 0), unstake=START))


# --- stake times lock time


def stake_time(*points: tuple[int, int], number: int = 3) -> int:
    """Of a staker with these (slot, stake), who is in the roster."""
    known = StakeHistory(key(0), key(100), tuple(Checkpoint(slot, stake, 0) for slot, stake in points))
    return roster_at([known], number, TERMS).entry(key(0)).stake_time


def test_a_stake_weighs_fully_after_four_periods() -> None:
    period = CLOCK.round_time
    for age, expected in ((0, 1), (1, 2), (2, 3), (3, 4), (4, 4), (50, 4)):
        assert stake_time((START - age * period - 1, STAKE), number=3) == expected * STAKE
    # A checkpoint in the first slot of a period counts from the next period on.
    assert stake_time((START - period, STAKE)) == STAKE


def test_what_is_added_later_counts_from_when_it_was_added() -> None:
    period = CLOCK.round_time
    assert stake_time((START - 9 * period, STAKE), (START - period - 1, 10 * STAKE)) == 22 * STAKE
    # A slash takes effect at once for what is left, and not backwards.
    assert stake_time((START - 9 * period, 10 * STAKE), (START - 1, STAKE)) == 31 * STAKE


def test_a_break_is_no_lock_time() -> None:
    period = CLOCK.round_time
    assert (
        stake_time((START - 9 * period, STAKE), (START - 3 * period - 1, 0), (START - period - 1, STAKE))
        == 2 * STAKE
    )


def test_stake_time_of_the_first_rounds_reaches_back_before_the_task() -> None:
    assert stake_time((1, STAKE), number=0) == LOCK_PERIODS * STAKE
    assert stake_time((TERMS.starting_slot - 1, STAKE), number=0) == STAKE


def test_the_largest_stake_weighs_fully() -> None:
    assert stake_time((1, U64_MAX)) == LOCK_PERIODS * U64_MAX


def test_what_a_vote_weighs() -> None:
    young, old = history(0, (START - 1, 5 * STAKE, 0)), history(1, (1, 2 * STAKE, 0))
    expected = {
        Weights.EQUAL: (1, 1),
        Weights.STAKE: (5 * STAKE, 2 * STAKE),
        Weights.STAKE_TIME: (5 * STAKE, 8 * STAKE),
    }
    for weights, values in expected.items():
        members = roster_at([young, old], 3, with_rules(weights=weights))
        assert members.weights is weights
        assert (members.weight_of(key(0)), members.weight_of(key(1))) == values
        assert members.weight_of(key(2)) == 0
        assert members.stake_of(key(0)) == 5 * STAKE


# --- rosters


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
    for change in ({"stake": 1}, {"slash_settled": 1}, {"beneficiary": bytes(32)}, {"stake_time": 1}):
        roots.add(Roster(3, (replace(first, **change), second)).root)
    assert len(roots) == 7


def test_a_leaf_of_the_root_has_96_bytes() -> None:
    entry = RosterEntry(key(0), 1, 2, key(1), LOCK_PERIODS * U64_MAX)
    assert entry.encode() == (
        key(0)
        + b"\1"
        + bytes(7)
        + b"\2"
        + bytes(7)
        + key(1)
        + (LOCK_PERIODS * U64_MAX).to_bytes(16, "little")
    )
    assert len(entry.encode()) == 96


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
        {"stake_time": -1},
        {"stake_time": LOCK_PERIODS * U64_MAX + 1},
    ):
        with pytest.raises(RosterError):
            Roster(3, (replace(entries[0], **change),))
    with pytest.raises(RosterError):
        Roster(3, entries[:1] * (MAX_ENTRIES + 1))
    with pytest.raises(RosterError):
        at(history(0, (5, STAKE, 0), (4, STAKE, 0)))
    with pytest.raises(RosterError):
        at(history(0, (5, STAKE, 0)), history(0, (5, STAKE, 0)))
