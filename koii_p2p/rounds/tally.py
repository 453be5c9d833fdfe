"""Counting ballots: the outcome of every submission and the standing of every auditor. A pure function."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from enum import IntEnum

from koii_p2p.records.schema import Verdict
from koii_p2p.rounds.assignment import AuditAssignment
from koii_p2p.rounds.roster import Roster


class Outcome(IntEnum):
    """What the auditors of one submission decided together."""

    APPROVED = 1
    REJECTED = 2
    UNDECIDED = 3
    UNAVAILABLE = 4


class AuditorStatus(IntEnum):
    """How one auditor did in one round. The worst that applies: EQUIVOCATED, OVERRULED, ABSENT, DILIGENT."""

    DILIGENT = 1
    """Voted on everything that was due."""
    ABSENT = 2
    """Did not vote on something that was due."""
    OVERRULED = 3
    """Called something VALID that was rejected, or INVALID that was approved."""
    EQUIVOCATED = 4
    """Signed two different ballots for one round."""


@dataclass(frozen=True, slots=True)
class Tally:
    """Outcome per author of a submission, status per auditor due for at least one; both sorted by key."""

    outcomes: dict[bytes, Outcome]
    auditors: dict[bytes, AuditorStatus]


def outcome(
    assigned: Collection[bytes], votes: Mapping[bytes, Verdict], roster: Roster, quorum: int
) -> Outcome:
    """Outcome of one submission; only the votes of `assigned` auditors count, each with its roster stake.

    REJECTED needs INVALID from more than half of the *assigned* stake and from at least `quorum` auditors (or
    all of them when fewer are assigned): silence never helps to slash (PROTOCOL §6). APPROVED and
    UNAVAILABLE need more than half of the stake that voted. Everything else, and nobody voting, is UNDECIDED.
    Exactly half is not more than half (Koii docs: a tie earns nothing and costs nothing).
    """
    stakes = dict.fromkeys(Verdict, 0)
    invalid_votes = 0
    for auditor in assigned:
        verdict = votes.get(auditor)
        if verdict is not None:
            stakes[verdict] += roster.stake_of(auditor)
            invalid_votes += verdict is Verdict.INVALID
    assigned_stake = sum(roster.stake_of(auditor) for auditor in assigned)
    cast_stake = sum(stakes.values())
    if stakes[Verdict.INVALID] * 2 > assigned_stake and invalid_votes >= min(quorum, len(assigned)):
        return Outcome.REJECTED
    if stakes[Verdict.VALID] * 2 > cast_stake:
        return Outcome.APPROVED
    if stakes[Verdict.UNAVAILABLE] * 2 > cast_stake:
        return Outcome.UNAVAILABLE
    return Outcome.UNDECIDED


def tally(
    authors: Collection[bytes],
    votes: Mapping[bytes, Mapping[bytes, Verdict]],
    assignment: AuditAssignment,
    roster: Roster,
    quorum: int,
    equivocators: Collection[bytes] = (),
) -> Tally:
    """Count a round. `authors` submitted; `votes[author][auditor]` is a verdict on that submission.

    `equivocators` are auditors proven to have signed two ballots: their first ballot counts as cast, their
    status says what they did.
    """
    outcomes: dict[bytes, Outcome] = {}
    auditors: dict[bytes, AuditorStatus] = {}
    for author in sorted(authors):
        assigned = assignment.auditors_of(author)
        cast = votes.get(author, {})
        decided = outcome(assigned, cast, roster, quorum)
        outcomes[author] = decided
        for auditor in assigned:
            status = _status(cast.get(auditor), decided)
            auditors[auditor] = max(status, auditors.get(auditor, AuditorStatus.DILIGENT))
    for auditor in equivocators:
        if auditor in auditors:
            auditors[auditor] = AuditorStatus.EQUIVOCATED
    return Tally(outcomes, {key: auditors[key] for key in sorted(auditors)})


def _status(verdict: Verdict | None, decided: Outcome) -> AuditorStatus:
    if verdict is None:
        return AuditorStatus.ABSENT
    wrong_approval = verdict is Verdict.VALID and decided is Outcome.REJECTED
    wrong_accusation = verdict is Verdict.INVALID and decided is Outcome.APPROVED
    return AuditorStatus.OVERRULED if wrong_approval or wrong_accusation else AuditorStatus.DILIGENT
