"""Which peers a mesh takes in and lets go at a heartbeat (v1.0 and v1.1, "Mesh Maintenance" and what follows it).

Functions over lists of peers in a fixed order, so that the same random source makes the same choice.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

from koii_p2p.gossip.parameters import Degrees
from koii_p2p.gossip.random_source import RandomSource

Score = Callable[[bytes], float]
Is = Callable[[bytes], bool]


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
    is_outbound: Is,
    is_vouched: Is,
) -> list[bytes]:
    """Return whom a mesh at or above D_hi lets go, down to D.

    At D_hi already, as in go, where the specification says above: a mesh that stays at D_hi takes no GRAFT any more,
    and whoever dialled us in numbers would keep it for ever.

    The D_score best stay and the others by chance, with D_out outbound peers among those that stay if there are so
    many (v1.1, "Heartbeat Maintenance"): neither good behaviour alone nor dialling us alone can take a mesh over.

    Whom the application vouches for stays before others, up to three quarters of D. An overfull mesh is short of room,
    and if its quota of them were all that is kept, those who fill meshes by numbers would part them from each other,
    for the length of a back-off each time.
    """
    if len(mesh) < degrees.high:
        return []
    shuffled = chosen(mesh, len(mesh), random)
    ranked = sorted(shuffled, key=score, reverse=True)
    best, others = ranked[: degrees.score], ranked[degrees.score :]
    random.shuffle(others)
    order = best + others
    first = [peer for peer in order if is_outbound(peer)][: degrees.outbound]
    first += [peer for peer in order if is_vouched(peer)][: degrees.wanted * 3 // 4]
    kept = list(dict.fromkeys([*first, *order]))[: degrees.wanted]
    return [peer for peer in order if peer not in kept]


def to_reach(
    mesh: Collection[bytes],
    candidates: Sequence[bytes],
    quota: int,
    degrees: Degrees,
    random: RandomSource,
    belongs: Is,
) -> list[bytes]:
    """Return whom a mesh that is full enough takes in to have `quota` peers that belong to a kind.

    For outbound peers that is v1.1, "Outbound Mesh Quotas".
    """
    lacking = quota - sum(map(belongs, mesh))
    if len(mesh) < degrees.low or lacking <= 0:
        return []
    return chosen([peer for peer in candidates if belongs(peer)], lacking, random)


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
