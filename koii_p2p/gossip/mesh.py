"""Which peers a mesh takes in and lets go at a heartbeat (v1.0 and v1.1, "Mesh Maintenance" and what follows it).

Functions over lists of peers in a fixed order, so that the same random source makes the same choice.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

from koii_p2p.gossip.parameters import Degrees
from koii_p2p.gossip.random_source import RandomSource

Score = Callable[[bytes], float]


def chosen(peers: Sequence[bytes], count: int, random: RandomSource) -> list[bytes]:
    """Return `count` of the peers by chance, or all in random order if there are no more."""
    return random.sample(peers, min(count, len(peers)))


def to_fill(
    mesh: Collection[bytes], candidates: Sequence[bytes], degrees: Degrees, random: RandomSource
) -> list[bytes]:
    """Return whom a mesh below D_lo takes in, up to D."""
    if len(mesh) >= degrees.low:
        return []
    return chosen(candidates, degrees.wanted - len(mesh), random)


def to_cut(
    mesh: Sequence[bytes],
    degrees: Degrees,
    random: RandomSource,
    score: Score,
    is_outbound: Callable[[bytes], bool],
) -> list[bytes]:
    """Return whom a mesh at or above D_hi lets go, down to D.

    At D_hi already, as in go, where the specification says above: a mesh that stays at D_hi takes no GRAFT any more,
    and whoever dialled us in numbers would keep it for ever.

    The D_score best stay and the others by chance, with D_out outbound peers among those that stay if there are so
    many (v1.1, "Heartbeat Maintenance"): neither good behaviour alone nor dialling us alone can take a mesh over.
    """
    if len(mesh) < degrees.high:
        return []
    shuffled = chosen(mesh, len(mesh), random)
    ranked = sorted(shuffled, key=score, reverse=True)
    best, others = ranked[: degrees.score], ranked[degrees.score :]
    random.shuffle(others)
    kept, gone = best + others[: degrees.wanted - len(best)], others[degrees.wanted - len(best) :]
    lacking = degrees.outbound - sum(map(is_outbound, kept))
    for peer in [peer for peer in gone if is_outbound(peer)][: max(0, lacking)]:
        # The last inbound one goes: it was chosen by chance, or is the worst of the best.
        index = max(i for i, other in enumerate(kept) if not is_outbound(other))
        gone[gone.index(peer)] = kept[index]
        kept[index] = peer
    return gone


def to_reach_out(
    mesh: Collection[bytes],
    candidates: Sequence[bytes],
    degrees: Degrees,
    random: RandomSource,
    is_outbound: Callable[[bytes], bool],
) -> list[bytes]:
    """Return whom a mesh that is full enough takes in to have D_out outbound peers (v1.1, "Outbound Mesh Quotas")."""
    lacking = degrees.outbound - sum(map(is_outbound, mesh))
    if len(mesh) < degrees.low or lacking <= 0:
        return []
    return chosen([peer for peer in candidates if is_outbound(peer)], lacking, random)


def to_improve(
    mesh: Collection[bytes],
    candidates: Sequence[bytes],
    threshold: float,
    count: int,
    random: RandomSource,
    score: Score,
) -> list[bytes]:
    """Return better peers for a mesh whose median score is below the threshold (v1.1, "Opportunistic Grafting")."""
    if len(mesh) < 2:
        return []
    median = sorted(map(score, mesh))[len(mesh) // 2]
    if median >= threshold:
        return []
    return chosen([peer for peer in candidates if score(peer) > median], count, random)
