"""Who is who in a testnet: what the one who started it knows about each node, and the chain does not say."""

from __future__ import annotations

from dataclasses import dataclass

HONEST = "honest"
CHEATER = "wrong-value"
"""The behaviour of a cheater, as `koii-p2p join --behaviour` names it."""


@dataclass(frozen=True, slots=True)
class NodeIdentity:
    """One node: its name, base58 keys, behaviour, what it staked, and what its wallet held when it started (Roe)."""

    name: str
    key: str
    wallet: str
    behaviour: str
    stake: int
    opening_balance: int

    @property
    def cheats(self) -> bool:
        """Whether it was told to misbehave."""
        return self.behaviour != HONEST
