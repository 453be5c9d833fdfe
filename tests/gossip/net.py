"""A net of routers in virtual time: links with delay, full queues that lose messages, verdicts that take time.

Whatever happens is a function of the seed: the queue of events is ordered by (time, number), and all chance comes from
sources seeded by the net's.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from random import Random

from koii_p2p.gossip.effects import Connect, Deliver, Disconnect, Effect, Graylist, Send, Verdict
from koii_p2p.gossip.message_id import content_id
from koii_p2p.gossip.parameters import GossipParameters, degrees_for
from koii_p2p.gossip.peers import Protocol
from koii_p2p.gossip.router import GossipRouter
from koii_p2p.gossip.wire import unframed

TOPIC = "koii/test"


def name(number: int) -> bytes:
    """The peer id of a node."""
    return b"node-%04d" % number


@dataclass(slots=True)
class Node:
    """One router and what its driver saw of it."""

    key: bytes
    router: GossipRouter
    links: dict[bytes, bool] = field(default_factory=dict)
    """Neighbour -> whether we dialled it."""
    delivered: dict[bytes, int] = field(default_factory=dict)
    """Payload of an accepted message -> when."""
    delivered_twice: int = 0
    connects: list[Connect] = field(default_factory=list)
    disconnects: list[Disconnect] = field(default_factory=list)
    graylisted: list[Graylist] = field(default_factory=list)


class Net:
    """Nodes and the links between them."""

    def __init__(
        self,
        count: int,
        seed: int = 0,
        *,
        parameters: GossipParameters | Callable[[int], GossipParameters] | None = None,
        delay: tuple[int, int] = (1, 40),
        loss: float = 0.0,
        verdict_delay: tuple[int, int] = (0, 0),
        protocols: Sequence[Protocol] = (Protocol.MESHSUB_1_2,),
    ) -> None:
        self.random = Random(seed)
        self.delay = delay
        self.loss = loss
        self.verdict_delay = verdict_delay
        self.protocols = protocols
        self.now = 0
        self.protocol: dict[tuple[bytes, bytes], Protocol] = {}
        self.losses: Counter[tuple[bytes, bytes]] = Counter()
        """(receiver, message id) -> how often a full queue kept it back."""
        self.bytes = 0
        #: What a node says about a message; ACCEPT unless a test has other plans.
        self.verdict: Callable[[Node, Deliver], Verdict] = lambda node, deliver: Verdict.ACCEPT
        self.log: list[tuple[int, bytes, bytes, int]] = []
        """(time, from, to, size) of every frame that was sent."""
        self._events: list[tuple[int, int, Callable[[], None]]] = []
        self._number = 0
        #: Frames arrive in the order they were sent in on a link.
        self._last_arrival: dict[tuple[bytes, bytes], int] = {}
        #: How often each link was ended; what was on its way then does not arrive on the next one.
        self._ended: Counter[tuple[bytes, bytes]] = Counter()
        self.nodes: dict[bytes, Node] = {}
        default = GossipParameters(degrees=degrees_for(count))
        for number in range(count):
            chosen = parameters(number) if callable(parameters) else parameters or default
            router = GossipRouter(chosen, Random(f"{seed}/{number}"), content_id, own=name(number))
            node = self.nodes[name(number)] = Node(name(number), router)
            self._beat(node, self.random.randrange(chosen.heartbeat))

    def _beat(self, node: Node, start: int) -> None:
        def beat() -> None:
            self.perform(node, node.router.heartbeat(self.now))
            self.at(self.now + node.router.parameters.heartbeat, beat)

        self.at(start, beat)

    # --- time

    def at(self, when: int, what: Callable[[], None]) -> None:
        """Let something happen at a time."""
        self._number += 1
        heapq.heappush(self._events, (when, self._number, what))

    def run(self, duration: int) -> None:
        """Let time pass."""
        until = self.now + duration
        while self._events and self._events[0][0] <= until:
            self.now, _, what = heapq.heappop(self._events)
            what()
        self.now = until

    # --- links

    def connect(self, one: int | bytes, other: int | bytes) -> None:
        """`one` dials `other`, unless they are connected."""
        first, second = self.node(one), self.node(other)
        if first is second or second.key in first.links:
            return
        protocol = self.protocols[self.random.randrange(len(self.protocols))]
        for node, peer, outbound in ((first, second, True), (second, first, False)):
            node.links[peer.key] = outbound
            self.protocol[node.key, peer.key] = protocol
        for node, peer, outbound in ((first, second, True), (second, first, False)):
            self.perform(node, node.router.peer_joined(peer.key, protocol, outbound, None, self.now))

    def disconnect(self, one: int | bytes, other: int | bytes) -> None:
        """End a link; what is on its way is lost."""
        first, second = self.node(one), self.node(other)
        if second.key not in first.links:
            return
        for node, peer in ((first, second), (second, first)):
            self._ended[node.key, peer.key] += 1
        for node, peer in ((first, second), (second, first)):
            del node.links[peer.key]
            self.perform(node, node.router.peer_left(peer.key, self.now))

    def connect_all(self) -> None:
        """Link everybody to everybody."""
        for one in range(len(self.nodes)):
            for other in range(one + 1, len(self.nodes)):
                self.connect(one, other)

    def connect_randomly(self, degree: int) -> None:
        """Link everybody on a ring, and then at random until each dialled `degree` others."""
        count = len(self.nodes)
        for number in range(count):
            self.connect(number, (number + 1) % count)
            for _ in range(degree - 1):
                self.connect(number, self.random.randrange(count))

    # --- what nodes do

    def node(self, which: int | bytes) -> Node:
        """Return a node by number or key."""
        return self.nodes[name(which) if isinstance(which, int) else which]

    def subscribe(self, numbers: Iterable[int] | None = None, topic: str = TOPIC) -> None:
        """Let nodes, or all of them, join a topic."""
        for number in range(len(self.nodes)) if numbers is None else numbers:
            node = self.node(number)
            self.perform(node, node.router.subscribe(topic, self.now))

    def publish(self, number: int, data: bytes, topic: str = TOPIC) -> None:
        """Let a node publish."""
        node = self.node(number)
        node.delivered[data] = self.now
        self.perform(node, node.router.publish(topic, data, self.now))

    def perform(self, node: Node, effects: list[Effect]) -> None:
        """Carry out what a router asks for."""
        for effect in effects:
            match effect:
                case Send():
                    self._send(node, effect)
                case Deliver():
                    low, high = self.verdict_delay
                    if not high:
                        self._judge(node, effect)
                    else:
                        delay = self.random.randint(low, high)
                        self.at(self.now + delay, lambda effect=effect: self._judge(node, effect))  # type: ignore[misc]
                case Connect():
                    node.connects.append(effect)
                case Disconnect():
                    node.disconnects.append(effect)
                case Graylist():
                    node.graylisted.append(effect)

    def _judge(self, node: Node, deliver: Deliver) -> None:
        verdict = self.verdict(node, deliver)
        if verdict is Verdict.ACCEPT:
            node.delivered_twice += deliver.data in node.delivered
            node.delivered[deliver.data] = self.now
        self.perform(node, node.router.judge(deliver.message_id, verdict, self.now))

    def _send(self, node: Node, send: Send) -> None:
        if send.peer not in node.links:
            return
        if send.message_ids and self.loss and self.random.random() < self.loss:
            self.losses.update((send.peer, message_id) for message_id in send.message_ids)
            node.router.not_sent(send)
            return
        self.bytes += len(send.frame)
        self.log.append((self.now, node.key, send.peer, len(send.frame)))
        link = node.key, send.peer
        arrival = max(self.now + self.random.randint(*self.delay), self._last_arrival.get(link, 0))
        self._last_arrival[link] = arrival
        ended = self._ended[link]
        self.at(arrival, lambda: self._arrive(node.key, send.peer, unframed(send.frame), ended))

    def _arrive(self, sender: bytes, receiver: bytes, rpc: bytes, ended: int) -> None:
        node = self.nodes[receiver]
        if sender in node.links and self._ended[sender, receiver] == ended:
            self.perform(node, node.router.receive(sender, rpc, self.now))

    # --- what to look at

    def reached(self, data: bytes) -> int:
        """How many nodes have a message."""
        return sum(data in node.delivered for node in self.nodes.values())

    def asymmetries(self, topic: str = TOPIC) -> list[tuple[bytes, bytes]]:
        """Pairs of which one has the other in its mesh and not the other way round."""
        meshes = {key: set(node.router.mesh(topic)) for key, node in self.nodes.items()}
        return [
            (key, peer) for key, mesh in meshes.items() for peer in sorted(mesh) if key not in meshes[peer]
        ]
