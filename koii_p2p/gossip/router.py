"""`GossipRouter`: GossipSub v1.1 and v1.2 at one node. Facts in, effects out; nothing else.

It owns no clock, no randomness and no I/O. Every method returns at once, with what the driver has to do
(`koii_p2p.gossip.effects`). Times are whole milliseconds of any clock that does not go back. Peers are named by the
bytes of their peer ids, which mean nothing to the router.

The driver tells it who can be written to (`peer_joined`, `peer_left`), hands over whole RPCs (`receive`), calls
`heartbeat` every `GossipParameters.heartbeat`, and answers each `Deliver` by `judge`, at once or later.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace

from koii_p2p.gossip import delivery, upkeep, wire
from koii_p2p.gossip.control import take_control
from koii_p2p.gossip.effects import Disconnect, Effect, Send, Verdict
from koii_p2p.gossip.mesh import chosen
from koii_p2p.gossip.parameters import Degrees, GossipParameters
from koii_p2p.gossip.peers import Peer, Protocol
from koii_p2p.gossip.random_source import RandomSource
from koii_p2p.gossip.refusals import Refusal
from koii_p2p.gossip.score import ScoreParts
from koii_p2p.gossip.state import State
from koii_p2p.gossip.statistics import RouterStatistics, TopicStatistics
from koii_p2p.gossip.wire import Message, WireError


class GossipRouter:
    """A router. Not thread-safe."""

    def __init__(
        self,
        parameters: GossipParameters,
        random_source: RandomSource,
        message_id: Callable[[Message], bytes],
        *,
        own: bytes = b"",
        direct: Iterable[bytes] = (),
    ) -> None:
        """`message_id` names messages and must not raise; `own` is our peer id, which is never dialled.

        `direct` are peers with an agreement to always forward to each other (v1.1, "Explicit Peering Agreements").
        """
        self.parameters = parameters
        self._state = State(parameters, random_source, message_id, own, frozenset(direct))

    # --- peers

    def peer_joined(
        self, peer: bytes, protocol: Protocol, outbound: bool, address_group: bytes | None, now: int
    ) -> list[Effect]:
        """A peer can be written to: say hello. Called again for a new stream to it, it says hello again.

        `outbound` says that we dialled it. Peers with the same `address_group` count against each other (P6): its IPv4
        address or IPv6 /64, None where many share one rightly, such as loopback.
        """
        state = self._state
        out = state.outbox()
        known = state.peers.get(peer)
        if known is None:
            if len(state.peers) >= state.bounds.peers:
                state.refuse(Refusal.PEERS_FULL)
                return [Disconnect(peer, None)]
            known = Peer(peer, peer in state.direct, state.scores.joined(peer, address_group))
            state.peers[peer] = known
        else:
            known.standing = state.scores.joined(peer, address_group)
        known.speaks(protocol)
        known.outbound = outbound
        for name in known.topics:
            if topic := state.topics.get(name):
                topic.place(known)
                if not known.has_control:
                    state.leave_mesh(topic, peer)
        for topic in state.joined_topics():
            out.subscription(peer, wire.subscription(topic.name, True))
        return out.flush()

    def peer_left(self, peer: bytes, now: int) -> list[Effect]:
        """A peer cannot be written to any more. Its score and back-offs outlast it."""
        state = self._state
        if state.peers.pop(peer, None) is None:
            return []
        for topic in state.topics.values():
            state.leave_mesh(topic, peer)
            topic.remove(peer)
        state.promises.forget(peer)
        state.scores.left(peer, now)
        return []

    def set_record(self, peer: bytes, record: bytes) -> None:
        """Note the signed peer record to recommend a peer with; one over its bound is left out."""
        known = self._state.peers.get(peer)
        if known is not None and len(record) <= self._state.bounds.record_bytes:
            known.record = record

    def set_application_score(self, peer: bytes, value: float) -> None:
        """Take what the application thinks of a connected peer (P5): its stake and audit record, say."""
        self._state.scores.set_application(peer, value)

    def set_degrees(self, degrees: Degrees) -> None:
        """Take other degrees, as the number of peers changes; meshes follow at the next heartbeats."""
        self.parameters = self._state.parameters = replace(self.parameters, degrees=degrees)

    def penalise(self, peer: bytes, count: float = 1.0) -> None:
        """Hold against a peer what the driver saw of it (P7), such as a recommendation with a bad signature."""
        self._state.scores.misbehaved(peer, count)

    # --- topics

    def subscribe(self, topic: str, now: int) -> list[Effect]:
        """Join a topic: announce it, and form a mesh of the peers that are there (v1.0, "Topic Membership").

        Raises ValueError for a name or a number of topics over its bound. Nothing happens if it is joined already.
        """
        state = self._state
        ours = state.topic(topic)
        out = state.outbox()
        if ours.joined:
            return []
        ours.joined = True
        field = wire.subscription(topic, True)
        for peer in state.peers:
            out.subscription(peer, field)
        candidates = state.candidates(ours, now)
        wanted = state.parameters.degrees.wanted
        grafted = [key for key in candidates if key in ours.fanout][:wanted]
        rest = [key for key in candidates if key not in ours.fanout]
        for key in (*grafted, *chosen(rest, wanted - len(grafted), state.random)):
            state.graft(ours, key, out, now)
        ours.fanout.clear()
        return out.flush()

    def unsubscribe(self, topic: str, now: int) -> list[Effect]:
        """Leave a topic: prune its mesh and announce it. Nothing happens if it is not joined."""
        state = self._state
        ours = state.topics.get(topic)
        if ours is None or not ours.joined:
            return []
        out = state.outbox()
        for key in list(ours.mesh):
            state.prune(ours, key, out, now, leaving=True)
        del state.topics[topic]
        state.held = [entry for entry in state.held if entry.topic != topic]
        field = wire.subscription(topic, False)
        for peer in state.peers:
            out.subscription(peer, field)
        return out.flush()

    # --- messages

    def publish(self, topic: str, data: bytes, now: int) -> list[Effect]:
        """Publish an own message, joined or not; with nobody there, it is held for the first who subscribes.

        Nothing happens if it was published or received before. Raises ValueError over a bound.
        """
        return self.publish_message(Message(topic, data), now)

    def publish_message(self, message: Message, now: int) -> list[Effect]:
        """Publish an own message with its author fields, as `GossipParameters.policy` wants them."""
        out = self._state.outbox()
        delivery.publish(self._state, message, out, now)
        return out.flush()

    def receive(self, peer: bytes, rpc: bytes, now: int) -> list[Effect]:
        """Take one RPC of a peer, without its length prefix.

        What was read before `peer_left` must not come after the next `peer_joined`: it speaks of a mesh that is gone.
        """
        state = self._state
        known = state.peers.get(peer)
        if known is None:
            state.refuse(Refusal.STRANGER)
            return []
        if state.scores.score_of(known.standing) < state.thresholds.graylist and not known.direct:
            state.refuse(Refusal.GRAYLISTED)
            return []
        if delivery.is_copy(state, peer, rpc, now):
            return []
        out = state.outbox()
        if (sole := wire.sole_message(rpc)) is not None:
            delivery.take_message(state, known, sole, rpc, out, now)
            return out.flush()
        try:
            read = wire.decode_rpc(rpc, state.bounds)
        except WireError as error:
            state.malformed(peer, error.fault, out)
            return out.flush()
        for what, count in read.cut.items():
            state.refuse(what, count)
        wishes = {topic: subscribes for subscribes, topic in read.subscriptions}
        for topic, subscribes in wishes.items():
            if subscribes:
                state.subscribed(known, topic, out)
        for raw in read.messages:
            part = wire.message_part(raw)
            if not delivery.is_copy(state, peer, part, now):
                delivery.take_message(state, known, raw, part, out, now)
        if read.control is not None:
            take_control(state, known, read.control, out, now)
        for topic, subscribes in wishes.items():
            if not subscribes:  # after the PRUNE that comes with it
                state.unsubscribed(known, topic, out, now)
        return out.flush()

    def judge(self, message_id: bytes, verdict: Verdict, now: int) -> list[Effect]:
        """Answer a `Deliver`. What comes too late is counted and has no effect."""
        out = self._state.outbox()
        delivery.judged(self._state, message_id, verdict, out, now)
        return out.flush()

    def withdraw(self, message_id: bytes, peer: bytes) -> bool:
        """Forget a `Deliver` of a peer that has fallen below the graylist threshold since, as if it had not come.

        False, and nothing happens, if somebody else has sent the message as well: then it is judged.
        """
        state = self._state
        entry = state.pending.get(message_id)
        known = state.peers.get(peer)
        if entry is None or tuple(entry.peers) != (peer,) or (known is not None and known.direct):
            return False
        if state.scores.score(peer) >= state.thresholds.graylist:
            return False
        state.pending.pop(message_id)
        state.refuse(Refusal.GRAYLISTED)
        return True

    def heartbeat(self, now: int) -> list[Effect]:
        """Keep meshes, scores, budgets and caches up, and gossip."""
        out = self._state.outbox()
        upkeep.beat(self._state, out, now)
        return out.flush()

    def not_sent(self, send: Send) -> None:
        """A peer's queue was full: what was in a frame of messages is offered again at the next heartbeat."""
        state = self._state
        state.refuse(Refusal.NOT_SENT, len(send.message_ids))
        peer = state.peers.get(send.peer)
        if peer is None:
            return
        for message_id in send.message_ids:
            if len(peer.missed) >= state.bounds.missed:
                del peer.missed[next(iter(peer.missed))]
            peer.missed[message_id] = None
            if (entry := state.cache.get(message_id)) and entry.asked.get(send.peer):
                entry.asked[send.peer] -= 1  # it may ask again

    # --- facts out

    def mesh(self, topic: str) -> tuple[bytes, ...]:
        """The peers in the mesh of a topic."""
        ours = self._state.topics.get(topic)
        return () if ours is None else tuple(ours.mesh)

    def neighbours(self, topic: str) -> tuple[bytes, ...]:
        """The connected peers that are subscribed to a topic."""
        return tuple(key for key, peer in self._state.peers.items() if topic in peer.topics)

    def subscriptions(self, peer: bytes) -> tuple[str, ...]:
        """The topics a connected peer is subscribed to."""
        known = self._state.peers.get(peer)
        return () if known is None else tuple(known.topics)

    def score(self, peer: bytes) -> float:
        """The score of a peer; 0 for one that is not known."""
        return self._state.scores.score(peer)

    def score_in(self, peer: bytes, topic: str) -> float:
        """The score of a peer as if a topic were the only one: below 0 it is not in the mesh of that topic."""
        return self._state.scores.score_in(peer, topic)

    def score_parts(self, peer: bytes) -> ScoreParts:
        """What the score of a peer is made of."""
        return self._state.scores.parts(peer)

    def statistics(self) -> RouterStatistics:
        """Numbers for `status`, metrics and tests."""
        state = self._state
        refused = dict(state.refused)
        early = {
            Refusal.SEEN_FULL: state.seen.forgotten_early,
            Refusal.CACHE_FULL: state.cache.dropped_early,
            Refusal.BACK_OFFS_FULL: state.back_offs.forgotten_early,
            Refusal.PROMISES_FULL: state.promises.forgotten_early,
            Refusal.SCORES_FULL: state.scores.forgotten_early,
        }
        refused.update({what: count for what, count in early.items() if count})
        count = state.count
        return RouterStatistics(
            topics=tuple(
                TopicStatistics(
                    topic=topic.name,
                    neighbours=len(topic.subscribers),
                    mesh=len(topic.mesh),
                    published=topic.published,
                    accepted=topic.accepted,
                    ignored=topic.ignored,
                    rejected=topic.rejected,
                    duplicates=topic.duplicates,
                )
                for topic in sorted(state.joined_topics(), key=lambda topic: topic.name)
            ),
            refused=refused,
            peers=len(state.peers),
            graylisted=sum(peer.graylisted for peer in state.peers.values()),
            cached=len(state.cache),
            cached_bytes=state.cache.size,
            seen=len(state.seen),
            pending=len(state.pending),
            pending_bytes=state.pending.size,
            back_offs=len(state.back_offs),
            promises=len(state.promises),
            scores=len(state.scores),
            held=len(state.held),
            **{name: getattr(count, name) for name in count.__slots__},
        )
