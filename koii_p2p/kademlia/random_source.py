"""What a node needs of a source of randomness; `random.Random` is one. It has none of its own."""

from __future__ import annotations

from collections.abc import MutableSequence
from typing import Protocol, TypeVar

T = TypeVar("T")


class RandomSource(Protocol):
    """The methods of `random.Random` that are called."""

    def randbytes(self, count: int, /) -> bytes:
        """Return so many random bytes."""

    def shuffle(self, values: MutableSequence[T], /) -> None:
        """Put the values into random order."""
