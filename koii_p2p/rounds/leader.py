"""Who anchors the round: an order over the candidates that nobody could grind for."""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import sha256

from koii_p2p.rounds.clock import Window


def leader_order(beacon: bytes, candidates: Iterable[bytes]) -> tuple[bytes, ...]:
    """Candidates (32-byte keys, each once) ordered by SHA-256(beacon || key), first leader first.

    Koii's own rule (difference of two character sums over the submissions) has ties, depends on JSON key
    order and can be ground through the submission value; ranks from a beacon have none of these (source:
    `@_koii/namespace-wrapper`, nodeSelectionDistributionList).
    """
    return tuple(sorted(set(candidates), key=lambda key: (sha256(beacon + key).digest(), key)))


def turn(window: Window, rank: int, step: int) -> int:
    """First slot at which the leader of this rank (0 = first) may anchor: one dead leader costs one step.

    The result may lie outside the window: then this rank never gets a turn. Raises ValueError for a negative
    rank or a step below one slot.
    """
    if rank < 0 or step < 1:
        raise ValueError("rank is at least 0 and step at least 1 slot")
    return window.opens + rank * step
