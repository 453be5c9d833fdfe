"""What one node knows of one round: the records it holds, what it has asked and decided."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from koii_p2p.records.envelope import Envelope, Verified
from koii_p2p.records.equivocation import Place, place_of
from koii_p2p.records.schema import BallotReveal, Kind, ListVote, Verdict
from koii_p2p.rounds.admission import Source
from koii_p2p.rounds.assignment import AuditAssignment
from koii_p2p.rounds.commitment import BuiltRound, Commitment
from koii_p2p.rounds.distribution import DistributionList
from koii_p2p.rounds.eligibility import MAX_CHALLENGES
from koii_p2p.rounds.item_set import ItemSet, item_of
from koii_p2p.rounds.objections import ListObjection
from koii_p2p.rounds.offences import offender_of
from koii_p2p.rounds.roster import Roster
from koii_p2p.rounds.round_records import RoundRecords, disputed, held_records, select
from koii_p2p.rounds.terms import TaskTerms


@dataclass(frozen=True, slots=True)
class Parked:
    """A record that may be admitted once more is known, with how and when (slot) it came.

    `slot` is None for one that came before its window: it is judged by the slot at which that is done again.
    """

    raw: bytes
    source: Source
    slot: int | None


@dataclass(slots=True)
class RoundState:
    """Mutable state of one round at one node. Records are held one per place and author: the first stays.

    `timely` are the ids of records received inside their window, `challenged_at` says when (slot)
    each challenge was received.

    `moments` are the slots at which to reconcile, ascending; `reconciled` of them have passed.
    """

    task: bytes
    round: int
    moments: tuple[int, ...] = ()
    reconciled: int = 0
    roster: Roster | None = None
    blockhash: bytes | None = None
    beacon: bytes | None = None
    assignment: AuditAssignment | None = None
    held: dict[tuple[Place, bytes], Verified] = field(default_factory=dict)
    evidence: dict[bytes, Verified] = field(default_factory=dict)
    by_id: dict[bytes, Verified] = field(default_factory=dict)
    changes: int = 0
    timely: set[bytes] = field(default_factory=set)
    challenged_at: dict[bytes, int] = field(default_factory=dict)
    witness_ballots: int = 0
    parked: dict[bytes, Parked] = field(default_factory=dict)
    parked_of: Counter[bytes] = field(default_factory=Counter)
    parked_bytes: int = 0
    parked_at: tuple[bool, bool, int, int] | None = None
    equivocations: dict[tuple[Place, bytes], Verified] = field(default_factory=dict)
    task_called: bool = False
    nothing_to_submit: bool = False
    looked: bool = False
    watched_openings: bool = False
    verdicts: dict[bytes, Verdict] = field(default_factory=dict)
    reasons: dict[bytes, bytes] = field(default_factory=dict)
    opening: BallotReveal | None = None
    due: tuple[int, tuple[Verified, ...]] = (-1, ())
    disputes: tuple[int, dict[bytes, bytes]] = field(default_factory=lambda: (-1, {}))
    attempt: int = 0
    opened_at: int = 0
    proposal: BuiltRound | None = None
    built: BuiltRound | None = None
    objection: ListObjection = ListObjection.NONE
    omitted: tuple[bytes, ...] = ()
    amounts: dict[bytes, int] | None = None
    list: DistributionList | None = None
    settled: bool = False
    kinds: tuple[int, dict[Kind, tuple[Verified, ...]]] = field(default_factory=lambda: (-1, {}))
    items: tuple[int, ItemSet] = field(default_factory=lambda: (-1, ItemSet(())))

    def hold(self, record: Verified, genesis: bytes, *, timely: bool) -> None:
        """Keep an admitted record; `timely` says that it was received inside its window."""
        place = place_of(record.statement)
        if place is not None:
            self.held[place, record.author] = record
        elif offender := offender_of(record, genesis):
            replaced = self.evidence.get(offender)
            if replaced is not None:
                # The one with the smallest id is kept everywhere; that one of them came in time stays true.
                del self.by_id[replaced.id]
                timely = timely or replaced.id in self.timely
                self.timely.discard(replaced.id)
            self.evidence[offender] = record
        else:
            return
        self.by_id[record.id] = record
        self.changes += 1
        if timely:
            self.timely.add(record.id)
        if record.kind is Kind.BALLOT and self.roster is not None and record.author not in self.roster:
            self.witness_ballots += 1

    def park(self, envelope: Envelope, parked: Parked) -> None:
        """Put a record aside that may be admitted later. `parked_of` counts them by author."""
        if envelope.id not in self.parked:
            self.parked_of[envelope.author] += 1
            self.parked_bytes += len(parked.raw)
        self.parked[envelope.id] = parked

    def take_parked(self) -> tuple[Parked, ...]:
        """Return what is parked, which is not parked any more."""
        taken = tuple(self.parked.values())
        self.parked, self.parked_bytes = {}, 0
        self.parked_of.clear()
        return taken

    def note_equivocation(self, second: Verified) -> None:
        """Keep a record that contradicts one that is held: together they are evidence."""
        place = place_of(second.statement)
        if place is not None:
            self.equivocations.setdefault((place, second.author), second)

    @property
    def commitment(self) -> Commitment | None:
        """The anchored commitment, once it is held and found to follow from its bundle."""
        return self.built.commitment if self.built else None

    def start_over(self, attempt: int, slot: int) -> None:
        """Forget what an attempt at the round came to: another one is open. Records and verdicts stay."""
        self.attempt, self.opened_at = attempt, slot
        self.omitted = ()
        self.proposal = self.built = self.amounts = self.list = None
        self.objection = ListObjection.NONE

    def of_kind(self, kind: Kind) -> tuple[Verified, ...]:
        """The records of one kind, in the order of their attempts and authors. Sorted anew when one was added."""
        if self.kinds[0] != self.changes:
            self.kinds = (self.changes, {})
        sorted_kinds = self.kinds[1]
        if kind not in sorted_kinds:
            chosen = [held for held in self.held.items() if held[0][0].kind is kind]
            chosen.sort(key=lambda held: held[0])
            sorted_kinds[kind] = tuple(record for _place_and_author, record in chosen)
        return sorted_kinds[kind]

    def of_author(self, kind: Kind, author: bytes, attempt: int = 0) -> Verified | None:
        """What an author said of this kind at this stage or attempt, or None."""
        return self.held.get((Place(self.task, self.round, kind, attempt), author))

    def challenges_of(self, author: bytes) -> int:
        """How many challenges an author has made in this round."""
        made = (self.of_author(Kind.CHALLENGE, author, number) for number in range(MAX_CHALLENGES))
        return sum(challenge is not None for challenge in made)

    def records(self) -> RoundRecords:
        """The records held that a commitment is about."""
        return held_records(self.held.values(), self.evidence)

    def submissions(self) -> dict[bytes, Verified]:
        """The submissions held, by author."""
        return {record.author: record for record in self.of_kind(Kind.SUBMISSION)}

    def disputed(self, terms: TaskTerms) -> dict[bytes, bytes]:
        """Authors by submission id of what is under a full audit. Computed anew when a record was added."""
        if self.assignment is None:
            return {}
        if self.disputes[0] != self.changes:
            chosen = select(self.records(), terms, self.assignment)
            self.disputes = (self.changes, disputed(chosen, self.assignment))
        return self.disputes[1]

    def item_set(self) -> ItemSet:
        """The records held, for reconciliation. Built anew only when one was added."""
        if self.items[0] != self.changes:
            items = (item_of(record.kind, record.author, record.id) for record in self.by_id.values())
            self.items = (self.changes, ItemSet(items))
        return self.items[1]

    def list_votes(self) -> dict[bytes, ListVote]:
        """The gossiped list votes of this attempt, by author."""
        votes = {}
        for record in self.of_kind(Kind.LIST_VOTE):
            body = record.statement.body
            if isinstance(body, ListVote) and record.statement.seq == self.attempt:
                votes[record.author] = body
        return votes
