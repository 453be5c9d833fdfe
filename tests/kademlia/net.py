"""A simulated net of pure nodes: virtual time, honest peers, dead ones, and liars of several kinds."""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable, Sequence
from hashlib import sha256

from koii_p2p.kademlia import wire
from koii_p2p.kademlia.keyspace import closest, place
from koii_p2p.kademlia.lookup import Lookup, Named
from koii_p2p.kademlia.node import KademliaNode
from koii_p2p.kademlia.parameters import KademliaParameters
from koii_p2p.kademlia.refusals import Refused
from koii_p2p.kademlia.wire import Message, MessageType, Peer

#: `answer(asker, request) -> answer or None`; None: it never answers.
Answer = Callable[[bytes, Message], Message | None]

ADDRESS = bytes.fromhex("047f000001060fa1")


class SignedByKey:
    """Values of the form key + number: who knows the key may write, and the highest number is the newest."""

    def validate(self, key: bytes, value: bytes) -> bool:
        return len(value) == len(key) + 4 and value.startswith(key)

    def select(self, key: bytes, values: Sequence[bytes]) -> int:
        return max(range(len(values)), key=lambda index: values[index])


def peer(number: int) -> bytes:
    return b"peer" + number.to_bytes(4, "big")


def ground(target: int, source: random.Random, tries: int) -> bytes:
    """A peer id that lies near a place: the best of so many."""
    return min((b"fake" + source.randbytes(8) for _ in range(tries)), key=lambda one: place(one) ^ target)


class SimulatedNet:
    """Nodes by peer id; whoever is in `lies` answers by that instead, and whoever is in `dead` never."""

    def __init__(self, count: int, seed: int, parameters: KademliaParameters | None = None) -> None:
        self.random = random.Random(seed)
        self.parameters = parameters or KademliaParameters()
        self.nodes: dict[bytes, KademliaNode] = {}
        self.lies: dict[bytes, Answer] = {}
        self.dead: set[bytes] = set()
        self.now = 0
        self.asked = 0
        for number in range(count):
            name = peer(number)
            self.nodes[name] = KademliaNode(name, self.parameters, self.random, self._describe)
            self.nodes[name].add_namespace("t", SignedByKey())
        everybody = list(self.nodes)
        for node in self.nodes.values():
            self.random.shuffle(everybody)
            for other in everybody:
                if other != node.own:
                    node.table.answered(other, None, 0)

    def _describe(self, one: bytes) -> Peer:
        return Peer(one, (ADDRESS,) if one in self.nodes or one in self.lies else ())

    def ask(self, asker: bytes, asked: bytes, message: Message) -> Message | None:
        """What comes back from a peer; None: nothing ever does. It goes through the encoding, as on the wire."""
        self.asked += 1
        if asked in self.dead:
            return None
        if asked in self.lies:
            return self.lies[asked](asker, message)
        if asked not in self.nodes:
            return None
        try:
            data = self.nodes[asked].answer(asker, wire.encode(message), self.now)
        except Refused:
            return None
        return None if data is None else self.nodes[asker].read_answer(message, data)

    def search(
        self,
        asker: bytes,
        message: Message,
        take: Callable[[bytes, Message], None] | None = None,
        enough: Callable[[], bool] | None = None,
        latency: Callable[[bytes], int] = lambda _peer: 20,
    ) -> Lookup:
        """Run one search in virtual time to its end."""
        lookup = self.nodes[asker].lookup(message.key, self.now)
        events: list[tuple[int, int, bytes, Message | None]] = []
        order = 0
        while not lookup.over(self.now) and not (enough is not None and enough()):
            for one in lookup.ask(self.now):
                answer = self.ask(asker, one, message)
                wait = self.parameters.patience if answer is None else latency(one)
                order += 1
                heapq.heappush(events, (self.now + wait, order, one, answer))
            wake = lookup.wake_at(self.now)
            if wake is not None and (not events or wake < events[0][0]):
                self.now = wake
                continue
            assert events, "a search that is not over waits for somebody"
            self.now, _, one, answer = heapq.heappop(events)
            if answer is None:
                lookup.failed(one)
                continue
            if take is not None:
                take(one, answer)
            lookup.answered(one, [Named(found.id) for found in answer.closer], self.now)
        return lookup

    def nearest(self, asker: bytes, key: bytes) -> list[bytes]:
        lookup = self.search(asker, Message(MessageType.FIND_NODE, key))
        return lookup.closest(self.parameters.bucket_size)

    def truly_nearest(self, key: bytes, *, without: set[bytes]) -> list[bytes]:
        """The nearest living nodes, liars left out."""
        living = [
            one for one in self.nodes if one not in without and one not in self.dead and one not in self.lies
        ]
        return closest(living, place(key), self.parameters.bucket_size)


def key_of(number: int) -> bytes:
    return b"/t/" + sha256(number.to_bytes(4, "big")).digest()
