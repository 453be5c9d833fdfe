"""When a record belongs to a round: the rules that admission, commitment and verification share."""

from __future__ import annotations

from collections.abc import Mapping

from koii_p2p.records.schema import Ballot, Kind, Statement
from koii_p2p.rounds.assignment import AuditAssignment
from koii_p2p.rounds.clock import RoundClock, Window
from koii_p2p.rounds.reasons import Reason
from koii_p2p.rounds.roster import Roster
from koii_p2p.rounds.terms import TaskTerms


def window_of(kind: Kind, round_number: int, clock: RoundClock) -> Window | None:
    """Slots in which records of this kind are made and received; None for kinds that belong to no window.

    Notices follow a transaction: one that lands in the last slot of its window is announced after it, so
    notices are welcome until the round settles.
    """
    match kind:
        case Kind.SUBMISSION:
            return clock.submission(round_number)
        case Kind.BALLOT:
            return clock.audit(round_number)
        case Kind.COMMITMENT_NOTICE:
            return Window(clock.commitment(round_number).opens, clock.settles_at(round_number))
        case Kind.LIST_NOTICE:
            return Window(clock.distribution(round_number).opens, clock.settles_at(round_number))
        case Kind.LIST_VOTE:
            return clock.distribution_audit(round_number)
        case _:
            return None


def place_fault(statement: Statement, terms: TaskTerms) -> Reason | None:
    """What is wrong with where a statement places itself: task, kind, slot, attempt. None: nothing."""
    if statement.task != terms.task:
        return Reason.UNKNOWN_TASK
    window = window_of(statement.kind, statement.round, terms.clock)
    if window is None:
        return Reason.UNSPOKEN_KIND
    if statement.slot not in window:
        return Reason.SLOT_OUTSIDE_WINDOW
    attempts = statement.kind in (Kind.COMMITMENT_NOTICE, Kind.LIST_NOTICE, Kind.LIST_VOTE)
    if attempts and statement.seq > terms.allowed_failed_distributions:
        return Reason.BAD_ATTEMPT
    return None


def author_fault(author: bytes, roster: Roster) -> Reason | None:
    """Whether an author may speak in a round at all. None: yes."""
    return None if author in roster else Reason.NOT_IN_ROSTER


def ballot_fault(
    ballot: Ballot, auditor: bytes, authors: Mapping[bytes, bytes], assignment: AuditAssignment
) -> Reason | None:
    """What is wrong with the votes of `auditor`. `authors` maps the ids of known submissions to their authors.

    NOT_ASSIGNED: one vote was not due, and that stays wrong whatever else becomes known. SUBMISSION_UNKNOWN: not
    one vote is on a known submission. A vote on an unknown submission among others is no fault and counts for
    nothing: a submitter who shows two submissions to two halves of the net must not make honest ballots drop out.
    """
    if not ballot.entries:
        return Reason.EMPTY_BALLOT
    voted_on = [authors[entry.submission_id] for entry in ballot.entries if entry.submission_id in authors]
    if any(not assignment.is_due(auditor, author) for author in voted_on):
        return Reason.NOT_ASSIGNED
    return None if voted_on else Reason.SUBMISSION_UNKNOWN
