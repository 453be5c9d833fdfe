"""Reputation (CARP): what the anchored rounds say about a key. A pure function of what everybody can read.

Koii promises that reputation is earned without an investment, lowers the number of audits and ranks the nodes (Koii
docs: CARP, using-reputation.md), and gives no formula. This one is explained, with numbers, in docs/reputation.md.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from koii_p2p.rounds.anchors import AnchoredRound
from koii_p2p.rounds.audit_rules import BASIS_POINTS, AuditRules
from koii_p2p.rounds.clock import RoundClock
from koii_p2p.rounds.commitment import Commitment
from koii_p2p.rounds.tally import AuditorStatus, Outcome

REPUTATION_LAG: Final = 2
"""The newest round that counts in round r is r - 2: the list of r - 1 is not through its audit when that of r opens."""

REPUTATION_ROUNDS: Final = 12
"""Rounds that count. K2 keeps 16, so that anybody can recompute a reputation from the chain's present state."""

HALF_LIFE: Final = 4
"""Rounds after which an observation counts half."""

ONE: Final = 1 << 16
"""One observation in the newest round that counts."""

_QUARTERS: Final = (65536, 55108, 46340, 38967)


class Conduct(IntEnum):
    """What one round says about a key, as submitter and as auditor together: the highest that applies."""

    NEUTRAL = 0
    GOOD = 1
    """Its submission was approved, or it voted on everything that was due."""
    ABSENT = 2
    OVERRULED = 3
    FAULT = 4
    """Its submission was rejected, or it signed two records for one place."""


_AS_SUBMITTER: Final = {
    Outcome.APPROVED: Conduct.GOOD,
    Outcome.REJECTED: Conduct.FAULT,
    Outcome.UNDECIDED: Conduct.NEUTRAL,
    Outcome.UNAVAILABLE: Conduct.NEUTRAL,
    Outcome.CANARY: Conduct.NEUTRAL,
    Outcome.EQUIVOCATED: Conduct.FAULT,
}

_AS_AUDITOR: Final = {
    AuditorStatus.DILIGENT: Conduct.GOOD,
    AuditorStatus.ABSENT: Conduct.ABSENT,
    AuditorStatus.OVERRULED: Conduct.OVERRULED,
    AuditorStatus.EQUIVOCATED: Conduct.FAULT,
}

_BAD: Final = {Conduct.ABSENT: 1, Conduct.OVERRULED: 4, Conduct.FAULT: 8}


def weight_at(age: int) -> int:
    """What one observation counts at an age in rounds: `2**16 * 2**(-age / 4)`, rounded down.

    Ages from 0. The quarters of the table are rounded down, and halving a floor rounds down again, so that the
    result is the exact floor at every age. Raises ValueError for a negative age.
    """
    if age < 0:
        raise ValueError(f"age {age} is negative")
    return _QUARTERS[age % HALF_LIFE] >> age // HALF_LIFE


FLAWLESS: Final = sum(weight_at(age) for age in range(REPUTATION_ROUNDS))
"""`good` of a key with a good round in every round that counts: 360413, or 5.5 observations."""


@dataclass(frozen=True, slots=True)
class RoundStanding:
    """What the anchored commitment to one round says: outcome by submitter, status by auditor."""

    round: int
    outcomes: Mapping[bytes, Outcome]
    auditors: Mapping[bytes, AuditorStatus]


@dataclass(frozen=True, slots=True)
class Reputation:
    """Decayed counts of good and bad observations of one key; `ONE` is a fresh observation.

    Raises ValueError for counts that no rounds lead to.
    """

    good: int
    bad: int

    def __post_init__(self) -> None:
        if not 0 <= self.good <= FLAWLESS or self.bad < 0:
            raise ValueError(f"good {self.good} is not from 0 to {FLAWLESS}, or bad {self.bad} is negative")

    @property
    def score(self) -> int:
        """Basis points: `good / (bad + FLAWLESS)`, rounded down; 0 for a new key, 10000 for a flawless one.

        The cautious mean of a beta distribution: whatever was not observed counts as if it had been bad (a prior of
        `FLAWLESS - good` bad observations), and what was bad counts on top of that.
        """
        return self.good * BASIS_POINTS // (self.bad + FLAWLESS)


def standing_of(commitment: Commitment) -> RoundStanding:
    """What a commitment says about its submitters and auditors."""
    return RoundStanding(commitment.round, commitment.outcome_of, dict(commitment.auditors))


def counts_in(anchored: AnchoredRound, round_number: int, clock: RoundClock) -> bool:
    """Whether what K2 holds of a round counts in `round_number`: it has a list, and nothing can change it any more.

    Its list must have stood, unrejected, when the audit of `round_number` opened. `REPUTATION_LAG` says when that is
    so of a first attempt; a round whose list was rejected counts as many rounds later as it took attempts. The answer
    is the same whenever it is asked after that slot. Without a list there was nothing to veto a false
    commitment by.
    """
    final = clock.settles_at(anchored.round, anchored.attempt) <= clock.audit(round_number).opens
    return final and anchored.list_root is not None and not anchored.rejected


def reputations(round_number: int, standings: Iterable[RoundStanding]) -> dict[bytes, Reputation]:
    """Reputation in `round_number` of every key that did something good or bad in the rounds that count, by key.

    These are the `REPUTATION_ROUNDS` rounds up to `round_number - REPUTATION_LAG`; other standings are ignored, and
    missing ones say nothing about anybody. A round is one observation of a key, however much it did in it: good
    counts 1, absent 1 bad, overruled 4 bad, a fault 8 bad, and a fault takes away all the good up to it. What a round
    counts is `weight_at` its age. The order of `standings` does not matter.

    Raises ValueError for two standings of one round.
    """
    newest = round_number - REPUTATION_LAG
    by_round: dict[int, RoundStanding] = {}
    for standing in standings:
        if standing.round in by_round:
            raise ValueError(f"two standings of round {standing.round}; give the one that was anchored")
        by_round[standing.round] = standing
    good: dict[bytes, int] = {}
    bad: dict[bytes, int] = {}
    for age in reversed(range(REPUTATION_ROUNDS)):
        counted = by_round.get(newest - age)
        if counted is None:
            continue
        weight = weight_at(age)
        for key, conduct in _conducts(counted).items():
            if conduct is Conduct.GOOD:
                good[key] = good.get(key, 0) + weight
            elif conduct is not Conduct.NEUTRAL:
                bad[key] = bad.get(key, 0) + _BAD[conduct] * weight
                if conduct is Conduct.FAULT:
                    good[key] = 0
    return {key: Reputation(good.get(key, 0), bad.get(key, 0)) for key in sorted(good.keys() | bad.keys())}


def audit_rate(reputation: Reputation | None, rules: AuditRules) -> int:
    """How often a submitter is audited, in basis points; None is a key without reputation.

    From the rules' `audit_rate` at score 0 down to their `reputation_floor` at score 10000, linear, rounded up.
    Always the audit rate where the floor is 0 (none) or above it.
    """
    if reputation is None or not 0 < rules.reputation_floor < rules.audit_rate:
        return rules.audit_rate
    return rules.audit_rate - (rules.audit_rate - rules.reputation_floor) * reputation.score // BASIS_POINTS


def audit_rates(found: Mapping[bytes, Reputation], rules: AuditRules) -> dict[bytes, int]:
    """`audit_rate` of every key with a reputation, in basis points."""
    return {key: audit_rate(reputation, rules) for key, reputation in found.items()}


def _conducts(standing: RoundStanding) -> dict[bytes, Conduct]:
    conducts = {key: _AS_SUBMITTER[outcome] for key, outcome in standing.outcomes.items()}
    for key, status in standing.auditors.items():
        conducts[key] = max(conducts.get(key, Conduct.NEUTRAL), _AS_AUDITOR[status])
    return conducts
