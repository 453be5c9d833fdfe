"""Gossip by the library's Pubsub and GossipSub, contained: what one peer sends can only end that peer's stream."""

from __future__ import annotations

import math
from collections import OrderedDict, deque
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass

import structlog
import trio
from libp2p.abc import IHost, INetStream
from libp2p.host.exceptions import StreamFailure
from libp2p.network.exceptions import SwarmException
from libp2p.network.stream.exceptions import StreamError
from libp2p.peer.id import ID
from libp2p.pubsub.pb import rpc_pb2
from libp2p.pubsub.pubsub import Pubsub
from libp2p.pubsub.utils import maybe_consume_signed_record
from libp2p.pubsub.validators import PUBSUB_SIGNING_PREFIX, signature_validator
from libp2p.tools.anyio_service import background_trio_service

from koii_p2p.limits import Limits
from koii_p2p.network.containment import Guard, at_most
from koii_p2p.network.frames import FrameError, VarintFrames, varint_frame
from koii_p2p.network.gossip import GossipStatistics, GossipVerdict, TopicStatistics, Validator
from koii_p2p.network.identity import key_of_peer_id, peer_id_bytes
from koii_p2p.network.mesh import Mesh
from koii_p2p.network.peer_queue import PeerQueue
from koii_p2p.network.settings import MeshDegree

log = structlog.get_logger(__name__)

REOPEN_SECONDS = 1.0


class SeenCache:
    """Ids of accepted messages, bounded in number and time; the library's keeps a thread per host for this."""

    def __init__(self, entries: int, seconds: float) -> None:
        self._entries = entries
        self._seconds = seconds
        self._expiry: OrderedDict[bytes, float] = OrderedDict()

    def has(self, key: bytes) -> bool:
        """Say whether the id was added and has not expired."""
        expiry = self._expiry.get(key)
        return expiry is not None and expiry > trio.current_time()

    def add(self, key: bytes) -> bool:
        """Remember an id; return whether it was new."""
        new = not self.has(key)
        now = trio.current_time()
        self._expiry[key] = now + self._seconds
        self._expiry.move_to_end(key)
        while len(self._expiry) > self._entries or next(iter(self._expiry.values())) <= now:
            self._expiry.popitem(last=False)
        return new


@dataclass(slots=True)
class TopicState:
    """What we know of a topic we joined."""

    validator: Validator
    #: Own messages published while nobody was subscribed, for the first neighbour that does.
    held: deque[rpc_pb2.Message]
    published: int = 0
    accepted: int = 0
    ignored: int = 0
    rejected: int = 0
    duplicates: int = 0


class ContainedPubsub(Pubsub):
    """Pubsub whose reading, admission and writing are ours; subscriptions and peer registration stay the library's."""

    router: Mesh

    def __init__(
        self,
        host: IHost,
        router: Mesh,
        guard: Guard,
        limits: Limits,
        misbehaved: Callable[[bytes, str], None],
    ) -> None:
        super().__init__(
            host,
            router,
            max_inbound_rpc_size=limits.gossip_rpc_bytes,
            max_subscriptions_per_rpc=limits.gossip_topics_per_peer,
            max_subscriptions_per_peer=limits.gossip_topics_per_peer,
        )
        self.seen_messages.stop()  # ends its sweeper thread, which the library never does
        self.seen_messages = SeenCache(limits.gossip_seen_ids, limits.gossip_seen_seconds)  # type: ignore[assignment]
        self.joined: dict[str, TopicState] = {}
        self.bad_signatures = 0
        self.bad_frames = 0
        self.lost_with_peers = 0
        self._guard = guard
        self._limits = limits
        self._misbehaved = misbehaved
        self._records: dict[ID, bytes] = {}
        self._replayed: dict[ID, set[str]] = {}
        #: What a stream left unsent when it ended while its peer stayed connected; goes out on the next one.
        self._unsent: dict[ID, list[bytes]] = {}
        self._opened_at: dict[ID, float] = {}

    # sending

    def send(self, peer: ID, frame: bytes, *, urgent: bool = False, own: bool = False) -> bool:
        """Queue a frame for a peer; False when it has no stream or its queue is full."""
        queue = self.peer_queues.get(peer)
        return queue is not None and queue.push(frame, urgent=urgent, own=own)  # type: ignore[call-arg, arg-type]

    def queues(self) -> dict[ID, PeerQueue]:
        """Return the outgoing queue of every peer with a stream."""
        return self.peer_queues  # type: ignore[return-value]

    def neighbours(self, topic: str) -> tuple[ID, ...]:
        """Return the peers that subscribed to a topic and can be sent to."""
        return tuple(peer for peer in self.peer_topics.get(topic, ()) if peer in self.peers)

    async def message_all_peers(self, raw_msg: bytes, announce: rpc_pb2.RPC.SubOpts | None = None) -> None:
        """Announce a subscription to every peer; its queue always has room for what is our own."""
        frame = varint_frame(raw_msg)
        for peer in tuple(self.peer_queues):
            self.send(peer, frame, urgent=True, own=True)

    def own_message(self, topic: str, data: bytes) -> rpc_pb2.Message:
        """Build and sign a message of ours (libp2p pubsub specification, StrictSign)."""
        message = rpc_pb2.Message(
            data=data, topicIDs=[topic], from_id=self.my_id.to_bytes(), seqno=self._next_seqno()
        )
        assert self.sign_key is not None  # strict signing is the default of the constructor
        message.signature = self.sign_key.sign(PUBSUB_SIGNING_PREFIX.encode() + message.SerializeToString())
        message.key = self.host.get_public_key().serialize()
        return message

    async def _handle_new_peer(self, peer_id: ID) -> None:
        """Open our stream to a peer, say hello, and start its writer, with a queue that counts what it refuses."""
        if peer_id in self.peers:
            return
        pause = self._opened_at.get(peer_id, -math.inf) + REOPEN_SECONDS - trio.current_time()
        if pause > 0:
            await trio.sleep(pause)  # a peer may reset our streams as fast as we open them
        self._opened_at[peer_id] = trio.current_time()
        try:
            stream = await self.host.new_stream(peer_id, self.protocols)
        except (StreamFailure, StreamError) as error:
            # The caller tries again after this exception only, and a busy peer may just have been slow.
            raise SwarmException(str(error)) from error
        if peer_id in self.peers:  # opened twice at once
            await stream.reset()
            return
        self.router.add_peer(peer_id, stream.get_protocol())
        queue = PeerQueue(frames=self._limits.gossip_queue, size=self._limits.gossip_queue_bytes)
        queue.push(varint_frame(self.get_hello_packet().SerializeToString()), urgent=True)
        for frame in self._unsent.pop(peer_id, ()):
            queue.push(frame, own=True)
        self.peers[peer_id] = stream
        self.peer_queues[peer_id] = queue  # type: ignore[assignment]
        self.manager.run_task(self.handle_sending_messages, peer_id, stream, queue)
        for topic in self.subscribed_by(peer_id):
            await self._welcome(peer_id, topic)

    async def handle_sending_messages(self, peer_id: ID, stream: INetStream, queue: PeerQueue) -> None:  # type: ignore[override]
        """Write a peer's queue in batches until the stream or the queue ends."""
        try:
            with self._guard.contain("gossip_writer"):
                try:
                    while (batch := await queue.take()) is not None:
                        await stream.write(batch)
                except StreamError:
                    log.debug("gossip_stream_ended", peer_id=str(peer_id))
        finally:
            if self.peers.get(peer_id) is stream:
                self._handle_dead_peer(peer_id)
            with at_most(self._limits.stop_deadline):
                await stream.reset()

    def _handle_dead_peer(self, peer_id: ID) -> None:
        """Forget the stream of a peer. While the peer is connected its subscriptions stay, for they came by its own
        stream to us, which may well live: the library forgets them and never hears them again.
        """
        connected = self._peer_is_connected(peer_id)
        if self.peers.pop(peer_id, None) is not None:
            self._unsent[peer_id] = self.queues().pop(peer_id).close()
            self.router.remove_peer(peer_id)
        if connected:
            if self.manager.is_running:
                self._schedule_peer_stream_retry(peer_id)
            return
        self._forget_all_subscriptions(peer_id)
        self.lost_with_peers += len(self._unsent.pop(peer_id, ()))
        self._records.pop(peer_id, None)
        self._replayed.pop(peer_id, None)
        self._opened_at.pop(peer_id, None)

    # receiving

    async def stream_handler(self, stream: INetStream) -> None:
        """Read a peer's gossip stream to its end; whatever comes out of it ends this stream only."""
        peer_id = stream.muxed_conn.peer_id
        try:
            with self._guard.contain("gossip_reader"):
                try:
                    await self.continuously_read_stream(stream)
                except StreamError:
                    # The peer or its connection ended it, which is no fault.
                    log.debug("gossip_stream_ended", peer_id=str(peer_id))
        finally:
            with at_most(self._limits.stop_deadline):
                await stream.reset()
            if not self._peer_is_connected(peer_id):
                self._handle_dead_peer(peer_id)

    async def continuously_read_stream(self, stream: INetStream) -> None:
        """Read RPCs and deal with each before the next: in order, without a task per message."""
        peer_id = stream.muxed_conn.peer_id
        frames = VarintFrames(stream, self.max_inbound_rpc_size)
        while True:
            frame = await frames.next()
            try:
                rpc = rpc_pb2.RPC.FromString(frame)
            except Exception as error:
                self.bad_frames += 1
                self._misbehaved(key_of_peer_id(peer_id.to_bytes()), "frame")
                raise FrameError("A frame is not a pubsub RPC.") from error
            await self._handle_rpc(peer_id, rpc)

    async def _handle_rpc(self, peer_id: ID, rpc: rpc_pb2.RPC) -> None:
        if rpc.HasField("senderRecord") and self._records.get(peer_id) != rpc.senderRecord:
            # Other py-libp2p nodes attach the same signed record to every RPC; one check per change is enough.
            if not maybe_consume_signed_record(rpc, self.host, peer_id):
                self.bad_frames += 1
                return
            self._records[peer_id] = rpc.senderRecord
        for message in rpc.publish:
            await self.push_msg(peer_id, message)
            await trio.lowlevel.checkpoint()  # a frame may hold thousands of small messages
        for subscription in rpc.subscriptions[: self.max_subscriptions_per_rpc]:
            self.handle_subscription(peer_id, subscription)
            if subscription.subscribe and peer_id in self.peers:
                await self._welcome(peer_id, subscription.topicid)
        if rpc.HasField("control"):
            rpc.ClearField("senderRecord")  # checked above
            await self.router.handle_rpc(rpc, peer_id)

    async def push_msg(self, msg_forwarder: ID, msg: rpc_pb2.Message) -> None:
        """Admit a message of a peer, and forward it if our validator accepts it."""
        key = key_of_peer_id(msg_forwarder.to_bytes())
        topic = msg.topicIDs[0] if len(msg.topicIDs) == 1 else ""
        state = self.joined.get(topic)
        if state is None:
            return
        mid = self.get_message_id(msg)
        if self.seen_messages.has(mid) or msg.from_id == self.my_id.to_bytes():
            state.duplicates += 1
            return
        if not self._signed(msg):
            # Every honest forwarder checks this too, so the neighbour itself is to blame.
            self.bad_signatures += 1
            state.rejected += 1
            self._misbehaved(key, "signature")
            return
        verdict = GossipVerdict.REJECT
        if len(msg.data) <= self._limits.gossip_message_bytes:
            verdict = GossipVerdict.IGNORE  # where our validator fails, the sender must not pay for it
            with self._guard.contain("validator"):
                verdict = state.validator(key, msg.data)
        if verdict is GossipVerdict.ACCEPT:
            state.accepted += 1
            self.seen_messages.add(mid)
            await self.router.publish(msg_forwarder, msg)
        elif verdict is GossipVerdict.REJECT:
            state.rejected += 1
            self._misbehaved(key, "message")
        else:
            state.ignored += 1

    def _signed(self, message: rpc_pb2.Message) -> bool:
        """Check a message's signature; its author must be an ed25519 identity, which carries its own key.

        The library parses the `key` field otherwise, and what that raises ends its service.
        """
        try:
            key_of_peer_id(message.from_id)
        except ValueError:
            return False
        try:
            return signature_validator(message)
        except Exception as error:  # noqa: BLE001 - whatever the library makes of a stranger's bytes
            self._guard.count("signature", error)
            return False

    # subscriptions

    def handle_subscription(self, origin_id: ID, sub_message: rpc_pb2.RPC.SubOpts) -> None:
        """Note that a peer subscribed or unsubscribed: bounded, and without a task for each."""
        topic = sub_message.topicid
        if not sub_message.subscribe:
            self._forget_subscription(origin_id, topic)
            return
        if len(topic) > self._limits.gossip_topic_bytes or origin_id in self.peer_topics.get(topic, ()):
            return
        count = self._peer_subscription_count.get(origin_id, 0)
        if count >= self.max_subscriptions_per_peer:
            return
        self._peer_subscription_count[origin_id] = count + 1
        self.peer_topics.setdefault(topic, set()).add(origin_id)

    def subscribed_by(self, peer_id: ID) -> tuple[str, ...]:
        """Return the topics a peer told us it is subscribed to."""
        return tuple(sorted(topic for topic, peers in self.peer_topics.items() if peer_id in peers))

    async def _welcome(self, peer_id: ID, topic: str) -> None:
        """Give a peer that subscribed the newest messages once, and what waited for a first neighbour; graft it."""
        state = self.joined.get(topic)
        if state is None or peer_id not in self.peer_topics.get(topic, ()):
            return
        replayed = self._replayed.setdefault(peer_id, set())
        if topic not in replayed:
            replayed.add(topic)
            for frame in self.router.recent_frames(topic):
                self.send(peer_id, frame)
        while state.held and self.neighbours(topic):
            await self.router.publish(self.my_id, state.held.popleft())
        await self.router.on_peer_subscribed(peer_id, topic)


class LibraryGossip:
    """`Gossip` over the library's pubsub; see `koii_p2p.network.gossip.Gossip`."""

    def __init__(
        self,
        host: IHost,
        degree: MeshDegree,
        heartbeat: float,
        guard: Guard,
        limits: Limits,
        misbehaved: Callable[[bytes, str], None],
    ) -> None:
        self._limits = limits
        self._mesh = Mesh(degree, heartbeat, guard, limits)
        self._pubsub = ContainedPubsub(host, self._mesh, guard, limits, misbehaved)
        self._publishing = trio.Lock()
        #: Peers an own message has waited for in vain; not waited for again until they have room.
        self._slow: set[ID] = set()
        self._own_dropped = 0

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Run pubsub and router for the length of the block; an error of either cancels and leaves it."""
        async with background_trio_service(self._pubsub), background_trio_service(self._mesh):
            await self._pubsub.wait_until_ready()
            yield

    async def join(self, topic: str, validator: Validator) -> None:
        """Subscribe to a topic. Raises `ValueError` when it was joined before or its name is too long."""
        if topic in self._pubsub.joined:
            raise ValueError(f"The topic {topic!r} is joined already.")
        if not topic or len(topic) > self._limits.gossip_topic_bytes:
            raise ValueError(f"A topic has 1 to {self._limits.gossip_topic_bytes} characters.")
        self._pubsub.joined[topic] = TopicState(validator=validator, held=deque())
        # The subscription's channel is never filled: messages go to the validator, nothing can be dropped there.
        await self._pubsub.subscribe(topic)

    async def publish(self, topic: str, data: bytes) -> int:
        """Send an own message to every subscribed neighbour; return how many there are.

        Waits while a neighbour's queue is long, each slow one for a bounded time. With no neighbour the message is
        held for the first that subscribes and 0 is returned. Raises `ValueError` for a topic that was not joined
        or for data above `Limits.gossip_message_bytes`.
        """
        state = self._pubsub.joined.get(topic)
        if state is None:
            raise ValueError(f"The topic {topic!r} is not joined.")
        if len(data) > self._limits.gossip_message_bytes:
            raise ValueError(
                f"A message has at most {self._limits.gossip_message_bytes} bytes, not {len(data)}."
            )
        async with self._publishing:
            await self._wait_for_room(self._pubsub.neighbours(topic))
            message = self._pubsub.own_message(topic, data)
            self._pubsub.seen_messages.add(self._pubsub.get_message_id(message))
            neighbours = self._pubsub.neighbours(topic)
            state.published += 1
            if neighbours:
                await self._mesh.publish(self._pubsub.my_id, message)
            else:
                self._hold(state, message)
            return len(neighbours)

    async def _wait_for_room(self, peers: Iterable[ID]) -> None:
        for peer in peers:
            queue = self._pubsub.queues().get(peer)
            if queue is None:
                continue
            if len(queue) < self._limits.publish_pace:
                self._slow.discard(peer)
            elif peer not in self._slow:
                with trio.move_on_after(self._limits.publish_patience) as scope:
                    await queue.wait_for_room(self._limits.publish_pace)
                if scope.cancelled_caught:
                    self._slow.add(peer)

    def _hold(self, state: TopicState, message: rpc_pb2.Message) -> None:
        if len(state.held) >= self._limits.own_messages_held:
            state.held.popleft()
            self._own_dropped += 1
            log.warning("own_message_dropped", reason="nobody has subscribed for too long")
        state.held.append(message)

    def has_stream(self, key: bytes) -> bool:
        """Say whether messages can be sent to this peer."""
        return ID(peer_id_bytes(key)) in self._pubsub.peers

    def subscriptions(self, key: bytes) -> tuple[str, ...]:
        """Return the topics this peer told us it is subscribed to."""
        return self._pubsub.subscribed_by(ID(peer_id_bytes(key)))

    def stalled(self, seconds: float) -> tuple[bytes, ...]:
        """Return the keys of the peers whose queue has not moved for `seconds`, or holds more than is bearable."""
        now = trio.current_time()
        frames, size = 4 * self._limits.gossip_queue, 4 * self._limits.gossip_queue_bytes
        return tuple(
            key_of_peer_id(peer.to_bytes())
            for peer, queue in self._pubsub.queues().items()
            if queue.stalled_for(now) > seconds or len(queue) > frames or queue.size > size
        )

    def statistics(self) -> GossipStatistics:
        """Return the counters."""
        pubsub = self._pubsub
        return GossipStatistics(
            topics=tuple(
                TopicStatistics(
                    topic=topic,
                    neighbours=len(pubsub.neighbours(topic)),
                    mesh=len(self._mesh.mesh.get(topic, ())),
                    published=state.published,
                    accepted=state.accepted,
                    ignored=state.ignored,
                    rejected=state.rejected,
                    duplicates=state.duplicates,
                )
                for topic, state in sorted(pubsub.joined.items())
            ),
            peers=len(pubsub.peers),
            queued=sum(len(queue) for queue in pubsub.queues().values()),
            forwards_dropped=self._mesh.forwards_dropped,
            own_waiting=sum(len(state.held) for state in pubsub.joined.values()),
            own_dropped=self._own_dropped,
            lost_with_peers=pubsub.lost_with_peers,
            bad_signatures=pubsub.bad_signatures,
            bad_frames=pubsub.bad_frames,
        )
