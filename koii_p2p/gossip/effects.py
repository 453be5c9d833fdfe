"""What a router asks its driver to do, and the verdicts the driver answers with."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

from koii_p2p.gossip.wire import Message, WireFault


class Verdict(IntEnum):
    """What admission says about a message (v1.1, "Extended Validators"). To defer is to answer later."""

    ACCEPT = 1
    """Valid and new: it is forwarded, and known from now on."""
    IGNORE = 2
    """Not for us, or not now: it is not forwarded and costs nobody anything."""
    REJECT = 3
    """Nobody honest sends this: it is not forwarded and costs every peer that sent it (P4)."""


@dataclass(frozen=True, slots=True)
class Send:
    """Write a frame to a peer: whole, and after earlier frames that are as urgent.

    A frame of one message is the same object for every peer that gets it.
    """

    peer: bytes
    frame: bytes
    """One RPC with its length before it."""
    urgent: bool = False
    """Control: goes before the messages that wait."""
    message_ids: tuple[bytes, ...] = ()
    """Messages of others in it. Where there are any, and only there, it may be left unsent if the peer's queue is full;
    the driver then says so by `GossipRouter.not_sent`."""


@dataclass(frozen=True, slots=True)
class Deliver:
    """Judge a new message, now or within `GossipParameters.pending`, by `GossipRouter.judge`."""

    message: Message
    peer: bytes
    """Who sent it first."""
    message_id: bytes

    @property
    def topic(self) -> str:
        """Its topic."""
        return self.message.topic

    @property
    def data(self) -> bytes:
        """Its payload."""
        return self.message.data


@dataclass(frozen=True, slots=True)
class Connect:
    """Dial a peer, if that is wanted: one that another recommended, or a lost direct peer (`via` is empty then).

    `record` is its signed peer record as it came, unchecked, or empty: verify the signature and that it is of `peer`.
    """

    peer: bytes
    record: bytes
    via: bytes


@dataclass(frozen=True, slots=True)
class Disconnect:
    """End the connection to a peer: it does not speak the protocol (a fault), or there are too many (None)."""

    peer: bytes
    fault: WireFault | None


@dataclass(frozen=True, slots=True)
class Graylist:
    """A peer's score fell below the graylist threshold; said once, until it has recovered."""

    peer: bytes
    score: float


Effect = Send | Deliver | Connect | Disconnect | Graylist
