"""What a behaviour may change of what a simulated node does; whatever it leaves alone is done as by everybody.

A node has any number of behaviours. Each hook is given what the one before made of it, in the order in which they are
named, and only in rounds from the group's `start_round` on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from random import Random
from typing import Protocol

from koii_p2p.lab.chain import SimulatedChain
from koii_p2p.lab.work import Work
from koii_p2p.records.envelope import Verified
from koii_p2p.records.keys import SecretKey
from koii_p2p.records.schema import Verdict
from koii_p2p.rounds.engine import RoundEngine
from koii_p2p.rounds.events import (
    Action,
    AnchorCommitment,
    AnchorList,
    AuditSubmission,
    KeepArtifacts,
    SignAndPublish,
)
from koii_p2p.rounds.terms import TaskTerms


class Actor(Protocol):
    """What a behaviour may ask of its node, and have it do."""

    number: int
    secret: SecretKey
    engine: RoundEngine
    random: Random

    @property
    def key(self) -> bytes:
        """The staking key."""
        ...

    @property
    def terms(self) -> TaskTerms:
        """Terms of the task."""
        ...

    @property
    def chain(self) -> SimulatedChain:
        """K2, which its behaviours may read as it is now."""
        ...

    @property
    def genesis(self) -> bytes:
        """K2's genesis hash."""
        ...

    @property
    def numbers(self) -> Mapping[bytes, int]:
        """Numbers of all nodes, by key."""
        ...

    @property
    def cast(self) -> Mapping[bytes, tuple[str, ...]]:
        """Names of the behaviours of every node, by key: adversaries know each other."""
        ...

    def is_adversary(self, key: bytes) -> bool:
        """Whether the node of a key breaks the rules."""
        ...

    def neighbours(self) -> tuple[int, ...]:
        """Numbers of the nodes that it is linked to now."""
        ...

    def do(self, action: Action) -> None:
        """Carry out an action that no engine asked for."""
        ...

    def publish(self, record: Verified, to: frozenset[int] | None = None) -> None:
        """Gossip a record; straight to some nodes only, if they are named."""
        ...

    def take_in(self, record: Verified, slot: int) -> None:
        """Hold an own record as if it had been received in that slot."""
        ...


class Behaviour:
    """One way to behave, and its parameter. What is not overridden changes nothing."""

    def __init__(self, actor: Actor, parameter: float | str) -> None:
        self.actor = actor
        self.parameter = parameter

    @property
    def share(self) -> float:
        """The parameter, if it is a number."""
        return float(self.parameter)

    def happens(self, number: int, chance: float | None = None) -> bool:
        """A draw for this node and round, the same whenever it is made; the chance is the parameter if not given."""
        drawn = Random(f"{type(self).__name__} {self.actor.key.hex()} {number}").random()
        return drawn < (self.share if chance is None else chance)

    def dials(self, nodes: int, degree: int, random_source: Random) -> Iterable[int]:
        """Numbers of nodes that it dials beside those that everybody dials."""
        return ()

    def chooses_beacon(self, number: int, slot: int) -> None:
        """Choose the block hash of the slot that a round's beacon follows from, if it is this node's to choose."""

    def work(self, number: int, work: Work) -> Work:
        """What is submitted in a round in which its task made `work`."""
        return work

    def verdict(self, action: AuditSubmission, look: Callable[[], Verdict]) -> Callable[[], Verdict]:
        """How it comes to a verdict, where `look` would be the way so far."""
        return look

    def says(self, action: SignAndPublish) -> SignAndPublish | None:
        """What it says instead; None for nothing."""
        return action

    def said(self, record: Verified) -> None:
        """What else it does when it has published a record of its own."""

    def tick(self, slot: int) -> None:
        """What it does beside its engine's work as a slot begins, by its own clock."""

    def forwards(self, record: Verified) -> bool:
        """Whether it passes on a record of somebody else that it admitted."""
        return True

    def answers(self) -> bool:
        """Whether it answers what peers ask it."""
        return True

    def serves(self, kept: KeepArtifacts) -> KeepArtifacts | None:
        """What it hands out of a round's artifacts."""
        return kept

    def commits(self, action: AnchorCommitment) -> AnchorCommitment | None:
        """What it anchors when its turn comes; None for nothing."""
        return action

    def lists(self, action: AnchorList) -> AnchorList | None:
        """What it anchors when it is its turn to list; None for nothing."""
        return action
