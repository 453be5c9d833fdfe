"""What a node has seen of others as holders of data: who answers, who rests, who lied, who is full."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

from koii_p2p.limits import Limits

_REST_FIRST: Final = 0.5
_REST_LONGEST: Final = 60.0
_SHARE: Final = 0.2  # of the newest answer in the mean time
MISSED_IN_A_ROW: Final = 2
"""Challenges without an answer that lower a holder's standing (PROTOCOL section 9)."""


@dataclass(slots=True)
class _Seen:
    seconds: float = 0.05
    failures: int = 0
    failing_since: float | None = None
    rests_until: float = 0.0
    lied_until: float = 0.0
    full_until: float = 0.0
    missed: int = 0
    suspect_until: float = 0.0


_UNKNOWN: Final = _Seen()
"""What is presumed of who was never asked."""


@dataclass(frozen=True, slots=True)
class HolderStatistics:
    """How many holders rest, are taken for gone, lied or failed challenges now; and blame since the start, by what."""

    resting: int
    gone: int
    liars: int
    suspects: int
    blamed: tuple[tuple[str, int], ...]


class Holders:
    """Remembers each peer's record; forgets nothing but by the peer's own good answers, and lies after a time.

    Keys come from strangers as well: of more than a roster may have, the one that was noted first is forgotten.

    `judged(key, score)` is told what to think of a peer: 0 is nothing bad.
    """

    def __init__(
        self, limits: Limits, clock: Callable[[], float], judged: Callable[[bytes, float], None]
    ) -> None:
        self._limits = limits
        self._clock = clock
        self._judged = judged
        self._seen: dict[bytes, _Seen] = {}
        self._blamed: Counter[str] = Counter()

    def answered(self, key: bytes, seconds: float) -> None:
        """It gave an answer, whatever it said, after so many seconds."""
        one = self._of(key)
        one.seconds += _SHARE * (seconds - one.seconds)
        one.failures, one.failing_since, one.rests_until = 0, None, 0.0

    def failed(self, key: bytes) -> None:
        """It gave none: leave it alone for a while that doubles each time."""
        one, now = self._of(key), self._clock()
        one.failures += 1
        one.failing_since = now if one.failing_since is None else one.failing_since
        one.rests_until = now + min(_REST_FIRST * 2 ** (one.failures - 1), _REST_LONGEST)

    def lied(self, key: bytes, what: str) -> None:
        """It sent what no honest holder sends: it is asked for nothing for a time, and gossip hears of it."""
        self._blamed[what] += 1
        self._of(key).lied_until = self._clock() + self._limits.data_liar_seconds
        self._judged(key, -float(self._limits.rejects_before_disconnect))

    def full(self, key: bytes) -> None:
        """It has no room."""
        self._of(key).full_until = self._clock() + self._limits.data_upkeep_seconds

    def shown(self, key: bytes, held: bool) -> bool:
        """What a challenge came to; whether that makes it one who failed twice in a row."""
        one = self._of(key)
        one.missed = 0 if held else one.missed + 1
        if not held:
            self._blamed["challenge not answered"] += 1
        if one.missed >= MISSED_IN_A_ROW:
            one.suspect_until = self._clock() + self._limits.data_liar_seconds
            self._judged(key, -1.0)
        elif held and one.lied_until <= self._clock():
            one.suspect_until = 0.0
            self._judged(key, 0.0)
        return one.missed >= MISSED_IN_A_ROW

    def gone(self) -> frozenset[bytes]:
        """Everybody of whom `is_gone` holds."""
        return frozenset(key for key in self._seen if self.is_gone(key))

    def is_trusted(self, key: bytes) -> bool:
        """Whether it may be asked: it has not lied lately."""
        one = self._seen.get(key)
        return one is None or one.lied_until <= self._clock()

    def rests(self, key: bytes) -> bool:
        """Whether it should be left alone now."""
        one = self._seen.get(key)
        return one is not None and one.rests_until > self._clock()

    def is_gone(self, key: bytes) -> bool:
        """Whether shards should no longer be left to it: it did not answer for long, lied, or lost what it held."""
        one, now = self._seen.get(key), self._clock()
        if one is None:
            return False
        silent = (
            one.failing_since is not None and now - one.failing_since > self._limits.data_patience_seconds
        )
        return silent or one.lied_until > now or one.suspect_until > now

    def takes(self, key: bytes) -> bool:
        """Whether it is worth while to bring it a shard."""
        one = self._seen.get(key)
        return one is None or (
            one.full_until <= self._clock() and not self.rests(key) and not self.is_gone(key)
        )

    def best_first(self, keys: Iterable[bytes]) -> list[bytes]:
        """Those that may be asked: who rests comes last, and else who answers fastest first."""
        return sorted(
            (key for key in keys if self.is_trusted(key)),
            key=lambda key: (self.rests(key), self._seen.get(key, _UNKNOWN).seconds),
        )

    def statistics(self) -> HolderStatistics:
        """Who is in what state, and what was blamed."""
        now = self._clock()
        return HolderStatistics(
            resting=sum(one.rests_until > now for one in self._seen.values()),
            gone=len(self.gone()),
            liars=sum(one.lied_until > now for one in self._seen.values()),
            suspects=sum(one.suspect_until > now for one in self._seen.values()),
            blamed=tuple(sorted(self._blamed.items())),
        )

    def _of(self, key: bytes) -> _Seen:
        found = self._seen.get(key)
        if found is None:
            if len(self._seen) >= self._limits.roster_entries:
                del self._seen[next(iter(self._seen))]
            found = self._seen[key] = _Seen()
        return found
