"""Virtual time: a heap of events, in whole microseconds. Nothing happens but by an event, and in one order only.

Events of one time happen in the order in which they were asked for, so that a run is a function of what it is given. An
event is any callable without arguments; what it asks for goes on the same heap.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from typing import Final

from koii_p2p.errors import CheckFailed

MILLISECOND: Final = 1_000
SECOND: Final = 1_000_000

MOST_WAITING: Final = 50_000_000
"""Events that may wait at a time: about 10 GB of them; a net that floods itself ends here and not in swap."""

Happening = Callable[[], None]


class Clockwork:
    """A clock that jumps from event to event. `now` is microseconds since the start; it never goes back."""

    __slots__ = ("_most", "_number", "_waiting", "happened", "now")

    def __init__(self, most_waiting: int = MOST_WAITING) -> None:
        self.now = 0
        self.happened = 0
        """Events so far."""
        self._most = most_waiting
        self._number = 0
        self._waiting: list[tuple[int, int, Happening]] = []

    def at(self, when: int, what: Happening) -> None:
        """Let something happen at a time; at once, after all that is due now, if the time is over.

        Raises `CheckFailed` if too many events wait.
        """
        waiting = self._waiting
        if len(waiting) >= self._most:
            raise CheckFailed(
                "The simulation was stopped.",
                f"{self._most} events wait at {self.now / SECOND:.3f} s of virtual time.",
                "Use fewer nodes, or a net that is not flooded.",
            )
        self._number += 1
        heapq.heappush(waiting, (when if when > self.now else self.now, self._number, what))

    def after(self, delay: int, what: Happening) -> None:
        """Let something happen so many microseconds from now."""
        self.at(self.now + delay, what)

    def every(self, period: int, what: Happening, first: int) -> None:
        """Let something happen again and again, from the time `first` on, for as long as events are run.

        Raises ValueError for a period that is no time.
        """
        if period <= 0:
            raise ValueError("a period is at least a microsecond")

        def happen() -> None:
            what()
            self.at(self.now + period, happen)

        self.at(first, happen)

    def run(self, until: int) -> None:
        """Let time pass up to and including `until`, whatever is asked for meanwhile."""
        waiting, pop, happened = self._waiting, heapq.heappop, 0
        while waiting and waiting[0][0] <= until:
            self.now, _, what = pop(waiting)
            happened += 1
            what()
        self.happened += happened
        self.now = max(self.now, until)

    def __len__(self) -> int:
        """How many events wait."""
        return len(self._waiting)
