"""What the router knows of each peer it can write to."""

from __future__ import annotations

from enum import Enum

from koii_p2p.gossip.score import Standing


class Protocol(Enum):
    """What was negotiated with a peer. We announce `ANNOUNCED`; the older ones are understood."""

    FLOODSUB = "/floodsub/1.0.0"
    MESHSUB_1_0 = "/meshsub/1.0.0"
    MESHSUB_1_1 = "/meshsub/1.1.0"
    MESHSUB_1_2 = "/meshsub/1.2.0"


ANNOUNCED = (Protocol.MESHSUB_1_2.value, Protocol.MESHSUB_1_1.value)
"""Protocol ids to offer, best first. What comes after 1.2 are extensions we do not have, or proposals."""


class Peer:
    """A connected peer: what it is, what it subscribed to, and what it used up of this heartbeat."""

    __slots__ = (
        "asked_ids",
        "direct",
        "graylisted",
        "has_control",
        "has_exchange",
        "has_idontwant",
        "idontwant_ids",
        "ihave_messages",
        "iwant_bytes",
        "iwant_ids",
        "missed",
        "outbound",
        "peer",
        "record",
        "standing",
        "topics",
        "unwanted",
    )

    def __init__(self, peer: bytes, direct: bool, standing: Standing) -> None:
        self.peer = peer
        #: What its score is made of, beside hand for every RPC.
        self.standing = standing
        self.direct = direct
        self.outbound = False
        self.has_control = self.has_exchange = self.has_idontwant = False
        #: Its signed peer record, to recommend it with.
        self.record = b""
        self.topics: dict[str, None] = {}
        self.graylisted = False
        #: Ids it does not want -> the heartbeat at whose begin that is forgotten. In order of arrival.
        self.unwanted: dict[bytes, int] = {}
        #: Ids a full queue kept from it.
        self.missed: dict[bytes, None] = {}
        self.begin_heartbeat(0)

    def speaks(self, protocol: Protocol) -> None:
        """Note which protocol was negotiated."""
        self.has_control = protocol is not Protocol.FLOODSUB
        self.has_exchange = protocol in (Protocol.MESHSUB_1_1, Protocol.MESHSUB_1_2)
        self.has_idontwant = protocol is Protocol.MESHSUB_1_2

    def begin_heartbeat(self, number: int) -> None:
        """Give the peer its budgets back, and forget old IDONTWANT."""
        self.ihave_messages = self.asked_ids = self.iwant_ids = self.iwant_bytes = self.idontwant_ids = 0
        while self.unwanted:
            oldest = next(iter(self.unwanted))
            if self.unwanted[oldest] > number:
                break
            del self.unwanted[oldest]
