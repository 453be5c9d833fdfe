"""Admission: which records a node accepts, holds and forwards. One pure function (PROTOCOL §5)."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from koii_p2p.limits import Limits
from koii_p2p.records.envelope import Envelope, Verified, verify
from koii_p2p.records.equivocation import Place, conflict, place_of
from koii_p2p.records.reasons import RecordError
from koii_p2p.records.schema import Ballot, BallotEntry, BallotReveal, Challenge, Kind
from koii_p2p.records.seals import opens
from koii_p2p.rounds.assignment import AuditAssignment
from koii_p2p.rounds.clock import Window
from koii_p2p.rounds.eligibility import (
    DRAWN,
    author_fault,
    challenge_fault,
    place_fault,
    votes_fault,
    window_of,
)
from koii_p2p.rounds.offences import offender_of
from koii_p2p.rounds.reasons import Action, Reason
from koii_p2p.rounds.roster import Roster
from koii_p2p.rounds.terms import TaskTerms

__all__ = ["Action", "Admitted", "Decision", "Reason", "RoundView", "Source", "admit"]

EARLY_SLOTS = Limits().early_slots
PRESENCE_SLOTS = Limits().presence_slots


class Source(Enum):
    """Where a record came from. The rules are the same, but for lateness of reconciled records."""

    GOSSIP = "gossip"
    """From a peer, as it happens: judged by the slot of receipt."""
    SYNC = "sync"
    """From reconciliation: judged by its own slot, until the commitment window of its round closes."""
    OWN = "own"
    """Signed by this node just now, or read back from its log with the slot of receipt."""


class RoundView(Protocol):
    """What admission may look at: one node's knowledge of one task."""

    @property
    def terms(self) -> TaskTerms:
        """Terms of the task; its clock and id follow from them."""
        ...

    @property
    def genesis(self) -> bytes:
        """Genesis hash of the chain, 32 bytes: part of what every signature covers."""
        ...

    def roster(self, round_number: int) -> Roster | None:
        """Roster of a round, or None while unknown."""
        ...

    def assignment(self, round_number: int) -> AuditAssignment | None:
        """Auditors of a round, or None until both beacon and roster are known."""
        ...

    def held(self, place: Place, author: bytes) -> Verified | None:
        """The record of `author` that is held for a place, or None."""
        ...

    def presence(self, author: bytes) -> Verified | None:
        """The newest presence of `author`, or None."""
        ...

    def submission_author(self, round_number: int, submission_id: bytes) -> bytes | None:
        """Author of a submission of this round that is held, or None."""
        ...

    def evidence(self, round_number: int, offender: bytes) -> Verified | None:
        """The evidence against a key that is held in this round, or None."""
        ...

    def seats_taken(self, round_number: int) -> int:
        """How many ballots of keys without stake are held in this round."""
        ...


@dataclass(frozen=True, slots=True)
class Admitted:
    """A record that passed every rule. `timely`: received inside its window, not reconciled later."""

    record: Verified
    timely: bool

    @property
    def action(self) -> Action:
        """Always ACCEPT: hold it and forward it."""
        return Action.ACCEPT


@dataclass(frozen=True, slots=True)
class Decision:
    """A record that was not admitted, and why. `conflicting`, the second record, is set for EQUIVOCATION."""

    reason: Reason
    conflicting: Verified | None = None

    @property
    def action(self) -> Action:
        """IGNORE or REJECT."""
        return self.reason.action

    @property
    def parked(self) -> bool:
        """Whether the same bytes may be admitted once more is known."""
        return self.reason.parked


def admit(view: RoundView, envelope: Envelope, now: int, source: Source) -> Admitted | Decision:
    """Decide about one decoded record at slot `now` (the slot of receipt). Never raises for any envelope.

    Cheap checks first: task, kind, window, place, duplicate, roster, assignment; then the signature; then
    what only a properly signed record may cause: being kept as evidence, or parked for a submission or the
    beacon.
    """
    statement = envelope.statement
    if statement.kind is Kind.PRESENCE and statement.task == view.terms.task:
        return _admit_presence(view, envelope, now)
    fault = place_fault(statement, view.terms) or _time_fault(view.terms, envelope, now, source)
    if fault is not None:
        return Decision(fault)
    place = place_of(statement)
    held = None if place is None else view.held(place, envelope.author)
    if held is not None and held.raw == envelope.raw:
        return Decision(Reason.DUPLICATE)
    roster = view.roster(statement.round)
    if roster is None:
        return Decision(Reason.ROSTER_UNKNOWN)
    fault = author_fault(statement, envelope.author, roster, view.terms.audit) or _audit_fault(view, envelope)
    if fault is not None and not fault.parked:
        return Decision(fault)
    try:
        record = verify(envelope, view.genesis)
    except RecordError:
        return Decision(Reason.BAD_SIGNATURE)
    if held is not None and conflict(held, record):
        return Decision(Reason.EQUIVOCATION, record)
    if fault is None and statement.kind is Kind.EQUIVOCATION:
        fault = _evidence_fault(view, record, roster)
    if fault is None and envelope.author not in roster:
        fault = _seat_fault(view, envelope)
    if fault is not None:
        return Decision(fault)
    return Admitted(record, now in (_receipt_window(view, envelope) or ()))


def _time_fault(terms: TaskTerms, envelope: Envelope, now: int, source: Source) -> Reason | None:
    window = window_of(envelope.statement, terms)
    if window is None:
        return Reason.UNSPOKEN_KIND
    if now < window.opens - EARLY_SLOTS:
        return Reason.FUTURE
    if now < window.opens:
        return Reason.EARLY
    closes = window.closes
    if source is Source.SYNC:
        closes = max(closes, terms.clock.commitment(envelope.round).closes)
    return Reason.LATE if now >= closes else None


def _receipt_window(view: RoundView, envelope: Envelope) -> Window | None:
    """When a record has to be received to count as timely; a canary is owned up to before anybody reveals."""
    body, number = envelope.statement.body, envelope.round
    if isinstance(body, Challenge) and view.submission_author(number, body.submission_id) == envelope.author:
        # A receiver whose slot lags gets it, in its own eyes, before its slots.
        return Window(view.terms.clock.audit(number).opens, view.terms.clock.openings(number).closes)
    return window_of(envelope.statement, view.terms)


def _audit_fault(view: RoundView, envelope: Envelope) -> Reason | None:
    """What the audit's rules have against a record, before its signature is looked at."""
    body, number = envelope.statement.body, envelope.round
    match body:
        case Ballot(entries, None):
            return _votes_fault(view, envelope, entries)
        case BallotReveal():
            place = place_of(envelope.statement)
            sealed = place and view.held(place._replace(kind=Kind.BALLOT), envelope.author)
            ballot = sealed.statement.body if sealed else None
            if not isinstance(ballot, Ballot) or ballot.seal is None:
                return Reason.BALLOT_UNKNOWN
            if not opens(body, ballot.seal, view.terms.task, number, envelope.author):
                return Reason.SEAL_BROKEN
            return _votes_fault(view, envelope, body.entries)
        case Challenge():
            author = view.submission_author(number, body.submission_id)
            authors = {} if author is None else {body.submission_id: author}
            return challenge_fault(
                body, envelope.author, envelope.statement.slot, authors, view.terms, number
            )
        case _:
            return None


def _votes_fault(view: RoundView, envelope: Envelope, entries: tuple[BallotEntry, ...]) -> Reason | None:
    assignment = view.assignment(envelope.round)
    if assignment is None:
        return Reason.BEACON_UNKNOWN if entries else Reason.EMPTY_BALLOT
    authors: dict[bytes, bytes] = {}
    for entry in entries:
        author = view.submission_author(envelope.round, entry.submission_id)
        if author is not None:
            authors[entry.submission_id] = author
    stage = envelope.statement.seq if envelope.kind is Kind.BALLOT else DRAWN
    return votes_fault(entries, envelope.author, stage, authors, assignment)


def _evidence_fault(view: RoundView, record: Verified, roster: Roster) -> Reason | None:
    offender = offender_of(record, view.genesis)
    if offender is None or offender not in roster:
        return Reason.BAD_EVIDENCE
    known = view.evidence(record.round, offender)
    if known is None or record.id < known.id:
        return None
    return Reason.DUPLICATE if record.id == known.id else Reason.CONVICTED


def _seat_fault(view: RoundView, envelope: Envelope) -> Reason | None:
    # Twice as many as there are seats are held, so that the draw for them has something to choose from.
    ballots = envelope.kind is Kind.BALLOT
    full = view.seats_taken(envelope.round) >= 2 * view.terms.audit.witness_seats
    return Reason.SEATS_TAKEN if ballots and full else None


def _admit_presence(view: RoundView, envelope: Envelope, now: int) -> Admitted | Decision:
    # Anybody may say where it listens: who wants to join has no stake yet.
    statement = envelope.statement
    if abs(statement.slot - now) > PRESENCE_SLOTS:
        return Decision(Reason.STALE_PRESENCE)
    held = view.presence(envelope.author)
    if held is not None and held.statement.seq >= statement.seq:
        return Decision(Reason.DUPLICATE)
    try:
        return Admitted(verify(envelope, view.genesis), timely=True)
    except RecordError:
        return Decision(Reason.BAD_SIGNATURE)
