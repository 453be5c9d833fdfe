"""What auditors say: pairs of an auditor and a submission as arrays, with the verdict of each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from koii_p2p.lab.fast.crew import ALONE, Crew, Flags, Numbers, Shares
from koii_p2p.records.schema import Verdict

SILENT: Final = 0
"""In the place of a verdict: no vote."""

VALID: Final = int(Verdict.VALID)
INVALID: Final = int(Verdict.INVALID)


@dataclass(frozen=True, slots=True)
class Works:
    """What is submitted in one round, by node. `bad` is what an audit function finds: fraud, or a canary."""

    submitted: Flags
    fraud: Flags
    canary: Flags
    catch: Shares
    made: Numbers
    """When it was published, in microseconds."""

    @property
    def bad(self) -> Flags:
        """Whether whoever looks can find it wrong."""
        return self.fraud | self.canary


@dataclass(frozen=True, slots=True)
class Votes:
    """Pairs of one stage of one round; arrays of equal length."""

    author: Numbers
    auditor: Numbers
    verdict: Numbers
    """As `Verdict`; `SILENT` where nothing is said."""
    looked: Flags
    """Whether the audit function was called."""
    copies: Flags
    """Whether the verdict is what most others say."""
    said: Numbers
    """When the vote was published, in microseconds."""

    @property
    def cast(self) -> Flags:
        """Whether anything is said."""
        cast: Flags = self.verdict != SILENT
        return cast

    def where(self, kept: Flags) -> Votes:
        """Some of the pairs."""
        return Votes(
            self.author[kept],
            self.auditor[kept],
            self.verdict[kept],
            self.looked[kept],
            self.copies[kept],
            self.said[kept],
        )


def no_votes() -> Votes:
    """No pairs at all."""
    nobody, never = np.empty(0, np.int64), np.empty(0, np.bool_)
    return Votes(nobody, nobody, nobody, never, never, nobody)


def verdicts(
    crew: Crew,
    active: Flags,
    works: Works,
    author: Numbers,
    auditor: Numbers,
    random: np.random.Generator,
) -> Votes:
    """What each of these auditors says of its own accord; VALID stands for copiers that have not copied yet."""
    count = len(author)
    acts = active[auditor]
    in_ring = acts & (crew.ring[auditor] != ALONE) & (crew.ring[auditor] == crew.ring[author])
    accuses = acts & (random.random(count) < crew.accuses[auditor]) & ~crew.misbehaves[author]
    diligent = ~acts | (random.random(count) < crew.diligence[auditor])
    looked = diligent & ~in_ring & ~accuses
    found = works.bad[author] & (works.canary[author] | (random.random(count) < works.catch[author]))
    verdict = np.where(accuses | (looked & found), INVALID, VALID).astype(np.int64)
    copies = acts & crew.copies[auditor] & ~(looked | in_ring | accuses)
    return Votes(author, auditor, verdict, looked, copies, np.zeros(count, np.int64))


def most_said(votes: Votes, nodes: int) -> Numbers:
    """By author: the verdict that most of these votes give it; VALID where nobody votes, or as many for as against."""
    against = np.bincount(votes.author[votes.verdict == INVALID], minlength=nodes)
    for_it = np.bincount(votes.author[votes.verdict == VALID], minlength=nodes)
    return np.where(against > for_it, INVALID, VALID).astype(np.int64)
