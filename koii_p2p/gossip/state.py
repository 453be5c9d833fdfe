"""What a router holds, and the steps that its rules are made of."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator

from koii_p2p.gossip import wire
from koii_p2p.gossip.back_off import BackOffs
from koii_p2p.gossip.effects import Disconnect
from koii_p2p.gossip.mesh import chosen
from koii_p2p.gossip.message_cache import Entry, MessageCache, Pending
from koii_p2p.gossip.outbox import Outbox
from koii_p2p.gossip.parameters import GossipParameters
from koii_p2p.gossip.peers import Peer
from koii_p2p.gossip.promises import Promises
from koii_p2p.gossip.random_source import RandomSource
from koii_p2p.gossip.refusals import Refusal
from koii_p2p.gossip.score import Scores
from koii_p2p.gossip.seen import Seen
from koii_p2p.gossip.statistics import Counters
from koii_p2p.gossip.wire import Message, WireFault


class Topic:
    """A topic we joined, or publish to: who is subscribed, and whom we chose of them."""

    __slots__ = (
        "accepted",
        "beside",
        "duplicates",
        "fanout",
        "ignored",
        "joined",
        "mesh",
        "name",
        "published",
        "published_at",
        "rejected",
        "subscribers",
    )

    def __init__(self, name: str) -> None:
        self.name = name
        self.joined = False
        self.subscribers: dict[bytes, Peer] = {}
        #: Subscribers that get every message without a mesh: direct peers, and those that only speak floodsub.
        self.beside: dict[bytes, Peer] = {}
        #: Mesh peer -> the heartbeat it came in.
        self.mesh: dict[bytes, int] = {}
        self.fanout: dict[bytes, None] = {}
        self.published_at = 0
        self.published = self.accepted = self.ignored = self.rejected = self.duplicates = 0

    def place(self, peer: Peer) -> None:
        """Count a peer among the subscribers."""
        self.subscribers[peer.peer] = peer
        if peer.direct or not peer.has_control:
            self.beside[peer.peer] = peer
        else:
            self.beside.pop(peer.peer, None)

    def remove(self, peer: bytes) -> None:
        """Count a peer out; the mesh is left by `State.leave_mesh`."""
        self.subscribers.pop(peer, None)
        self.beside.pop(peer, None)
        self.fanout.pop(peer, None)


class State:
    """Everything a router holds. The functions of `control`, `delivery` and `upkeep` work on it."""

    def __init__(
        self,
        parameters: GossipParameters,
        random_source: RandomSource,
        message_id: Callable[[Message], bytes],
        own: bytes,
        direct: frozenset[bytes],
    ) -> None:
        bounds = parameters.bounds
        self.parameters = parameters
        self.bounds = bounds
        self.thresholds = parameters.score.thresholds
        self.random = random_source
        self.message_id = message_id
        self.own = own
        self.direct = direct
        self.peers: dict[bytes, Peer] = {}
        self.topics: dict[str, Topic] = {}
        self.scores = Scores(parameters.score, bounds.retained_scores)
        self.seen = Seen(bounds.seen, parameters.seen)
        self.rejected = Seen(bounds.rejected, parameters.rejected)
        self.ignored = Seen(bounds.ignored, parameters.ignored)
        self.cache = MessageCache(
            parameters.history, parameters.history_gossip, bounds.cached, bounds.cached_bytes
        )
        self.pending = Pending(
            bounds.pending, bounds.pending_bytes, bounds.pending_per_peer, parameters.pending
        )
        self.promises = Promises(bounds.promises, parameters.promise)
        self.back_offs = BackOffs(bounds.back_offs, parameters.heartbeat)
        #: Own messages no peer was there for, oldest first.
        self.held: list[Entry] = []
        self.px_connects = 0
        #: When direct peers that are not connected were last asked for; None: never.
        self.dialled_at: int | None = None
        self.improved_at: int | None = None
        self.refused: Counter[Refusal] = Counter()
        self.count = Counters()

    def outbox(self) -> Outbox:
        """Begin to collect the effects of a call."""
        return Outbox(self.bounds.rpc_bytes, self.refused)

    def refuse(self, what: Refusal, count: int = 1) -> None:
        """Count a refusal."""
        self.refused[what] += count

    def punish(self, peer: bytes, what: Refusal, count: int = 1) -> None:
        """Count a refusal that costs the peer: P7."""
        self.refused[what] += count
        self.scores.misbehaved(peer, count)

    def malformed(self, peer: bytes, fault: WireFault, out: Outbox) -> None:
        """A peer does not speak the protocol."""
        self.punish(peer, Refusal.MALFORMED_RPC)
        out.effects.append(Disconnect(peer, fault))

    # --- topics

    def topic(self, name: str) -> Topic:
        """Return a topic of ours, made if need be, with those who are subscribed. Raises ValueError beyond bounds."""
        topic = self.topics.get(name)
        if topic is None:
            if not 0 < len(name.encode()) <= self.bounds.topic_bytes:
                raise ValueError(f"a topic has 1 to {self.bounds.topic_bytes} bytes of UTF-8: {name!r}")
            if len(self.topics) >= self.bounds.topics:
                raise ValueError(f"there are {self.bounds.topics} topics already; leave one before {name!r}")
            topic = self.topics[name] = Topic(name)
            for peer in self.peers.values():
                if name in peer.topics:
                    topic.place(peer)
        return topic

    def subscribed(self, peer: Peer, name: str, out: Outbox) -> bool:
        """Note that a peer is subscribed, unless it is to too many topics; send it what was held for the first."""
        if name in peer.topics:
            return True
        if len(name.encode()) > self.bounds.topic_bytes:
            self.refuse(Refusal.TOPIC_TOO_LONG)
            return False
        if len(peer.topics) >= self.bounds.topics_per_peer:
            self.refuse(Refusal.TOPICS_PER_PEER)
            return False
        peer.topics[name] = None
        topic = self.topics.get(name)
        if topic is not None:
            topic.place(peer)
            held = [entry for entry in self.held if entry.topic == name]
            if held and self.may_publish_to(peer):
                self.held = [entry for entry in self.held if entry.topic != name]
                out.messages(peer.peer, held, own=True)
        return True

    def unsubscribed(self, peer: Peer, name: str, out: Outbox, now: int) -> None:
        """Note that a peer left a topic. One that is in our mesh still may have come back since, and have us in its."""
        if name not in peer.topics:
            return
        del peer.topics[name]
        if topic := self.topics.get(name):
            topic.remove(peer.peer)
            if peer.peer in topic.mesh:
                self.prune(topic, peer.peer, out, now, leaving=True)

    # --- the mesh

    def join_mesh(self, topic: Topic, peer: bytes, now: int) -> None:
        """Take a peer into the mesh of a topic."""
        topic.mesh[peer] = self.count.heartbeats
        self.scores.grafted(peer, topic.name, now)

    def leave_mesh(self, topic: Topic, peer: bytes) -> bool:
        """Take a peer out of the mesh of a topic; say whether it was there."""
        if topic.mesh.pop(peer, None) is None:
            return False
        self.scores.pruned(peer, topic.name)
        return True

    def graft(self, topic: Topic, peer: bytes, out: Outbox, now: int) -> None:
        """Take a peer into the mesh and tell it."""
        self.join_mesh(topic, peer, now)
        self.count.grafts_sent += 1
        out.control(peer, wire.graft_entry(topic.name))

    def prune(
        self,
        topic: Topic,
        peer: bytes,
        out: Outbox,
        now: int,
        *,
        exchange: bool = False,
        leaving: bool = False,
    ) -> None:
        """Take a peer out of the mesh if it is there, tell it, and begin a back-off."""
        self.leave_mesh(topic, peer)
        duration = self.parameters.unsubscribe_back_off if leaving else self.parameters.prune_back_off
        self.back_offs.add(topic.name, peer, duration, now)
        self.count.prunes_sent += 1
        known = self.peers.get(peer)
        if known is None or not known.has_exchange:
            out.control(peer, wire.prune_entry(wire.Prune(topic.name)))
            return
        recommended = self._recommended(topic, peer) if exchange and self.parameters.peer_exchange else ()
        # Rounded up, or the peer would come back a moment too early and pay for it.
        prune = wire.Prune(topic.name, -(-duration // 1000), recommended)
        out.control(peer, wire.prune_entry(prune))

    def _recommended(self, topic: Topic, pruned: bytes) -> tuple[tuple[bytes, bytes], ...]:
        """Choose peers with a score of 0 or more for one that was pruned (v1.1, "PRUNE Backoff and Peer Exchange")."""
        peers = [
            key
            for key, peer in topic.subscribers.items()
            if key != pruned and peer.has_control and self.scores.score_of(peer.standing) >= 0
        ]
        some = chosen(peers, self.bounds.px_peers, self.random)
        return tuple((key, self.peers[key].record) for key in some)

    def candidates(self, topic: Topic, now: int) -> list[bytes]:
        """Return whom we may graft: subscribed, outside, no direct peer, no back-off, and fit for the topic."""
        return [
            key
            for key, peer in topic.subscribers.items()
            if peer.has_control
            and not peer.direct
            and key not in topic.mesh
            and not self.back_offs.keeps_from_grafting(topic.name, key, now)
            and self.is_fit(key, topic)
        ]

    def is_fit(self, peer: bytes, topic: Topic) -> bool:
        """Say whether a peer may be in the mesh of a topic.

        Its score must not be negative, nor what it is in this topic alone: else it pays by good conduct in many topics
        for bad conduct in one, and eclipses that (arXiv:2212.05197).
        """
        return self.scores.score(peer) >= 0 and self.scores.score_in(peer, topic.name) >= 0

    def is_outbound(self, peer: bytes) -> bool:
        """Say whether we dialled a peer."""
        return self.peers[peer].outbound

    def is_vouched(self, peer: bytes) -> bool:
        """Say whether the application vouches for a peer."""
        return self.peers[peer].standing.application > 0

    def may_publish_to(self, peer: Peer) -> bool:
        """Say whether own messages go to a peer."""
        return peer.direct or self.scores.score(peer.peer) >= self.thresholds.publish

    def joined_topics(self) -> Iterator[Topic]:
        """The topics we are subscribed to, in the order of joining."""
        return (topic for topic in self.topics.values() if topic.joined)
