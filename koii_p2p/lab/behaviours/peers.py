"""Behaviours in gossip: what is not passed on, and who links to whom for it."""

from __future__ import annotations

from collections.abc import Iterable
from random import Random

from koii_p2p.lab.behaviours.behaviour import Behaviour
from koii_p2p.records.envelope import Verified
from koii_p2p.records.schema import Kind


class Censor(Behaviour):
    """Passes on no submissions, no audits, or nothing of the first honest node's key; says so to nobody."""

    def forwards(self, record: Verified) -> bool:
        """See `Behaviour`."""
        match self.parameter:
            case "submissions":
                return record.kind is not Kind.SUBMISSION
            case "audits":
                return record.kind in (Kind.SUBMISSION, Kind.PRESENCE)
            case _:
                return self.actor.numbers.get(record.author) != 0

    def answers(self) -> bool:
        """It would have to show what it holds back."""
        return False


class Sybil(Behaviour):
    """Links to many, takes places in meshes, and passes nothing on."""

    def dials(self, nodes: int, degree: int, random_source: Random) -> Iterable[int]:
        """See `Behaviour`."""
        return random_source.sample(range(nodes), min(nodes, int(self.share) * degree))

    def forwards(self, record: Verified) -> bool:
        """See `Behaviour`."""
        return False

    def answers(self) -> bool:
        """See `Behaviour`."""
        return False


class Eclipse(Sybil):
    """Links to the first honest nodes, all of its kind to the same, and passes nothing on."""

    def dials(self, nodes: int, degree: int, random_source: Random) -> Iterable[int]:
        """See `Behaviour`."""
        return range(min(nodes, int(self.share)))
