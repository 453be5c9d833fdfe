"""Priority fees: what a transaction bids for its place when blocks are full.

A transaction names a price in micro-Roe for each compute unit it reserves; the fee is that product, rounded up,
on top of the fee for its signatures, and is paid whether it fails or not
(https://solana.com/docs/core/fees; K2 is a fork and keeps it). What recent blocks asked is one node's word, so
the bid is capped by what the operator is ready to pay.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import structlog

from koii_p2p.errors import ChainError, ConfigurationError
from koii_p2p.settlement.rpc import RpcClient

MICRO_ROE: Final = 1_000_000
"""Micro-Roe in a Roe."""

_MOST_ADDRESSES: Final = 128  # of one getRecentPrioritizationFees

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class PriorityFees:
    """How to bid: as high as `percentile` percent of the recent blocks asked, within `least` and `most`.

    Prices are micro-Roe a compute unit. The default bids nothing.
    """

    least: int = 0
    most: int = 0
    percentile: int = 75

    def __post_init__(self) -> None:
        if not 0 <= self.least <= self.most < 2**64 or not 1 <= self.percentile <= 100:
            raise ConfigurationError(
                f"Priority fees from {self.least} to {self.most} at {self.percentile} % are not possible.",
                "The least is not above the most, and the percentile is from 1 to 100.",
                "Give prices in micro-Roe for a compute unit.",
            )

    async def price(self, rpc: RpcClient, writes: Sequence[bytes]) -> int:
        """The price to bid for a transaction that writes these addresses.

        A node that cannot tell costs nothing but the knowledge: then it is `least`.
        """
        if self.most == self.least:
            return self.least
        try:
            asked = await rpc.get_recent_prioritization_fees(writes[:_MOST_ADDRESSES])
        except ChainError as error:
            _log.info("priority_fees_not_known", why=error.why)
            return self.least
        return min(max(at_percentile(asked, self.percentile), self.least), self.most)

    def raised(self, price: int) -> int:
        """The price to bid after a transaction at `price` was not taken in time: twice that, within `most`."""
        return min(max(2 * price, self.least, 1), self.most)


def at_percentile(prices: Sequence[int], percentile: int) -> int:
    """The least of the prices that `percentile` percent of them do not exceed; 0 if there are none."""
    if not prices:
        return 0
    place = -(-len(prices) * percentile // 100)
    return sorted(prices)[place - 1]


def priority_fee(units: int, price: int) -> int:
    """What a bid costs, in Roe: the reserved units at the price, rounded up."""
    return -(-units * price // MICRO_ROE)
