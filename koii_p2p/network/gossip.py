"""What the rest of the node sees of gossip: verdicts on messages, validators that give them, and numbers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from koii_p2p.gossip.effects import Verdict as GossipVerdict
from koii_p2p.gossip.score import ScoreParts
from koii_p2p.gossip.statistics import TopicStatistics

__all__ = [
    "GossipStatistics",
    "GossipVerdict",
    "PeerScore",
    "ScoreParts",
    "TopicStanding",
    "TopicStatistics",
    "Validator",
]

#: `validator(sender_key, data)`: the 32-byte key of the neighbour that sent it (not its author) and the bytes.
#: It runs inside the read loop of that neighbour, so it must be quick and must not block.
Validator = Callable[[bytes, bytes], GossipVerdict]


@dataclass(frozen=True, slots=True)
class TopicStanding:
    """A peer in a topic we joined and it is subscribed to."""

    topic: str
    in_mesh: bool
    score: float
    """As if the topic were the only one; below 0 it is not in the mesh of this topic."""


@dataclass(frozen=True, slots=True)
class PeerScore:
    """What gossip thinks of a connected peer (GossipSub v1.1, "Peer Scoring"), and why."""

    key: bytes
    parts: ScoreParts
    topics: tuple[TopicStanding, ...]


@dataclass(frozen=True, slots=True)
class GossipStatistics:
    """Counters of the gossip service since the start; every loss has a number."""

    topics: tuple[TopicStatistics, ...]
    peers: int
    """Connected peers we can send to."""
    graylisted: int
    queued: int
    """Frames waiting in all outgoing queues."""
    queued_bytes: int
    received: int
    """Messages received, copies included."""
    duplicates: int
    forwarded: int
    """Copies of accepted messages sent on."""
    forwards_dropped: int
    """Forwarded messages that a full outgoing queue kept from a peer; they are advertised to it afterwards."""
    own_waiting: int
    """Own messages held until a first neighbour subscribes."""
    own_dropped: int
    """Own messages given up because too many were held."""
    lost_with_peers: int
    """Frames or batches that were waiting for a peer when its last connection ended."""
    recommended: int
    """Peers that others recommended with a valid record (peer exchange)."""
    refused: tuple[tuple[str, int], ...]
    """Whatever the router refused or gave up, by reason (`koii_p2p.gossip.refusals.Refusal`)."""
