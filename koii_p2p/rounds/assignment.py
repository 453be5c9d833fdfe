"""Who audits which submission: a stake-weighted draw that everybody can recompute and nobody can grind."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable
from functools import lru_cache
from hashlib import sha256
from itertools import accumulate

from koii_p2p.rounds.roster import MAX_ENTRIES, Roster

_DOMAIN = b"koii-p2p/1 auditor"


class AuditAssignment:
    """Auditors of every submission of one round, each computed when asked for: O(m * (m + log N)).

    The roster is laid out as one line on which every key owns a stretch as long as its stake. Draw j is
    `SHA-256(domain || beacon || author || j) mod length`, taken on the line with the stretches of the author
    and of those already drawn cut out: stake-weighted sampling without replacement, in integers, with exactly
    `m` draws however the stake is spread. 256 bits against a length below 2**79 leave no measurable bias.

    The draw depends on the author, not on the submission's bytes. There is one submission per author and
    round, so it names the same thing; but the bytes are the author's choice, and one who hands in late
    (claiming an earlier slot, which reconciliation cannot disprove) has seen the beacon and could try
    values until the draw picks friends. Keys are fixed before the beacon is known. It also gives both
    halves of an equivocation to the same auditors.

    Koii's public client lets each node pick 5 submissions with `Math.random()`, so nobody can tell who was
    due, and some submissions are looked at by nobody.
    """

    def __init__(self, beacon: bytes, roster: Roster, auditors: int) -> None:
        if auditors < 1:
            raise ValueError("at least one auditor per submission")
        self._beacon = beacon
        self._keys = roster.keys
        self._position = {key: index for index, key in enumerate(self._keys)}
        self._ends = tuple(accumulate(entry.stake for entry in roster.entries))
        self._auditors = auditors
        # Asked for again for every ballot entry. One entry per possible author is all there can be.
        self._draw_once = lru_cache(maxsize=MAX_ENTRIES)(self._draw)

    def auditors_of(self, author: bytes) -> tuple[bytes, ...]:
        """Auditors due for the submission of `author` in the order drawn: `min(m, N - 1)` distinct others.

        With no more than `m` others everybody else is due, in key order. Empty when the author is alone.
        """
        return self._draw_once(author)

    def is_due(self, auditor: bytes, author: bytes) -> bool:
        """Whether `auditor` is due to audit the submission of `author`."""
        return auditor in self._draw_once(author)

    def authors_for(self, auditor: bytes, authors: Iterable[bytes]) -> tuple[bytes, ...]:
        """Those of `authors` whose submission `auditor` is due to audit, sorted."""
        return tuple(sorted(author for author in set(authors) if self.is_due(auditor, author)))

    def _draw(self, author: bytes) -> tuple[bytes, ...]:
        others = len(self._keys) - (author in self._position)
        if others <= self._auditors:
            return tuple(key for key in self._keys if key != author)
        taken = {self._position[author]} if author in self._position else set()
        drawn: list[bytes] = []
        while len(drawn) < self._auditors:
            index = self._pick(author, len(drawn), taken)
            taken.add(index)
            drawn.append(self._keys[index])
        return tuple(drawn)

    def _pick(self, author: bytes, draw: int, taken: set[int]) -> int:
        length = self._ends[-1] - sum(self._stake(index) for index in taken)
        seed = _DOMAIN + self._beacon + author + draw.to_bytes(4, "little")
        number = int.from_bytes(sha256(seed).digest(), "big")
        if length == 0:
            # Nobody left has any stake: equal chances.
            free = [index for index in range(len(self._keys)) if index not in taken]
            return free[number % len(free)]
        point = number % length
        for index in sorted(taken):
            if point >= self._ends[index] - self._stake(index):
                point += self._stake(index)
        return bisect_right(self._ends, point)

    def _stake(self, index: int) -> int:
        return self._ends[index] - (self._ends[index - 1] if index else 0)
