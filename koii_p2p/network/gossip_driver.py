"""Drives the gossip router: its peers are our links, its RPCs travel on streams, its clock is trio's.

Each peer has one stream from us, with a bounded queue and one task that writes all that waits as one piece, and one
stream to us, whose reads are cut into RPCs and dealt with before the next read. Whatever a peer does ends its own
stream or link.

Source: libp2p specifications, pubsub README ("Stream management") and gossipsub v1.1 and v1.2.
"""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

import structlog
import trio
from trio.lowlevel import ParkingLot

from koii_p2p.gossip.effects import Connect, Deliver, Disconnect, Effect, Graylist, Send
from koii_p2p.gossip.message_id import content_id
from koii_p2p.gossip.parameters import GossipParameters, degrees_for
from koii_p2p.gossip.peers import ANNOUNCED, Protocol
from koii_p2p.gossip.random_source import RandomSource
from koii_p2p.gossip.refusals import Refusal
from koii_p2p.gossip.router import GossipRouter
from koii_p2p.limits import Limits
from koii_p2p.network.containment import Guard, at_most
from koii_p2p.network.frames import FrameError, FrameSplitter
from koii_p2p.network.gossip import GossipStatistics, GossipVerdict, PeerScore, TopicStanding, Validator
from koii_p2p.network.gossip_settings import address_group
from koii_p2p.network.identity import key_of_peer_id, peer_id_bytes, peer_id_text
from koii_p2p.network.peer_queue import PeerQueue
from koii_p2p.network.peer_records import BadPeerRecord, recorded_addresses
from koii_p2p.network.streams import LinkDown, LinkEvent, LinkUp, PeerStream, StreamFailed

log = structlog.get_logger(__name__)

REOPEN_SECONDS = 1.0
"""A peer may reset our streams as fast as we open them."""

TURN = 512
"""How much is done for one peer before others get their turn; a frame or effect counts 1."""
DIRECT_BYTES = 32 * 1024
"""Up to so much is written without waking the task that writes to a peer; more would seldom fit."""
DELIVERY_WORK = 16
"""What a message counts that goes to a validator, which checks a signature."""


@dataclass(frozen=True, slots=True)
class PeerControl:
    """What gossip asks of the network about a peer, named by its 32-byte key; none of it blocks."""

    misbehaved: Callable[[bytes, str], None]
    """Count something nobody honest does."""
    ban: Callable[[bytes, str], None]
    """Disconnect a peer and keep it out for a while; the text says why."""
    disconnect: Callable[[bytes, str], None]
    """Disconnect a peer, which may come back."""
    learn: Callable[[bytes, tuple[str, ...]], None]
    """Hear where a peer may be dialled."""
    record: Callable[[bytes], bytes]
    """Return the signed record a peer gave us; empty while there is none."""


class _Peer:
    """A linked peer."""

    __slots__ = (
        "group",
        "has_record",
        "joined",
        "key",
        "opened_at",
        "outbound",
        "peer_id",
        "queue",
        "reader",
        "rejected",
        "scope",
        "stream",
    )

    def __init__(self, event: LinkUp, queue: PeerQueue) -> None:
        self.key = event.key
        self.peer_id = peer_id_bytes(event.key)
        self.outbound = event.outgoing
        self.group = address_group(event.address)
        self.queue = queue
        self.scope = trio.CancelScope()
        #: Set once the router knows the peer; what it sends waits for that.
        self.joined = trio.Event()
        self.has_record = False
        self.rejected = False
        self.stream: PeerStream | None = None
        self.opened_at = -math.inf
        #: Whatever reads from the peer; a newer stream takes the place of an older one.
        self.reader: trio.CancelScope | None = None


class GossipDriver:
    """Gossip over the links of a network. One object per running network."""

    def __init__(
        self,
        key: bytes,
        parameters: GossipParameters,
        open_stream: Callable[[bytes, Sequence[str]], Awaitable[PeerStream]],
        control: PeerControl,
        guard: Guard,
        limits: Limits,
        random_source: RandomSource,
    ) -> None:
        self._router = GossipRouter(parameters, random_source, content_id, own=peer_id_bytes(key))
        self._heartbeat = parameters.heartbeat / 1000
        self._open_stream = open_stream
        self._control = control
        self._guard = guard
        self._limits = limits
        self._validators: dict[str, Validator] = {}
        #: By PeerId, as the router names them.
        self._peers: dict[bytes, _Peer] = {}
        self._arrivals = ParkingLot()
        self._unflushed: dict[_Peer, None] = {}
        self._scores: dict[bytes, float] = {}
        self._publishing = trio.Lock()
        #: Peers an own message has waited for in vain; not waited for again until they have room.
        self._slow: set[bytes] = set()
        self._lost_with_peers = 0
        self._recommended = 0
        self._nursery: trio.Nursery | None = None

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Gossip for the length of the block."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            nursery.start_soon(self._beat)
            yield
            nursery.cancel_scope.cancel()

    async def _beat(self) -> None:
        await trio.sleep(min(0.1, self._heartbeat))
        while True:
            with self._guard.contain("heartbeat"):
                self._carry_out(self._router.heartbeat(_now()))
                self._note_records()
            await trio.sleep(self._heartbeat)

    def _note_records(self) -> None:
        """Give the router the signed records to recommend peers with, once identify has brought them."""
        for peer in self._peers.values():
            if not peer.has_record and (record := self._control.record(peer.key)):
                self._router.set_record(peer.peer_id, record)
                peer.has_record = True

    # links

    def link_changed(self, event: LinkEvent) -> None:
        """Take note that a peer came or went."""
        peer_id = peer_id_bytes(event.key)
        if isinstance(event, LinkDown):
            if (gone := self._peers.pop(peer_id, None)) is not None:
                gone.scope.cancel()
                if gone.reader is not None:
                    gone.reader.cancel()  # what it has left is of a link that is no more
                self._lost_with_peers += len(gone.queue.close())
                self._slow.discard(peer_id)
                self._carry_out(self._router.peer_left(peer_id, _now()))
        elif peer_id not in self._peers and self._nursery is not None:
            queue = PeerQueue(frames=self._limits.gossip_queue, size=self._limits.gossip_queue_bytes)
            peer = self._peers[peer_id] = _Peer(event, queue)
            self._arrivals.unpark_all()
            self._nursery.start_soon(self._attend, peer)

    async def _attend(self, peer: _Peer) -> None:
        """Keep a stream open to a peer for as long as it is linked."""
        with peer.scope, self._guard.contain("gossip_link"):
            while True:
                await trio.sleep_until(peer.opened_at + REOPEN_SECONDS)
                peer.opened_at = trio.current_time()
                try:
                    stream = await self._open_stream(peer.key, ANNOUNCED)
                except StreamFailed as error:
                    log.debug("gossip_stream_refused", peer_id=peer_id_text(peer.key), error=str(error))
                    continue
                try:
                    self._join(peer, stream)
                    await self._write(peer, stream)
                finally:
                    peer.stream = None
                    peer.queue.put_back()
                    with at_most(self._limits.stop_deadline):
                        await stream.reset()

    def _join(self, peer: _Peer, stream: PeerStream) -> None:
        peer.stream = stream
        protocol = Protocol(stream.protocol)
        hello = self._router.peer_joined(peer.peer_id, protocol, peer.outbound, peer.group, _now())
        if score := self._scores.get(peer.key):
            self._router.set_application_score(peer.peer_id, score)
        self._carry_out(hello)
        peer.joined.set()

    async def _write(self, peer: _Peer, stream: PeerStream) -> None:
        """Write a peer's queue until the stream ends."""

        async def write() -> None:
            try:
                while (batch := await peer.queue.take()) is not None:
                    await stream.write(batch)
            except StreamFailed as error:
                log.debug("gossip_stream_ended", peer_id=peer_id_text(peer.key), error=str(error))
            nursery.cancel_scope.cancel()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(write)
            try:
                while await stream.read_some():  # nobody answers on this stream; to read is to see it cut
                    await trio.lowlevel.checkpoint()
            except StreamFailed:
                nursery.cancel_scope.cancel()

    # receiving

    async def read(self, stream: PeerStream) -> None:
        """Read a peer's stream to its end; the handler of every protocol in `ANNOUNCED`."""
        peer = await self._linked(stream.key)
        if peer is None:
            return
        if peer.reader is not None:
            peer.reader.cancel()  # a peer has one stream to us; as in go, the newest counts
        with trio.CancelScope() as scope:
            peer.reader = scope
            try:
                await peer.joined.wait()
                frames = FrameSplitter(self._limits.gossip_rpc_bytes)
                while data := await stream.read_some():
                    await self._take(peer, frames.feed(data))
            except FrameError:
                self._router.penalise(peer.peer_id)
                self._malformed(peer, "frame")
            except StreamFailed as error:
                log.debug("gossip_stream_ended", peer_id=peer_id_text(peer.key), error=str(error))
        if scope.cancelled_caught:
            await stream.reset()

    async def _linked(self, key: bytes) -> _Peer | None:
        """Return a peer, waiting a little for the word that it is linked: a stream of it may be quicker."""
        peer_id = peer_id_bytes(key)
        with trio.move_on_after(self._limits.negotiation_deadline):
            while peer_id not in self._peers:
                await self._arrivals.park()
        return self._peers.get(peer_id)

    async def _take(self, peer: _Peer, frames: list[bytes]) -> None:
        """Deal with the RPCs of one read, in order, giving others a turn after so much work."""
        receive = self._router.receive
        now, work, yielded = _now(), 0, False
        for frame in frames:
            if yielded:
                await trio.lowlevel.checkpoint_if_cancelled()
                yielded = False
            work += 1
            for effect in receive(peer.peer_id, frame, now):
                self._perform(effect, now)
                work += DELIVERY_WORK if type(effect) is Deliver else 1
                if work >= TURN:
                    # Shielded: what is handed over for a verdict gets one.
                    self._flush()
                    await trio.lowlevel.cancel_shielded_checkpoint()
                    now, work, yielded = _now(), 0, True
            if work >= TURN:
                self._flush()
                await trio.lowlevel.checkpoint()
                now, work = _now(), 0
        self._flush()

    # effects

    def _carry_out(self, effects: Iterable[Effect]) -> None:
        now = _now()
        for effect in effects:
            self._perform(effect, now)
        self._flush()

    def _flush(self) -> None:
        """Send what was queued since the last time: one write for each peer, at once where nothing is in the way."""
        for peer in self._unflushed:
            queue = peer.queue
            if queue.idle and peer.stream is not None and 0 < queue.size <= DIRECT_BYTES:
                if peer.stream.write_nowait(queue.take_nowait()):
                    queue.sent()
                else:
                    queue.put_back()
            if len(queue):
                queue.wake()
        self._unflushed.clear()

    def _perform(self, effect: Effect, now: int) -> None:
        if isinstance(effect, Send):
            self._send(effect)
        elif isinstance(effect, Deliver):
            # One RPC brings thousands: what is left of it after the eleventh forgery costs no check any more.
            sender = self._peers.get(effect.peer)
            suspect = sender is not None and sender.rejected
            if not suspect or not self._router.withdraw(effect.message_id, effect.peer):
                for send in self._router.judge(effect.message_id, self._judge(effect), now):
                    self._perform(send, now)
        elif isinstance(effect, Disconnect):
            if effect.fault is None:
                self._control.disconnect(key_of_peer_id(effect.peer), "too many")
            elif (peer := self._peers.get(effect.peer)) is not None:
                self._malformed(peer, effect.fault.value)
        elif isinstance(effect, Graylist):
            self._control.ban(key_of_peer_id(effect.peer), f"score {effect.score:.0f}")
        else:
            self._recommend(effect)

    def _send(self, send: Send) -> None:
        peer = self._peers.get(send.peer)
        # Own messages and control are always taken: the publisher paces itself, and who takes nothing is disconnected.
        if peer is None:
            return
        if peer.queue.push(send.frame, urgent=send.urgent, own=not send.message_ids):
            self._unflushed[peer] = None
        else:
            self._router.not_sent(send)

    def _judge(self, message: Deliver) -> GossipVerdict:
        key = key_of_peer_id(message.peer)
        try:
            verdict = self._validators[message.topic](key, message.data)
        except Exception as error:  # noqa: BLE001 - our own fault: the sender must not pay for it
            self._guard.count("validator", error)
            return GossipVerdict.IGNORE
        if verdict is GossipVerdict.REJECT:
            if (sender := self._peers.get(message.peer)) is not None:
                sender.rejected = True
            self._control.misbehaved(key, "message")
        return verdict

    def _malformed(self, peer: _Peer, why: str) -> None:
        """A peer does not speak the protocol: it may come back a few times."""
        self._guard.count("gossip_rpc", why)
        self._control.misbehaved(peer.key, "frame")
        self._control.disconnect(peer.key, "malformed gossip")

    def _recommend(self, effect: Connect) -> None:
        """Hear of a peer that another recommends; the connector dials it when it sees fit."""
        try:
            key = key_of_peer_id(effect.peer)
        except ValueError:  # no staker, but a peer there may be
            return
        if not effect.record:
            return
        try:
            # A hint only: the record is the peer's own word, but may be an old one that somebody kept.
            self._control.learn(key, recorded_addresses(key, effect.record))
            self._recommended += 1
        except BadPeerRecord:
            self._guard.count("gossip", "BadPeerRecord")
            self._router.penalise(effect.via)

    # what the network asks for

    def join(self, topic: str, validator: Validator) -> None:
        """Subscribe to a topic. Raises `ValueError` when it was joined before or its name is too long."""
        if topic in self._validators:
            raise ValueError(f"The topic {topic!r} is joined already.")
        effects = self._router.subscribe(topic, _now())
        self._validators[topic] = validator
        self._carry_out(effects)

    async def publish(self, topic: str, data: bytes) -> int:
        """Send an own message to every subscribed neighbour; return how many there are.

        Waits while a neighbour's queue is long, each slow one for a bounded time. With no neighbour the message is
        held for the first that subscribes and 0 is returned. One that was published or received before goes nowhere.
        Raises `ValueError` for a topic that was not joined or for data above `Limits.gossip_message_bytes`.
        """
        if topic not in self._validators:
            raise ValueError(f"The topic {topic!r} is not joined.")
        if len(data) > self._limits.gossip_message_bytes:
            raise ValueError(
                f"A message has at most {self._limits.gossip_message_bytes} bytes, not {len(data)}."
            )
        async with self._publishing:
            await self._wait_for_room(self._router.neighbours(topic))
            self._carry_out(self._router.publish(topic, data, _now()))
            return len(self._router.neighbours(topic))

    async def _wait_for_room(self, peer_ids: Iterable[bytes]) -> None:
        pace = self._limits.publish_pace
        for peer_id in peer_ids:
            peer = self._peers.get(peer_id)
            if peer is None:
                continue
            if len(peer.queue) < pace:
                self._slow.discard(peer_id)
            elif peer_id not in self._slow:
                with trio.move_on_after(self._limits.publish_patience) as scope:
                    await peer.queue.wait_for_room(pace)
                if scope.cancelled_caught:
                    self._slow.add(peer_id)

    def set_application_score(self, key: bytes, value: float) -> None:
        """Set what the application thinks of a peer (P5 of its score), connected or not; 0 forgets it."""
        if value:
            self._scores[key] = value
        else:
            self._scores.pop(key, None)
        self._router.set_application_score(peer_id_bytes(key), value)

    def expect_peers(self, count: int) -> None:
        """Let the meshes be as large as a net of `count` nodes wants."""
        degrees = degrees_for(count)
        if degrees != self._router.parameters.degrees:
            self._router.set_degrees(degrees)

    def has_stream(self, key: bytes) -> bool:
        """Say whether messages can be sent to this peer."""
        peer = self._peers.get(peer_id_bytes(key))
        return peer is not None and peer.stream is not None

    def subscriptions(self, key: bytes) -> tuple[str, ...]:
        """Return the topics this peer told us it is subscribed to."""
        return tuple(sorted(self._router.subscriptions(peer_id_bytes(key))))

    def score(self, key: bytes) -> float:
        """Return the score of a peer; 0 for one that is not known."""
        return self._router.score(peer_id_bytes(key))

    def scores(self) -> tuple[PeerScore, ...]:
        """Return what the score of every linked peer is made of, sorted by key."""
        router = self._router
        joined = {topic: frozenset(router.mesh(topic)) for topic in sorted(self._validators)}
        return tuple(
            PeerScore(
                peer.key,
                router.score_parts(peer_id),
                tuple(
                    TopicStanding(topic, peer_id in mesh, router.score_in(peer_id, topic))
                    for topic, mesh in joined.items()
                    if topic in router.subscriptions(peer_id)
                ),
            )
            for peer_id, peer in sorted(self._peers.items(), key=lambda item: item[1].key)
        )

    def stalled(self, seconds: float) -> tuple[bytes, ...]:
        """Return the keys of the peers whose queue has not moved for `seconds`, or holds more than is bearable."""
        now = trio.current_time()
        frames, size = 4 * self._limits.gossip_queue, 4 * self._limits.gossip_queue_bytes
        return tuple(
            peer.key
            for peer in self._peers.values()
            if peer.queue.stalled_for(now) > seconds or len(peer.queue) > frames or peer.queue.size > size
        )

    def statistics(self) -> GossipStatistics:
        """Return the counters."""
        router = self._router.statistics()
        queues = [peer.queue for peer in self._peers.values()]
        return GossipStatistics(
            topics=router.topics,
            peers=sum(peer.stream is not None for peer in self._peers.values()),
            graylisted=router.graylisted,
            queued=sum(map(len, queues)),
            queued_bytes=sum(queue.size for queue in queues),
            received=router.received,
            duplicates=router.duplicates,
            forwarded=router.forwarded,
            forwards_dropped=router.refused.get(Refusal.NOT_SENT, 0),
            own_waiting=router.held,
            own_dropped=router.refused.get(Refusal.HELD_FULL, 0),
            lost_with_peers=self._lost_with_peers,
            recommended=self._recommended,
            refused=tuple(sorted((what.value, count) for what, count in router.refused.items())),
        )


def _now() -> int:
    """Return trio's clock in whole milliseconds."""
    return int(trio.current_time() * 1000)
