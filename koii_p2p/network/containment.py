"""Keeping the library's faults where they happen: one stream or one peer, never the node.

In trio an exception that leaves a child task cancels everything beside it, and py-libp2p 0.8.1 lets several
exceptions leave that any connected peer can provoke. Each is caught by overriding one method of a subclass of ours
(`host.py`, `sockets.py`, `upgrader.py`, `library_gossip.py`, `mesh.py`); nothing is patched into the library.
`check_library` refuses to start on a library whose seams are not the ones these overrides were written for.
"""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module, metadata

import structlog
import trio

from koii_p2p.errors import NetworkError

log = structlog.get_logger(__name__)

PINNED_VERSION = "0.8.1"


class Guard:
    """Absorbs ordinary exceptions and counts them; cancellation and interrupts always pass."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()

    @contextmanager
    def contain(self, place: str) -> Iterator[None]:
        """Absorb any ordinary exception of the block and count it under `place:ExceptionName`.

        Of a group that mixes ordinary exceptions with cancellation, only the cancellation goes on.
        """
        try:
            yield
        except Exception as error:  # noqa: BLE001 - this is the one place whose purpose is to absorb
            self.count(place, error)
        except BaseExceptionGroup as group:
            ordinary, rest = group.split(Exception)
            if ordinary is not None:
                self.count(place, ordinary)
            if rest is not None:
                raise rest from None

    def count(self, place: str, error: BaseException | str) -> None:
        """Count a fault without having raised it."""
        name = error if isinstance(error, str) else _name_of(error)
        self._counts[f"{place}:{name}"] += 1
        log.debug("contained", place=place, error=name)

    def statistics(self) -> tuple[tuple[str, int], ...]:
        """Return `(place:error, times)` sorted by name."""
        return tuple(sorted(self._counts.items()))


def at_most(seconds: float) -> trio.CancelScope:
    """Return a scope for closing things: it ends after `seconds`, and cancellation from outside waits for it."""
    return trio.CancelScope(deadline=trio.current_time() + seconds, shield=True)


def _name_of(error: BaseException) -> str:
    """Name an exception; a group is named by its first leaf, which is what a reader looks for."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return type(error).__name__


@dataclass(frozen=True, slots=True)
class Seam:
    """One overridden method: where it is, how it must be called, and the fault the override contains."""

    owner: str
    method: str
    parameters: tuple[str, ...]
    fault: str


SEAMS = (
    Seam(
        "libp2p.host.basic_host.BasicHost",
        "_swarm_stream_handler",
        ("self", "net_stream"),
        "An exception of any stream handler, or bytes in multistream that are not UTF-8, ends the swarm.",
    ),
    Seam(
        "libp2p.host.basic_host.BasicHost",
        "_identify_peer",
        ("self", "peer_id", "reason"),
        "It runs as a system task of trio, where an exception ends the process.",
    ),
    Seam(
        "libp2p.host.basic_host.BasicHost",
        "new_stream",
        ("self", "peer_id", "protocol_ids"),
        "It reads lines of any length, a byte at a time, and negotiates in two more round trips than needed.",
    ),
    Seam(
        "libp2p.network.swarm.Swarm",
        "_handle_inbound_connection",
        ("self", "read_write_closer", "maddr"),
        "The slot of an inbound connection is held until the swarm stops: after 250 connections nobody gets in.",
    ),
    Seam(
        "libp2p.network.swarm.Swarm",
        "notify_opened_stream",
        ("self", "stream"),
        "A task for each listener and stream, and no listener does anything.",
    ),
    Seam(
        "libp2p.network.swarm.Swarm",
        "notify_disconnected",
        ("self", "conn"),
        "What a thousand peers said of themselves, a megabyte each, is kept after they are gone.",
    ),
    Seam(
        "libp2p.network.swarm.Swarm",
        "notify_closed_stream",
        ("self", "stream"),
        "A task for each listener and stream, and no listener does anything.",
    ),
    Seam(
        "libp2p.network.swarm.Swarm",
        "add_conn",
        ("self", "muxed_conn", "direction"),
        "Banned peers and identities without an ed25519 key must be refused in both directions.",
    ),
    Seam(
        "libp2p.network.swarm.Swarm",
        "dial_peer",
        ("self", "peer_id"),
        "Opening a stream dials behind our back, waits 251 ms each time and remembers failures for a minute.",
    ),
    Seam(
        "libp2p.network.swarm.Swarm",
        "_schedule_auto_connect",
        ("self",),
        "It dials whatever addresses other peers put into the peerstore.",
    ),
    Seam(
        "libp2p.transport.upgrader.TransportUpgrader",
        "upgrade_security",
        ("self", "raw_conn", "is_initiator", "peer_id"),
        "Lines of any length are read before anybody has said who they are; plaintext is taken; each frame is read "
        "with two system calls.",
    ),
    Seam(
        "libp2p.transport.upgrader.TransportUpgrader",
        "upgrade_connection",
        ("self", "conn", "peer_id"),
        "The library's muxer waits for ever, keeps all that it is sent, and takes 400 microseconds for a frame.",
    ),
    Seam(
        "libp2p.transport.tcp.tcp.TCP",
        "dial",
        ("self", "maddr"),
        "Noise reads its socket twice per frame; the raw connection is given a buffered reader here.",
    ),
    Seam(
        "libp2p.transport.tcp.tcp.TCPListener",
        "listen",
        ("self", "maddr"),
        "It sets SO_REUSEPORT: two nodes share a port in silence, each getting half of the connections.",
    ),
    Seam(
        "libp2p.pubsub.pubsub.Pubsub",
        "stream_handler",
        ("self", "stream"),
        "A protobuf message that does not parse ends the swarm.",
    ),
    Seam(
        "libp2p.pubsub.pubsub.Pubsub",
        "continuously_read_stream",
        ("self", "stream"),
        "Lengths are read one byte at a time, and every message starts a task.",
    ),
    Seam(
        "libp2p.pubsub.pubsub.Pubsub",
        "push_msg",
        ("self", "msg_forwarder", "msg"),
        "A message whose key is garbage or of an unknown type, or a validator that raises, ends the pubsub service.",
    ),
    Seam(
        "libp2p.pubsub.pubsub.Pubsub",
        "handle_subscription",
        ("self", "origin_id", "sub_message"),
        "Each subscription starts three tasks and may replay the message cache, as often as a peer toggles it.",
    ),
    Seam(
        "libp2p.pubsub.pubsub.Pubsub",
        "_handle_new_peer",
        ("self", "peer_id"),
        "Outgoing queues hold 32 messages and drop the rest in silence.",
    ),
    Seam(
        "libp2p.pubsub.pubsub.Pubsub",
        "handle_sending_messages",
        ("self", "peer_id", "stream", "queue"),
        "One write per message; a failed write is retried nowhere.",
    ),
    Seam(
        "libp2p.pubsub.pubsub.Pubsub",
        "message_all_peers",
        ("self", "raw_msg", "announce"),
        "A subscription is announced through the queue that drops in silence.",
    ),
    Seam(
        "libp2p.pubsub.pubsub.Pubsub",
        "_handle_dead_peer",
        ("self", "peer_id"),
        "When one of two connections closes, the peer's subscriptions are forgotten though it lives: deaf one way.",
    ),
    Seam(
        "libp2p.pubsub.gossipsub.GossipSub",
        "heartbeat",
        ("self",),
        "One exception ends mesh maintenance and with it the service.",
    ),
    Seam(
        "libp2p.pubsub.gossipsub.GossipSub",
        "publish",
        ("self", "msg_forwarder", "pubsub_msg"),
        "Own messages reach nobody while the mesh is empty; messages pile up for peers that never subscribed.",
    ),
    Seam(
        "libp2p.pubsub.gossipsub.GossipSub",
        "send_rpc",
        ("self", "peer_id", "rpc", "priority"),
        "Control and replies go through the queue that drops in silence.",
    ),
    Seam(
        "libp2p.pubsub.gossipsub.GossipSub",
        "handle_iwant",
        ("self", "iwant_msg", "sender_peer_id"),
        "The same id asked 20 000 times in one message is answered with 20 000 copies.",
    ),
    Seam(
        "libp2p.pubsub.gossipsub.GossipSub",
        "handle_ihave",
        ("self", "ihave_msg", "sender_peer_id"),
        "Made-up topics and ids are remembered and asked for without bound.",
    ),
    Seam(
        "libp2p.pubsub.gossipsub.GossipSub",
        "handle_graft",
        ("self", "graft_msg", "sender_peer_id"),
        "Accepted without looking at the upper degree bound; answered for topics nobody joined.",
    ),
    Seam(
        "libp2p.pubsub.gossipsub.GossipSub",
        "handle_prune",
        ("self", "prune_msg", "sender_peer_id"),
        "Back-off of any length for any topic name is remembered; peers it names would be dialled.",
    ),
    Seam(
        "libp2p.pubsub.gossipsub.GossipSub",
        "mesh_heartbeat",
        ("self",),
        "A peer pruned by the heartbeat is not put into back-off, so it is grafted again at once.",
    ),
    Seam(
        "libp2p.pubsub.gossipsub.GossipSub",
        "_handle_topic_heartbeat",
        ("self", "topic", "current_peers", "is_fanout", "peers_to_gossip"),
        "Peers in back-off get no IHAVE: with more connections than the upper degree 5 to 44 % was lost.",
    ),
    Seam(
        "libp2p.pubsub.gossipsub.GossipSub",
        "_emit_control_msgs",
        ("self", "peers_to_graft", "peers_to_prune", "peers_to_gossip"),
        "The second peer's control message also carries the first one's GRAFT and IHAVE.",
    ),
)


def check_library() -> None:
    """Check that libp2p is the version these overrides were written for, and that every seam is there.

    Raises `NetworkError` naming the first difference.
    """
    version = metadata.version("libp2p")
    if version != PINNED_VERSION:
        raise _wrong_library(f"Version {version} is installed and {PINNED_VERSION} is needed.")
    for seam in SEAMS:
        module, _, name = seam.owner.rpartition(".")
        method = getattr(getattr(import_module(module), name, None), seam.method, None)
        if method is None:
            raise _wrong_library(f"{name}.{seam.method} is missing.")
        found = tuple(inspect.signature(method).parameters)
        if found != seam.parameters:
            raise _wrong_library(f"{name}.{seam.method} takes {found} instead of {seam.parameters}.")


def _wrong_library(why: str) -> NetworkError:
    return NetworkError(
        what="The installed libp2p is not the one this node knows how to contain.",
        why=why,
        remedy=f"Install libp2p=={PINNED_VERSION}.",
    )
