"""What the settlement program lets land, as pure functions: for chains that are held in memory (PROTOCOL section 8).

What it says of money beyond these (who has a stake, vetoes, fees, accounts) is the chain's that calls them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from koii_p2p.rounds.anchors import AnchoredRound
from koii_p2p.rounds.distribution import Leaf
from koii_p2p.rounds.events import AnchorCommitment, AnchorList
from koii_p2p.rounds.roster import Checkpoint, StakeHistory
from koii_p2p.rounds.terms import TaskTerms


def committed(
    anchored: Mapping[int, AnchoredRound], terms: TaskTerms, slot: int, by: bytes, action: AnchorCommitment
) -> AnchoredRound | None:
    """The round with this commitment; None if it is not the next attempt, not in its window, or `by` is barred."""
    last = anchored.get(action.round)
    expected = last.attempt + 1 if last else 0
    barred = last.anchorers if last else ()
    if (last is not None and not last.rejected) or action.attempt != expected or by in barred:
        return None
    if expected > terms.allowed_failed_distributions:
        return None
    if slot not in terms.clock.commitment(action.round, expected):
        return None
    return AnchoredRound(action.round, expected, action.digest, slot, by, barred=barred)


def listed(
    anchored: Mapping[int, AnchoredRound], terms: TaskTerms, slot: int, by: bytes, action: AnchorList
) -> AnchoredRound | None:
    """The round with this list; None if it has no commitment that stands, has a list, is not in its window, comes
    before a newer one, takes totals back, or pays more than bounty and slashes; and if `by` is barred.
    """
    anchor = anchored.get(action.round)
    if anchor is None or anchor.rejected or anchor.list_root is not None or by in anchor.barred:
        return None
    if action.attempt != anchor.attempt:
        return None
    if slot not in terms.clock.distribution(action.round, action.attempt):
        return None
    standing = [other for other in anchored.values() if other.list_root and not other.rejected]
    newest = max(standing, key=lambda other: other.round, default=None)
    if newest is not None and newest.round >= action.round:
        return None
    rewards = action.reward_total - (newest.reward_total if newest else 0)
    slashes = action.slash_total - (newest.slash_total if newest else 0)
    if rewards < 0 or slashes < 0 or rewards > terms.bounty_per_round + slashes:
        return None
    return replace(
        anchor,
        list_root=action.root,
        reward_total=action.reward_total,
        slash_total=action.slash_total,
        list_slot=slot,
        list_by=by,
    )


def slashed(history: StakeHistory, leaf: Leaf, slot: int) -> StakeHistory:
    """A stake after a leaf's slashes are taken in this slot; the very same object if there is nothing to take."""
    last = history.checkpoints[-1]
    if leaf.slash_total <= last.slash_total:
        return history
    left = max(0, last.stake - (leaf.slash_total - last.slash_total))
    return replace(history, checkpoints=(*history.checkpoints, Checkpoint(slot, left, leaf.slash_total)))
