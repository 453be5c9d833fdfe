"""The DHT of a node: find peers and providers, store and read values, over the links of its network.

Searches ask peers that are connected where they can and dial others, a bounded number at a time; connections made for a
search only are closed after a while (`links.py`). Whoever answers a question is a server and comes into the table;
nothing that a peer says of itself or of others puts anybody there.

Source: libp2p specifications, kad-dht. `docs/dht.md` has the rules.
"""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager, suppress
from dataclasses import replace

import trio

from koii_p2p.errors import NetworkError
from koii_p2p.kademlia.keyspace import content_key
from koii_p2p.kademlia.node import KademliaNode
from koii_p2p.kademlia.parameters import Bounds, KademliaParameters
from koii_p2p.kademlia.refusals import Refusal, Refused
from koii_p2p.kademlia.values import ValueRules
from koii_p2p.kademlia.wire import Message, MessageType, Peer
from koii_p2p.limits import Limits
from koii_p2p.network.containment import Guard
from koii_p2p.network.dht.addresses import Scope, believable, decoded
from koii_p2p.network.dht.asking import milliseconds
from koii_p2p.network.dht.links import DhtNetwork
from koii_p2p.network.dht.presence import NAMESPACE, presence_addresses, presence_key
from koii_p2p.network.dht.session import DhtSession, put_message
from koii_p2p.network.dht.statistics import DhtStatistics, merged
from koii_p2p.network.identity import key_of_peer_id, peer_id_bytes, peer_id_text
from koii_p2p.network.settings import DhtMode
from koii_p2p.network.streams import LinkEvent


def kademlia_parameters(limits: Limits) -> KademliaParameters:
    """Return the parameters of the DHT of a node."""
    return KademliaParameters(
        hedge=round(1000 * limits.dht_hedge_seconds),
        patience=round(1000 * limits.dht_ask_deadline),
        value_life=round(1000 * limits.dht_life_seconds),
        provider_life=round(1000 * limits.dht_life_seconds),
        repeat_own=round(1000 * limits.dht_repeat_seconds),
        repeat_held=round(1000 * limits.dht_replicate_seconds),
        refresh=round(1000 * limits.dht_refresh_seconds),
        bounds=Bounds(
            message_bytes=limits.dht_message_bytes,
            value_bytes=limits.dht_value_bytes,
            values=limits.dht_values,
            values_size=limits.dht_values_bytes,
            values_per_peer=limits.dht_values_per_peer,
            provided_keys=limits.dht_provided_keys,
            providers_per_key=limits.dht_providers_per_key,
            provider_records=limits.dht_provider_records,
            provided_per_peer=limits.dht_provided_per_peer,
            own_keys=limits.dht_own_keys,
        ),
    )


class Dht:
    """The DHT of a node. What it holds outlasts a stop of the network, and nothing outlasts the process.

    Everything that asks others raises `NetworkError` while the network does not run or the DHT is off.
    """

    def __init__(self, key: bytes, mode: DhtMode, wanted: int, limits: Limits, guard: Guard) -> None:
        """`wanted` is the number of peers that the node wants to be connected with."""
        self._mode = mode
        self._wanted = wanted
        self._limits = limits
        self._guard = guard
        self._random = random.Random()
        parameters = kademlia_parameters(limits)
        self._node = KademliaNode(peer_id_bytes(key), parameters, self._random, self._describe)
        self._session: DhtSession | None = None

    def add_namespace(self, name: str, rules: ValueRules) -> None:
        """Take values under `/name/...` by these rules. Raises `ValueError` when the namespace has rules already."""
        self._node.add_namespace(name, rules)

    @asynccontextmanager
    async def running(self, network: DhtNetwork) -> AsyncIterator[None]:
        """Take part for the length of the block."""
        if self._mode == "off":
            yield
            return
        async with trio.open_nursery() as nursery:
            self._session = DhtSession(
                self._node,
                network,
                self._mode,
                self._wanted,
                self._limits,
                self._guard,
                self._random.random,
                nursery,
            )
            self._session.begin()
            try:
                yield
            finally:
                self._session = None
                nursery.cancel_scope.cancel()

    def link_changed(self, event: LinkEvent) -> None:
        """Take note that a peer came or went."""
        if self._session is not None:
            self._session.link_changed(event)

    def _describe(self, peer: bytes) -> Peer:
        """A peer with its addresses, as far as known, in the form of messages."""
        session = self._session
        if session is None:
            return Peer(peer)
        return Peer(peer, session.addresses_of(peer), connection=int(session.linked(peer)))

    def _running(self) -> DhtSession:
        if self._session is None:
            off = self._mode == "off"
            raise NetworkError(
                what="Nobody was asked.",
                why="The DHT is switched off." if off else "The network does not run.",
                remedy="Switch it on in the settings of the network." if off else "Start the node first.",
            )
        return self._session

    # providers

    async def provide(self, key: bytes) -> None:
        """Tell those nearest to a key that we provide what it names, now and every few hours from now on.

        `key` is a CID or any bytes up to 256. While the network does not run, or without peers, it is told as soon as
        that has changed. Raises `Refused` for more keys than `Limits.dht_own_keys`, `NetworkError` with the DHT off.
        """
        if self._mode == "off":
            self._running()
        key = content_key(key)
        self._node.own_key(key)
        if self._session is not None:
            await self._session.announce(key)

    def stop_providing(self, key: bytes) -> None:
        """Provide a key no longer; those who were told forget it within `Limits.dht_life_seconds`."""
        self._node.disown_key(content_key(key))

    async def find_providers(self, key: bytes, *, count: int, deadline: float) -> tuple[bytes, ...]:
        """Return up to `count` different staking keys of others that say they provide what a key names, as found.

        `key` is a CID or any bytes up to 256, `deadline` in seconds. Where they can be dialled is in the address book
        then. None of them has proved anything: check what they bring.
        """
        session = self._running()
        key = content_key(key)
        found: dict[bytes, Peer] = {}

        def note(providers: Iterable[Peer], via: Scope) -> None:
            for one in providers:
                if one.id != self._node.own:
                    found.setdefault(one.id, replace(one, addresses=believable(one.addresses, via)))

        def take(peer: bytes, answer: Message) -> None:
            note(answer.providers, session.asking.scope_of_peer(key_of_peer_id(peer)))

        question = Message(MessageType.GET_PROVIDERS, key)
        note(self._node.providers_of(key, milliseconds()), Scope.MACHINE)
        if len(found) < count:
            await session.asking.search(question, session.ends(deadline), take, lambda: len(found) >= count)
        keys: list[bytes] = []
        for peer_id, provider in found.items():
            if len(keys) >= count:
                break
            with suppress(ValueError):  # no staker
                key_of_provider = key_of_peer_id(peer_id)
                session.learn(key_of_provider, tuple(filter(None, map(decoded, provider.addresses))))
                keys.append(key_of_provider)
        return tuple(keys)

    async def find_peer(self, key: bytes, *, deadline: float | None = None) -> tuple[str, ...]:
        """Return where the peer with a staking key can be dialled; empty if it was not found or did not answer there.

        It is dialled where others, or its own presence in the DHT, say that it is, and is connected when something is
        returned. `deadline` in seconds.
        """
        session = self._running()
        ends = session.ends(deadline)
        if key not in session.links and session.addresses_of(peer_id_bytes(key)):
            with trio.move_on_at(min(ends, session.ends(self._limits.dht_ask_deadline))):
                await session.asking.visits.reach(key, ())
        if key not in session.links:
            question = Message(MessageType.FIND_NODE, peer_id_bytes(key))
            await session.asking.search(question, ends, enough=lambda: key in session.links)
        if key not in session.links and trio.current_time() < ends and self._node.has_namespace(NAMESPACE):
            await self._reach_present(session, key, ends)
        session.note_addresses()
        if key not in session.links:
            return ()
        return tuple(map(decoded, session.addresses_of(peer_id_bytes(key))))

    async def _reach_present(self, session: DhtSession, key: bytes, ends: float) -> None:
        """Dial a peer where its own presence says that it is."""
        presence = await self.get(presence_key(key), deadline=ends - trio.current_time())
        if presence is not None:
            with trio.move_on_at(ends):
                await session.asking.visits.reach(key, presence_addresses(presence))

    # values

    async def put(self, key: bytes, value: bytes, *, deadline: float | None = None) -> int:
        """Store a value at those nearest to its key, now and every few hours; return how many have taken it.

        `deadline` in seconds. Raises `Refused` for a value that the rules of its namespace do not accept, or older
        than the one held here.
        """
        session = self._running()
        self._node.values.put(key, value, self._node.own, 0, milliseconds())
        self._node.own_value(key, value)
        return await session.store(key, value, 0, deadline)

    def keep(self, key: bytes, value: bytes) -> None:
        """Store a value soon and every few hours, and another one in its place not before ten minutes have passed.

        Raises `Refused` for a value that the rules of its namespace do not accept.
        """
        self._node.own_value(key, value)

    async def get(self, key: bytes, *, deadline: float | None = None) -> bytes | None:
        """Return the best valid value that peers hold under a key; None if none of them does.

        Several are asked although we hold one, and those with an older one are told. `deadline` in seconds.
        """
        session = self._running()
        search = self._node.value_search(key, milliseconds())

        def take(peer: bytes, answer: Message) -> None:
            if answer.record is not None:
                try:
                    search.take(peer, answer.record.value)
                except Refused:
                    self._node.refused[Refusal.BAD_VALUE] += 1
                    raise

        question = Message(MessageType.GET_VALUE, key)
        ends = session.ends(deadline)
        lookup = await session.asking.search(question, ends, take, lambda: search.enough)
        if search.best is not None:
            if self._node.own in search.outdated():
                self._node.values.put(key, search.best, self._node.own, 0, milliseconds())
            nearest = [] if search.enough else lookup.closest(self._node.parameters.bucket_size)
            behind = {*search.outdated(), *search.behind(nearest)} - {self._node.own}
            session.store_soon([key_of_peer_id(peer) for peer in behind], put_message(key, search.best, 0))
        return search.best

    # what is known

    def table(self) -> tuple[str, ...]:
        """Return the PeerIds in the routing table, sorted."""
        return tuple(sorted(peer_id_text(key_of_peer_id(peer)) for peer in self._node.table))

    def statistics(self) -> DhtStatistics:
        """Return the counters."""
        session = self._session
        return merged(
            self._node.statistics(),
            server=session is not None and session.serving,
            connections=0 if session is None else len(session.asking.visits),
            searches=0 if session is None else session.asking.searches,
            asked=0 if session is None else session.asking.asked,
            failed=() if session is None else tuple(sorted(session.asking.failed.items())),
        )
