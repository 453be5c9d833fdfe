from __future__ import annotations

from koii_p2p.node.turns import LateTurns
from koii_p2p.rounds import events
from koii_p2p.rounds.clock import RoundClock

CLOCK = RoundClock(starting_slot=1000, round_time=100, submission_window=30, audit_window=40)
OPENS, LATER = CLOCK.commitment(0).opens, CLOCK.distribution(0).opens - CLOCK.commitment(0).opens


def commitment(number: int, attempt: int = 0) -> events.AnchorCommitment:
    return events.AnchorCommitment(number, attempt, bytes(32), b"", b"")


def test_each_turn_comes_as_many_slots_later_as_the_window() -> None:
    first, second = (LateTurns(CLOCK, late=True) for _ in range(2))
    asked = {first: OPENS + 10, second: OPENS + 16}
    for turns, slot in asked.items():
        due = next(one for one in range(slot, slot + 60) if not turns.is_early(commitment(0), one))
        assert due == slot + LATER
    assert OPENS + 10 + LATER in CLOCK.distribution(0)


def test_only_first_commitments_wait_and_only_where_they_must() -> None:
    assert not LateTurns(CLOCK, late=False).is_early(commitment(0), OPENS)
    turns = LateTurns(CLOCK, late=True)
    assert turns.is_early(commitment(0), OPENS)
    assert not turns.is_early(commitment(0, attempt=1), OPENS)
    assert not turns.is_early(events.Veto(0, 0), OPENS)
    dense = RoundClock(starting_slot=1000, round_time=70, submission_window=30, audit_window=40)
    assert not LateTurns(dense, late=True).is_early(commitment(0), dense.commitment(0).opens), (
        "there is no delay"
    )


def test_turns_are_forgotten_with_their_rounds() -> None:
    turns = LateTurns(CLOCK, late=True)
    assert turns.is_early(commitment(0), OPENS)
    turns.forget_before(1)
    assert turns.is_early(commitment(0), OPENS + LATER), "a turn that is asked for anew begins anew"
