"""One router and peers played by hand: what they say to it, and what it says to each."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from random import Random
from typing import TypeVar

from koii_p2p.gossip import wire
from koii_p2p.gossip.effects import Deliver, Effect, Send, Verdict
from koii_p2p.gossip.message_id import content_id
from koii_p2p.gossip.parameters import Bounds, Degrees, GossipParameters, ScoreParameters, TopicScore
from koii_p2p.gossip.peers import Protocol
from koii_p2p.gossip.refusals import Refusal
from koii_p2p.gossip.router import GossipRouter
from koii_p2p.gossip.wire import Control, Message, Prune, Rpc

TOPIC = "koii/test"
E = TypeVar("E")

PLAIN = GossipParameters(
    degrees=Degrees(wanted=6, low=5, high=12, score=4, outbound=2, lazy=6),
    score=ScoreParameters(
        other_topics=TopicScore(time_weight=0.0, first_weight=0.0),
        behaviour_threshold=0.0,
        colocation_weight=0.0,
    ),
)
"""Scores move by what a test is about: no reward for time and deliveries, nothing forgiven, no P6."""


def with_bounds(parameters: GossipParameters = PLAIN, **bounds: int) -> GossipParameters:
    """Return the parameters with some bounds changed."""
    return replace(parameters, bounds=replace(parameters.bounds, **bounds))


def with_topic(parameters: GossipParameters = PLAIN, **weights: float) -> GossipParameters:
    """Return the parameters with some of the score of every topic changed."""
    topic = replace(TopicScore(time_weight=0.0, first_weight=0.0), **weights)  # type: ignore[arg-type]
    return replace(parameters, score=replace(parameters.score, other_topics=topic))


def encoded(data: bytes, topic: str = TOPIC) -> bytes:
    """An RPC of one message."""
    return wire.message_part(wire.encode_message(Message(topic, data)))


def id_of(data: bytes, topic: str = TOPIC) -> bytes:
    """The id of a message."""
    return content_id(Message(topic, data))


def control(*entries: bytes) -> bytes:
    """An RPC of control entries."""
    return wire.control_part(b"".join(entries))


def subscription(topic: str = TOPIC, subscribes: bool = True) -> bytes:
    """An RPC of one subscription."""
    return wire.subscription(topic, subscribes)


GRAFT = control(wire.graft_entry(TOPIC))
PRUNE = control(wire.prune_entry(Prune(TOPIC)))


class Talk:
    """A router that joined `TOPIC`, a clock, and what was said."""

    def __init__(
        self,
        parameters: GossipParameters = PLAIN,
        *,
        seed: int = 0,
        joined: bool = True,
        verdict: Verdict | None = Verdict.ACCEPT,
        direct: Iterable[bytes] = (),
        message_id: Callable[[Message], bytes] = content_id,
    ) -> None:
        """`verdict` is given to whatever is delivered, at once; None leaves it open."""
        self.router = GossipRouter(parameters, Random(seed), message_id, own=b"us", direct=direct)
        self.now = 0
        self.verdict = verdict
        self.said: dict[bytes, list[Rpc]] = {}
        self.effects: list[Effect] = []
        if joined:
            self.take(self.router.subscribe(TOPIC, self.now))

    def take(self, effects: list[Effect]) -> list[Effect]:
        """Note what the router wants, and answer its deliveries."""
        for effect in effects:
            self.effects.append(effect)
            if isinstance(effect, Send):
                rpc = wire.decode_rpc(wire.unframed(effect.frame), Bounds())
                self.said.setdefault(effect.peer, []).append(rpc)
            elif isinstance(effect, Deliver) and self.verdict is not None:
                self.take(self.router.judge(effect.message_id, self.verdict, self.now))
        return effects

    def join(
        self,
        peer: bytes,
        protocol: Protocol = Protocol.MESHSUB_1_2,
        *,
        outbound: bool = False,
        group: bytes | None = None,
        subscribed: bool = True,
    ) -> bytes:
        """Let a peer come, subscribed to `TOPIC`."""
        self.take(self.router.peer_joined(peer, protocol, outbound, group, self.now))
        if subscribed:
            self.say(peer, subscription())
        return peer

    def join_many(self, count: int, prefix: str = "peer", **options: bool) -> list[bytes]:
        """Let some peers come."""
        return [self.join(f"{prefix}-{number:03}".encode(), **options) for number in range(count)]  # type: ignore[arg-type]

    def say(self, peer: bytes, *rpcs: bytes) -> list[Effect]:
        """Let a peer say something."""
        return [effect for rpc in rpcs for effect in self.take(self.router.receive(peer, rpc, self.now))]

    def beat(self, count: int = 1) -> list[Effect]:
        """Let heartbeats pass."""
        effects: list[Effect] = []
        for _ in range(count):
            self.now += self.router.parameters.heartbeat
            effects += self.take(self.router.heartbeat(self.now))
        return effects

    def publish(self, data: bytes, topic: str = TOPIC) -> list[Effect]:
        """Publish."""
        return self.take(self.router.publish(topic, data, self.now))

    def hush(self) -> None:
        """Forget what was said."""
        self.said.clear()
        self.effects.clear()

    # --- what was said

    def of(self, kind: type[E]) -> list[E]:
        """The effects of one kind."""
        return [effect for effect in self.effects if isinstance(effect, kind)]

    def controls(self, peer: bytes) -> list[Control]:
        """The control messages a peer got."""
        return [rpc.control for rpc in self.said.get(peer, []) if rpc.control is not None]

    def grafts(self, peer: bytes) -> int:
        """How often a peer was grafted."""
        return sum(len(one.graft) for one in self.controls(peer))

    def prunes(self, peer: bytes) -> list[Prune]:
        """The prunes a peer got."""
        return [prune for one in self.controls(peer) for prune in one.prune]

    def wanted(self, peer: bytes) -> list[bytes]:
        """The ids a peer was asked for."""
        return [message_id for one in self.controls(peer) for ids in one.iwant for message_id in ids]

    def told(self, peer: bytes) -> list[bytes]:
        """The ids a peer was told of."""
        return [message_id for one in self.controls(peer) for _, ids in one.ihave for message_id in ids]

    def unwanted(self, peer: bytes) -> list[bytes]:
        """The ids a peer was told not to send."""
        return [message_id for one in self.controls(peer) for ids in one.idontwant for message_id in ids]

    def messages(self, peer: bytes) -> list[bytes]:
        """The payloads a peer got."""
        return [wire.decode_message(raw).data for rpc in self.said.get(peer, []) for raw in rpc.messages]

    def refused(self, what: Refusal) -> int:
        """How often something was refused."""
        return self.router.statistics().refused.get(what, 0)

    def in_mesh(self, peer: bytes) -> bool:
        """Whether a peer is in the mesh."""
        return peer in self.router.mesh(TOPIC)
