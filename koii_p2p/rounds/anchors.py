"""What K2 holds of a round: at most one commitment and one distribution-list root per attempt (PROTOCOL §8)."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class AnchoredRound:
    """The on-chain record of one round. Digests are 32 bytes, totals are cumulative Roe, times are slots.

    `list_root`, `list_by` are None until a list is anchored; `list_slot`, `reward_total` and `slash_total` are 0 then.
    """

    round: int
    attempt: int
    commitment: bytes
    commitment_slot: int
    commitment_by: bytes
    list_root: bytes | None = None
    reward_total: int = 0
    slash_total: int = 0
    list_slot: int = 0
    list_by: bytes | None = None
