"""What a task thinks of keys, for P5 of the gossip score of the peers that have them: from stake and audit record.

Local and passing, never said to anybody: no two nodes have to agree on it, so it is a float, and says nothing about
what a peer's records are worth. Admission looks at who signed a record, P5 at who brought it.

| a key | P5 |
|---|---|
| nobody knows | 0 |
| staked, record clean | 1 to 1.9 |
| staked, but absent or overruled | from that down to 0 |
| with a rejected submission | -60 |
| convicted of an equivocation | -250 |

Why these numbers (docs/gossip.md, "Stake and record"): what is good is worth less than anything a peer can do wrong,
and together with P1 less than the threshold of opportunistic grafting, so that stake pays for nothing and a mesh of
stakers that bring nothing is still improved. What is bad outweighs all that can be earned in a topic, and ends in no
mesh, but never graylists by itself: not to hear a key that the roster counts would keep its votes from those who have
the evidence, and not from others.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Final

from koii_p2p.rounds.reputation import REPUTATION_LAG, Reputation, RoundStanding, reputations
from koii_p2p.rounds.roster import Roster
from koii_p2p.rounds.tally import AuditorStatus, Outcome

STAKED: Final = 1.0
"""For being in the newest roster."""
WEIGHTY: Final = 0.4
"""Most for the weight in its audits: of a staker with the mean weight or more, so that splitting a stake earns none."""
RECORDED: Final = 0.5
"""Most for the record: of a key whose reputation is flawless."""
BEST: Final = STAKED + WEIGHTY + RECORDED

REJECTED: Final = -60.0
"""Beyond P1 and P2 of a topic (53): out of every mesh. Above the gossip threshold with nothing earned (-100): it is
told of messages and gets them when it asks, so that its node can follow and go on."""
EQUIVOCATED: Final = -250.0
"""Beyond the gossip threshold with everything earned (100 less): not told and not answered. Above the thresholds of
publishing and of being heard with nothing earned."""


def standings_in_task(
    roster: Roster, rounds: Collection[RoundStanding], convicted: Iterable[bytes]
) -> dict[bytes, float]:
    """P5 of each key that a task thinks anything of, by key: from `EQUIVOCATED` to `BEST`. Others are 0.

    `roster` is the newest one, `rounds` say what the commitments to the rounds in memory decided, `convicted` have
    signed two records for one place in these rounds. A staker's value is

        (STAKED + WEIGHTY * min(1, weight / mean weight)) * good / (good + bad) + RECORDED * reputation

    with good, bad and reputation as CARP counts them (docs/reputation.md) over `rounds`; without any observation the
    first factor counts in full. Who was absent at everything due is 0, as somebody unknown: a slow or partitioned node
    is no enemy. A rejected submission or an equivocation count for as long as their round is in memory, also of keys
    that left the roster. Costs in proportion to stakers and `rounds`.
    """
    newest = max((one.round for one in rounds), default=0)
    records = reputations(newest + REPUTATION_LAG, rounds)
    mean = sum(map(roster.weight_of, roster.keys)) / max(1, len(roster))
    found = {key: _of_staker(roster.weight_of(key), mean, records.get(key)) for key in roster.keys}
    equivocated = set(convicted)
    for one in rounds:
        found.update({key: REJECTED for key, what in one.outcomes.items() if what is Outcome.REJECTED})
        equivocated |= {key for key, what in one.outcomes.items() if what is Outcome.EQUIVOCATED}
        equivocated |= {key for key, what in one.auditors.items() if what is AuditorStatus.EQUIVOCATED}
    found.update(dict.fromkeys(equivocated, EQUIVOCATED))
    return {key: value for key, value in found.items() if value}


def _of_staker(weight: int, mean: float, record: Reputation | None) -> float:
    stake = STAKED + (WEIGHTY * min(1.0, weight / mean) if mean else 0.0)
    if record is None:
        return stake
    observed = record.good + record.bad
    diligence = record.good / observed if observed else 1.0
    return stake * diligence + RECORDED * record.score / 10_000


def combined(tasks: Iterable[Mapping[bytes, float]]) -> dict[bytes, float]:
    """P5 of each key over all tasks: the worst if any task thinks ill of it, else the best.

    No sum: nothing done in one task makes up for what was done in another, and little stakes in many tasks are not
    worth more than one.
    """
    found: dict[bytes, float] = {}
    for task in tasks:
        for key, value in task.items():
            known = found.get(key, 0.0)
            found[key] = min(known, value) if min(known, value) < 0 else max(known, value)
    return found
