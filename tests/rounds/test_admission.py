from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from koii_p2p.records.envelope import Envelope, Verified
from koii_p2p.records.equivocation import Place, place_of
from koii_p2p.records.schema import (
    Ballot,
    BallotReveal,
    Body,
    Challenge,
    CommitmentNotice,
    Equivocation,
    ListNotice,
    ListVote,
    Presence,
    Submission,
    Verdict,
)
from koii_p2p.rounds.admission import (
    EARLY_SLOTS,
    PRESENCE_SLOTS,
    Action,
    Admitted,
    Decision,
    Reason,
    Source,
    admit,
)
from koii_p2p.rounds.assignment import AuditAssignment
from koii_p2p.rounds.audit_rules import Profile
from koii_p2p.rounds.eligibility import FULL_AUDIT, MAX_CHALLENGES, place_fault
from koii_p2p.rounds.roster import Roster
from koii_p2p.rounds.terms import TaskTerms
from tests.rounds.net import (
    BAD,
    GENESIS,
    GOOD,
    KOII,
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
PLAYED = play(nodes=9)
SEALED = play(nodes=9, terms=with_rules(sealed=True, canary_rate=1000, witness_seats=2))
SEATS = play(nodes=9, terms=with_rules(witness_seats=2))
SECRETS = secrets_by_key(9)
WITNESS = secret(50)


@dataclass
class View:
    """A node's knowledge of the task, as admission asks for it."""

    terms: TaskTerms = TERMS
    genesis: bytes = GENESIS
    members: Roster | None = PLAYED.roster
    auditors: AuditAssignment | None = PLAYED.assignment
    records: dict[tuple[Place, bytes], Verified] = field(default_factory=dict)
    presences: dict[bytes, Verified] = field(default_factory=dict)
    convictions: dict[bytes, Verified] = field(default_factory=dict)
    seats: int = 0

    def roster(self, round_number: int) -> Roster | None:
        return self.members if round_number == 3 else None

    def assignment(self, round_number: int) -> AuditAssignment | None:
        return self.auditors if round_number == 3 else None

    def held(self, place: Place, author: bytes) -> Verified | None:
        return self.records.get((place, author))

    def presence(self, author: bytes) -> Verified | None:
        return self.presences.get(author)

    def submission_author(self, round_number: int, submission_id: bytes) -> bytes | None:
        for (place, author), record in self.records.items():
            if record.id == submission_id and place.round == round_number:
                return author
        return None

    def evidence(self, round_number: int, offender: bytes) -> Verified | None:
        return self.convictions.get(offender) if round_number == 3 else None

    def seats_taken(self, round_number: int) -> int:
        return self.seats

    def hold(self, *records: Verified) -> View:
        for record in records:
            place = place_of(record.statement)
            assert place is not None
            self.records[place, record.author] = record
        return self


def with_submissions(played: Round = PLAYED) -> View:
    view = View(played.terms, members=played.roster, auditors=played.assignment)
    return view.hold(*played.submissions.values())


def refused(view: View, record: Verified | Envelope, now: int, source: Source = Source.GOSSIP) -> Reason:
    envelope = record if isinstance(record, Envelope) else record.envelope
    decision = admit(view, envelope, now, source)
    assert isinstance(decision, Decision)
    assert decision.action is decision.reason.action
    assert decision.action is not Action.ACCEPT
    assert decision.parked is decision.reason.parked
    assert (decision.conflicting is not None) == (decision.reason is Reason.EQUIVOCATION)
    return decision.reason


def accepted(view: View, record: Verified, now: int, source: Source = Source.GOSSIP) -> Admitted:
    decision = admit(view, record.envelope, now, source)
    assert isinstance(decision, Admitted), decision
    assert decision.record == record
    assert decision.action is Action.ACCEPT
    return decision


def forged(record: Verified) -> Envelope:
    envelope = record.envelope
    return replace(envelope, signature=bytes([envelope.signature[0] ^ 1]) + envelope.signature[1:])


# --- what is admitted


def test_a_submission_in_its_window() -> None:
    for now in (SUBMITTING.opens, SUBMITTING.closes - 1):
        assert accepted(View(), submission(secret(0), GOOD), now).timely


def test_every_assigned_ballot_in_its_window() -> None:
    for record in PLAYED.ballots.values():
        for now in (FIRST.opens, FIRST.closes - 1):
            assert accepted(with_submissions(), record, now).timely
        assert refused(with_submissions(), record, FIRST.closes) is Reason.LATE
        assert not accepted(with_submissions(), record, FULL.closes, Source.SYNC).timely


def test_votes_of_a_full_audit_in_its_window() -> None:
    """Of the whole committee, whether or not an accusation is known: that decides what counts, later."""
    for record in PLAYED.records.full_ballots.values():
        for now in (FULL.opens, FULL.closes - 1):
            assert accepted(with_submissions(), record, now).timely
        assert refused(with_submissions(), record, FULL.closes) is Reason.LATE
        assert refused(with_submissions(), record, FULL.opens - 1) is Reason.EARLY
    undisputed = PLAYED.submissions[key(1)].id
    accepted(with_submissions(), ballot(secret(2), {undisputed: Verdict.VALID}, stage=FULL_AUDIT), FULL.opens)


def test_a_ballot_of_each_stage_and_of_no_other() -> None:
    auditor, first = next(iter(PLAYED.ballots.items()))
    verdicts = {PLAYED.submissions[a].id: Verdict.VALID for a in PLAYED.assignment.authors_for(auditor, SECRETS)}
    full = ballot(SECRETS[auditor], verdicts, stage=FULL_AUDIT)
    accepted(with_submissions().hold(first), full, FULL.opens)
    early = say(SECRETS[auditor], full.statement.body, 3, FULL.opens - 1, FULL_AUDIT)
    assert refused(with_submissions(), early, FULL.opens - 1) is Reason.SLOT_OUTSIDE_WINDOW
    late = say(SECRETS[auditor], first.statement.body, 3, FIRST.closes)
    assert refused(with_submissions(), late, FIRST.closes) is Reason.SLOT_OUTSIDE_WINDOW
    third = say(SECRETS[auditor], full.statement.body, 3, FULL.opens, 2)
    assert refused(with_submissions(), third, FULL.opens) is Reason.BAD_ATTEMPT


@pytest.mark.parametrize("terms", [KOII, with_rules(profile=Profile.ALL)])
def test_where_there_is_one_stage_there_is_one_ballot(terms: TaskTerms) -> None:
    played = play(nodes=5, terms=terms)
    record = ballot(secret(1), {played.submissions[key(0)].id: Verdict.INVALID})
    assert accepted(with_submissions(played), record, FIRST.opens).timely
    again = ballot(secret(1), {played.submissions[key(0)].id: Verdict.INVALID}, stage=FULL_AUDIT)
    assert refused(with_submissions(played), again, FULL.opens) is Reason.BAD_ATTEMPT


def test_in_profile_koii_everybody_votes_on_anything_but_its_own_and_as_long_as_the_audit_lasts() -> None:
    played = play(nodes=9, terms=KOII)
    view = with_submissions(played)
    for index in range(1, 9):
        entries = ballot(secret(index), {played.submissions[key(0)].id: Verdict.INVALID}).statement.body
        record = say(secret(index), entries, 3, AUDITING.closes - 1)
        assert accepted(view, record, AUDITING.closes - 1).timely
    own = ballot(secret(0), {played.submissions[key(0)].id: Verdict.VALID})
    assert refused(view, own, FIRST.opens) is Reason.NOT_ASSIGNED


def test_notices_and_list_votes() -> None:
    notice = CommitmentNotice(bytes(32), PLAYED.bundle.cid, bytes(64))
    accepted(View(), say(secret(0), notice, 3, AUDITING.closes), AUDITING.closes)
    accepted(View(), say(secret(0), notice, 3, AUDITING.closes), CLOCK.settles_at(3) - 1)
    slot = CLOCK.commitment(3, 1).opens
    accepted(View(), say(secret(0), notice, 3, slot, seq=1), CLOCK.settles_at(3, 1) - 1)
    slot = CLOCK.distribution(3).opens
    accepted(View(), say(secret(0), ListNotice(bytes(32), PLAYED.list.cid, 1, 2, bytes(64)), 3, slot), slot)
    slot = CLOCK.distribution_audit(3).opens
    vote = say(secret(0), ListVote(bytes(32), True, 0), 3, slot)
    view = View()
    accepted(view, vote, slot)
    # Another attempt is another place, and is voted on a period later.
    second = ListVote(bytes(32), False, 1)
    assert refused(view, say(secret(0), second, 3, slot, seq=1), slot) is Reason.SLOT_OUTSIDE_WINDOW
    slot = CLOCK.distribution_audit(3, 1).opens
    assert accepted(view.hold(vote), say(secret(0), second, 3, slot, seq=1), slot).timely


def test_reconciled_records_may_be_late_until_commitments_close() -> None:
    record = submission(secret(0), GOOD)
    closes = CLOCK.commitment(3).closes
    late = accepted(View(), record, closes - 1, Source.SYNC)
    assert not late.timely
    assert accepted(View(), record, SUBMITTING.opens, Source.SYNC).timely
    assert refused(View(), record, closes, Source.SYNC) is Reason.LATE
    vote = say(secret(0), ListVote(bytes(32), True, 0), 3, CLOCK.distribution_audit(3).opens)
    accepted(View(), vote, CLOCK.distribution_audit(3).closes - 1, Source.SYNC)
    assert refused(View(), vote, CLOCK.distribution_audit(3).closes, Source.SYNC) is Reason.LATE


def test_own_records_obey_the_same_rules() -> None:
    accepted(View(), submission(secret(0), GOOD), SUBMITTING.opens, Source.OWN)
    assert refused(View(), submission(secret(0), GOOD), SUBMITTING.closes, Source.OWN) is Reason.LATE


def test_anybody_may_be_present_and_the_newest_presence_wins() -> None:
    body = Presence(("/ip4/127.0.0.1/tcp/1",), 0, "koii_p2p", 0)
    first = say(secret(50), body, 0, 5000, seq=1)
    second = say(secret(50), body, 0, 5001, seq=2)
    view = View()
    accepted(view, first, 5000)
    view.presences[key(50)] = first
    accepted(view, second, 5000)
    view.presences[key(50)] = second
    for old in (first, second):
        assert refused(view, old, 5000) is Reason.DUPLICATE
    assert refused(View(), first, 5000 + PRESENCE_SLOTS + 1) is Reason.STALE_PRESENCE
    assert refused(View(), first, 5000 - PRESENCE_SLOTS - 1) is Reason.STALE_PRESENCE
    assert refused(View(), forged(first), 5000) is Reason.BAD_SIGNATURE


# --- what is not, one reason each


def test_another_task_is_ignored() -> None:
    record = say(secret(0), Submission(GOOD), 3, SUBMITTING.opens, task=bytes(32))
    assert refused(View(), record, SUBMITTING.opens) is Reason.UNKNOWN_TASK
    assert (
        refused(View(), say(secret(0), Presence((), 0, "", 0), 0, 5, task=bytes(32)), 5)
        is Reason.UNKNOWN_TASK
    )


def test_a_presence_of_another_task_has_no_window() -> None:
    """Only presences belong to no window; those of our task are judged on their own, of other tasks ignored."""
    record = say(secret(0), Presence((), 0, "", 0), 3, AUDITING.opens, task=bytes(32))
    assert refused(View(), record, AUDITING.opens) is Reason.UNKNOWN_TASK
    assert place_fault(record.statement, replace(TERMS, task=bytes(32))) is Reason.UNSPOKEN_KIND


VOTES = ballot(secret(0), {bytes(32): Verdict.VALID}).statement.body
REVEAL = BallotReveal(bytes(32), ())


@pytest.mark.parametrize(
    ("terms", "body", "stage", "slot"),
    [
        (TERMS, Ballot(seal=bytes(32)), 0, FIRST.opens),
        (TERMS, Ballot(seal=bytes(32)), FULL_AUDIT, FULL.opens),
        (TERMS, REVEAL, 0, REVEALING.opens),
        (SEALED.terms, VOTES, 0, SEALING.opens),
        (SEALED.terms, Ballot(()), 0, SEALING.opens),
        (SEALED.terms, Ballot(seal=bytes(32)), FULL_AUDIT, FULL.opens),
        (KOII, Challenge(bytes(32), bytes(32)), 0, FIRST.opens),
        (KOII, Ballot(seal=bytes(32)), 0, FIRST.opens),
        (KOII, REVEAL, 0, REVEALING.opens),
    ],
)
def test_forms_that_the_rules_do_not_know(terms: TaskTerms, body: Body, stage: int, slot: int) -> None:
    assert refused(View(terms), say(secret(0), body, 3, slot, stage), slot) is Reason.NOT_PLAYED


def test_before_the_window() -> None:
    record = submission(secret(0), GOOD)
    for source in Source:
        assert refused(View(), record, SUBMITTING.opens - 1, source) is Reason.EARLY
        assert refused(View(), record, SUBMITTING.opens - EARLY_SLOTS, source) is Reason.EARLY
        assert refused(View(), record, SUBMITTING.opens - EARLY_SLOTS - 1, source) is Reason.FUTURE


def test_after_the_window() -> None:
    assert refused(View(), submission(secret(0), GOOD), SUBMITTING.closes) is Reason.LATE


@pytest.mark.parametrize("slot", [0, SUBMITTING.opens - 1, SUBMITTING.closes, 2**64 - 1])
@pytest.mark.parametrize("source", Source)
def test_a_slot_outside_the_window_is_rejected_whenever_it_comes(slot: int, source: Source) -> None:
    record = say(secret(0), Submission(GOOD), 3, slot)
    assert refused(View(), record, SUBMITTING.opens, source) is Reason.SLOT_OUTSIDE_WINDOW
    assert refused(View(), record, SUBMITTING.closes, source) is Reason.SLOT_OUTSIDE_WINDOW


def test_the_largest_round_is_just_another_future() -> None:
    record = say(secret(0), Submission(GOOD), 2**64 - 1, 2**64 - 1)
    assert refused(View(), record, SUBMITTING.opens) is Reason.SLOT_OUTSIDE_WINDOW


def test_more_attempts_than_the_terms_allow() -> None:
    slot = CLOCK.distribution_audit(3).opens
    record = say(secret(0), ListVote(bytes(32), True, 0), 3, slot, seq=TERMS.allowed_failed_distributions + 1)
    assert refused(View(), record, slot) is Reason.BAD_ATTEMPT


def test_the_same_again() -> None:
    record = submission(secret(0), GOOD)
    view = View().hold(record)
    assert refused(view, record, SUBMITTING.opens) is Reason.DUPLICATE
    assert (
        refused(view, forged(record), SUBMITTING.opens) is Reason.DUPLICATE
    )  # no signature is checked for it


def test_without_a_roster() -> None:
    assert refused(View(members=None), submission(secret(0), GOOD), SUBMITTING.opens) is Reason.ROSTER_UNKNOWN


def test_not_a_staker() -> None:
    assert refused(View(), submission(secret(50), GOOD), SUBMITTING.opens) is Reason.NOT_IN_ROSTER


def test_a_ballot_without_votes() -> None:
    record = say(secret(0), Ballot(()), 3, AUDITING.opens)
    assert refused(with_submissions(), record, AUDITING.opens) is Reason.EMPTY_BALLOT
    assert refused(View(auditors=None), record, AUDITING.opens) is Reason.EMPTY_BALLOT


def test_a_ballot_before_the_beacon_is_parked_once_it_is_properly_signed() -> None:
    record = next(iter(PLAYED.ballots.values()))
    view = replace(with_submissions(), auditors=None)
    assert refused(view, record, AUDITING.opens) is Reason.BEACON_UNKNOWN
    assert refused(view, forged(record), AUDITING.opens) is Reason.BAD_SIGNATURE


def test_a_vote_that_is_not_due() -> None:
    for index in range(9):
        due = PLAYED.assignment.authors_for(key(index), PLAYED.submissions)
        for author, given in PLAYED.submissions.items():
            if author not in due:  # the auditor itself included
                record = ballot(secret(index), {given.id: Verdict.VALID})
                assert refused(with_submissions(), record, AUDITING.opens) is Reason.NOT_ASSIGNED
                both = ballot(secret(index), {given.id: Verdict.VALID, bytes(32): Verdict.VALID})
                assert refused(with_submissions(), both, AUDITING.opens) is Reason.NOT_ASSIGNED


def test_forgeries() -> None:
    record = submission(secret(0), GOOD)
    assert refused(View(), forged(record), SUBMITTING.opens) is Reason.BAD_SIGNATURE
    stolen = replace(record.envelope, author=key(1))
    assert refused(View(), stolen, SUBMITTING.opens) is Reason.BAD_SIGNATURE
    other_chain = View(genesis=bytes(32))
    assert refused(other_chain, record, SUBMITTING.opens) is Reason.BAD_SIGNATURE


def test_a_second_statement_is_evidence_and_the_first_stays() -> None:
    first, second = submission(secret(0), GOOD), submission(secret(0), BAD)
    view = View().hold(first)
    decision = admit(view, second.envelope, SUBMITTING.opens, Source.GOSSIP)
    assert isinstance(decision, Decision)
    assert (decision.reason, decision.conflicting) == (Reason.EQUIVOCATION, second)
    assert refused(view, second, SUBMITTING.opens) is Reason.EQUIVOCATION
    assert refused(view, forged(second), SUBMITTING.opens) is Reason.BAD_SIGNATURE


def test_a_second_ballot_is_evidence_even_if_its_submissions_are_unknown() -> None:
    auditor, record = next(iter(PLAYED.ballots.items()))
    signer = next(secret(index) for index in range(9) if key(index) == auditor)
    view = with_submissions().hold(record)
    assert refused(view, ballot(signer, {bytes(32): Verdict.VALID}), AUDITING.opens) is Reason.EQUIVOCATION


def test_a_ballot_on_an_unknown_submission_is_parked_once_it_is_properly_signed() -> None:
    record = next(iter(PLAYED.ballots.values()))
    assert refused(View(), record, AUDITING.opens) is Reason.SUBMISSION_UNKNOWN
    assert refused(View(), forged(record), AUDITING.opens) is Reason.BAD_SIGNATURE


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
    votes = [say(secret(0), ListVote(bytes(32), agree, 0), 2, slot) for agree in (True, False)]
    accepted(View(), evidence_against(secret(1), *votes, round_number=3), AUDITING.opens)
    now = CLOCK.distribution_audit(3).opens
    votes = [say(secret(0), ListVote(bytes(32), agree, 0), 3, now) for agree in (True, False)]
    record = evidence_against(secret(1), *votes, round_number=3)
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
def test_every_kind_is_admitted_only_with_its_signature(make: Callable[[], tuple[View, Verified, int]]) -> None:
    view, record, now = make()
    view.records.pop((place_of(record.statement), record.author), None)  # type: ignore[arg-type]
    accepted(view, record, now)
    assert refused(view, forged(record), now) is Reason.BAD_SIGNATURE


def test_every_reason_says_what_it_means_and_costs() -> None:
    for reason in Reason:
        assert reason.__doc__
        assert reason.value == reason.name.lower()
        assert ("Penalised" in reason.__doc__) == (reason.action is Action.REJECT)
        assert ("Free" in reason.__doc__) == (reason.action is Action.IGNORE)
        assert ("; parked" in reason.__doc__) == reason.parked


def test_every_reason_has_a_test() -> None:
    words = Path(__file__).read_text(encoding="utf-8").replace(")", " ").split()
    assert [reason for reason in Reason if f"Reason.{reason.name}" not in words] == []
