"""Slots without a block. A rolled-back slot keeps its number for ever; what comes after it counts on."""

from __future__ import annotations

import json
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class SkippedSlots:
    """Ranges (first, last) of slots that have no block, ascending and apart."""

    ranges: tuple[tuple[int, int], ...] = ()

    @property
    def last(self) -> int:
        """The newest skipped slot, or -1."""
        return self.ranges[-1][1] if self.ranges else -1

    def height(self, slot: int) -> int:
        """How many blocks there are up to `slot`, not counting the first: the block height."""
        return slot - sum(min(last, slot) - first + 1 for first, last in self.ranges if first <= slot)

    def block_at_or_before(self, slot: int) -> int:
        """The newest slot up to `slot` that was not skipped."""
        for first, last in self.ranges:
            if first <= slot <= last:
                return first - 1
        return slot

    def with_range(self, first: int, last: int) -> SkippedSlots:
        """These and [first, last]; ranges from `first` on are within it."""
        if first > last:
            return self
        return SkippedSlots((*(one for one in self.ranges if one[0] < first), (first, last)))

    def encode(self) -> bytes:
        """The ranges as the ledger keeps them."""
        return json.dumps(self.ranges).encode()

    @classmethod
    def decode(cls, stored: bytes | None) -> SkippedSlots:
        """The ranges that were kept. Raises `ValueError` if they are damaged."""
        ranges = [] if stored is None else json.loads(stored)
        return cls(tuple((int(first), int(last)) for first, last in ranges))
