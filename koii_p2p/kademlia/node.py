"""`KademliaNode`: one node of the DHT. It answers requests, and knows whom to begin a search with and what is due.

It owns no clock, no randomness and no I/O. Times are whole milliseconds of any clock that does not go back. Peers are
named by the bytes of their peer ids. The driver hands over requests (`answer`), says which peers served it or failed
(`table`), and runs the searches (`lookup`) by asking whom they name.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from koii_p2p.kademlia import wire
from koii_p2p.kademlia.keyspace import place, random_key
from koii_p2p.kademlia.lookup import Lookup
from koii_p2p.kademlia.parameters import KademliaParameters
from koii_p2p.kademlia.providers import Providers
from koii_p2p.kademlia.random_source import RandomSource
from koii_p2p.kademlia.refusals import Refusal, Refused
from koii_p2p.kademlia.statistics import KademliaStatistics
from koii_p2p.kademlia.table import RoutingTable
from koii_p2p.kademlia.values import ValueRules, Values, ValueSearch
from koii_p2p.kademlia.wire import Message, MessageType, Peer, Record

#: `describe(peer)`: the peer with the addresses we know of it, which may be none.
Describe = Callable[[bytes], Peer]
#: `believe(addresses)`: those of them that may be true.
Believe = Callable[[Iterable[bytes]], tuple[bytes, ...]]


@dataclass(slots=True)
class _Own:
    """Something of ours that is stored among others; a key that we provide has no value."""

    value: bytes
    stored: bytes | None = None
    """What is stored there, as far as we know."""
    due: int = 0
    """When it is stored again although it is the same."""
    stored_at: int = 0


class KademliaNode:
    """A node with the peer id `own`. Not thread-safe."""

    def __init__(
        self, own: bytes, parameters: KademliaParameters, random_source: RandomSource, describe: Describe
    ) -> None:
        self.own = own
        self.parameters = parameters
        self.refused: Counter[Refusal] = Counter()
        self.table = RoutingTable(own, parameters, self.refused)
        self._rules: dict[str, ValueRules] = {}
        self.values = Values(own, parameters, self._rules, self.refused)
        self.providers = Providers(parameters)
        self._random = random_source
        self._describe = describe
        self._own_values: dict[bytes, _Own] = {}
        self._own_keys: dict[bytes, _Own] = {}
        self._served: Counter[str] = Counter()

    def add_namespace(self, name: str, rules: ValueRules) -> None:
        """Take values under `/name/...` by these rules. Raises `ValueError` when the namespace has rules already."""
        if name in self._rules:
            raise ValueError(f"The namespace {name!r} has rules already.")
        self._rules[name] = rules

    def has_namespace(self, name: str) -> bool:
        """Say whether values under `/name/...` are taken."""
        return name in self._rules

    # --- answering

    def answer(
        self, asker: bytes, data: bytes, now: int, received: str = "", believe: Believe = tuple
    ) -> bytes | None:
        """Answer a request; None for one that gets no answer (ADD_PROVIDER).

        `received` is the time to note on a value, as RFC 3339, `believe(addresses)` leaves out of the addresses that a
        provider says of itself those that it cannot have. Raises `Refused`, counted: its stream is reset then.
        """
        try:
            message = wire.decode(data, self.parameters.bounds)
            self._served[message.type.name.lower()] += 1
            if message.cut:
                self.refused[Refusal.CUT] += message.cut
            found = self._answer(asker, message, now, received, believe)
        except Refused as error:
            self.refused[error.refusal] += 1
            raise
        return None if found is None else wire.encode(found)

    def _answer(
        self, asker: bytes, message: Message, now: int, received: str, believe: Believe
    ) -> Message | None:
        kind, key = message.type, message.key
        if kind is MessageType.PING:
            return Message(MessageType.PING)
        if not 0 < len(key) <= self.parameters.bounds.key_bytes:
            raise Refused(Refusal.KEY)
        if kind is MessageType.PUT_VALUE:
            record = message.record
            if record is None or record.key != key:
                raise Refused(Refusal.NO_RECORD)
            self.values.put(key, record.value, asker, 1000 * record.life, now)
            return Message(kind, key, record)
        if kind is MessageType.ADD_PROVIDER:
            for provider in message.providers:
                if provider.id == asker:
                    self.providers.add(key, Peer(provider.id, believe(provider.addresses)), now)
                else:
                    self.refused[Refusal.FOREIGN_PROVIDER] += 1
            return None
        closer = self._closer(asker, key)
        if kind is MessageType.FIND_NODE:
            return Message(kind, key, closer=closer)
        if kind is MessageType.GET_PROVIDERS:
            return Message(kind, key, closer=closer, providers=self.providers_of(key, now))
        held = self.values.get(key, now)
        record = None if held is None else Record(key, held[0], received, max(1, held[1] // 1000))
        return Message(kind, key, record, closer)

    def _closer(self, asker: bytes, key: bytes) -> tuple[Peer, ...]:
        """Return the nearest peers that can be dialled, after the very peer looked for, even if it serves nobody."""
        nearest = self.table.closest(place(key), self.parameters.bucket_size, without=asker)
        wanted = [key] if key not in nearest and key not in (asker, self.own) else []
        return tuple([peer for one in (*wanted, *nearest) if (peer := self._describe(one)).addresses])

    def providers_of(self, key: bytes, now: int) -> tuple[Peer, ...]:
        """Return the providers of a key that we know of, ourselves among them if we are one."""
        ourselves = [self._describe(self.own)] if key in self._own_keys else []
        return tuple([*ourselves, *self.providers.of(key, now)][: self.parameters.bounds.providers])

    # --- asking

    def lookup(self, key: bytes, now: int) -> Lookup:
        """Begin a search for the peers nearest to a key."""
        target = place(key)
        self.table.looked_up(target, now)
        seeds = self.table.closest(target, self.parameters.bucket_size)
        return Lookup(self.own, target, seeds, self.parameters, self.refused)

    def value_search(self, key: bytes, now: int) -> ValueSearch:
        """Begin to collect what peers hold under a key, with what we hold as one of the answers."""
        search = ValueSearch(key, self.values, self.parameters.quorum)
        held = self.values.get(key, now)
        if held is not None:
            search.take(self.own, held[0])
        return search

    def read_answer(self, question: Message, data: bytes) -> Message:
        """Read the answer to a question of ours. Raises `Refused`, counted, when it is none."""
        try:
            message = wire.decode(data, self.parameters.bounds)
        except Refused as error:
            self.refused[error.refusal] += 1
            raise
        if message.type is not question.type or (
            message.record is not None and message.record.key != question.key
        ):
            self.refused[Refusal.BAD_ANSWER] += 1
            raise Refused(Refusal.BAD_ANSWER)
        if message.cut:
            self.refused[Refusal.CUT] += message.cut
        return message

    # --- what is ours, and upkeep

    def own_value(self, key: bytes, value: bytes) -> None:
        """Take up a value to be stored among others again and again. Raises `Refused` for one its namespace refuses."""
        self.values.check(key, value)
        own = self._own_values.setdefault(key, _Own(value))
        own.value = value

    def own_key(self, key: bytes) -> None:
        """Take up a key that we provide. Raises `Refused` when there are too many."""
        if key not in self._own_keys and len(self._own_keys) >= self.parameters.bounds.own_keys:
            self.refused[Refusal.PROVIDED_FULL] += 1
            raise Refused(Refusal.PROVIDED_FULL)
        self._own_keys.setdefault(key, _Own(b""))

    def disown_key(self, key: bytes) -> None:
        """Provide a key no longer; what others know of it they forget in time."""
        self._own_keys.pop(key, None)

    def stored(self, key: bytes, peers: int, now: int) -> None:
        """Note that a key or value of ours was given to so many peers. With few it is tried again sooner."""
        parameters = self.parameters
        wait = parameters.renew if peers else parameters.retry
        if peers >= parameters.bucket_size:
            wait = parameters.repeat_own
        for own in (self._own_values.get(key), self._own_keys.get(key)):
            if own is not None:
                own.stored, own.stored_at, own.due = own.value, now, now + wait

    def due_keys(self, now: int) -> list[bytes]:
        """Return the keys of ours that have to be provided again."""
        return [key for key, own in self._own_keys.items() if self._is_due(own, now)]

    def due_values(self, now: int) -> list[tuple[bytes, bytes, int]]:
        """Return what has to be stored again as (key, value, milliseconds it has left).

        Values of ours get their full life; those we hold for others, which are counted as stored, what is left of it.
        """
        life = self.parameters.value_life
        found = [(key, own.value, life) for key, own in self._own_values.items() if self._is_due(own, now)]
        for key in self.values.due(now):
            self.values.repeated(key, now)
            held = self.values.get(key, now)
            if held is not None and key not in self._own_values:
                found.append((key, *held))
        return found

    def _is_due(self, own: _Own, now: int) -> bool:
        if own.stored is None or own.due <= now:
            return True
        return own.stored != own.value and now - own.stored_at >= self.parameters.renew

    def refresh_keys(self, now: int, most: int) -> list[bytes]:
        """Return up to `most` keys whose search brings the table up to date: ours, and one of each stale bucket."""
        stale = self.table.stale(now, self.parameters.refresh)
        self._random.shuffle(stale)
        return [self.own] + [
            random_key(place(self.own), bucket, self._random) for bucket in stale[: most - 1]
        ]

    def expire(self, now: int) -> None:
        """Forget values and providers that are too old."""
        self.values.expire(now)
        self.providers.expire(now)

    def statistics(self) -> KademliaStatistics:
        """Return the numbers."""
        return KademliaStatistics(
            table=len(self.table),
            waiting=self.table.waiting,
            buckets=self.table.sizes(),
            values=len(self.values),
            values_bytes=self.values.size,
            provided_keys=self.providers.keys,
            providers=len(self.providers),
            own_values=len(self._own_values),
            own_keys=len(self._own_keys),
            served=dict(self._served),
            refused=dict(self.refused),
        )
