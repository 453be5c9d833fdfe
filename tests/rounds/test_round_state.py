"""What a node holds of one round: the records of a kind, in an order that no arrival changes."""

from __future__ import annotations

from itertools import permutations, product

from koii_p2p.records.envelope import Verified
from koii_p2p.records.schema import Kind, ListVote
from koii_p2p.rounds.round_state import RoundState
from tests.rounds.net import GENESIS, TASK, TERMS, say, secret, submission

SUBMISSIONS = [submission(secret(index), "value") for index in range(3)]


def vote(index: int, attempt: int) -> Verified:
    slot = TERMS.clock.distribution_audit(3, attempt).opens
    return say(secret(index), ListVote(bytes(32), True, 0), 3, slot, seq=attempt)


def hold(state: RoundState, *records: Verified) -> None:
    for record in records:
        state.hold(record, GENESIS, timely=True)


def test_records_of_a_kind_are_in_the_order_of_their_authors() -> None:
    ordered = tuple(sorted(SUBMISSIONS, key=lambda record: record.author))
    for arrival in permutations(SUBMISSIONS):
        state = RoundState(TASK, 3)
        hold(state, *arrival, vote(0, 0))
        assert state.of_kind(Kind.SUBMISSION) == ordered
        assert list(state.submissions()) == [record.author for record in ordered]


def test_attempts_come_before_authors() -> None:
    votes = {(attempt, index): vote(index, attempt) for attempt, index in product(range(2), range(3))}
    state = RoundState(TASK, 3)
    hold(state, *reversed(votes.values()))
    found = [(record.statement.seq, record.author) for record in state.of_kind(Kind.LIST_VOTE)]
    assert found == sorted(found)
    assert len(found) == 6


def test_what_is_held_later_is_there_the_next_time() -> None:
    state = RoundState(TASK, 3)
    assert state.of_kind(Kind.SUBMISSION) == state.of_kind(Kind.LIST_VOTE) == ()
    for count, record in enumerate(SUBMISSIONS, 1):
        hold(state, record)
        assert len(state.of_kind(Kind.SUBMISSION)) == count
    assert state.of_kind(Kind.LIST_VOTE) == ()
    hold(state, vote(1, 0))
    assert len(state.of_kind(Kind.LIST_VOTE)) == 1
    assert len(state.of_kind(Kind.SUBMISSION)) == 3
