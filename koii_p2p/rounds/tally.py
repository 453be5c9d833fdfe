"""Counting ballots: the outcome of every submission and the standing of every auditor. A pure function."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Final

from koii_p2p.records.schema import Verdict
from koii_p2p.rounds.assignment import AuditAssignment
from koii_p2p.rounds.audit_rules import Profile
from koii_p2p.rounds.roster import Roster

Votes = Mapping[bytes, Mapping[bytes, Verdict]]
"""Verdicts by author of the submission and auditor: `votes[author][auditor]`."""


class Outcome(IntEnum):
    """What became of one submission."""

    APPROVED = 1
    REJECTED = 2
    UNDECIDED = 3
    UNAVAILABLE = 4
    CANARY = 5
    """Known-bad work that its author owned up to before votes were seen, and that the auditors found."""
    EQUIVOCATED = 6
    """Its author is convicted of signing two records for one place."""


class AuditorStatus(IntEnum):
    """How one auditor did in one round. The worst that applies: EQUIVOCATED, OVERRULED, ABSENT, DILIGENT."""

    DILIGENT = 1
    """Voted on everything that was due."""
    ABSENT = 2
    """Did not vote on something that was due."""
    OVERRULED = 3
    """Called something VALID that was found bad, or accused something that was approved."""
    EQUIVOCATED = 4
    """Signed two different records for one place."""


CONTRADICTED: Final = frozenset(
    {
        (Verdict.VALID, Outcome.REJECTED),
        (Verdict.VALID, Outcome.CANARY),
        (Verdict.INVALID, Outcome.APPROVED),
    }
)
"""Verdicts and outcomes for which an auditor is OVERRULED."""


@dataclass(frozen=True, slots=True)
class Cast:
    """What was said in one round: `first` by those drawn, `full` in full audits, accusations, owned-up canaries.

    `challengers` are the stakers who challenged each author's submission, its author not among them.
    """

    first: Votes = field(default_factory=dict)
    full: Votes = field(default_factory=dict)
    challengers: Mapping[bytes, Collection[bytes]] = field(default_factory=dict)
    canaries: Collection[bytes] = ()

    def accusers(self, author: bytes) -> frozenset[bytes]:
        """Who opened a full audit of this author: those drawn who voted INVALID, and challengers."""
        votes, challengers = self.first.get(author, {}), self.challengers.get(author, ())
        if not challengers and Verdict.INVALID not in votes.values():
            return frozenset()
        against = (key for key, verdict in votes.items() if verdict is Verdict.INVALID)
        return frozenset((*against, *challengers))


@dataclass(frozen=True, slots=True)
class Tally:
    """Outcome per author of a submission, status per auditor who was due or spoke up; both sorted by key.

    `full_audits` are the authors whose full audit had enough votes to count. `finders` are, for each REJECTED
    author, those who accused it first and those who confirmed it.
    """

    outcomes: dict[bytes, Outcome]
    auditors: dict[bytes, AuditorStatus]
    full_audits: frozenset[bytes]
    finders: dict[bytes, Finders]

    @property
    def equivocators(self) -> frozenset[bytes]:
        """Stakers convicted of signing two records for one place."""
        return frozenset(key for key, status in self.auditors.items() if status is AuditorStatus.EQUIVOCATED)


@dataclass(frozen=True, slots=True)
class Finders:
    """Who found one fraud, sorted: `accusers` before the full audit, `voters` in it."""

    accusers: tuple[bytes, ...]
    voters: tuple[bytes, ...]


def outcome(
    entitled: Collection[bytes], votes: Mapping[bytes, Verdict], roster: Roster, quorum: int
) -> Outcome:
    """Outcome by the votes of those `entitled`, each with its weight in the roster.

    REJECTED needs INVALID from more than half of the *entitled* weight and from at least `quorum` of them (or
    all of them when they are fewer): silence never helps to slash (PROTOCOL §6). APPROVED and UNAVAILABLE need
    more than half of the weight that voted. Everything else, and nobody voting, is UNDECIDED.
    Exactly half is not more than half (Koii docs: a tie earns nothing and costs nothing).
    """
    valid, invalid, weight_of = Verdict.VALID, Verdict.INVALID, roster.weight_of
    entitled_weight = cast_weight = for_it = against_it = against = 0
    for auditor in entitled:
        weight = weight_of(auditor)
        entitled_weight += weight
        verdict = votes.get(auditor)
        if verdict is None:
            continue
        cast_weight += weight
        if verdict is valid:
            for_it += weight
        elif verdict is invalid:
            against_it += weight
            against += 1
    if against_it * 2 > entitled_weight and against >= min(quorum, len(entitled)):
        return Outcome.REJECTED
    if for_it * 2 > cast_weight:
        return Outcome.APPROVED
    if (cast_weight - for_it - against_it) * 2 > cast_weight:
        return Outcome.UNAVAILABLE
    return Outcome.UNDECIDED


def koii_outcome(votes: Iterable[Verdict]) -> Outcome:
    """Outcome by Koii's client: without a vote against it approved, else by the sum of +1 and -1.

    Source: `@_koii/namespace-wrapper`, and the default list of its task template: a submission against which no
    audit was triggered counts +1; otherwise votes > 0 are rewarded, 0 earns nothing, < 0 is slashed. One node, one
    vote, no quorum, and silence counts for nothing.
    """
    cast = tuple(votes)
    if Verdict.INVALID not in cast:
        return Outcome.APPROVED
    score = cast.count(Verdict.VALID) - cast.count(Verdict.INVALID)
    if score == 0:
        return Outcome.UNDECIDED
    return Outcome.APPROVED if score > 0 else Outcome.REJECTED


def tally(
    authors: Collection[bytes],
    cast: Cast,
    assignment: AuditAssignment,
    equivocators: Collection[bytes] = (),
) -> Tally:
    """Count a round. `authors` submitted; `equivocators` are convicted of signing two records for one place.

    An accusation opens a full audit. It counts when more than half of the committee's weight voted; those drawn
    need not vote twice. Otherwise the accusation did not reach the net in time: nothing is rejected, and those
    drawn decide as if it had not been a full audit. So a slash always has more than half of the committee's weight
    behind it.

    Those drawn decide as well where a full audit comes to nothing although no more than a third of the weight is
    against the submission: a coalition that accuses when honest ballots are closed already, and then votes, has no
    more than that, and must not keep an honest reward back by it.
    """
    counting = _Counting(cast, assignment, frozenset(equivocators))
    for author in sorted(authors):
        counting.count(author)
    for auditor in equivocators:
        if auditor in assignment.roster:
            counting.auditors[auditor] = AuditorStatus.EQUIVOCATED
    return Tally(
        counting.outcomes,
        {key: counting.auditors[key] for key in sorted(counting.auditors)},
        frozenset(counting.full_audits),
        counting.finders,
    )


class _Counting:
    def __init__(self, cast: Cast, assignment: AuditAssignment, equivocators: frozenset[bytes]) -> None:
        self._cast = cast
        self._assignment = assignment
        self._roster = assignment.roster
        self._equivocators = equivocators
        self.outcomes: dict[bytes, Outcome] = {}
        self.auditors: dict[bytes, AuditorStatus] = {}
        self.full_audits: set[bytes] = set()
        self.finders: dict[bytes, Finders] = {}

    def count(self, author: bytes) -> None:
        first = self._cast.first.get(author, {})
        if author in self._equivocators:
            # Convicted by two signatures: what auditors said, of whichever record, decides nothing.
            self.outcomes[author] = Outcome.EQUIVOCATED
            return
        if self._assignment.rules.profile is Profile.KOII:
            decided = koii_outcome(first.values())
            self._judge(first, decided, due=())
        else:
            decided = self._decide(author, first)
        self.outcomes[author] = decided

    def _decide(self, author: bytes, first: Mapping[bytes, Verdict]) -> Outcome:
        drawn = self._assignment.auditors_of(author)
        votes = {auditor: first[auditor] for auditor in drawn if auditor in first}
        accusers = self._stakers(self._cast.accusers(author))
        canary = author in self._cast.canaries
        if not accusers and not canary:
            decided = self._without_dispute(author, drawn, votes)
            self._judge(first, decided, due=drawn)
            return decided
        committee = self._assignment.committee_of(author)
        full = {auditor: self._cast.full.get(author, {}).get(auditor) for auditor in committee}
        everything = {auditor: verdict for auditor, verdict in full.items() if verdict is not None} | votes
        if self._weight(everything) * 2 > self._weight(committee):
            decided = outcome(committee, everything, self._roster, self._assignment.rules.quorum)
            self.full_audits.add(author)
            if decided is Outcome.UNDECIDED and self._few_are_against(
                author, committee, everything, accusers
            ):
                decided = self._without_dispute(author, drawn, votes)
            if canary:
                decided = Outcome.CANARY if decided is Outcome.REJECTED else Outcome.UNDECIDED
            self._judge({**first, **everything}, decided, due=committee)
        else:
            decided = self._without_dispute(author, drawn, votes)
            if canary:
                decided = Outcome.UNDECIDED
            self._judge(first, decided, due=drawn)
        # Whatever a challenger votes afterwards: otherwise full audits could be opened for nothing.
        challengers = self._cast.challengers.get(author, ())
        self._judge(dict.fromkeys(challengers, Verdict.INVALID), decided, due=())
        if decided is Outcome.REJECTED:
            voters = {key for key, verdict in everything.items() if verdict is Verdict.INVALID} - accusers
            self.finders[author] = Finders(tuple(sorted(accusers)), tuple(sorted(voters)))
        return decided

    def _without_dispute(
        self, author: bytes, drawn: Collection[bytes], votes: Mapping[bytes, Verdict]
    ) -> Outcome:
        # Asked only where nobody was drawn: who has auditors is audited.
        if not drawn and not self._assignment.is_audited(author):
            return Outcome.APPROVED
        decided = outcome(drawn, votes, self._roster, self._assignment.rules.quorum)
        return Outcome.UNDECIDED if decided is Outcome.REJECTED else decided

    def _stakers(self, keys: frozenset[bytes]) -> frozenset[bytes]:
        return frozenset(key for key in keys if key in self._roster) if keys else keys

    def _few_are_against(
        self,
        author: bytes,
        committee: Collection[bytes],
        votes: Mapping[bytes, Verdict],
        accusers: Collection[bytes],
    ) -> bool:
        """Whether no more is against a submission than a coalition of a third could put there."""
        against = {key for key, verdict in votes.items() if verdict is Verdict.INVALID} | set(accusers)
        return self._weight(against) * 3 <= self._weight((*committee, author))

    def _weight(self, keys: Iterable[bytes]) -> int:
        return sum(self._roster.weight_of(key) for key in keys)

    def _judge(self, votes: Mapping[bytes, Verdict], decided: Outcome, due: Collection[bytes]) -> None:
        standings, statuses = self.auditors, _STATUSES[decided]
        for auditor in {*due, *votes}:
            status = statuses[votes.get(auditor)]
            known = standings.get(auditor)
            if known is None or status > known:
                standings[auditor] = status


def _status(verdict: Verdict | None, decided: Outcome) -> AuditorStatus:
    if verdict is None:
        return AuditorStatus.ABSENT
    return AuditorStatus.OVERRULED if (verdict, decided) in CONTRADICTED else AuditorStatus.DILIGENT


_STATUSES: Final = {
    decided: {verdict: _status(verdict, decided) for verdict in (None, *Verdict)} for decided in Outcome
}
