"""The interface between the node and whatever spreads its messages.

The node sees `Gossip` and `GossipVerdict` only, so that the library's GossipSub (`library_gossip.py`) can be
replaced by a router of our own without touching anything above.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from typing import Protocol


class GossipVerdict(IntEnum):
    """What admission says about a message a peer sent us (PROTOCOL section 5)."""

    ACCEPT = 1
    """Valid and new: it is forwarded and counts as seen."""

    IGNORE = 2
    """Late, known, or not for us to judge yet: not forwarded, costs the sender nothing."""

    REJECT = 3
    """Nobody honest sends this: not forwarded, counted against the sender, who is banned for a while at the limit."""


#: `validator(sender_key, data)`: the 32-byte key of the neighbour that sent it (not its author) and the bytes.
#: It runs inside the read loop of that neighbour, so it must be quick and must not block.
Validator = Callable[[bytes, bytes], GossipVerdict]


@dataclass(frozen=True, slots=True)
class TopicStatistics:
    """Counters of one topic since the start."""

    topic: str
    neighbours: int
    """Connected peers that told us they are subscribed."""
    mesh: int
    published: int
    accepted: int
    ignored: int
    rejected: int
    duplicates: int


@dataclass(frozen=True, slots=True)
class GossipStatistics:
    """Counters of the gossip service since the start; every loss has a number."""

    topics: tuple[TopicStatistics, ...]
    peers: int
    """Connected peers with a gossip stream."""
    queued: int
    """Messages waiting in all outgoing queues."""
    forwards_dropped: int
    """Forwarded messages or control lists dropped because a peer's outgoing queue was full."""
    own_waiting: int
    """Own messages held until a first neighbour subscribes."""
    own_dropped: int
    """Own messages given up because too many were held."""
    lost_with_peers: int
    """Batches that were waiting for a peer when its last connection ended."""
    bad_signatures: int
    bad_frames: int


class Gossip(Protocol):
    """Spreads messages on topics. One object per running host."""

    async def join(self, topic: str, validator: Validator) -> None:
        """Subscribe to a topic; `validator` is called for every new message of a peer, never for own ones."""

    async def publish(self, topic: str, data: bytes) -> int:
        """Hand an own message to every subscribed neighbour, waiting for room; return how many there were."""

    def has_stream(self, key: bytes) -> bool:
        """Say whether messages can be sent to this peer."""

    def subscriptions(self, key: bytes) -> tuple[str, ...]:
        """Return the topics this peer told us it is subscribed to."""

    def stalled(self, seconds: float) -> tuple[bytes, ...]:
        """Return the keys of the peers whose outgoing queue has not moved for `seconds`."""

    def statistics(self) -> GossipStatistics:
        """Return the counters."""
