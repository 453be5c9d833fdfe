"""Who is who in a testnet: what the one who started it knows about each node, and the chain does not say."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

HONEST: Final = "honest"
WRONG_VALUE: Final = "wrong-value"
EQUIVOCATING: Final = "equivocating"
FLEEING: Final = "fleeing"
FLEEING_LATE: Final = "fleeing-late"
LATE_ACCUSER: Final = "late-accuser"
OMITTING_LEADER: Final = "omitting-leader"
PAYING_ITSELF: Final = "paying-itself"
"""Behaviours, as `koii-p2p join --behaviour` names them."""

MISBEHAVIOURS: Final = (
    EQUIVOCATING,
    FLEEING,
    FLEEING_LATE,
    LATE_ACCUSER,
    OMITTING_LEADER,
    PAYING_ITSELF,
    WRONG_VALUE,
)
"""In the order in which a testnet's last nodes get them: those who submit a wrong value come last."""


@dataclass(frozen=True, slots=True)
class NodeIdentity:
    """One node: its name, base58 keys, behaviour, what it staked, and what its wallet held when it started (Roe).

    A `witness` submits no work; with a stake of 0 it audits on a seat for keys without stake. `patrols` is how many
    more submissions a round it looks at, and `canaries` whether it hands in known-bad work now and then.
    """

    name: str
    key: str
    wallet: str
    behaviour: str
    stake: int
    opening_balance: int
    witness: bool = False
    patrols: int = 0
    canaries: bool = False

    @property
    def cheats(self) -> bool:
        """Whether it hands in work that its task did not make, which is to cost it its stake."""
        return self.behaviour in (WRONG_VALUE, EQUIVOCATING) or self.flees

    @property
    def flees(self) -> bool:
        """Whether it asks its stake back, to be gone before it is slashed."""
        return self.behaviour in (FLEEING, FLEEING_LATE)

    @property
    def leads_falsely(self) -> bool:
        """Whether it anchors what is to be vetoed."""
        return self.behaviour in (OMITTING_LEADER, PAYING_ITSELF)

    @property
    def role(self) -> str:
        """What it is in one or two words: its behaviour, or witness."""
        return "witness" if self.witness and self.behaviour == HONEST else self.behaviour
