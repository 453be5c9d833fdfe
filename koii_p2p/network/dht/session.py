"""One run of the DHT: who is asked whether it serves, whether we serve, walks, and storing again what is due."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial

import structlog
import trio

from koii_p2p.kademlia.node import KademliaNode
from koii_p2p.kademlia.refusals import Refusal, Refused
from koii_p2p.kademlia.wire import Message, MessageType, Peer, Record
from koii_p2p.limits import Limits
from koii_p2p.network.containment import Guard
from koii_p2p.network.dht.addresses import Scope, believable, encoded, scope_of
from koii_p2p.network.dht.asking import Asking, milliseconds, scope_of_link
from koii_p2p.network.dht.links import DhtNetwork
from koii_p2p.network.dht.streams import PROTOCOL, Answers
from koii_p2p.network.identity import key_of_peer_id, peer_id_bytes
from koii_p2p.network.settings import DhtMode, is_relayed
from koii_p2p.network.streams import LinkDown, LinkEvent, LinkUp, StreamFailed

log = structlog.get_logger(__name__)

TICK_SECONDS = 1.0
ADDRESS_SECONDS = 5.0
"""So long what was found out about our own addresses is good."""
EXPIRE_SECONDS = 60.0
FIRST_PAUSE_SECONDS = 0.5
"""A peer that does not serve the DHT is asked again after so long, then after twice as long, and so on."""
WORTHLESS = frozenset({Refusal.MALFORMED, Refusal.INVALID_VALUE, Refusal.UNKNOWN_TYPE})
"""What nobody honest sends."""


class DhtSession:
    """The DHT of a node while its network runs."""

    def __init__(
        self,
        node: KademliaNode,
        network: DhtNetwork,
        mode: DhtMode,
        wanted: int,
        limits: Limits,
        guard: Guard,
        jitter: Callable[[], float],
        nursery: trio.Nursery,
    ) -> None:
        """`wanted` is the number of peers that the node wants to be linked with, `jitter()` a random number below 1."""
        self._node = node
        self._network = network
        self._mode = mode
        self._wanted = wanted
        self._limits = limits
        self._guard = guard
        self._jitter = jitter
        self._nursery = nursery
        self.links: dict[bytes, LinkUp] = {}
        self._attending: dict[bytes, trio.CancelScope] = {}
        self._answers = Answers(self._answer, limits, self._misbehaved)
        self.asking = Asking(node, network, self.links, guard, limits, nursery)
        self.serving = False
        self._own: tuple[str, ...] = ()
        self._own_until = -math.inf

    def begin(self) -> None:
        """Start what goes on by itself, before the first link."""
        self._take_role()
        self._nursery.start_soon(self._repeat, TICK_SECONDS, self._tidy)
        self._nursery.start_soon(self._repeat, TICK_SECONDS, self._store_due)
        self._nursery.start_soon(self._repeat, EXPIRE_SECONDS, self._expire)
        self._nursery.start_soon(self._walk)

    async def _repeat(self, seconds: float, action: Callable[[], Awaitable[None]]) -> None:
        while True:
            await trio.sleep(seconds)
            with self._guard.contain("dht_upkeep"):
                await action()

    # links, and our role

    def link_changed(self, event: LinkEvent) -> None:
        """Take note that a peer came or went."""
        if isinstance(event, LinkDown):
            self.links.pop(event.key, None)
            self._answers.forget(event.key)
            self.asking.questions.forget(event.key)
            self.asking.visits.gone(event.key)
            if (scope := self._attending.pop(event.key, None)) is not None:
                scope.cancel()
        else:
            self.links[event.key] = event
            self._take_role()
            scope = self._attending[event.key] = trio.CancelScope()
            self._nursery.start_soon(self._attend, event.key, scope)

    async def _attend(self, key: bytes, scope: trio.CancelScope) -> None:
        """Find out whether a linked peer serves the DHT, again and again: it may come to know that it can."""
        pause = FIRST_PAUSE_SECONDS
        peer = peer_id_bytes(key)
        question = Message(MessageType.FIND_NODE, self._node.own)
        with scope:
            while True:
                if peer not in self._node.table:
                    with self._guard.contain("dht_probe"), suppress(StreamFailed, Refused):
                        await self.asking.one(key, question)
                    pause = min(2 * pause, self._limits.dht_refresh_seconds)
                await trio.sleep(pause)

    def _take_role(self) -> None:
        """Serve others if they can reach us: begin and end it as the facts change."""
        serves = self._mode == "server" or (self._mode == "auto" and self._reachable())
        if serves != self.serving:
            self.serving = serves
            if serves:
                self._network.serve(PROTOCOL, self._answers.serve)
            else:
                self._network.withdraw(PROTOCOL)
            log.info("dht_role", server=serves)

    def _reachable(self) -> bool:
        """Whether those we are linked with could dial us: one has, from as far away, or we listen where they are.

        Who can be reached through a relay only does not serve: it would cost the relay more than it is worth.
        """
        direct = [link for link in self.links.values() if not link.address.startswith("/p2p/")]
        texts = [text.rpartition("/p2p/")[0] for text in self._own_texts() if not is_relayed(text)]
        ours = [scope_of(address) for address in map(encoded, texts) if address]
        ours += [scope_of_link(link) for link in direct if not link.outgoing]
        needed = max(map(scope_of_link, self.links.values()), default=Scope.WORLD)
        return max(ours, default=-1) >= needed

    def _own_texts(self) -> tuple[str, ...]:
        """Where we can be dialled; it is dear to find out, and asked for with every answer."""
        now = trio.current_time()
        if now >= self._own_until or not self._own:
            self._own, self._own_until = self._network.own_addresses(), now + ADDRESS_SECONDS
        return self._own

    def own_addresses(self) -> tuple[bytes, ...]:
        """Return where we can be dialled, in binary, as of a few seconds ago."""
        found = [encoded(text.rpartition("/p2p/")[0]) for text in self._own_texts()]
        return tuple([one for one in found if one][: self._node.parameters.bounds.addresses])

    def addresses_of(self, peer: bytes) -> tuple[bytes, ...]:
        """Return where a peer can be dialled, in binary, as far as known."""
        if peer == self._node.own:
            return self.own_addresses()
        try:
            texts = self._network.addresses_of(key_of_peer_id(peer))
        except ValueError:
            return ()
        found = [encoded(text) for text in texts]
        return tuple([one for one in found if one][: self._node.parameters.bounds.addresses])

    def learn(self, key: bytes, addresses: tuple[str, ...]) -> None:
        """Hear where a peer may be dialled."""
        if addresses:
            self._network.learn(key, addresses)

    def linked(self, peer: bytes) -> bool:
        """Whether we are connected with a peer, named by its peer id."""
        try:
            return key_of_peer_id(peer) in self.links
        except ValueError:
            return False

    # upkeep

    async def _tidy(self) -> None:
        self._take_role()
        self.asking.visits.close_idle(len(self.links), self._wanted)
        self.note_addresses()
        await self.asking.questions.close_idle()

    def note_addresses(self) -> None:
        """Take the addresses of peers that dialled us from what they told by identify, once it is there."""
        for key, link in self.links.items():
            if not self._network.addresses_of(key):
                via = scope_of_link(link)
                told = [one for one in self._network.recorded(key) if scope_of(encoded(one)) >= via]
                self.learn(key, tuple(told))

    async def _expire(self) -> None:
        self._node.expire(milliseconds())

    async def _store_due(self) -> None:
        """Store again what is due."""
        if not len(self._node.table):
            return
        now = milliseconds()
        jobs: list[Callable[[], Awaitable[object]]] = [
            partial(self.announce, key) for key in self._node.due_keys(now)
        ]
        jobs += [partial(self.store, key, value, life) for key, value, life in self._node.due_values(now)]
        left = iter(jobs)

        async def work() -> None:
            for job in left:
                with self._guard.contain("dht_repeat"):
                    await job()

        async with trio.open_nursery() as nursery:
            for _ in range(self._limits.dht_upkeep_at_once):
                nursery.start_soon(work)

    async def _walk(self) -> None:
        """Look up ourselves and random places, so that the table is full of live peers; often at first."""
        pause = self._limits.dht_first_walk_seconds
        await self.asking.somebody.wait()
        while True:
            # At random, for nodes that were started together would otherwise all dial each other at once.
            await trio.sleep(pause * self._jitter())
            with self._guard.contain("dht_walk"):
                for key in self._node.refresh_keys(milliseconds(), self._limits.dht_walk_searches):
                    await self.asking.nearest(key, self.ends())
            pause = min(2 * pause, self._limits.dht_refresh_seconds)

    # storing

    def ends(self, deadline: float | None = None) -> float:
        """Return when something that begins now has to end."""
        return trio.current_time() + (self._limits.dht_deadline if deadline is None else deadline)

    async def announce(self, key: bytes) -> int:
        """Tell those nearest to a key that we provide it; return how many. Without any it stays due."""
        if not len(self._node.table):
            return 0
        self._node.stored(key, 0, milliseconds())  # so that the upkeep does not begin it again meanwhile
        ends = self.ends()
        nearest = await self.asking.nearest(key, ends)
        ourselves = Peer(self._node.own, self.own_addresses())
        told = await self.asking.several(
            nearest, Message(MessageType.ADD_PROVIDER, key, providers=(ourselves,)), ends
        )
        self._node.stored(key, told, milliseconds())
        return told

    async def store(self, key: bytes, value: bytes, life: int, deadline: float | None = None) -> int:
        """Store a value for `life` milliseconds at those nearest to its key; return how many have taken it.

        Without any it stays due.
        """
        if not len(self._node.table):
            return 0
        self._node.stored(key, 0, milliseconds())
        ends = self.ends(deadline)
        nearest = await self.asking.nearest(key, ends)
        taken = await self.asking.several(nearest, put_message(key, value, life), ends)
        self._node.stored(key, taken, milliseconds())
        return taken

    def store_soon(self, keys: list[bytes], message: Message) -> None:
        """Send a value to peers that should have it, without waiting for them."""
        if keys:
            self._nursery.start_soon(self._several, keys, message)

    async def _several(self, keys: list[bytes], message: Message) -> None:
        with self._guard.contain("dht_store"):
            await self.asking.several(keys, message, self.ends())

    # what others may ask

    def _answer(self, asker: bytes, request: bytes) -> bytes | None:
        if not self.serving:
            raise Refused(Refusal.NOT_SERVING)
        try:
            believe = partial(believable, via=self.asking.scope_of_peer(asker))
            return self._node.answer(peer_id_bytes(asker), request, milliseconds(), stamp(), believe)
        except Refused as error:
            if error.refusal in WORTHLESS:
                self._misbehaved(asker, error.refusal.value)
            raise

    def _misbehaved(self, key: bytes, what: str) -> None:
        self._guard.count("dht", what)
        self._network.misbehaved(key, f"dht {what}")


def put_message(key: bytes, value: bytes, life: int) -> Message:
    """Return a request to store a value; `life` in milliseconds, 0 for the longest the other allows."""
    seconds = max(1, life // 1000) if life else 0
    return Message(MessageType.PUT_VALUE, key, Record(key, value, stamp(), seconds))


def stamp() -> str:
    """Return the time of day as RFC 3339 in UTC, for other implementations, which show it; nothing here needs it."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
