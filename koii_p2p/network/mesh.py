"""The library's GossipSub with its mesh faults repaired and its bounds drawn.

Only what differs is here; each override says beside it what the library does instead. The faults and the measurements
behind them are listed in `containment.SEAMS`.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterable
from typing import TYPE_CHECKING

import trio
from libp2p.peer.id import ID
from libp2p.pubsub.gossipsub import PROTOCOL_ID, PROTOCOL_ID_V11, GossipSub
from libp2p.pubsub.pb import rpc_pb2
from libp2p.pubsub.utils import safe_bytes_from_hex

from koii_p2p.limits import Limits
from koii_p2p.network.containment import Guard
from koii_p2p.network.frames import varint_frame
from koii_p2p.network.settings import MeshDegree

if TYPE_CHECKING:
    from koii_p2p.network.library_gossip import ContainedPubsub

PRUNE_BACK_OFF = 15  # seconds; the library's 60 leave a small mesh thin for a minute
GOSSIP_PEERS = 6  # at least so many peers outside the mesh hear of the messages they may lack (D_lazy)
GOSSIP_SHARE = 4  # and at least one of so many
ANSWER_BYTES = 512 * 1024  # of messages in one answer to IWANT


class Mesh(GossipSub):
    """GossipSub 1.1 and 1.0 without scoring: who misbehaves is counted and banned by the node itself."""

    def __init__(self, degree: MeshDegree, heartbeat: float, guard: Guard, limits: Limits) -> None:
        super().__init__(
            protocols=[
                PROTOCOL_ID_V11,
                PROTOCOL_ID,
            ],  # 1.2's IDONTWANT for every size costs more than it saves
            degree=degree.wanted,
            degree_low=degree.low,
            degree_high=degree.high,
            heartbeat_interval=heartbeat,  # type: ignore[arg-type]  # only ever slept on
            heartbeat_initial_delay=min(0.1, heartbeat),
            gossip_window=3,
            gossip_history=5,
            prune_back_off=PRUNE_BACK_OFF,
            adaptive_gossip_enabled=False,  # slows a healthy heartbeat from 1 s to 30 s
            spam_protection_enabled=False,  # loses everything above 10 messages a second
            eclipse_protection_enabled=False,
        )
        # Scores would be 0 for ever (every weight defaults to 0), and the "quality" rules built on them churn the mesh.
        self.scorer = None
        self._guard = guard
        self._limits = limits
        self.forwards_dropped = 0

    @property
    def host(self) -> ContainedPubsub:
        """The pubsub this router belongs to."""
        pubsub = self.pubsub
        assert pubsub is not None  # attached in Pubsub's constructor
        return pubsub  # type: ignore[return-value]

    async def heartbeat(self) -> None:
        """Beat for ever: one beat that fails is counted and does not end the others."""
        while True:
            with self._guard.contain("heartbeat"):
                await super().heartbeat()
            await trio.sleep(self.heartbeat_interval)

    async def publish(self, msg_forwarder: ID, pubsub_msg: rpc_pb2.Message) -> None:
        """Forward a message that was accepted: own ones to every subscribed neighbour, others into the mesh.

        The library sends own messages into the mesh only (to nobody while it is empty), and queues everything for
        peers that have not subscribed.
        """
        self.mcache.put(pubsub_msg)
        frame = publish_frame((pubsub_msg,))
        if msg_forwarder == self.host.my_id:
            for peer in self.host.neighbours(pubsub_msg.topicIDs[0]):
                self.host.send(peer, frame, own=True)
            return
        origin = ID(pubsub_msg.from_id)
        for peer in self._get_peers_to_send(pubsub_msg.topicIDs, msg_forwarder, origin):
            if not self.host.send(peer, frame):
                self.forwards_dropped += 1

    def send_rpc(self, peer_id: ID, rpc: rpc_pb2.RPC, priority: bool = False) -> None:
        """Queue an RPC for a peer and count it when its queue is full (the library drops it in silence)."""
        if not self.host.send(peer_id, varint_frame(rpc.SerializeToString()), urgent=priority):
            self.forwards_dropped += 1

    def recent_frames(self, topic: str) -> list[bytes]:
        """Return the newest messages of a topic, for a peer that has just subscribed: at most one answer's bytes."""
        messages = (self.mcache.get(mid) for mid in reversed(self.mcache.window(topic)))
        frames: list[bytes] = []
        size = 0
        for message in messages:
            if message is None:
                continue
            frames.append(publish_frame((message,)))
            size += len(frames[-1])
            if size > ANSWER_BYTES:
                break
        return frames[::-1]

    async def handle_ihave(self, ihave_msg: rpc_pb2.ControlIHave, sender_peer_id: ID) -> None:
        """Ask for what we lack: only on topics we joined and for a bounded number of ids."""
        if ihave_msg.topicID not in self.mesh:
            return
        if len(ihave_msg.messageIDs) > self._limits.gossip_ids:
            ihave_msg = rpc_pb2.ControlIHave(
                topicID=ihave_msg.topicID, messageIDs=ihave_msg.messageIDs[: self._limits.gossip_ids]
            )
        await super().handle_ihave(ihave_msg, sender_peer_id)

    async def handle_iwant(self, iwant_msg: rpc_pb2.ControlIWant, sender_peer_id: ID) -> None:
        """Answer each id once and with a bounded number of bytes (the library answers repeats with copies)."""
        if not self._check_iwant_rate_limit(sender_peer_id):
            return
        wanted = dict.fromkeys(
            safe_bytes_from_hex(mid) for mid in iwant_msg.messageIDs[: self._limits.gossip_ids]
        )
        found: list[rpc_pb2.Message] = []
        size = 0
        for mid in wanted:
            message = None if mid is None else self.mcache.get(mid)
            if message is None:
                continue
            size += message.ByteSize()
            if found and size > ANSWER_BYTES:
                break
            found.append(message)
        if found and not self.host.send(sender_peer_id, publish_frame(found)):
            self.forwards_dropped += len(found)

    async def handle_graft(self, graft_msg: rpc_pb2.ControlGraft, sender_peer_id: ID) -> None:
        """Refuse a GRAFT above the upper degree bound and ignore one for a topic we did not join (spec: no answer)."""
        mesh = self.mesh.get(graft_msg.topicID)
        if mesh is None:
            return
        if sender_peer_id not in mesh and len(mesh) >= self.degree_high:
            self._add_back_off(sender_peer_id, graft_msg.topicID, False)
            await self.emit_prune(graft_msg.topicID, sender_peer_id, False, False)
            return
        await super().handle_graft(graft_msg, sender_peer_id)

    async def handle_prune(self, prune_msg: rpc_pb2.ControlPrune, sender_peer_id: ID) -> None:
        """Leave the peer out for a bounded time; peers it recommends are not dialled (discovery does that)."""
        if prune_msg.topicID not in self.mesh:
            return
        bounded = rpc_pb2.ControlPrune(
            topicID=prune_msg.topicID, backoff=min(prune_msg.backoff, 4 * PRUNE_BACK_OFF)
        )
        await super().handle_prune(bounded, sender_peer_id)

    def mesh_heartbeat(self) -> tuple[defaultdict[ID, list[str]], defaultdict[ID, list[str]]]:
        """Repair the mesh: drop who unsubscribed, and put into back-off whom the library only prunes."""
        for topic, mesh in self.mesh.items():
            mesh &= self.host.peer_topics.get(topic, set())
        grafts, prunes = super().mesh_heartbeat()
        for peer, topics in prunes.items():
            for topic in topics:
                self._add_back_off(peer, topic, False)
        return grafts, prunes

    def _handle_topic_heartbeat(
        self,
        topic: str,
        current_peers: set[ID],
        is_fanout: bool = False,
        peers_to_gossip: defaultdict[ID, dict[str, list[bytes]]] | None = None,
    ) -> tuple[set[ID], bool]:
        """Tell peers outside the mesh what we have, also those in back-off, which need it most."""
        result = super()._handle_topic_heartbeat(topic, current_peers, is_fanout, None)
        if peers_to_gossip is not None and (mids := self.mcache.window(topic)):
            newest = mids[-self._limits.gossip_ids :]
            outside = [peer for peer in self.host.neighbours(topic) if peer not in current_peers]
            chosen = min(len(outside), max(GOSSIP_PEERS, len(outside) // GOSSIP_SHARE))
            for peer in random.sample(outside, chosen):
                peers_to_gossip[peer][topic] = newest
        return result

    async def _emit_control_msgs(
        self,
        peers_to_graft: dict[ID, list[str]],
        peers_to_prune: dict[ID, list[str]],
        peers_to_gossip: dict[ID, dict[str, list[bytes]]],
    ) -> None:
        """Send each peer its own control message (the library never empties its lists between peers)."""
        for peer in dict.fromkeys((*peers_to_graft, *peers_to_prune, *peers_to_gossip)):
            control = rpc_pb2.ControlMessage()
            for topic in peers_to_graft.get(peer, ()):
                control.graft.add(topicID=topic)
            for topic in peers_to_prune.get(peer, ()):
                control.prune.add(topicID=topic, backoff=self.prune_back_off)
            for topic, mids in peers_to_gossip.get(peer, {}).items():
                control.ihave.add(topicID=topic, messageIDs=mids)
            await self.emit_control_message(control, peer)


def publish_frame(messages: Iterable[rpc_pb2.Message]) -> bytes:
    """Return the length-prefixed RPC that carries these messages, serialised once for all receivers."""
    return varint_frame(rpc_pb2.RPC(publish=messages).SerializeToString())
