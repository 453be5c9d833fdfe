"""Who anchors the round: an order over the candidates that nobody could grind for."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from hashlib import sha256

from koii_p2p.rounds.audit_rules import BASIS_POINTS
from koii_p2p.rounds.clock import Window

MOST_TICKETS = 8
"""Tickets of a key with full reputation; a key without any has one."""


def leader_order(
    beacon: bytes, candidates: Iterable[bytes], scores: Mapping[bytes, int] | None = None
) -> tuple[bytes, ...]:
    """Candidates (32-byte keys, each once) in the order in which they lead, drawn by tickets.

    Ticket t (a byte) of a key is SHA-256(beacon || key || t), and the key's place is that of its smallest ticket. So
    the first leader is each key with a chance in proportion to its tickets, and so is the next among those left.
    `scores` are reputations in basis points, 0 where one is missing (`reputation.Reputation.score`); see `tickets`.
    One to eight hashes per candidate. Raises ValueError for a score that is out of range.

    Koii's own rule (difference of two character sums over the submissions) has ties, depends on JSON key
    order and can be ground through the submission value; ranks from a beacon have none of these (source:
    `@_koii/namespace-wrapper`, nodeSelectionDistributionList).
    """
    given = scores or {}
    places = {key: _place(beacon, key, tickets(given.get(key, 0))) for key in set(candidates)}
    return tuple(sorted(places, key=lambda key: (places[key], key)))


def tickets(score: int) -> int:
    """Tickets in the draw for leader: 1 at score 0 to 8 at score 10000. Raises ValueError beyond them."""
    if not 0 <= score <= BASIS_POINTS:
        raise ValueError(f"score {score} is not from 0 to {BASIS_POINTS} basis points")
    return 1 + score * (MOST_TICKETS - 1) // BASIS_POINTS


def turn(window: Window, rank: int, step: int) -> int:
    """First slot at which the leader of this rank (0 = first) may anchor: one dead leader costs one step.

    The result may lie outside the window: then this rank never gets a turn. Raises ValueError for a negative
    rank or a step below one slot.
    """
    if rank < 0 or step < 1:
        raise ValueError("rank is at least 0 and step at least 1 slot")
    return window.opens + rank * step


def _place(beacon: bytes, key: bytes, count: int) -> bytes:
    return min(sha256(beacon + key + bytes((ticket,))).digest() for ticket in range(count))
