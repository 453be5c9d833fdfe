"""What one node knows of one round: the records it holds, what it has asked and decided."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from koii_p2p.records.envelope import Verified
from koii_p2p.records.equivocation import Place, place_of
from koii_p2p.records.schema import Kind, ListVote, Verdict
from koii_p2p.rounds.admission import Source
from koii_p2p.rounds.assignment import AuditAssignment
from koii_p2p.rounds.commitment import Bundle, Commitment
from koii_p2p.rounds.distribution import DistributionList
from koii_p2p.rounds.item_set import ItemSet, item_of
from koii_p2p.rounds.roster import Roster


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
    """Mutable state of one round at one node. Records are held one per place and author: the first stays."""

    task: bytes
    round: int
    roster: Roster | None = None
    blockhash: bytes | None = None
    beacon: bytes | None = None
    assignment: AuditAssignment | None = None
    held: dict[tuple[Place, bytes], Verified] = field(default_factory=dict)
    by_id: dict[bytes, Verified] = field(default_factory=dict)
    timely: set[bytes] = field(default_factory=set)
    parked: dict[bytes, Parked] = field(default_factory=dict)
    parked_at: tuple[bool, bool, int, int] | None = None
    equivocations: dict[tuple[Place, bytes], Verified] = field(default_factory=dict)
    task_called: bool = False
    nothing_to_submit: bool = False
    verdicts: dict[bytes, Verdict] = field(default_factory=dict)
    duties: tuple[int, tuple[Verified, ...]] = (0, ())
    proposal: tuple[Commitment, Bundle] | None = None
    commitment: Commitment | None = None
    bundle: Bundle | None = None
    omitted: tuple[bytes, ...] = ()
    amounts: dict[bytes, int] | None = None
    list: DistributionList | None = None
    settled: bool = False
    items: ItemSet = field(default_factory=lambda: ItemSet(()))

    def hold(self, record: Verified, *, timely: bool) -> None:
        """Keep an admitted record; `timely` says that it was received inside its window."""
        place = place_of(record.statement)
        if place is None:
            return
        self.held[place, record.author] = record
        self.by_id[record.id] = record
        if timely:
            self.timely.add(record.id)

    def of_kind(self, kind: Kind) -> Iterator[Verified]:
        """The records of one kind, in the order of their attempts and authors."""
        for (place, _author), record in sorted(self.held.items(), key=lambda item: item[0]):
            if place.kind is kind:
                yield record

    def of_author(self, kind: Kind, author: bytes) -> Verified | None:
        """What an author said of this kind at the first attempt, or None."""
        return self.held.get((Place(self.task, self.round, kind, 0), author))

    def due_from(self, auditor: bytes) -> tuple[Verified, ...]:
        """The submissions held that this auditor is assigned to, by id. Computed anew when one was added."""
        if self.assignment is None:
            return ()
        if len(self.by_id) != self.duties[0]:
            submissions = {record.author: record for record in self.of_kind(Kind.SUBMISSION)}
            authors = self.assignment.authors_for(auditor, submissions)
            due = sorted((submissions[author] for author in authors), key=lambda record: record.id)
            self.duties = (len(self.by_id), tuple(due))
        return self.duties[1]

    def item_set(self) -> ItemSet:
        """The records held, for reconciliation. Built anew only when one was added."""
        if len(self.items) != len(self.by_id):
            records = self.by_id.values()
            self.items = ItemSet(item_of(record.kind, record.author, record.id) for record in records)
        return self.items

    def list_votes(self) -> tuple[int, int]:
        """How many gossiped list votes agree and disagree."""
        votes = [record.statement.body for record in self.of_kind(Kind.LIST_VOTE)]
        agree = sum(1 for vote in votes if isinstance(vote, ListVote) and vote.agree)
        return agree, len(votes) - agree
