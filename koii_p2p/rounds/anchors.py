"""What K2 holds of a round: at most one commitment and one distribution-list root per attempt (PROTOCOL §8)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from koii_p2p.rounds.commitment import NO_PREVIOUS


@dataclass(frozen=True, slots=True)
class AnchoredRound:
    """The on-chain record of a round's newest attempt. Digests are 32 bytes, totals cumulative Roe, times slots.

    `list_root`, `list_by` are None until a list is anchored; `list_slot`, `reward_total` and `slash_total` are 0 then.
    `veto_stake` (Roe) is against the list; when it is more than half of all stake, the attempt is `rejected`: it
    keeps its digests until the next attempt is committed to, if the terms allow one. `barred` are the stakers who
    anchored the attempt before this one, which was rejected: they may not anchor this one.
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
    veto_stake: int = 0
    rejected: bool = False
    barred: tuple[bytes, ...] = ()

    @property
    def anchorers(self) -> tuple[bytes, ...]:
        """Who anchored this attempt: its commitment and, if there is one, its list; each key once."""
        return tuple(dict.fromkeys(key for key in (self.commitment_by, self.list_by) if key is not None))


def previous_digest(anchored: Mapping[int, AnchoredRound], number: int) -> bytes:
    """Digest that a commitment to this round follows, `Commitment.previous`: of the newest round before it whose first
    attempt stands."""
    standing = [
        earlier
        for earlier, anchor in anchored.items()
        if earlier < number and anchor.attempt == 0 and not anchor.rejected
    ]
    return anchored[max(standing)].commitment if standing else NO_PREVIOUS
