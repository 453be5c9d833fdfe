"""What the rounds of a run say about auditors: votes that outcomes contradict, and the reputation of keys."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from koii_p2p.rounds.reputation import REPUTATION_LAG, RoundStanding, reputations
from koii_p2p.rounds.tally import AuditorStatus


@dataclass(frozen=True, slots=True)
class Conduct:
    """By key: rounds in which it is OVERRULED, and its score in basis points."""

    overruled: Counter[bytes]
    scores: Mapping[bytes, int]


def conduct_of(standings: Iterable[RoundStanding]) -> Conduct:
    """What some rounds come to; the score is the one in the first round in which the newest of them counts."""
    known = tuple(standings)
    newest = max((one.round for one in known), default=0)
    return Conduct(
        Counter(
            key for one in known for key, status in one.auditors.items() if status is AuditorStatus.OVERRULED
        ),
        {key: found.score for key, found in reputations(newest + REPUTATION_LAG, known).items()},
    )
