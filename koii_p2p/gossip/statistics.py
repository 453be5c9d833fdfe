"""The numbers of a router: what it holds now, and what it did since the start."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from koii_p2p.gossip.refusals import Refusal


@dataclass(frozen=True, slots=True)
class TopicStatistics:
    """Numbers of one topic we joined."""

    topic: str
    neighbours: int
    """Peers that are subscribed."""
    mesh: int
    published: int
    accepted: int
    ignored: int
    rejected: int
    duplicates: int


@dataclass(frozen=True, slots=True)
class RouterStatistics:
    """Numbers of a router; `refused` has whatever was refused or lost, by reason."""

    topics: tuple[TopicStatistics, ...]
    refused: Mapping[Refusal, int]
    heartbeats: int

    peers: int
    graylisted: int
    """Connected peers below the graylist threshold."""
    cached: int
    cached_bytes: int
    seen: int
    pending: int
    pending_bytes: int
    back_offs: int
    promises: int
    scores: int
    held: int
    """Own messages that wait for a first neighbour."""

    received: int
    """Messages in RPCs, copies included."""
    duplicates: int
    delivered: int
    """Messages handed over for a verdict."""
    forwarded: int
    """Copies of accepted messages sent on."""
    published: int
    grafts_sent: int
    grafts_taken: int
    prunes_sent: int
    prunes_taken: int
    ihave_ids_sent: int
    iwant_ids_sent: int
    iwant_answers: int
    """Messages sent because they were asked for."""
    idontwant_ids_sent: int
    idontwant_heeded: int
    """Copies not sent because the peer said that it has the message."""


@dataclass(slots=True)
class Counters:
    """The counters behind `RouterStatistics`, under the same names."""

    heartbeats: int = 0
    received: int = 0
    duplicates: int = 0
    delivered: int = 0
    forwarded: int = 0
    published: int = 0
    grafts_sent: int = 0
    grafts_taken: int = 0
    prunes_sent: int = 0
    prunes_taken: int = 0
    ihave_ids_sent: int = 0
    iwant_ids_sent: int = 0
    iwant_answers: int = 0
    idontwant_ids_sent: int = 0
    idontwant_heeded: int = 0
