"""What transactions weigh on K2: bytes on the wire, and signatures that are paid for.

The sizes are those of what `koii_p2p.settlement` signs and sends, with its limit of compute units. The lab does not
import that room, so that they stand here as numbers; `tests/lab/test_transactions.py` builds each and compares.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from koii_p2p.lab.chain import COMMITMENT, LIST, SETTLEMENT, VETO, Landed

BYTES: Final[Mapping[str, int]] = {COMMITMENT: 414, LIST: 463, VETO: 481, SETTLEMENT: 403}
SIGNATURES: Final[Mapping[str, int]] = {COMMITMENT: 2, LIST: 2, VETO: 2, SETTLEMENT: 1}
"""The main wallet's, which pays, and the staking key's; anybody may prove a leaf."""

HASH_BYTES: Final = 32
LONG_PROOF: Final = 3


def bytes_of(landed: Landed, stakers: int) -> int:
    """Bytes of what landed: of one transaction for each leaf that was proved, in a tree of so many leaves."""
    if landed.name != SETTLEMENT:
        return BYTES[landed.name]
    levels = depth(stakers)
    # From 128 bytes of data on, their number takes two bytes.
    return landed.leaves * (BYTES[SETTLEMENT] + HASH_BYTES * levels + (levels >= LONG_PROOF))


def signatures_of(landed: Landed) -> int:
    """Signatures that K2 takes its fee for."""
    return SIGNATURES[landed.name] * max(1, landed.leaves)


def transactions_of(landed: Landed) -> int:
    """How many transactions it was."""
    return max(1, landed.leaves)


def depth(leaves: int) -> int:
    """Hashes in the proof of the first leaf: the levels of its Merkle tree."""
    return max(0, leaves - 1).bit_length()
