"""What the data room is told from outside: the tasks whose data it keeps, and a directory of who has what."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Space:
    """One task: the staking keys on its roster, the round it is in, and a public seed that nobody chose.

    `members` is empty and `round` is negative as long as they are not known.
    """

    task: bytes
    members: Callable[[], frozenset[bytes]]
    round: Callable[[], int]
    seed: Callable[[], bytes]


class Directory(Protocol):
    """Provider records, as of a Kademlia DHT: who can be asked for the content with a key."""

    async def provide(self, key: bytes) -> None:
        """Say that this node has it, now and for as long as it runs."""

    def stop_providing(self, key: bytes) -> None:
        """Say so no longer."""

    async def find_providers(self, key: bytes, *, count: int, deadline: float) -> tuple[bytes, ...]:
        """Staking keys of up to `count` nodes that said so, within `deadline` seconds."""
