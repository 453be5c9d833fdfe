"""What the router needs of a source of randomness; `random.Random` is one. The router has none of its own."""

from __future__ import annotations

from collections.abc import MutableSequence, Sequence
from typing import Protocol, TypeVar

T = TypeVar("T")


class RandomSource(Protocol):
    """The methods of `random.Random` that the router calls."""

    def randrange(self, stop: int, /) -> int:
        """Return a number from 0 to below `stop`."""

    def sample(self, population: Sequence[T], count: int, /) -> list[T]:
        """Return so many different elements in random order."""

    def shuffle(self, values: MutableSequence[T], /) -> None:
        """Put the values into random order."""
