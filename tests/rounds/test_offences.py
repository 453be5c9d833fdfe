from __future__ import annotations

import pytest

from koii_p2p.records.cid import cid_of
from koii_p2p.records.envelope import Verified
from koii_p2p.records.equivocation import Place, place_of
from koii_p2p.records.schema import (
    Ballot,
    BallotReveal,
    Body,
    Challenge,
    CommitmentNotice,
    Equivocation,
    Kind,
    ListNotice,
    ListVote,
    Presence,
    Submission,
)
from koii_p2p.rounds.eligibility import place_fault, window_of
from koii_p2p.rounds.offences import carrying_round, offender_of
from tests.rounds.net import BAD, GENESIS, GOOD, TASK, TERMS, evidence_against, key, say, secret, submission

ROUND = 3
CLOCK = TERMS.clock
CID = cid_of(b"data")
ACCUSED = (bytes(32), bytes([1]) * 32)

BEFORE: dict[Kind, tuple[Body, Body]] = {
    Kind.SUBMISSION: (Submission(GOOD), Submission(BAD)),
    Kind.BALLOT: (Ballot(), Ballot(seal=bytes(32))),
    Kind.BALLOT_REVEAL: (BallotReveal(bytes(32), ()), BallotReveal(bytes([1]) * 32, ())),
    Kind.CHALLENGE: (Challenge(ACCUSED[0], bytes(32)), Challenge(ACCUSED[1], bytes(32))),
}
"""Two bodies of each kind that is said before a round is committed to."""

AFTER: dict[Kind, tuple[Body, Body]] = {
    Kind.COMMITMENT_NOTICE: (
        CommitmentNotice(bytes(32), CID, bytes(64)),
        CommitmentNotice(bytes([1]) * 32, CID, bytes(64)),
    ),
    Kind.LIST_NOTICE: (
        ListNotice(bytes(32), CID, 0, 0, bytes(64)),
        ListNotice(bytes(32), CID, 1, 0, bytes(64)),
    ),
    Kind.LIST_VOTE: (ListVote(bytes(32), True, 0), ListVote(bytes(32), False, 1)),
}
"""And of each kind that is said about a commitment or a list."""


def said_twice(kind: Kind, number: int = ROUND, seq: int = 0) -> tuple[Verified, Verified]:
    one, other = (BEFORE | AFTER)[kind]
    return say(secret(0), one, number, 1, seq), say(secret(0), other, number, 1, seq)


def shown_in(number: int, pair: tuple[Verified, Verified]) -> bytes | None:
    return offender_of(evidence_against(secret(1), *pair, round_number=number), GENESIS)


@pytest.mark.parametrize("kind", BEFORE)
@pytest.mark.parametrize("seq", [0, 1])
def test_what_is_said_before_the_commitment_convicts_in_its_own_round(kind: Kind, seq: int) -> None:
    pair = said_twice(kind, seq=seq)
    assert shown_in(ROUND, pair) == key(0)
    assert [shown_in(number, pair) for number in (0, ROUND - 1, ROUND + 1, ROUND + 2)] == [None] * 4


@pytest.mark.parametrize("kind", AFTER)
def test_what_is_said_about_a_commitment_convicts_in_the_next_round(kind: Kind) -> None:
    pair = said_twice(kind)
    assert shown_in(ROUND + 1, pair) == key(0)
    assert [shown_in(number, pair) for number in (0, ROUND - 1, ROUND, ROUND + 2)] == [None] * 4


@pytest.mark.parametrize("kind", AFTER)
@pytest.mark.parametrize("attempt", [0, 1, 2])
def test_words_about_any_attempt_can_be_shown_where_they_convict(kind: Kind, attempt: int) -> None:
    pair = said_twice(kind, seq=attempt)
    number = carrying_round(Place(TASK, ROUND, kind, attempt))
    assert shown_in(number, pair) == key(0)
    body = evidence_against(secret(1), *pair).statement.body
    offence = window_of(pair[0].statement, TERMS)
    assert offence is not None
    shown = say(secret(1), body, number, offence.closes - 1)
    assert place_fault(shown.statement, TERMS) is None


def test_every_kind_that_has_a_place_convicts_somewhere() -> None:
    convicting = {
        kind
        for kind in Kind
        if kind in BEFORE | AFTER and (place := place_of(said_twice(kind)[0].statement)) is not None
        if shown_in(carrying_round(place), said_twice(kind)) == key(0)
    }
    assert convicting == set(Kind) - {Kind.EQUIVOCATION, Kind.PRESENCE}


def test_evidence_can_be_shown_after_the_offence_and_before_the_round_is_committed_to() -> None:
    """Of first attempts: whatever is said last can still be shown in the window of evidence of its round."""
    lasts = {
        Kind.SUBMISSION: CLOCK.submission(ROUND).closes,
        Kind.BALLOT: CLOCK.audit(ROUND).closes,
        Kind.BALLOT_REVEAL: CLOCK.reveals(ROUND).closes,
        Kind.CHALLENGE: CLOCK.first_ballots(ROUND).closes,
        Kind.COMMITMENT_NOTICE: CLOCK.settles_at(ROUND),
        Kind.LIST_NOTICE: CLOCK.settles_at(ROUND),
        Kind.LIST_VOTE: CLOCK.distribution_audit(ROUND).closes,
    }
    for kind, closes in lasts.items():
        number = carrying_round(Place(TASK, ROUND, kind, 0))
        body = evidence_against(secret(1), *said_twice(kind)).statement.body
        shown = say(secret(1), body, number, closes - 1)
        assert place_fault(shown.statement, TERMS) is None, kind


def test_whoever_shows_it_is_not_the_offender() -> None:
    pair = said_twice(Kind.SUBMISSION)
    for shower in (0, 1, 99):
        assert offender_of(evidence_against(secret(shower), *pair), GENESIS) == key(0)


def test_what_is_no_evidence_convicts_nobody() -> None:
    pair = said_twice(Kind.SUBMISSION)
    first, second = sorted(record.raw for record in pair)
    broken = second[:-1] + bytes([second[-1] ^ 1])
    one_presence, other_presence = (
        say(secret(0), Presence((), 0, "", free), ROUND, 1).raw for free in (1, 2)
    )
    bodies = (
        Equivocation(first, first),
        Equivocation(second, first),
        Equivocation(first, broken),
        Equivocation(broken, first),
        Equivocation(first, second[:-1]),
        Equivocation(b"a", b"b"),
        Equivocation(*sorted((first, submission(secret(1), GOOD).raw))),
        Equivocation(*sorted((one_presence, other_presence))),
    )
    for body in bodies:
        assert offender_of(say(secret(1), body, ROUND, 1), GENESIS) is None
    assert offender_of(pair[0], GENESIS) is None  # a record of another kind


def test_evidence_of_another_task_or_chain_convicts_nobody() -> None:
    one, other = (say(secret(0), Submission(value), ROUND, 1, task=bytes(32)) for value in (GOOD, BAD))
    body = evidence_against(secret(1), one, other).statement.body
    assert offender_of(say(secret(1), body, ROUND, 1), GENESIS) is None
    assert offender_of(say(secret(1), body, ROUND, 1, task=bytes(32)), GENESIS) == key(0)
    assert offender_of(evidence_against(secret(1), *said_twice(Kind.SUBMISSION)), bytes(32)) is None
