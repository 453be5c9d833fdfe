from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from koii_p2p.records.schema import (
    Ballot,
    BallotReveal,
    Body,
    Challenge,
    CommitmentNotice,
    ListNotice,
    ListVote,
    Presence,
    Submission,
    Verdict,
)
from koii_p2p.rounds.admission import EARLY_SLOTS, PRESENCE_SLOTS, Action, Decision, Reason, Source, admit
from koii_p2p.rounds.audit_rules import Profile
from koii_p2p.rounds.eligibility import FULL_AUDIT, place_fault
from koii_p2p.rounds.terms import TaskTerms
from tests.rounds.admission_view import PLAYED, View, accepted, forged, refused, with_submissions
from tests.rounds.net import (
    BAD,
    GOOD,
    KOII,
    TERMS,
    ballot,
    key,
    play,
    say,
    secret,
    secrets_by_key,
    submission,
    with_rules,
)

CLOCK = TERMS.clock
SUBMITTING, AUDITING = CLOCK.submission(3), CLOCK.audit(3)
FIRST, FULL = CLOCK.first_ballots(3), CLOCK.full_audit(3)
SEALING, OPENING, REVEALING = CLOCK.seals(3), CLOCK.openings(3), CLOCK.reveals(3)
SECRETS = secrets_by_key(9)
SEALED_TERMS = with_rules(sealed=True)


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
    verdicts = {
        PLAYED.submissions[a].id: Verdict.VALID for a in PLAYED.assignment.authors_for(auditor, SECRETS)
    }
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
        (SEALED_TERMS, VOTES, 0, SEALING.opens),
        (SEALED_TERMS, Ballot(()), 0, SEALING.opens),
        (SEALED_TERMS, Ballot(seal=bytes(32)), FULL_AUDIT, FULL.opens),
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


def test_every_reason_says_what_it_means_and_costs() -> None:
    for reason in Reason:
        assert reason.__doc__
        assert reason.value == reason.name.lower()
        assert ("Penalised" in reason.__doc__) == (reason.action is Action.REJECT)
        assert ("Free" in reason.__doc__) == (reason.action is Action.IGNORE)
        assert ("; parked" in reason.__doc__) == reason.parked


def test_every_reason_has_a_test() -> None:
    here = Path(__file__)
    texts = [path.read_text(encoding="utf-8") for path in (here, here.with_name("test_admission_audit.py"))]
    words = " ".join(texts).replace(")", " ").replace(",", " ").split()
    assert [reason for reason in Reason if f"Reason.{reason.name}" not in words] == []
