"""Every choice and every bound of the router, as values. Times are whole milliseconds, sizes bytes.

Names and defaults follow the specification (libp2p/specs, pubsub/gossipsub: v1.0 "Parameters", v1.1 "Overview of New
Parameters", v1.2 "Parameters"); where a default is ours, the reason stands beside it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum, auto


class SignaturePolicy(Enum):
    """Which author fields a message carries (pubsub README, "Message Signing")."""

    NO_SIGN = auto()
    """StrictNoSign: none of `from`, `seqno`, `signature`, `key`; who wrote a record is inside the record. Ours.

    The id has to be a hash of topic and payload.
    """

    SIGN = auto()
    """StrictSign: `from`, `seqno` and `signature` are there; whoever gives the verdict checks them. Foreign nets."""


@dataclass(frozen=True, slots=True)
class Degrees:
    """How many peers the mesh of one topic has. All zero: no mesh, as v1.1 advises for bootstrappers."""

    wanted: int = 6
    """D: what a mesh is filled up to, and cut down to."""
    low: int = 5
    """D_lo: below this peers are grafted."""
    high: int = 12
    """D_hi: at this peers are pruned, and until they are a GRAFT is taken from outbound peers only."""
    score: int = 4
    """D_score: how many of the best stay when a mesh is cut down; the others stay by chance."""
    outbound: int = 2
    """D_out: how many of the mesh are peers we dialled ourselves, so that dialling us cannot fill it."""
    vouched: int = 3
    """How many of the mesh are peers that the application vouches for (P5 above 0), if so many are there: numbers alone
    cannot fill it. Ours; half of D, so that the other half stays open to whoever is new."""
    lazy: int = 6
    """D_lazy: at least so many peers outside the mesh hear which messages there are, each heartbeat."""

    def __post_init__(self) -> None:
        if not 0 <= self.low <= self.wanted <= self.high:
            raise ValueError(f"degrees go up from low to wanted to high: {self}")
        if self.outbound and not (self.outbound < self.low and 2 * self.outbound <= self.wanted):
            raise ValueError(f"the outbound degree is below low and at most half of wanted: {self}")
        if self.vouched < 0 or self.outbound + self.vouched > self.wanted:
            raise ValueError(f"outbound and vouched peers together are at most the wanted ones: {self}")
        if min(self.outbound, self.score, self.lazy) < 0 or self.score > self.wanted:
            raise ValueError(f"the score degree is at most the wanted one, and none is negative: {self}")


def degrees_for(expected_peers: int) -> Degrees:
    """Return the degrees for a net of `expected_peers` nodes.

    A random graph of n nodes needs about log2(n) links per node to stay connected under loss. With the fixed D_lo of
    the specification a net of three is under water for ever.
    """
    wanted = min(8, max(3, math.ceil(math.log2(max(2, expected_peers)))))
    low = wanted - 1
    return Degrees(
        wanted=wanted,
        low=low,
        high=2 * wanted,
        score=2 * wanted // 3,
        outbound=min(2, low - 1, wanted // 2),
        vouched=(wanted + 1) // 2,
    )


def decay(lifetime: int, interval: int, zero: float = 0.01) -> float:
    """Return the factor per `interval` by which a counter of 1 falls to `zero` in `lifetime` (both in milliseconds)."""
    return float(zero ** (interval / lifetime))


@dataclass(frozen=True, slots=True)
class TopicScore:
    """Weights and shapes of P1 to P4 in one topic (v1.1, "The Score Function"). A weight of 0 switches a term off."""

    weight: float = 1.0

    time_weight: float = 0.01
    """P1, per quantum spent in the mesh."""
    time_quantum: int = 1_000
    time_cap: float = 300.0

    first_weight: float = 1.0
    """P2, per message that this peer brought first."""
    first_decay: float = field(default=decay(100_000, 1_000))
    first_cap: float = 50.0

    mesh_weight: float = 0.0
    """P3, for the square of what a mesh peer delivered too little. Off by default: our topics are silent between
    windows, and a fixed threshold would prune whoever has nothing to deliver."""
    mesh_decay: float = field(default=decay(100_000, 1_000))
    mesh_cap: float = 100.0
    mesh_threshold: float = 20.0
    mesh_activation: int = 30_000
    mesh_window: int = 10
    """How long after a message was accepted another copy still counts as brought. Short: a peer must not earn by
    sending our own messages back to us."""

    failure_weight: float = 0.0
    """P3b, for the deficit a peer was pruned with."""
    failure_decay: float = field(default=decay(100_000, 1_000))

    invalid_weight: float = -10.0
    """P4, for the square of the number of rejected messages: ten of them graylist."""
    invalid_decay: float = field(default=decay(600_000, 1_000))

    def __post_init__(self) -> None:
        if self.weight < 0 or self.time_weight < 0 or self.first_weight < 0:
            raise ValueError("the weights of a topic, of P1 and of P2 are not negative")
        if self.mesh_weight > 0 or self.failure_weight > 0 or self.invalid_weight > 0:
            raise ValueError("the weights of P3, P3b and P4 are not positive")
        factors = (self.first_decay, self.mesh_decay, self.failure_decay, self.invalid_decay)
        if not all(0 < factor < 1 for factor in factors):
            raise ValueError("decay factors lie between 0 and 1")
        if self.time_quantum <= 0 or self.mesh_cap < self.mesh_threshold:
            raise ValueError("the quantum of P1 is positive, and the cap of P3 not below its threshold")


@dataclass(frozen=True, slots=True)
class Thresholds:
    """What a score costs (v1.1, "Score Thresholds")."""

    gossip: float = -100.0
    """Below: no IHAVE to the peer, and its IHAVE and IWANT are ignored."""
    publish: float = -500.0
    """Below: own messages are not sent to the peer, nor anything if it only speaks floodsub."""
    graylist: float = -1_000.0
    """Below: its RPCs are dropped unread."""
    accept_px: float = 10.0
    """Below: the peers it recommends are not dialled."""
    opportunistic: float = 5.0
    """A mesh whose median is below this takes in better peers now and then."""

    def __post_init__(self) -> None:
        if not self.graylist < self.publish <= self.gossip < 0:
            raise ValueError("thresholds: graylist < publish <= gossip < 0")
        if self.accept_px < 0 or self.opportunistic < 0:
            raise ValueError("thresholds of peer exchange and opportunistic grafting are not negative")


@dataclass(frozen=True, slots=True)
class ScoreParameters:
    """Weights of P5 to P7, how scores fade, and the topics that count."""

    topics: Mapping[str, TopicScore] = field(default_factory=dict)
    other_topics: TopicScore | None = field(default_factory=TopicScore)
    """For every joined topic that is not named above; None: only those named count, as the specification has it."""
    topic_cap: float = 100.0
    """Most that all topics together can earn a peer; 0 for no cap."""

    application_weight: float = 1.0
    """P5, of the number handed in for a peer."""
    application_cap: float = 2_000.0
    """Numbers handed in are cut to plus or minus this."""

    colocation_weight: float = -20.0
    """P6, for the square of how many peers share an address group beyond the threshold."""
    colocation_threshold: int = 8

    behaviour_weight: float = -20.0
    """P7, for the square of the misbehaviour beyond the threshold."""
    behaviour_threshold: float = 3.0
    """What crossing messages and a lost answer cost an honest peer now and then is forgiven."""
    behaviour_decay: float = field(default=decay(600_000, 1_000))

    decay_interval: int = 1_000
    decay_to_zero: float = 0.01
    retain: int = 600_000
    """How long the score of a peer that left is remembered, if it is not positive."""
    thresholds: Thresholds = field(default_factory=Thresholds)

    def __post_init__(self) -> None:
        if self.application_weight < 0 or self.colocation_weight > 0 or self.behaviour_weight > 0:
            raise ValueError("the weight of P5 is not negative, those of P6 and P7 are not positive")
        if self.colocation_threshold < 1 or not 0 < self.behaviour_decay < 1 or self.decay_interval <= 0:
            raise ValueError(
                "P6 begins above one peer, decay factors lie between 0 and 1, intervals are positive"
            )

    def of_topic(self, topic: str) -> TopicScore | None:
        """Return the parameters of a topic; None where it does not count."""
        return self.topics.get(topic, self.other_topics)


@dataclass(frozen=True, slots=True)
class Bounds:
    """What a remote can make us hold or do, at most. What is over a bound is refused and counted (`Refusal`)."""

    peers: int = 4_096
    topics: int = 256
    """Topics we join or publish to."""
    rpc_bytes: int = 1024 * 1024
    """One RPC, either way; as every other implementation."""
    message_bytes: int = 256 * 1024
    """The payload of one message."""
    messages_per_rpc: int = 5_000
    topic_bytes: int = 128
    subscriptions_per_rpc: int = 128
    topics_per_peer: int = 64
    control_entries: int = 128
    """Entries of each control kind in one RPC."""
    id_bytes: int = 64

    ihave_messages: int = 10
    """RPCs with IHAVE heard from one peer in a heartbeat."""
    ihave_ids: int = 5_000
    """Ids asked from, or told to, one peer in a heartbeat."""
    iwant_ids: int = 5_000
    """Ids looked up for one peer in a heartbeat."""
    iwant_bytes: int = 8 * 1024 * 1024
    """Messages sent to one peer in answer to IWANT in a heartbeat."""
    iwant_repeats: int = 3
    """How often one message is sent to one peer in answer to IWANT."""
    idontwant_ids: int = 1_000
    """Ids of IDONTWANT taken from one peer in a heartbeat; also what is kept of them for one heartbeat."""
    promises: int = 16_384

    px_peers: int = 16
    """Peers recommended in one PRUNE, either way."""
    px_connects: int = 16
    """Recommended peers we dial in a heartbeat."""
    peer_id_bytes: int = 64
    record_bytes: int = 4_096
    """One signed peer record."""
    back_off: int = 600_000
    """Longest back-off a peer can impose. Uncapped it is for ever, and overflows (advisory GHSA-gc42-3jg7-rxr2)."""
    back_offs: int = 16_384

    seen: int = 200_000
    rejected: int = 16_384
    ignored: int = 16_384
    cached: int = 20_000
    cached_bytes: int = 64 * 1024 * 1024
    pending: int = 2_048
    pending_bytes: int = 32 * 1024 * 1024
    pending_per_peer: int = 512
    held: int = 256
    """Own messages kept for a first neighbour, of all topics."""
    missed: int = 1_000
    """Ids of messages that a full queue kept from one peer, to be offered to it again."""
    retained_scores: int = 4_096

    def __post_init__(self) -> None:
        if any(getattr(self, name) <= 0 for name in self.__slots__):
            raise ValueError("every bound is positive")
        if self.message_bytes + self.topic_bytes + 1024 > self.rpc_bytes:
            raise ValueError("the largest message has to fit into an RPC")


@dataclass(frozen=True, slots=True)
class GossipParameters:
    """How a router behaves."""

    degrees: Degrees = field(default_factory=Degrees)
    score: ScoreParameters = field(default_factory=ScoreParameters)
    bounds: Bounds = field(default_factory=Bounds)
    policy: SignaturePolicy = SignaturePolicy.NO_SIGN
    id_length: int | None = 20
    """Length of a message id; ids of another length are refused. None: any up to `Bounds.id_bytes`."""

    heartbeat: int = 1_000
    """How often the driver calls `heartbeat`."""
    history: int = 6
    """Heartbeats for which a message can be asked for."""
    history_gossip: int = 3
    """Heartbeats for which it is advertised; less than `history`, so that whoever hears of it can still ask."""
    seen: int = 120_000
    rejected: int = 120_000
    ignored: int = 10_000
    """How long another copy of an ignored message is dropped unjudged. Short: what is too early for us now may be
    wanted soon."""
    pending: int = 5_000
    """How long a verdict may take; then the message is ignored."""
    gossip_factor: float = 0.25
    """Share of the peers outside the mesh that hear which messages there are, if that is more than D_lazy."""
    promise: int = 3_000
    """How long a peer may take to send what it advertised and we asked for."""

    flood_publish: bool = True
    fanout: int = 60_000
    """How long the peers chosen for a topic we only publish to are kept after the last message."""

    prune_back_off: int = 15_000
    """How long two peers that parted do not graft. A minute in the specification, which leaves a small mesh thin for
    that long; the value travels in PRUNE, so that others keep to it."""
    unsubscribe_back_off: int = 10_000
    graft_flood: int = 10_000
    """A GRAFT this soon after the PRUNE costs twice; never more than the back-off itself."""
    peer_exchange: bool = True

    opportunistic: int = 60_000
    """How often a mesh of poor peers takes in better ones."""
    opportunistic_peers: int = 2
    direct: int = 300_000
    """How often lost direct peers are dialled again."""

    idontwant_bytes: int = 1_024
    """Payloads from this size on are announced by IDONTWANT; for smaller ones it costs more than it saves."""
    idontwant: int = 3
    """Heartbeats for which IDONTWANT is heeded."""

    def __post_init__(self) -> None:
        if not 0 < self.history_gossip < self.history:
            raise ValueError("messages are cached for longer than they are advertised")
        if not 0 <= self.gossip_factor <= 1:
            raise ValueError("the gossip factor is a share between 0 and 1")
        times = (self.heartbeat, self.seen, self.pending, self.promise, self.prune_back_off, self.idontwant)
        if any(time <= 0 for time in times):
            raise ValueError("times are positive")
        if self.id_length is not None and not 0 < self.id_length <= self.bounds.id_bytes:
            raise ValueError("the length of an id is within its bound")
