"""When a record belongs to a round: the rules that admission, commitment and verification share."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from koii_p2p.records.schema import Ballot, BallotEntry, Challenge, Kind, Statement
from koii_p2p.rounds.assignment import AuditAssignment
from koii_p2p.rounds.audit_rules import AuditRules, Profile
from koii_p2p.rounds.clock import Window
from koii_p2p.rounds.reasons import Reason
from koii_p2p.rounds.roster import Roster
from koii_p2p.rounds.terms import TaskTerms

DRAWN: Final = 0
"""Stage (`seq`) of the ballots of those drawn."""
FULL_AUDIT: Final = 1
"""Stage (`seq`) of the ballots of a full audit."""

MAX_CHALLENGES: Final = 4
"""Challenges of one staker in one round: their `seq` is 0 to 3."""


def window_of(statement: Statement, terms: TaskTerms) -> Window | None:
    """Slots in which a statement like this is made and received; None for kinds that belong to no window.

    Notices follow a transaction: one that lands in the last slot of its window is announced after it, so
    notices are welcome until the round settles. Evidence can come up from the first submission to the commitment.
    """
    clock, rules, number = terms.clock, terms.audit, statement.round
    match statement.kind:
        case Kind.SUBMISSION:
            return clock.submission(number)
        case Kind.BALLOT if rules.profile is Profile.KOII:
            return clock.audit(number)
        case Kind.BALLOT if statement.seq != DRAWN:
            return clock.full_audit(number)
        case Kind.BALLOT:
            return clock.seals(number) if rules.sealed else clock.first_ballots(number)
        case Kind.BALLOT_REVEAL:
            return clock.reveals(number)
        case Kind.CHALLENGE:
            return clock.first_ballots(number)
        case Kind.EQUIVOCATION:
            return Window(clock.submission(number).opens, clock.audit(number).closes)
        case Kind.COMMITMENT_NOTICE:
            opens = clock.commitment(number, statement.seq).opens
            return Window(opens, clock.settles_at(number, statement.seq))
        case Kind.LIST_NOTICE:
            opens = clock.distribution(number, statement.seq).opens
            return Window(opens, clock.settles_at(number, statement.seq))
        case Kind.LIST_VOTE:
            return clock.distribution_audit(number, statement.seq)
        case Kind.PRESENCE:
            return None


def place_fault(statement: Statement, terms: TaskTerms) -> Reason | None:
    """What is wrong with where a statement places itself: task, kind, form, attempt, slot. None: nothing."""
    if statement.task != terms.task:
        return Reason.UNKNOWN_TASK
    last = _last_seq(statement.kind, terms)
    if last is not None and statement.seq > last:
        return Reason.BAD_ATTEMPT
    window = window_of(statement, terms)
    if window is None:
        return Reason.UNSPOKEN_KIND
    if not _is_played(statement, terms.audit):
        return Reason.NOT_PLAYED
    if statement.slot not in window:
        return Reason.SLOT_OUTSIDE_WINDOW
    return None


def _last_seq(kind: Kind, terms: TaskTerms) -> int | None:
    match kind:
        case Kind.BALLOT:
            return DRAWN if terms.audit.profile in (Profile.KOII, Profile.ALL) else FULL_AUDIT
        case Kind.CHALLENGE:
            return MAX_CHALLENGES - 1
        case Kind.COMMITMENT_NOTICE | Kind.LIST_NOTICE | Kind.LIST_VOTE:
            return terms.allowed_failed_distributions
        case _:
            return None


def _is_played(statement: Statement, rules: AuditRules) -> bool:
    """Whether the task's audit knows this form of record at all."""
    body = statement.body
    if isinstance(body, Ballot):
        return (body.seal is not None) == (rules.sealed and statement.seq == DRAWN)
    if isinstance(body, Challenge):
        return rules.profile is not Profile.KOII
    return rules.sealed or statement.kind is not Kind.BALLOT_REVEAL


def author_fault(statement: Statement, author: bytes, roster: Roster, rules: AuditRules) -> Reason | None:
    """Whether an author may speak in a round at all. None: yes. Keys without stake may audit where there are seats."""
    if author in roster:
        return None
    drawn = statement.kind is Kind.BALLOT_REVEAL or (statement.kind is Kind.BALLOT and statement.seq == DRAWN)
    return None if rules.witness_seats and drawn else Reason.NOT_IN_ROSTER


def votes_fault(
    entries: Iterable[BallotEntry],
    auditor: bytes,
    stage: int,
    authors: Mapping[bytes, bytes],
    assignment: AuditAssignment,
) -> Reason | None:
    """What is wrong with the votes of `auditor`. `authors` maps the ids of known submissions to their authors.

    NOT_ASSIGNED: one vote was not due, and that stays wrong whatever else becomes known. SUBMISSION_UNKNOWN: not
    one vote is on a known submission. A vote on an unknown submission among others is no fault and counts for
    nothing: a submitter who shows two submissions to two halves of the net must not make honest ballots drop out.
    """
    votes = tuple(entries)
    if not votes:
        return Reason.EMPTY_BALLOT
    voted_on = [authors[entry.submission_id] for entry in votes if entry.submission_id in authors]
    if any(not assignment.may_vote(auditor, author, stage) for author in voted_on):
        return Reason.NOT_ASSIGNED
    return None if voted_on else Reason.SUBMISSION_UNKNOWN


def challenge_fault(
    challenge: Challenge,
    challenger: bytes,
    slot: int,
    authors: Mapping[bytes, bytes],
    terms: TaskTerms,
    number: int,
) -> Reason | None:
    """What is wrong with a challenge. Of one's own submission it owns up to a canary, and has a time of its own."""
    author = authors.get(challenge.submission_id)
    if author is None:
        return Reason.SUBMISSION_UNKNOWN
    if author != challenger:
        return None
    played = terms.audit.canary_rate > 0 and slot in terms.clock.openings(number)
    return None if played else Reason.OWN_SUBMISSION
