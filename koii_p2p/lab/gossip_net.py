"""Nets of real gossip routers in virtual time, and nothing but gossip: how messages spread, and at what cost.

Every node has a `GossipRouter` as nodes run it, with its wire format; frames travel over `links.Links`. A run is a
function of its arguments. `published_setting` and `spread` play the experiment of gerbil-simsub (vyzo/gerbil-simsub,
README.org), a simulator of the authors of gossipsub whose results are published with all that they depend on.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from functools import partial
from random import Random
from typing import Final

from koii_p2p.gossip.effects import Deliver, Effect, Send, Verdict
from koii_p2p.gossip.message_id import content_id
from koii_p2p.gossip.parameters import Degrees, GossipParameters, ScoreParameters
from koii_p2p.gossip.peers import Protocol
from koii_p2p.gossip.router import GossipRouter
from koii_p2p.gossip.wire import unframed
from koii_p2p.lab.clockwork import MILLISECOND, SECOND, Clockwork
from koii_p2p.lab.links import Links
from koii_p2p.lab.scenario import Latency, Network

TOPIC: Final = "koii/lab/gossip"
NOT_YET: Final = -1
"""Arrival time of a message that has not arrived."""

_NUMBER_BYTES: Final = 4
_SETTLING: Final = 5 * SECOND
_LINGERING: Final = 10 * SECOND

Receive = Callable[[int, bytes], None]
"""What a node does with an RPC: (sender, RPC without its length)."""


def peer_id(node: int) -> bytes:
    """The peer id of a node, which is all that routers know of each other."""
    return node.to_bytes(_NUMBER_BYTES, "big")


class GossipNet:
    """Nodes by number, from 0. Those below `routers` have a router; what the others do is told by `play`."""

    def __init__(
        self,
        network: Network,
        seed: int,
        parameters: GossipParameters,
        protocol: Protocol = Protocol.MESHSUB_1_2,
        routers: int | None = None,
    ) -> None:
        count = network.nodes if routers is None else routers
        self.clock = Clockwork()
        self.links = Links(network, seed)
        self.random = Random(f"gossip net {seed}")
        self.copies_of = [0] * count
        """Messages that each router sent, each copy counted."""
        self.frames = 0
        """Frames that routers sent, messages and control."""
        self.hears: Callable[[int, Send], bool] = lambda _node, _send: True
        """Whether a node without a router does anything with a frame; if not, it is sent and no event is made of it."""
        self.published: list[tuple[int, int]] = []
        """Author and time (us) of each message."""
        self.arrivals: list[array[int]] = []
        """When (us) each message arrived at each router; `NOT_YET` where it did not."""
        self.routers = [
            GossipRouter(parameters, Random(f"{seed}/{node}"), content_id, own=peer_id(node))
            for node in range(count)
        ]
        self._protocol = protocol
        self._receive: list[Receive | None] = [partial(self._routed, node) for node in range(count)]
        self._receive += [None] * (network.nodes - count)
        self._linked: list[dict[int, None]] = [{} for _ in range(network.nodes)]
        self._unframed: tuple[bytes, bytes] = b"", b""
        for node, router in enumerate(self.routers):
            period = parameters.heartbeat * MILLISECOND
            beat = partial(self._beat, node, router)
            # In the second period, as in gerbil-simsub: all have met whom they dialled by then.
            self.clock.every(period, beat, period + self.random.randrange(period))

    # --- who there is, and who knows whom

    def play(self, node: int, receive: Receive | None) -> None:
        """Let a node do something else with what it receives; None: nothing, and no time is lost on it."""
        self._receive[node] = receive

    def connect(self, one: int, other: int) -> None:
        """`one` dials `other`; nothing happens if they are linked."""
        if one == other or other in self._linked[one]:
            return
        self._linked[one][other] = self._linked[other][one] = None
        for node, peer, outbound in ((one, other, True), (other, one, False)):
            if node < len(self.routers):
                router = self.routers[node]
                effects = router.peer_joined(peer_id(peer), self._protocol, outbound, None, self._now())
                self._perform(node, effects)

    def connect_randomly(self, nodes: Sequence[int], degree: int) -> None:
        """Each of these dials so many of them, by chance."""
        for node in nodes:
            others = [other for other in nodes if other != node]
            for other in self.random.sample(others, min(degree, len(others))):
                self.connect(node, other)

    def linked(self, node: int) -> tuple[int, ...]:
        """Whom a node is linked to."""
        return tuple(self._linked[node])

    def subscribe(self) -> None:
        """Let every router join the topic."""
        for node, router in enumerate(self.routers):
            self._perform(node, router.subscribe(TOPIC, self._now()))

    @property
    def copies(self) -> int:
        """Messages that routers sent, each copy counted."""
        return sum(self.copies_of)

    def honest_mesh(self, node: int) -> int:
        """How many of the mesh of a router have a router themselves."""
        return sum(int.from_bytes(peer, "big") < len(self.routers) for peer in self.routers[node].mesh(TOPIC))

    # --- what happens

    def publish(self, node: int, size: int = 512) -> int:
        """Let a node publish a message of so many bytes, and return its number. Raises ValueError for too few."""
        if size < _NUMBER_BYTES:
            raise ValueError(f"a message of {size} bytes has no room for its number")
        number = len(self.published)
        self.published.append((node, self.clock.now))
        times = array("q", [NOT_YET]) * len(self.routers)
        times[node] = self.clock.now
        self.arrivals.append(times)
        data = number.to_bytes(_NUMBER_BYTES, "big").ljust(size, b"\0")
        self._perform(node, self.routers[node].publish(TOPIC, data, self._now()))
        return number

    def send(self, sender: int, receiver: int, rpc: bytes) -> None:
        """Put an RPC on a link, as a node without a router does. What is lost is lost."""
        arrives = self.links.arrival(sender, receiver, len(rpc), self.clock.now)
        receive = self._receive[receiver]
        if arrives is not None and receive is not None:
            self.clock.at(arrives, partial(receive, sender, rpc))

    def run(self, duration: int) -> None:
        """Let time pass (us)."""
        self.clock.run(self.clock.now + duration)

    def mean_mesh(self) -> float:
        """How many peers the mesh of a router has, in the mean."""
        return sum(len(router.mesh(TOPIC)) for router in self.routers) / len(self.routers)

    def _now(self) -> int:
        return self.clock.now // MILLISECOND

    def _beat(self, node: int, router: GossipRouter) -> None:
        self._perform(node, router.heartbeat(self._now()))

    def _routed(self, node: int, sender: int, rpc: bytes) -> None:
        effects = self.routers[node].receive(peer_id(sender), rpc, self._now())
        if effects:
            self._perform(node, effects)

    def _perform(self, node: int, effects: list[Effect]) -> None:
        for effect in effects:
            if isinstance(effect, Send):
                self._send(node, effect)
            elif isinstance(effect, Deliver):
                self.arrivals[int.from_bytes(effect.data[:_NUMBER_BYTES], "big")][node] = self.clock.now
                self._perform(node, self.routers[node].judge(effect.message_id, Verdict.ACCEPT, self._now()))

    def _send(self, node: int, send: Send) -> None:
        self.frames += 1
        if not send.urgent:
            # An own message has no ids, and a frame to itself.
            self.copies_of[node] += len(send.message_ids) or 1
        receiver = int.from_bytes(send.peer, "big")
        receive = self._receive[receiver]
        if receive is None or receiver not in self._linked[node]:
            return
        if receiver >= len(self.routers) and not self.hears(receiver, send):
            return
        arrives = self.links.arrival(node, receiver, len(send.frame), self.clock.now)
        if arrives is None:
            return
        frame, rpc = self._unframed
        if send.frame is not frame:
            rpc = unframed(send.frame)
            self._unframed = send.frame, rpc
        self.clock.at(arrives, partial(receive, node, rpc))


# --- how messages spread


class Version(Enum):
    """What gerbil-simsub compares."""

    V1_0 = "v1.0"
    V1_1 = "v1.1"
    """The same with flood publishing: publishers send to all whom they are linked to."""


@dataclass(frozen=True, slots=True)
class Spread:
    """What became of the messages of one run. Latencies are microseconds, of all deliveries but the publishers' own."""

    nodes: int
    messages: int
    copies: int
    deliveries: int
    """With that of the publisher itself, as gerbil-simsub counts."""
    latencies: tuple[int, ...]
    mean_mesh: float
    events: int

    def histogram(self, width_ms: int = 100) -> tuple[int, ...]:
        """Deliveries by latency, in classes of so many milliseconds."""
        if not self.latencies:
            return ()
        width = width_ms * MILLISECOND
        counts = [0] * (max(self.latencies) // width + 1)
        for latency in self.latencies:
            counts[latency // width] += 1
        return tuple(counts)


def spread_of(net: GossipNet, copies_before: int = 0) -> Spread:
    """What became of all messages of a net. `copies_before` were sent for others."""
    latencies = [
        time - sent
        for (author, sent), times in zip(net.published, net.arrivals, strict=True)
        for node, time in enumerate(times)
        if time != NOT_YET and node != author
    ]
    return Spread(
        nodes=len(net.routers),
        messages=len(net.published),
        copies=net.copies - copies_before,
        deliveries=len(latencies) + len(net.published),
        latencies=tuple(sorted(latencies)),
        mean_mesh=net.mean_mesh(),
        events=net.clock.happened,
    )


def published_network(nodes: int) -> Network:
    """The links of gerbil-simsub: 10 to 150 ms, evenly; 10 % of jitter on each message."""
    return Network(nodes=nodes, degree=20, latency=Latency(low_ms=10.0, high_ms=150.0), jitter=0.1)


def published_setting(version: Version) -> GossipParameters:
    """Our router set to what gerbil-simsub has: D = 6, D_lo = 4, cut above 12, no scores, no quotas of any kind.

    It cuts a mesh above D_hi where ours, like go, cuts at D_hi. Its v1.1 has no scores and no IDONTWANT; payloads below
    1 KiB are never announced by ours.
    """
    degrees = Degrees(wanted=6, low=4, high=13, score=0, outbound=0, vouched=0, lazy=6)
    return GossipParameters(
        degrees=degrees,
        score=ScoreParameters(other_topics=None),
        flood_publish=version is Version.V1_1,
        gossip_factor=0.25 if version is Version.V1_1 else 0.0,
        opportunistic_peers=0,
    )


def spread(
    nodes: int, messages: int, version: Version, seed: int, *, sources: int = 5, connect: int = 20
) -> Spread:
    """Play gerbil-simsub's `simple-simulation`: each node dials `connect` others; after 5 s one message a second.

    Each message is published by one of `sources`, by chance; all come from the seed. 10 s after the last it ends.
    """
    protocol = Protocol.MESHSUB_1_0 if version is Version.V1_0 else Protocol.MESHSUB_1_1
    net = GossipNet(published_network(nodes), seed, published_setting(version), protocol)
    net.subscribe()
    net.connect_randomly(range(nodes), connect)
    net.run(_SETTLING)
    authors = net.random.sample(range(nodes), min(sources, nodes))
    for _ in range(messages):
        net.publish(authors[net.random.randrange(len(authors))])
        net.run(SECOND)
    net.run(_LINGERING)
    return spread_of(net)
