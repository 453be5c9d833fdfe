"""One search for the peers nearest to a place, as a state machine: whom to ask now, and when it is over.

It runs on several paths that are disjoint: each peer is asked on one path, and what it names is followed on that path
only, so a liar that one path has met cannot lead the others astray. A path is over when the nearest peers it knows of
have all answered, on whatever path; the search is when all paths are.

Source: Maymounkov and Mazieres, Kademlia, section 2.3; Baumgart and Mies, S/Kademlia, section 4.4.
"""

from __future__ import annotations

from bisect import insort
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import Enum, auto

from koii_p2p.kademlia.keyspace import place
from koii_p2p.kademlia.parameters import KademliaParameters
from koii_p2p.kademlia.refusals import Refusal


class _State(Enum):
    NAMED = auto()
    ASKED = auto()
    ANSWERED = auto()
    FAILED = auto()


@dataclass(frozen=True, slots=True)
class Named:
    """A peer as somebody names it; `group` is what peers of its network share, None where many share one rightly."""

    peer: bytes
    group: bytes | str | None = None


@dataclass(slots=True, eq=False)
class _Candidate:
    peer: bytes
    group: bytes | str | None
    distance: int
    state: _State = _State.NAMED
    path: int = -1
    asked_at: int = 0
    informants: list[bytes] = field(default_factory=list)

    def __lt__(self, other: _Candidate) -> bool:
        return self.distance < other.distance


@dataclass(slots=True)
class _Word:
    """What became of the peers that somebody named: how many have answered, and how many were asked and have not."""

    good: int = 0
    vain: int = 0


class Lookup:
    """A search from `seeds`, peers that are believed to answer. Times are milliseconds of one clock.

    The driver asks whom `ask` returns, and tells by `answered` or `failed` what came of it.
    """

    def __init__(
        self,
        own: bytes,
        target: int,
        seeds: Iterable[bytes],
        parameters: KademliaParameters,
        refused: Counter[Refusal] | None = None,
    ) -> None:
        self.target = target
        self._own = own
        self._parameters = parameters
        self._refused: Counter[Refusal] = Counter() if refused is None else refused
        self._candidates: dict[bytes, _Candidate] = {}
        self._words: dict[bytes, _Word] = {}
        self._groups: Counter[bytes | str] = Counter()
        self._asked = self._answered = 0
        ordered = sorted({seed for seed in seeds if seed != own}, key=lambda peer: place(peer) ^ target)
        # With fewer seeds than paths, a path would have nobody to begin with.
        self._paths: list[list[_Candidate]] = [[] for _ in range(max(1, min(parameters.paths, len(ordered))))]
        self._width = max(1, parameters.parallel // len(self._paths))
        for number, seed in enumerate(ordered):
            self._know(number % len(self._paths), Named(seed), b"")

    def ask(self, now: int) -> list[bytes]:
        """Return whom to ask now; each is to be followed by `answered` or `failed`."""
        chosen: list[bytes] = []
        waits = [
            one
            for one in self._candidates.values()
            if one.state is _State.ASKED and now - one.asked_at < self._parameters.hedge
        ]
        in_flight = Counter(one.path for one in waits)
        for number, path in enumerate(self._paths):
            free = self._width - in_flight[number]
            for candidate in self._window(path, now):
                if free <= 0 or self._asked >= self._parameters.bounds.asked:
                    break
                if candidate.state is _State.NAMED:
                    candidate.state, candidate.path, candidate.asked_at = _State.ASKED, number, now
                    if candidate.group is not None:
                        self._groups[candidate.group] += 1
                    for informant in candidate.informants:
                        self._words[informant].vain += 1  # until it answers
                    self._asked += 1
                    free -= 1
                    chosen.append(candidate.peer)
        return chosen

    def answered(self, peer: bytes, closer: Iterable[Named], now: int) -> None:
        """Take the answer of a peer that was asked. What it names beyond the nearest k is not looked at."""
        candidate = self._settle(peer, _State.ANSWERED)
        if candidate is None:
            return
        self._answered += 1
        for informant in candidate.informants:
            self._words[informant].good += 1
            self._words[informant].vain -= 1
        others: dict[bytes, Named] = {}
        for one in closer:
            if one.peer == self._own:
                self._refused[Refusal.OWN_ID] += 1
            elif one.peer != peer:
                others[one.peer] = one
        nearest = sorted(others.values(), key=lambda one: place(one.peer) ^ self.target)
        for one in nearest[: self._parameters.bucket_size]:
            self._know(candidate.path, one, peer)

    def failed(self, peer: bytes) -> None:
        """Note that a peer that was asked did not answer, or answered nonsense."""
        self._settle(peer, _State.FAILED)

    def over(self, now: int) -> bool:
        """Say whether the nearest peers known have answered: there is nobody to ask and nobody to wait for."""
        out_of_asks = self._asked >= self._parameters.bounds.asked
        return not any(
            candidate.state is _State.ASKED or (candidate.state is _State.NAMED and not out_of_asks)
            for path in self._paths
            for candidate in self._window(path, now)
        )

    def wake_at(self, now: int) -> int | None:
        """Return when `ask` may have somebody new though nothing has come: when an answer is overdue."""
        hedge = self._parameters.hedge
        return min(
            (
                one.asked_at + hedge
                for one in self._candidates.values()
                if one.state is _State.ASKED and one.asked_at + hedge > now
            ),
            default=None,
        )

    def closest(self, count: int) -> list[bytes]:
        """Return the nearest peers that have answered, the nearest first."""
        answered = [one for one in self._candidates.values() if one.state is _State.ANSWERED]
        return [one.peer for one in sorted(answered)[:count]]

    @property
    def asked(self) -> int:
        """How many were asked."""
        return self._asked

    def _window(self, path: list[_Candidate], now: int) -> list[_Candidate]:
        """Return the nearest k of a path that count: failed ones do not, late ones only while too few have answered.

        Who is late may still answer; meanwhile the next one is asked, and it is not waited for if k others answered.
        """
        size, hedge = self._parameters.bucket_size, self._parameters.hedge
        window: list[_Candidate] = []
        late: list[_Candidate] = []
        for candidate in path:
            if candidate.state is _State.FAILED:
                continue
            if candidate.state is _State.NAMED and not self._worth_asking(candidate):
                continue
            if candidate.state is _State.ASKED and now - candidate.asked_at >= hedge:
                late.append(candidate)
                continue
            window.append(candidate)
            if len(window) == size:
                return window
        return window if self._answered >= size else window + late

    def _worth_asking(self, candidate: _Candidate) -> bool:
        """Say whether somebody whose word is good named it, and not too many of its address group were asked."""
        if candidate.group is not None and self._groups[candidate.group] >= self._parameters.bucket_size // 2:
            return False
        return not candidate.informants or any(self._believed(one) for one in candidate.informants)

    def _believed(self, informant: bytes) -> bool:
        """Say whether to follow who named peers that do not answer: not unless others it named do."""
        word = self._words[informant]
        return word.vain < self._parameters.bounds.named_in_vain or word.vain <= 2 * word.good

    def _know(self, path: int, named: Named, informant: bytes) -> None:
        candidate = self._candidates.get(named.peer)
        if candidate is None:
            if len(self._candidates) >= self._parameters.bounds.candidates:
                self._refused[Refusal.NOT_CLOSER] += 1
                return
            candidate = _Candidate(named.peer, named.group, place(named.peer) ^ self.target)
            self._candidates[named.peer] = candidate
        if informant and informant not in candidate.informants:
            word = self._words.setdefault(informant, _Word())
            candidate.informants.append(informant)
            if candidate.state is _State.ANSWERED:
                word.good += 1
            elif candidate.state is not _State.NAMED:
                word.vain += 1
        known = self._paths[path]
        if not any(one is candidate for one in known):
            insort(known, candidate)

    def _settle(self, peer: bytes, state: _State) -> _Candidate | None:
        candidate = self._candidates.get(peer)
        if candidate is None or candidate.state is not _State.ASKED:
            return None
        candidate.state = state
        return candidate
