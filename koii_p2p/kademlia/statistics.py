"""The numbers of a node of the DHT: what it holds now, and what it did since the start."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from koii_p2p.kademlia.refusals import Refusal


@dataclass(frozen=True, slots=True)
class KademliaStatistics:
    """Numbers of a node; `refused` has whatever was refused or given up, by reason."""

    table: int
    """Peers in the routing table."""
    waiting: int
    """Peers that wait for a place in it."""
    buckets: tuple[tuple[int, int], ...]
    """(Common leading bits, peers) of each bucket in use, the farthest first."""
    values: int
    values_bytes: int
    provided_keys: int
    """Keys of others that providers are known of."""
    providers: int
    own_values: int
    own_keys: int
    """Keys that we provide."""
    served: Mapping[str, int]
    """Requests of peers, by type."""
    refused: Mapping[Refusal, int]
