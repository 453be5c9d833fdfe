"""Admission of what the audit game is played with: seals, challenges, canaries, witnesses, evidence."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from koii_p2p.records.envelope import Verified
from koii_p2p.records.equivocation import place_of
from koii_p2p.records.schema import Ballot, BallotReveal, Body, Equivocation, ListVote, Verdict
from koii_p2p.rounds.admission import Reason, Source
from koii_p2p.rounds.audit_rules import Profile
from koii_p2p.rounds.eligibility import FULL_AUDIT, MAX_CHALLENGES
from tests.rounds.admission_view import PLAYED, View, accepted, forged, refused, with_submissions
from tests.rounds.net import (
    BAD,
    GOOD,
    TERMS,
    Round,
    ballot,
    challenge,
    evidence_against,
    key,
    play,
    say,
    sealed,
    secret,
    secrets_by_key,
    submission,
    with_rules,
)

CLOCK = TERMS.clock
SUBMITTING, AUDITING = CLOCK.submission(3), CLOCK.audit(3)
FIRST, FULL = CLOCK.first_ballots(3), CLOCK.full_audit(3)
SEALING, OPENING, REVEALING = CLOCK.seals(3), CLOCK.openings(3), CLOCK.reveals(3)
SEALED = play(nodes=9, terms=with_rules(sealed=True, canary_rate=1000, witness_seats=2))
SEATS = play(nodes=9, terms=with_rules(witness_seats=2))
SECRETS = secrets_by_key(9)
WITNESS = secret(50)


# --- sealed ballots


def halves(index: int, of: Round = SEALED) -> tuple[Verified, Verified]:
    """The sealed ballot of an honest node, and its reveal."""
    return of.records.ballots[key(index)], of.records.reveals[key(index)]


def test_seals_and_reveals_in_their_windows() -> None:
    for index in range(9):
        seal, reveal = halves(index)
        view = with_submissions(SEALED)
        for now in (SEALING.opens, SEALING.closes - 1):
            assert accepted(view, seal, now).timely
        assert refused(view, seal, SEALING.closes) is Reason.LATE
        view.hold(seal)
        for now in (REVEALING.opens, REVEALING.closes - 1):
            assert accepted(view, reveal, now).timely
        assert refused(view, reveal, REVEALING.closes) is Reason.LATE
        assert refused(view, reveal, REVEALING.opens - 1) is Reason.EARLY
        assert not accepted(view, reveal, REVEALING.closes, Source.SYNC).timely


def test_a_seal_needs_neither_beacon_nor_submissions() -> None:
    """Nobody can see what it is about; and whoever is not due reveals for nothing."""
    accepted(replace(View(SEALED.terms), auditors=None), halves(0)[0], SEALING.opens)


def test_nobody_seals_after_others_could_reveal() -> None:
    late = say(secret(0), Ballot(seal=bytes(32)), 3, SEALING.closes)
    assert refused(with_submissions(SEALED), late, SEALING.closes) is Reason.SLOT_OUTSIDE_WINDOW


def test_a_reveal_waits_for_its_ballot() -> None:
    reveal = halves(0)[1]
    assert refused(with_submissions(SEALED), reveal, REVEALING.opens) is Reason.BALLOT_UNKNOWN
    assert refused(with_submissions(SEALED), forged(reveal), REVEALING.opens) is Reason.BAD_SIGNATURE


def test_a_reveal_of_something_else_than_was_sealed() -> None:
    seal, reveal = halves(0)
    body = reveal.statement.body
    assert isinstance(body, BallotReveal)
    view = with_submissions(SEALED).hold(seal)
    flipped = tuple(replace(entry, verdict=Verdict.UNAVAILABLE) for entry in body.entries)
    for other in (replace(body, salt=bytes(32)), replace(body, entries=flipped), replace(body, entries=())):
        said = say(secret(0), other, 3, REVEALING.opens)
        assert refused(view, said, REVEALING.opens) is Reason.SEAL_BROKEN


def test_a_seal_that_was_copied_cannot_be_revealed() -> None:
    """The auditor's key is in the seal: who copies it can only repeat an opening that is not its own."""
    seal, reveal = halves(0)
    copied = say(secret(1), seal.statement.body, 3, SEALING.opens)
    view = with_submissions(SEALED)
    accepted(view, copied, SEALING.opens)
    said = say(secret(1), reveal.statement.body, 3, REVEALING.opens)
    assert refused(view.hold(copied), said, REVEALING.opens) is Reason.SEAL_BROKEN


def test_what_was_sealed_is_judged_when_it_is_revealed() -> None:
    due = SEALED.assignment.authors_for(key(0), SEALED.submissions)
    not_due = next(author for author in SEALED.submissions if author not in due and author != key(0))
    cases: list[tuple[dict[bytes, Verdict], Reason]] = [
        ({}, Reason.EMPTY_BALLOT),
        ({bytes(32): Verdict.VALID}, Reason.SUBMISSION_UNKNOWN),
        ({SEALED.submissions[not_due].id: Verdict.VALID}, Reason.NOT_ASSIGNED),
        ({SEALED.submissions[key(0)].id: Verdict.VALID}, Reason.NOT_ASSIGNED),
    ]
    for verdicts, reason in cases:
        seal, reveal = sealed(secret(0), verdicts)
        view = with_submissions(SEALED).hold(seal)
        assert refused(view, reveal, REVEALING.opens) is reason
    seal, reveal = halves(0)
    blind = replace(with_submissions(SEALED).hold(seal), auditors=None)
    assert refused(blind, reveal, REVEALING.opens) is Reason.BEACON_UNKNOWN


def test_two_seals_and_two_reveals_are_evidence() -> None:
    seal, reveal = halves(0)
    view = with_submissions(SEALED).hold(seal, reveal)
    other = say(secret(0), Ballot(seal=bytes(32)), 3, SEALING.opens)
    assert refused(view, other, SEALING.opens) is Reason.EQUIVOCATION
    again = say(secret(0), reveal.statement.body, 3, REVEALING.opens, seq=5)
    assert refused(view, again, REVEALING.opens) is Reason.EQUIVOCATION


# --- challenges and canaries


def test_any_staker_may_challenge_four_times() -> None:
    accused = PLAYED.submissions[key(1)]
    view = with_submissions()
    for number in range(MAX_CHALLENGES):
        record = challenge(secret(8), accused, number)
        assert accepted(view, record, FIRST.opens).timely
        assert accepted(view, record, FIRST.closes - 1).timely
        assert refused(view, record, FIRST.closes) is Reason.LATE
        assert refused(view.hold(record), record, FIRST.opens) is Reason.DUPLICATE
    fifth = challenge(secret(8), accused, MAX_CHALLENGES)
    assert refused(view, fifth, FIRST.opens) is Reason.BAD_ATTEMPT
    late = challenge(secret(8), accused, 0, FULL.opens)
    assert refused(view, late, FULL.opens) is Reason.SLOT_OUTSIDE_WINDOW


def test_two_challenges_of_one_number_are_evidence() -> None:
    one, other = (challenge(secret(8), PLAYED.submissions[key(index)]) for index in (1, 2))
    assert refused(with_submissions().hold(one), other, FIRST.opens) is Reason.EQUIVOCATION


def test_a_challenge_of_an_unknown_submission_is_parked_once_it_is_properly_signed() -> None:
    record = challenge(secret(8), PLAYED.submissions[key(1)])
    assert refused(View(), record, FIRST.opens) is Reason.SUBMISSION_UNKNOWN
    assert refused(View(), forged(record), FIRST.opens) is Reason.BAD_SIGNATURE


def test_without_canaries_nobody_challenges_itself() -> None:
    own = PLAYED.submissions[key(0)]
    for slot in (FIRST.opens, OPENING.opens, REVEALING.opens):
        record = challenge(secret(0), own, slot=slot)
        assert refused(with_submissions(), record, slot) is Reason.OWN_SUBMISSION


def test_a_canary_is_owned_up_to_after_the_seals_and_before_the_reveals() -> None:
    own = SEALED.submissions[key(0)]
    view = with_submissions(SEALED)
    for slot in (OPENING.opens, OPENING.closes - 1):
        record = challenge(secret(0), own, slot=slot)
        assert accepted(view, record, slot).timely
        # Whoever receives it later holds it, but cannot say that it was owned up to in time.
        assert not accepted(view, record, OPENING.closes).timely
        assert not accepted(view, record, FIRST.closes - 1).timely
        assert refused(view, record, FIRST.closes) is Reason.LATE
        # A receiver whose slot lags gets it before its slots.
        assert accepted(view, record, SEALING.opens).timely
        assert refused(view, record, FIRST.opens - 1) is Reason.EARLY
    for slot in (FIRST.opens, OPENING.opens - 1, OPENING.closes, FIRST.closes - 1):
        record = challenge(secret(0), own, slot=slot)
        assert refused(view, record, slot) is Reason.OWN_SUBMISSION


def test_challenges_of_others_have_all_of_the_first_ballots_time() -> None:
    for slot in (FIRST.opens, OPENING.closes, FIRST.closes - 1):
        record = challenge(secret(8), SEALED.submissions[key(0)], slot=slot)
        assert accepted(with_submissions(SEALED), record, slot).timely


# --- keys without stake


def test_without_seats_only_stakers_audit() -> None:
    record = ballot(WITNESS, {PLAYED.submissions[key(0)].id: Verdict.INVALID})
    assert refused(with_submissions(), record, FIRST.opens) is Reason.NOT_IN_ROSTER


def test_with_seats_a_key_without_stake_votes_on_what_it_likes() -> None:
    everything = {record.id: Verdict.VALID for record in SEATS.submissions.values()}
    assert accepted(with_submissions(SEATS), ballot(WITNESS, everything), FIRST.opens).timely
    seal, reveal = sealed(WITNESS, {SEALED.submissions[key(0)].id: Verdict.INVALID})
    view = with_submissions(SEALED)
    assert accepted(view, seal, SEALING.opens).timely
    assert accepted(view.hold(seal), reveal, REVEALING.opens).timely


def test_a_key_without_stake_does_nothing_else() -> None:
    accused = SEATS.submissions[key(0)]
    voting = CLOCK.distribution_audit(3).opens
    records: list[tuple[Verified, int]] = [
        (submission(WITNESS, GOOD), SUBMITTING.opens),
        (challenge(WITNESS, accused), FIRST.opens),
        (ballot(WITNESS, {accused.id: Verdict.INVALID}, stage=FULL_AUDIT), FULL.opens),
        (say(WITNESS, ListVote(bytes(32), True, 0), 3, voting), voting),
        (evidence_against(WITNESS, accused, submission(secret(0), "other")), AUDITING.opens),
    ]
    for record, now in records:
        assert refused(with_submissions(SEATS), record, now) is Reason.NOT_IN_ROSTER


def test_twice_as_many_ballots_are_held_as_there_are_seats() -> None:
    record = ballot(WITNESS, {SEATS.submissions[key(0)].id: Verdict.INVALID})
    for seats in range(4):
        accepted(replace(with_submissions(SEATS), seats=seats), record, FIRST.opens)
    full = replace(with_submissions(SEATS), seats=4)
    assert refused(full, record, FIRST.opens) is Reason.SEATS_TAKEN
    assert refused(full, forged(record), FIRST.opens) is Reason.BAD_SIGNATURE
    for staker in SEATS.ballots.values():
        accepted(full, staker, FIRST.opens)
    # Whoever sealed in time may reveal.
    seal, reveal = sealed(WITNESS, {SEALED.submissions[key(0)].id: Verdict.INVALID})
    accepted(replace(with_submissions(SEALED), seats=4).hold(seal), reveal, REVEALING.opens)


# --- evidence


ONE, OTHER, THIRD = (submission(secret(0), value) for value in (GOOD, BAD, "third"))


def test_evidence_from_the_first_submission_to_the_end_of_the_audit() -> None:
    body = evidence_against(secret(1), ONE, OTHER).statement.body
    for slot in (SUBMITTING.opens, AUDITING.closes - 1):
        assert accepted(View(), say(secret(1), body, 3, slot), slot).timely
    record = say(secret(1), body, 3, AUDITING.closes - 1)
    assert refused(View(), record, AUDITING.closes) is Reason.LATE
    assert not accepted(View(), record, AUDITING.closes, Source.SYNC).timely
    record = say(secret(1), body, 3, AUDITING.closes)
    assert refused(View(), record, AUDITING.closes) is Reason.SLOT_OUTSIDE_WINDOW
    # Anybody may show it, the offender too.
    accepted(View(), evidence_against(secret(0), ONE, OTHER), AUDITING.opens)


def test_evidence_that_convicts_nobody_in_its_round() -> None:
    true = evidence_against(secret(1), ONE, OTHER).statement.body
    assert isinstance(true, Equivocation)
    broken = replace(true, second=true.second[:-1] + bytes([true.second[-1] ^ 1]))
    stranger = evidence_against(secret(1), submission(secret(50), GOOD), submission(secret(50), BAD))
    other_round = evidence_against(
        secret(1), submission(secret(0), GOOD, 2), submission(secret(0), BAD, 2), round_number=3
    )
    bodies: list[Body] = [
        Equivocation(true.first, true.first),
        Equivocation(true.second, true.first),
        Equivocation(b"a", b"b"),
        broken,
        stranger.statement.body,
        other_round.statement.body,
    ]
    for body in bodies:
        record = say(secret(1), body, 3, AUDITING.opens)
        assert refused(View(), record, AUDITING.opens) is Reason.BAD_EVIDENCE
        assert refused(View(), forged(record), AUDITING.opens) is Reason.BAD_SIGNATURE


def test_words_after_a_commitment_convict_in_the_next_round() -> None:
    slot = CLOCK.distribution_audit(2).opens
    yes, no = (say(secret(0), ListVote(bytes(32), agree, 0), 2, slot) for agree in (True, False))
    accepted(View(), evidence_against(secret(1), yes, no, round_number=3), AUDITING.opens)
    now = CLOCK.distribution_audit(3).opens
    yes, no = (say(secret(0), ListVote(bytes(32), agree, 0), 3, now) for agree in (True, False))
    record = evidence_against(secret(1), yes, no, round_number=3)
    assert refused(View(), record, AUDITING.opens) is Reason.BAD_EVIDENCE


def test_of_several_pieces_of_evidence_the_smallest_id_is_kept() -> None:
    pairs = ((ONE, OTHER), (ONE, THIRD), (OTHER, THIRD))
    ordered = sorted((evidence_against(secret(1), *pair) for pair in pairs), key=lambda record: record.id)
    view = replace(View(), convictions={key(0): ordered[1]})
    accepted(view, ordered[0], AUDITING.opens)
    assert refused(view, ordered[1], AUDITING.opens) is Reason.DUPLICATE
    assert refused(view, ordered[2], AUDITING.opens) is Reason.CONVICTED
    # Of somebody else it is none.
    accepted(replace(view, convictions={key(5): ordered[0]}), ordered[2], AUDITING.opens)


# --- audit rates


def test_a_vote_on_what_is_not_audited_is_not_due() -> None:
    played = play(nodes=9, cheaters=(), terms=with_rules(profile=Profile.POSP, audit_rate=5000))
    spared = [author for author in played.submissions if not played.assignment.is_audited(author)]
    assert spared
    for author in spared:
        auditor = next(key_ for key_ in SECRETS if key_ != author)
        record = ballot(SECRETS[auditor], {played.submissions[author].id: Verdict.VALID})
        assert refused(with_submissions(played), record, FIRST.opens) is Reason.NOT_ASSIGNED
        # Whoever knows better challenges it.
        accused = challenge(SECRETS[auditor], played.submissions[author])
        assert accepted(with_submissions(played), accused, FIRST.opens).timely


# --- bytes that somebody changed


@pytest.mark.parametrize(
    "make",
    [
        lambda: (with_submissions(), PLAYED.submissions[key(0)], SUBMITTING.opens),
        lambda: (with_submissions(), next(iter(PLAYED.ballots.values())), FIRST.opens),
        lambda: (with_submissions(), next(iter(PLAYED.records.full_ballots.values())), FULL.opens),
        lambda: (with_submissions(SEALED), halves(0)[0], SEALING.opens),
        lambda: (with_submissions(SEALED).hold(halves(0)[0]), halves(0)[1], REVEALING.opens),
        lambda: (with_submissions(), challenge(secret(1), PLAYED.submissions[key(0)]), FIRST.opens),
        lambda: (View(), evidence_against(secret(1), ONE, OTHER), AUDITING.opens),
    ],
)
def test_every_kind_is_admitted_only_with_its_signature(
    make: Callable[[], tuple[View, Verified, int]],
) -> None:
    view, record, now = make()
    view.records.pop((place_of(record.statement), record.author), None)  # type: ignore[arg-type]
    accepted(view, record, now)
    assert refused(view, forged(record), now) is Reason.BAD_SIGNATURE
