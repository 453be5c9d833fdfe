"""What the DHT tells of itself."""

from __future__ import annotations

from dataclasses import dataclass

from koii_p2p.kademlia.statistics import KademliaStatistics


@dataclass(frozen=True, slots=True)
class DhtStatistics:
    """Counters of the DHT since the start, and what it holds now."""

    server: bool
    """Whether it answers others."""
    table: int
    """Peers in the routing table."""
    waiting: int
    """Peers that wait for a place in it."""
    buckets: tuple[tuple[int, int], ...]
    """(Common leading bits, peers) of each bucket in use, the farthest first."""
    values: int
    """Values held for others, and their bytes."""
    values_bytes: int
    provided_keys: int
    """Keys of others that providers are known of."""
    providers: int
    own_values: int
    """Values of ours that are stored again and again."""
    own_keys: int
    """Keys that we provide."""
    connections: int
    """Connections that were made for searches and are still open."""
    searches: int
    asked: int
    """Questions to peers."""
    failed: tuple[tuple[str, int], ...]
    """Questions without an answer, by reason."""
    served: tuple[tuple[str, int], ...]
    """Requests of peers, by type."""
    refused: tuple[tuple[str, int], ...]
    """Whatever was refused or given up, by reason (`koii_p2p.kademlia.refusals.Refusal`)."""


def merged(
    node: KademliaStatistics,
    *,
    server: bool,
    connections: int,
    searches: int,
    asked: int,
    failed: tuple[tuple[str, int], ...],
) -> DhtStatistics:
    """Return the numbers of a node together with those of its driver."""
    return DhtStatistics(
        server=server,
        table=node.table,
        waiting=node.waiting,
        buckets=node.buckets,
        values=node.values,
        values_bytes=node.values_bytes,
        provided_keys=node.provided_keys,
        providers=node.providers,
        own_values=node.own_values,
        own_keys=node.own_keys,
        connections=connections,
        searches=searches,
        asked=asked,
        failed=failed,
        served=tuple(sorted(node.served.items())),
        refused=tuple(sorted((what.value, count) for what, count in node.refused.items())),
    )
