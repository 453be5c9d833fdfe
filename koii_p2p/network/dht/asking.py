"""The DHT's questions: to one peer, to ever nearer ones until the nearest have answered, or to several side by side."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress

import trio

from koii_p2p.kademlia import wire
from koii_p2p.kademlia.lookup import Lookup, Named
from koii_p2p.kademlia.node import KademliaNode
from koii_p2p.kademlia.refusals import Refused
from koii_p2p.kademlia.wire import Message, MessageType, Peer
from koii_p2p.limits import Limits
from koii_p2p.network.containment import Guard
from koii_p2p.network.dht.addresses import Scope, believable, decoded, encoded, group_of, scope_of
from koii_p2p.network.dht.links import DhtNetwork, Visits
from koii_p2p.network.dht.streams import Questions
from koii_p2p.network.identity import key_of_peer_id, peer_id_bytes
from koii_p2p.network.streams import LinkUp, StreamFailed, StreamReason


class Asking:
    """Asks for a node. Whoever answers comes into its table, if there is a place, and who does not goes."""

    def __init__(
        self,
        node: KademliaNode,
        network: DhtNetwork,
        links: Mapping[bytes, LinkUp],
        guard: Guard,
        limits: Limits,
        nursery: trio.Nursery,
    ) -> None:
        """Questions that a search no longer waits for go on in `nursery`: to cut them off would cost the peer more."""
        self._node = node
        self._network = network
        self._links = links
        self._guard = guard
        self._limits = limits
        self._nursery = nursery
        self.visits = Visits(network, limits, links.__contains__)
        self.questions = Questions(network, limits)
        self.somebody = trio.Event()
        """Set once the table is not empty."""
        self.searches = self.asked = 0
        self.failed: Counter[str] = Counter()

    async def one(
        self, key: bytes, question: Message, data: bytes = b"", addresses: tuple[bytes, ...] = ()
    ) -> Message:
        """Ask one peer, dialling it if need be; `data` is the encoded question, where it is at hand.

        Raises `StreamFailed`, `Refused`.
        """
        self.asked += 1
        self.visits.begin(key)
        answered = question.type is not MessageType.ADD_PROVIDER
        peer = peer_id_bytes(key)
        try:
            with trio.move_on_after(self._limits.dht_ask_deadline):
                if key not in self._links:
                    texts = tuple(filter(None, map(decoded, addresses)))
                    if not await self.visits.reach(key, texts):
                        raise StreamFailed(StreamReason.NOT_CONNECTED, "It cannot be reached.")
                reply = await self.questions.ask(key, data or wire.encode(question), answered=answered)
                message = self._node.read_answer(question, reply) if answered else question
                self._served_us(key, peer)
                return message
            raise StreamFailed(StreamReason.TIMED_OUT, "No answer.")
        except StreamFailed as error:
            self.failed[error.reason.value] += 1
            if error.reason is StreamReason.REFUSED:
                self._node.table.remove(peer)
            else:
                self._node.table.failed(peer)
            raise
        except Refused:
            self._node.table.failed(peer)
            raise
        finally:
            self.visits.end(key)

    def _served_us(self, key: bytes, peer: bytes) -> None:
        link = self._links.get(key)
        group = None if link is None else group_of_link(link)
        if self._node.table.answered(peer, group, milliseconds()):
            self.somebody.set()

    async def search(
        self,
        question: Message,
        ends: float,
        take: Callable[[bytes, Message], None] | None = None,
        enough: Callable[[], bool] | None = None,
    ) -> Lookup:
        """Put a question to ever nearer peers, until the nearest have answered, it is `enough`, or time is up.

        `take(peer, answer)` sees every answer and may raise `Refused` for one that is worth nothing.
        """
        self.searches += 1
        lookup = self._node.lookup(question.key, milliseconds())
        data = wire.encode(question)
        said: dict[bytes, tuple[bytes, ...]] = {}
        changed = trio.Event()
        over = False

        async def ask(peer: bytes) -> None:
            with self._guard.contain("dht_search"):
                try:
                    key = key_of_peer_id(peer)
                    answer = await self.one(key, question, data, said.get(peer, ()))
                    if take is not None and not over:
                        take(peer, answer)
                except (StreamFailed, Refused):
                    lookup.failed(peer)
                else:
                    lookup.answered(peer, self._named(key, answer.closer, said), milliseconds())
            changed.set()

        with trio.move_on_at(ends):
            while not (lookup.over(milliseconds()) or (enough is not None and enough())):
                changed = trio.Event()
                for peer in lookup.ask(milliseconds()):
                    self._nursery.start_soon(ask, peer)
                wake = lookup.wake_at(milliseconds())
                with trio.move_on_at(trio.current_time() + 1 if wake is None else (wake + 1) / 1000):
                    await changed.wait()
        over = True
        return lookup

    def _named(
        self, informant: bytes, peers: Iterable[Peer], said: dict[bytes, tuple[bytes, ...]]
    ) -> list[Named]:
        """Return the peers an answer names that could be asked, and note in `said` where they are said to be."""
        via = self.scope_of_peer(informant)
        named = []
        for one in peers:
            try:
                key = key_of_peer_id(one.id)
            except ValueError:  # no staker: it could not connect with us
                continue
            addresses = believable(one.addresses, via)
            known = said.get(one.id, ())
            most = self._node.parameters.bounds.addresses
            said[one.id] = tuple(dict.fromkeys((*known, *addresses)))[:most]
            if said[one.id] or key in self._links or self._network.addresses_of(key):
                group = None if not said[one.id] else group_of(said[one.id][0])
                named.append(Named(one.id, group))
        return named

    def scope_of_peer(self, key: bytes) -> Scope:
        """Return from where a peer can be reached: what it says of nearer networks than that is not believed."""
        link = self._links.get(key)
        return Scope.WORLD if link is None else scope_of_link(link)

    async def nearest(self, key: bytes, ends: float) -> list[bytes]:
        """Return the keys of the peers nearest to a key."""
        lookup = await self.search(Message(MessageType.FIND_NODE, key), ends)
        return [key_of_peer_id(peer) for peer in lookup.closest(self._node.parameters.bucket_size)]

    async def several(self, keys: Iterable[bytes], message: Message, ends: float) -> int:
        """Send a message to peers side by side; return how many have taken it."""
        data, taken = wire.encode(message), 0
        limiter = trio.CapacityLimiter(self._node.parameters.parallel)

        async def tell(key: bytes) -> None:
            nonlocal taken
            async with limiter:
                with self._guard.contain("dht_store"), suppress(StreamFailed, Refused):
                    answer = await self.one(key, message, data)
                    taken += message.record is None or _same_value(message, answer)

        with trio.move_on_at(ends):
            async with trio.open_nursery() as nursery:
                for key in keys:
                    nursery.start_soon(tell, key)
        return taken


def scope_of_link(link: LinkUp) -> Scope:
    """Return from where the other end of a link can be reached."""
    return scope_of(encoded(link.address))


def group_of_link(link: LinkUp) -> str | None:
    """Return what peers of one network share; those behind one relay share the relay."""
    return link.address if link.address.startswith("/p2p/") else group_of(encoded(link.address))


def milliseconds() -> int:
    """Return trio's clock in whole milliseconds, as the node counts time."""
    return int(trio.current_time() * 1000)


def _same_value(message: Message, answer: Message) -> bool:
    """Whether a value was taken: its receiver answers with it."""
    return (
        message.record is not None
        and answer.record is not None
        and answer.record.value == message.record.value
    )
