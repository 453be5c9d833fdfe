"""The records one node holds of one task: what admission looks at, and where admitted records go."""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass

from koii_p2p.limits import Limits
from koii_p2p.records.envelope import Envelope, Verified, decode_record, verify
from koii_p2p.records.equivocation import Place
from koii_p2p.records.reasons import RecordError
from koii_p2p.records.schema import Kind
from koii_p2p.rounds.admission import Action as Judgement
from koii_p2p.rounds.admission import Admitted, Source, admit
from koii_p2p.rounds.assignment import AuditAssignment
from koii_p2p.rounds.eligibility import author_fault
from koii_p2p.rounds.reasons import Reason
from koii_p2p.rounds.roster import Roster
from koii_p2p.rounds.round_state import Parked, RoundState
from koii_p2p.rounds.terms import TaskTerms

PARK_SLOTS = 8
"""Parked records are judged again at least this often: what is early now is not early then."""

_UNCHECKED = frozenset({Reason.EARLY, Reason.ROSTER_UNKNOWN})
"""Reasons to wait that admission finds before it looks at author and signature."""


@dataclass(frozen=True, slots=True)
class BookStatistics:
    """Counts since start: records admitted, refusals by reason name; and how many are parked now."""

    accepted: int
    refused: Mapping[str, int]
    parked: int


class RecordBook:
    """Judges records by `rounds.admission`, whose `RoundView` it is, and keeps what is admitted by round."""

    def __init__(self, terms: TaskTerms, genesis: bytes, limits: Limits) -> None:
        self.terms = terms
        self.genesis = genesis
        self.rounds: dict[int, RoundState] = {}
        self._limits = limits
        self._presences: dict[bytes, Verified] = {}
        self._accepted = 0
        self._refused: Counter[str] = Counter()
        self._waited: frozenset[bytes] = frozenset()
        """Ids of the records that are just being judged again: all of them are properly signed."""

    def receive(
        self, raw: bytes, source: Source, slot: int, *, kinds: Container[Kind] | None = None
    ) -> tuple[Judgement, Verified | None]:
        """Judge one record from a peer, from reconciliation or of our own; returns it if it was admitted now.

        `slot` is the slot of receipt. With `kinds`, records of other kinds are rejected: they do not belong
        where they came from. Never raises, whatever the bytes.
        """
        try:
            envelope = decode_record(raw)
        except RecordError as error:
            return self._refuse(error.reason.name, Judgement.REJECT)
        if kinds is not None and envelope.kind not in kinds:
            return self._refuse("WRONG_TOPIC", Judgement.REJECT)
        decided = admit(self, envelope, slot, source)
        state = self.rounds.get(envelope.round)
        if isinstance(decided, Admitted):
            if envelope.kind is Kind.PRESENCE:
                return self._hold_presence(decided.record)
            if state is None:
                return self._refuse("ROUND_NOT_KEPT", Judgement.IGNORE)
            state.hold(decided.record, self.genesis, timely=decided.timely)
            if envelope.kind is Kind.CHALLENGE:
                state.challenged_at[envelope.id] = slot
            self._accepted += 1
            return Judgement.ACCEPT, decided.record
        if state is not None and decided.parked and self._may_wait(state, envelope, decided.reason):
            early = decided.reason is Reason.EARLY
            state.park(envelope, Parked(raw, source, None if early else slot))
        if state is not None and decided.conflicting is not None:
            state.note_equivocation(decided.conflicting)
        return self._refuse(decided.reason.name, decided.action)

    def _may_wait(self, state: RoundState, envelope: Envelope, reason: Reason) -> bool:
        """Whether there is room for a record that may be admitted later. One that its author did not sign takes none.

        Otherwise anybody could fill the room of the honest, in their name.
        """
        limits, author = self._limits, envelope.author
        if envelope.id in state.parked:
            return True
        if len(state.parked) >= limits.parked_records or state.parked_of[author] >= limits.parked_per_author:
            return False
        if state.parked_bytes + len(envelope.raw) > limits.parked_bytes:
            return False
        if reason not in _UNCHECKED:
            return True
        roster, rules = state.roster, self.terms.audit
        if roster is not None and author_fault(envelope.statement, author, roster, rules) is not None:
            return False
        if envelope.id in self._waited:
            return True
        try:
            verify(envelope, self.genesis)
        except RecordError:
            return False
        return True

    def _refuse(self, reason: str, judgement: Judgement) -> tuple[Judgement, None]:
        self._refused[reason] += 1
        return judgement, None

    def _hold_presence(self, record: Verified) -> tuple[Judgement, Verified | None]:
        if record.author not in self._presences and len(self._presences) >= self._limits.presences:
            return self._refuse("TOO_MANY_PRESENCES", Judgement.IGNORE)
        self._presences[record.author] = record
        self._accepted += 1
        return Judgement.ACCEPT, record

    def unpark(self, state: RoundState, slot: int) -> Iterator[Verified]:
        """Judge parked records again if what they may have waited for is known; yield those admitted."""
        known = (state.roster is not None, state.assignment is not None, state.changes, slot // PARK_SLOTS)
        if not state.parked or known == state.parked_at:
            return
        state.parked_at = known
        waited, waiting = frozenset(state.parked), state.take_parked()
        for parked in waiting:
            received = slot if parked.slot is None else parked.slot
            self._waited = waited
            _judgement, record = self.receive(parked.raw, parked.source, received)
            self._waited = frozenset()
            if record is not None:
                yield record

    def count(self, reason: str) -> None:
        """Count a refusal of something that is no single record, such as artifacts that do not match K2."""
        self._refused[reason] += 1

    def statistics(self) -> BookStatistics:
        """Counters for `status`, metrics and tests."""
        parked = sum(len(state.parked) for state in self.rounds.values())
        return BookStatistics(self._accepted, dict(self._refused), parked)

    def presences(self) -> tuple[Verified, ...]:
        """The newest presence of everybody who said where it is, by key."""
        return tuple(record for _author, record in sorted(self._presences.items()))

    # --- what admission may look at

    def roster(self, round_number: int) -> Roster | None:
        """Roster of a round, or None while unknown."""
        state = self.rounds.get(round_number)
        return state.roster if state else None

    def assignment(self, round_number: int) -> AuditAssignment | None:
        """Auditors of a round, or None until both beacon and roster are known."""
        state = self.rounds.get(round_number)
        return state.assignment if state else None

    def held(self, place: Place, author: bytes) -> Verified | None:
        """The record of `author` that is held for a place, or None."""
        state = self.rounds.get(place.round)
        return state.held.get((place, author)) if state else None

    def presence(self, author: bytes) -> Verified | None:
        """The newest presence of `author`, or None."""
        return self._presences.get(author)

    def submission_author(self, round_number: int, submission_id: bytes) -> bytes | None:
        """Author of a submission of this round that is held, or None."""
        state = self.rounds.get(round_number)
        record = state.by_id.get(submission_id) if state else None
        return record.author if record is not None and record.kind is Kind.SUBMISSION else None

    def evidence(self, round_number: int, offender: bytes) -> Verified | None:
        """The evidence against a key that is held in this round, or None."""
        state = self.rounds.get(round_number)
        return state.evidence.get(offender) if state else None

    def seats_taken(self, round_number: int) -> int:
        """How many ballots of keys without stake are held in this round."""
        state = self.rounds.get(round_number)
        return state.witness_ballots if state else 0
