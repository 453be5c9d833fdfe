"""Values by key: what may be stored is for the rules of the key's namespace, how much is for the bounds.

Source: libp2p specifications, kad-dht, "Entry validation" and "Value storage and retrieval".
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from koii_p2p.kademlia.keyspace import place
from koii_p2p.kademlia.parameters import KademliaParameters
from koii_p2p.kademlia.refusals import Refusal, Refused


class ValueRules(Protocol):
    """Who may write what under the keys of a namespace. Pure: the same arguments, the same answer."""

    def validate(self, key: bytes, value: bytes) -> bool:
        """Say whether a value may stand under a key. It is called with whatever strangers send and must not raise."""

    def select(self, key: bytes, values: Sequence[bytes]) -> int:
        """Return the index of the best of valid values, the same whatever their order is."""


def namespace(key: bytes) -> str:
    """Return the namespace of a key: `koii` for `/koii/...`, and nothing for a key of another form."""
    parts = key.split(b"/", 2)
    return parts[1].decode("ascii", "replace") if len(parts) == 3 and not parts[0] else ""


@dataclass(slots=True)
class _Held:
    value: bytes
    writer: bytes
    expires: int
    heard: int
    """When somebody, or we, last stored it here or among those nearest."""


class Values:
    """The values a node holds for others."""

    def __init__(
        self,
        own: bytes,
        parameters: KademliaParameters,
        rules: Mapping[str, ValueRules],
        refused: Counter[Refusal],
    ) -> None:
        self._place = place(own)
        self._parameters = parameters
        self._bounds = parameters.bounds
        self._rules = rules
        self._refused = refused
        self._held: dict[bytes, _Held] = {}
        self._by_writer: Counter[bytes] = Counter()
        self._size = 0

    def __len__(self) -> int:
        return len(self._held)

    @property
    def size(self) -> int:
        """Bytes of all values and keys."""
        return self._size

    def check(self, key: bytes, value: bytes) -> ValueRules:
        """Return the rules of a value that may stand under its key. Raises `Refused`."""
        rules = self._rules.get(namespace(key))
        if rules is None:
            raise Refused(Refusal.NAMESPACE)
        if len(value) > self._bounds.value_bytes:
            raise Refused(Refusal.VALUE_SIZE)
        if not rules.validate(key, value):
            raise Refused(Refusal.INVALID_VALUE)
        return rules

    def put(self, key: bytes, value: bytes, writer: bytes, life: int, now: int) -> None:
        """Store a value for at most `life` milliseconds (0: not said) and the node's own bound. Raises `Refused`.

        A value known already may get a longer life this way, as its author may want; a newer one takes its place.
        """
        rules = self.check(key, value)
        expires = now + min(life or self._parameters.value_life, self._parameters.value_life)
        known = self._held.get(key)
        if known is not None and known.expires > now:
            if known.value == value:
                known.heard, known.expires = now, max(known.expires, expires)
                return
            if rules.select(key, (known.value, value)) == 0:
                raise Refused(Refusal.OLDER_VALUE)
        if self._by_writer[writer] >= self._bounds.values_per_peer and (
            known is None or known.writer != writer
        ):
            raise Refused(Refusal.VALUES_PER_PEER)
        if known is not None:
            self._drop(key)
        self._make_room(key, len(key) + len(value), now)
        self._held[key] = _Held(value, writer, expires, now)
        self._by_writer[writer] += 1
        self._size += len(key) + len(value)

    def get(self, key: bytes, now: int) -> tuple[bytes, int] | None:
        """Return a value and how many milliseconds it has left."""
        held = self._held.get(key)
        return None if held is None or held.expires <= now else (held.value, held.expires - now)

    def expire(self, now: int) -> None:
        """Forget what is too old."""
        for key in [key for key, held in self._held.items() if held.expires <= now]:
            self._drop(key)

    def due(self, now: int) -> list[bytes]:
        """Return the keys of values that nobody stored for so long that those nearest to them may be others now."""
        repeat = self._parameters.repeat_held
        return [key for key, held in self._held.items() if now - held.heard >= repeat and held.expires > now]

    def repeated(self, key: bytes, now: int) -> None:
        """Note that we gave a value to those nearest."""
        if (held := self._held.get(key)) is not None:
            held.heard = now

    def _make_room(self, key: bytes, size: int, now: int) -> None:
        """Drop expired values, then the farthest ones, as long as they are farther than the new one."""
        if self._fits(size):
            return
        self.expire(now)
        while not self._fits(size):
            farthest = max(self._held, key=lambda one: place(one) ^ self._place)
            if place(farthest) ^ self._place <= place(key) ^ self._place:
                raise Refused(Refusal.VALUES_FULL)
            self._drop(farthest)
            self._refused[Refusal.VALUE_EVICTED] += 1

    def _fits(self, size: int) -> bool:
        return len(self._held) < self._bounds.values and self._size + size <= self._bounds.values_size

    def _drop(self, key: bytes) -> None:
        held = self._held.pop(key)
        self._size -= len(key) + len(held.value)
        self._by_writer[held.writer] -= 1
        if not self._by_writer[held.writer]:
            del self._by_writer[held.writer]


class ValueSearch:
    """What the answers to one GET_VALUE come to: the best valid value, and who should be told of it."""

    def __init__(self, key: bytes, store: Values, quorum: int) -> None:
        self._key = key
        self._store = store
        self._quorum = quorum
        self._answers: dict[bytes, bytes] = {}
        self.best: bytes | None = None

    def take(self, peer: bytes, value: bytes) -> None:
        """Take the value of a peer, or our own. Raises `Refused` for one that is not valid."""
        rules = self._store.check(self._key, value)
        self._answers[peer] = value
        if self.best is None or (self.best != value and rules.select(self._key, (self.best, value)) == 1):
            self.best = value

    @property
    def enough(self) -> bool:
        """Whether so many peers had a valid value that the search may end."""
        return len(self._answers) >= self._quorum

    def outdated(self) -> list[bytes]:
        """Return which peers have a valid value that is not the best."""
        return [peer for peer, value in self._answers.items() if value != self.best]

    def behind(self, peers: Sequence[bytes]) -> list[bytes]:
        """Return which of these peers do not have the best value."""
        return [peer for peer in peers if self._answers.get(peer) != self.best]
