"""What the tests of admission share: one node's knowledge of a task, and the two answers that it may get."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from koii_p2p.records.envelope import Envelope, Verified
from koii_p2p.records.equivocation import Place, place_of
from koii_p2p.rounds.admission import Action, Admitted, Decision, Reason, Source, admit
from koii_p2p.rounds.assignment import AuditAssignment
from koii_p2p.rounds.roster import Roster
from koii_p2p.rounds.terms import TaskTerms
from tests.rounds.net import GENESIS, TERMS, Round, play

PLAYED = play(nodes=9)


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
