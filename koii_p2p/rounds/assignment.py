"""Who audits which submission: stake-weighted draws that everybody can recompute and nobody can grind."""

from __future__ import annotations

from bisect import bisect_right, insort
from collections.abc import Iterable, Mapping
from functools import lru_cache
from hashlib import sha256
from itertools import accumulate

from koii_p2p.rounds.audit_rules import BASIS_POINTS, AuditRules, Profile
from koii_p2p.rounds.roster import MAX_ENTRIES, Roster

_AUDITOR = b"koii-p2p/1 auditor"
_AUDITED = b"koii-p2p/1 audited"
_SAMPLE = b"koii-p2p/1 sample"
_SEAT = b"koii-p2p/1 seat"

COMMITTEE = 111
"""Auditors that a full audit adds to those drawn first, where there are so many. Of 1000 with a third dishonest, a
dishonest majority among 111 has a chance of 5.5e-5; 111 is also the least committee of Ethereum, for a like reason."""

SAMPLE = 5
"""Submissions that a node of profile koii picks for itself (`validateAndVoteOnNodes` of `@_koii/namespace-wrapper`)."""


class AuditAssignment:
    """Auditors of every submission of one round, each computed when asked for: O(m * (m + log N)).

    The roster is laid out as one line on which every key owns a stretch as long as its weight. Draw j is
    `SHA-256(domain || beacon || author || j) mod length`, taken on the line with the stretches of the author
    and of those already drawn cut out: weighted sampling without replacement, in integers, with exactly
    `m` draws however the stake is spread. 256 bits against a length below 2**81 leave no measurable bias. One
    auditor finds what it is due for by drawing for every author: O(N * m), and each draw is proof enough.

    The draw depends on the author, not on the submission's bytes. There is one submission per author and
    round, so it names the same thing; but the bytes are the author's choice, and one who hands in late
    (claiming an earlier slot, which reconciliation cannot disprove) has seen the beacon and could try
    values until the draw picks friends. Keys are fixed before the beacon is known. It also gives both
    halves of an equivocation to the same auditors.

    The committee of a full audit is the same draw, `COMMITTEE` draws longer.
    """

    def __init__(
        self, beacon: bytes, roster: Roster, rules: AuditRules, rates: Mapping[bytes, int] | None = None
    ) -> None:
        """`rates`: how often each author is audited, in basis points; the rules' audit rate for all others."""
        self.rules = rules
        self.roster = roster
        self._beacon = beacon
        self._keys = roster.keys
        self._position = {key: index for index, key in enumerate(self._keys)}
        self._ends = tuple(accumulate(roster.weight_of(key) for key in self._keys))
        self._rates = rates or {}
        self._all_choose = rules.profile is Profile.KOII
        # Among two numbers of others: of those who are in the roster, and of all other keys.
        self._auditors_among = lru_cache(maxsize=2)(rules.auditors_among)
        # Asked for again for every ballot entry. One entry per possible author is all there can be.
        self._draw_once = lru_cache(maxsize=MAX_ENTRIES)(self._first_draw)
        self._committee_once = lru_cache(maxsize=MAX_ENTRIES)(self._full_draw)

    def is_audited(self, author: bytes) -> bool:
        """Whether auditors are drawn for this author in this round; with an audit rate, not everybody's turn comes."""
        rate = self._rates.get(author, self.rules.audit_rate)
        if rate >= BASIS_POINTS:
            return True
        seed = sha256(_AUDITED + self._beacon + author).digest()
        return int.from_bytes(seed, "big") % BASIS_POINTS < rate

    def auditors_of(self, author: bytes) -> tuple[bytes, ...]:
        """Auditors due for the submission of `author` in the order drawn: `min(m, N - 1)` distinct others.

        With no more than `m` others everybody else is due, in key order. Empty when the author is alone or is not
        audited, and with profile koii, where nobody is due.
        """
        return self._draw_once(author)

    def committee_of(self, author: bytes) -> tuple[bytes, ...]:
        """Those who may vote in a full audit of `author`: the first auditors and `COMMITTEE` more, or all others.

        Empty with profile koii, which knows no full audit.
        """
        return self._committee_once(author)

    def is_due(self, auditor: bytes, author: bytes) -> bool:
        """Whether `auditor` is due to audit the submission of `author`."""
        return auditor in self._draw_once(author)

    def may_vote(self, auditor: bytes, author: bytes, stage: int) -> bool:
        """Whether a vote on `author` belongs into the ballot of this stage (0: those drawn, 1: a full audit)."""
        if self._all_choose or auditor not in self._position:
            return auditor != author and stage == 0
        return auditor in (self._committee_once(author) if stage else self._draw_once(author))

    def authors_for(self, auditor: bytes, authors: Iterable[bytes]) -> tuple[bytes, ...]:
        """Those of `authors` whose submission `auditor` is due to audit, sorted."""
        return tuple(sorted(author for author in set(authors) if self.is_due(auditor, author)))

    def sample_of(self, auditor: bytes, authors: Iterable[bytes], count: int = SAMPLE) -> tuple[bytes, ...]:
        """What an auditor whom nobody draws looks at: `count` of `authors`, sorted, less its own.

        With profile koii every node picks five, its own among them, and skips that (Koii draws with
        `Math.random()`; ours can be recomputed). Witnesses without stake choose in the same way.
        """
        ranked = sorted(
            set(authors), key=lambda author: sha256(_SAMPLE + self._beacon + auditor + author).digest()
        )
        return tuple(sorted(author for author in ranked[:count] if author != auditor))

    def seated(self, witnesses: Iterable[bytes]) -> tuple[bytes, ...]:
        """Those of these keys without stake that get one of the task's witness seats, sorted; a draw, if too many."""
        ranked = sorted(witnesses, key=lambda key: sha256(_SEAT + self._beacon + key).digest())
        return tuple(sorted(ranked[: self.rules.witness_seats]))

    def _first_draw(self, author: bytes) -> tuple[bytes, ...]:
        if self.rules.profile is Profile.KOII or not self.is_audited(author):
            return ()
        return self._draw(author, self._auditors_among(self._others(author)))

    def _full_draw(self, author: bytes) -> tuple[bytes, ...]:
        if self.rules.profile is Profile.KOII:
            return ()
        others = self._others(author)
        return self._draw(author, min(self._auditors_among(others) + COMMITTEE, others))

    def _others(self, author: bytes) -> int:
        return len(self._keys) - (author in self._position)

    def _draw(self, author: bytes, count: int) -> tuple[bytes, ...]:
        if self._others(author) <= count:
            return tuple(key for key in self._keys if key != author)
        taken = [self._position[author]] if author in self._position else []
        length = self._ends[-1] - sum(self._weight(index) for index in taken)
        drawn: list[bytes] = []
        while len(drawn) < count:
            index = self._pick(author, len(drawn), taken, length)
            insort(taken, index)
            length -= self._weight(index)
            drawn.append(self._keys[index])
        return tuple(drawn)

    def _pick(self, author: bytes, draw: int, taken: list[int], length: int) -> int:
        seed = _AUDITOR + self._beacon + author + draw.to_bytes(4, "little")
        number = int.from_bytes(sha256(seed).digest(), "big")
        if length == 0:
            # Nobody left has any weight: equal chances.
            free = [index for index in range(len(self._keys)) if index not in taken]
            return free[number % len(free)]
        point = number % length
        for index in taken:
            if point < self._ends[index] - self._weight(index):
                break
            point += self._weight(index)
        return bisect_right(self._ends, point)

    def _weight(self, index: int) -> int:
        return self._ends[index] - (self._ends[index - 1] if index else 0)
