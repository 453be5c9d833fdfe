from __future__ import annotations

import pytest

from koii_p2p.records.envelope import sign
from koii_p2p.records.equivocation import check_equivocation, conflict, equivocation_of, place_of
from koii_p2p.records.reasons import RecordError, RecordReason
from koii_p2p.records.schema import (
    Ballot,
    BallotEntry,
    Body,
    Challenge,
    Equivocation,
    Kind,
    ListVote,
    Presence,
    Submission,
    Verdict,
)
from tests.records.statements import ALICE, BOB, GENESIS, statement

YES = Ballot((BallotEntry(bytes(32), Verdict.VALID),))
NO = Ballot((BallotEntry(bytes(32), Verdict.INVALID),))


def test_two_ballots_are_evidence_that_anyone_can_check() -> None:
    yes, no = sign(statement(YES), GENESIS, ALICE), sign(statement(NO, seq=1, slot=701), GENESIS, ALICE)
    evidence = equivocation_of(yes, no)
    assert evidence == equivocation_of(no, yes)
    assert set(check_equivocation(evidence, GENESIS)) == {yes, no}
    assert sign(statement(evidence), GENESIS, BOB).kind is Kind.EQUIVOCATION


@pytest.mark.parametrize(
    "body", [Challenge(bytes(32), bytes(32)), Presence((), 0, "", 0), Equivocation(b"1", b"2")]
)
def test_some_kinds_may_be_stated_again(body: Body) -> None:
    one, other = sign(statement(body), GENESIS, ALICE), sign(statement(body, seq=1), GENESIS, ALICE)
    assert place_of(one.statement) is None
    assert not conflict(one, other)


def test_list_votes_conflict_within_an_attempt() -> None:
    agree, disagree = ListVote(bytes(32), True, 0), ListVote(bytes(32), False, 1)
    first = sign(statement(agree), GENESIS, ALICE)
    assert conflict(first, sign(statement(disagree), GENESIS, ALICE))
    assert not conflict(first, sign(statement(disagree, seq=1), GENESIS, ALICE))


def test_what_is_not_a_conflict() -> None:
    yes = sign(statement(YES), GENESIS, ALICE)
    for other in (
        yes,
        sign(statement(NO), GENESIS, BOB),
        sign(statement(NO, round=4), GENESIS, ALICE),
        sign(statement(NO, task=b"u" * 32), GENESIS, ALICE),
        sign(statement(Submission("x")), GENESIS, ALICE),
    ):
        assert not conflict(yes, other)
        with pytest.raises(RecordError) as caught:
            equivocation_of(yes, other)
        assert caught.value.reason is RecordReason.NOT_A_CONFLICT


def test_false_evidence_is_refused() -> None:
    yes, no = sign(statement(YES), GENESIS, ALICE), sign(statement(NO), GENESIS, ALICE)
    low, high = sorted((yes.raw, no.raw))
    for first, second, reason in (
        (high, low, RecordReason.NOT_A_CONFLICT),
        (low, low, RecordReason.NOT_A_CONFLICT),
        (low, high[:-1], RecordReason.TRUNCATED),
        (low, b"x", RecordReason.NOT_COSE),
    ):
        with pytest.raises(RecordError) as caught:
            check_equivocation(Equivocation(first, second), GENESIS)
        assert caught.value.reason is reason
    with pytest.raises(RecordError) as caught:
        check_equivocation(Equivocation(low, high), bytes(32))
    assert caught.value.reason is RecordReason.BAD_SIGNATURE
