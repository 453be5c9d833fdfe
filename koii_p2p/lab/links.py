"""The links between simulated nodes: latency, jitter, loss, bandwidth and cuts. Nodes are numbers from 0.

Times are microseconds. A link's latency follows from the seed and the two nodes alone, so that a net of other nodes or
another order of events has the same links. Jitter and loss are drawn as messages are sent.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from hashlib import blake2b
from random import Random
from statistics import NormalDist
from typing import Final

from koii_p2p.lab.cities import CITIES, latency_ms
from koii_p2p.lab.clockwork import MILLISECOND, SECOND
from koii_p2p.lab.scenario import Latency, LatencyModel, Network, bad, nearest

LEAST_LATENCY: Final = 1
"""Microseconds: nothing arrives at the time at which it was sent."""

QUEUE_BYTES: Final = 16 * 1024 * 1024
"""What may wait at a node's uplink, as in the queue to a peer of a real one (`Limits.gossip_queue_bytes`)."""

_NORMAL: Final = NormalDist()


class Full(Exception):
    """What was to be sent has no room in the sender's queue."""


class Links:
    """What messages between nodes go through."""

    def __init__(self, network: Network, seed: int) -> None:
        """Raises `ConfigurationError` for a city that does not exist."""
        self._seed = b"links %d" % seed
        self._random = Random(f"links {seed}")
        self._loss, self._jitter = network.loss, network.jitter
        bandwidth = network.bandwidth_kib
        self._bytes_per_second = None if bandwidth is None else bandwidth * 1024
        self._latency_of = _model(network.latency, self._chance, self._chances)
        self._latencies: dict[tuple[int, int], int] = {}
        self._free_at: dict[int, int] = {}
        self._last_arrival: dict[tuple[int, int], int] = {}
        self._sides: Sequence[int] = ()

    def latency(self, one: int, other: int) -> int:
        """One-way latency of a link, without jitter; the same both ways."""
        pair = (one, other) if one < other else (other, one)
        found = self._latencies.get(pair)
        if found is None:
            found = max(LEAST_LATENCY, round(self._latency_of(*pair) * MILLISECOND))
            self._latencies[pair] = found
        return found

    def cut(self, sides: Sequence[int]) -> None:
        """Let nothing pass between nodes of different sides, by number of node; an empty sequence heals the net."""
        self._sides = sides

    def is_cut(self, one: int, other: int) -> bool:
        """Whether nothing passes between two nodes now."""
        sides = self._sides
        return bool(sides) and sides[one] != sides[other]

    def arrival(self, sender: int, receiver: int, size: int, now: int) -> int | None:
        """When `size` bytes that are sent now arrive; None if they are lost, on the way or at a cut.

        In the order in which they were sent, on each link: it is a stream. Raises `Full` if the sender's queue is.
        """
        start = self._start(sender, size, now)
        if self._sides and self._sides[sender] != self._sides[receiver]:
            return None
        if self._loss and self._random.random() < self._loss:
            return None
        delay = self.latency(sender, receiver)
        if self._jitter:
            delay = max(LEAST_LATENCY, int(delay * (1 + self._jitter * (2 * self._random.random() - 1))))
        link = sender, receiver
        arrives = max(start + delay, self._last_arrival.get(link, 0))
        self._last_arrival[link] = arrives
        return arrives

    def _start(self, sender: int, size: int, now: int) -> int:
        """When the last byte leaves the sender: after all that waits there already."""
        pace = self._bytes_per_second
        if pace is None:
            return now
        free = max(now, self._free_at.get(sender, 0))
        if (free - now) * pace > QUEUE_BYTES * SECOND:
            raise Full
        free += -(-size * SECOND // pace)
        self._free_at[sender] = free
        return free

    def _chances(self, *what: int) -> Random:
        return Random(self._drawn(*what))

    def _chance(self, *what: int) -> float:
        """A number from 0 to below 1 that follows from the seed and these numbers."""
        return self._drawn(*what) / (1 << 64)

    def _drawn(self, *what: int) -> int:
        data = b"".join(number.to_bytes(8, "big") for number in what)
        return int.from_bytes(blake2b(data, digest_size=8, key=self._seed).digest(), "big")


def _model(
    latency: Latency, chance: Callable[..., float], chances: Callable[..., Random]
) -> Callable[[int, int], float]:
    """Milliseconds between two nodes, the first with the smaller number."""
    match latency.model:
        case LatencyModel.UNIFORM:
            low, width = latency.low_ms, latency.high_ms - latency.low_ms
            return lambda one, other: low + width * chance(one, other)
        case LatencyModel.LOGNORMAL:
            median, sigma = latency.median_ms, latency.sigma
            # Away from 0 and 1, where the quantile is infinite.
            return lambda one, other: (
                median
                * math.exp(
                    sigma * _NORMAL.inv_cdf(0.5 / (1 << 32) + chance(one, other) * (1 - 1 / (1 << 32)))
                )
            )
        case LatencyModel.EXPONENTIAL:
            low, mean = latency.low_ms, latency.median_ms
            return lambda one, other: low - mean * math.log(1 - chance(one, other))
        case LatencyModel.MATRIX:
            matrix = latency.matrix
            return lambda one, other: matrix[one % len(matrix)][other % len(matrix)]
        case LatencyModel.CITIES:
            return _between_cities(latency.cities or tuple(CITIES), chances)


def _between_cities(names: Sequence[str], chances: Callable[..., Random]) -> Callable[[int, int], float]:
    for name in names:
        if name not in CITIES:
            raise bad(
                f"The city `{name}` does not exist",
                f"Did you mean {nearest(name, CITIES)}? There are: {', '.join(CITIES)}.",
            )
    known = {(one, other): latency_ms(one, other) for one in names for other in names}
    home: dict[int, str] = {}

    def city(node: int) -> str:
        if node not in home:
            home[node] = names[chances(node).randrange(len(names))]
        return home[node]

    return lambda one, other: known[city(one), city(other)]
