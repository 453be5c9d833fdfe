"""Proving a settled list's leaves to K2: what it takes from others, and now and then our own reward."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import structlog
from solders.pubkey import Pubkey

from koii_p2p.rounds import events
from koii_p2p.rounds.distribution import DistributionList
from koii_p2p.rounds.terms import TaskTerms
from koii_p2p.settlement.interface import Settlement

log = structlog.get_logger(__name__)


async def settle_round(
    action: events.RoundSettled,
    terms: TaskTerms,
    chain: Settlement,
    own: bytes,
    claim_every: int,
    sleep_until: Callable[[int], Awaitable[None]],
) -> None:
    """Prove to K2 what the list takes from others, in leader order, and claim our own reward when it is time.

    Claims are made once in `claim_every` rounds. Raises `ChainError`.
    """
    if action.rank is None:
        return
    opens = terms.clock.settles_at(action.round, action.attempt) + 1
    await sleep_until(opens)
    if (action.round + 1) % claim_every == 0:
        await _settle_leaves(chain, terms.task, action.round, action.list, [own], own)
    slashed = [leaf.staker for leaf in action.list.leaves if leaf.slash_total]
    if slashed:
        await sleep_until(opens + action.rank * max(4, terms.audit_window // 10))
        await _settle_leaves(chain, terms.task, action.round, action.list, slashed, own)


async def _settle_leaves(
    chain: Settlement, task: bytes, number: int, listed: DistributionList, stakers: list[bytes], own: bytes
) -> None:
    """Settle those of these stakers whom K2 still owes, or who still owe K2, by this list."""
    histories = {history.staker: history for history in await chain.stakes(task)}
    for staker in stakers:
        leaf, history = listed.leaf(staker), histories.get(staker)
        if leaf is None or history is None:
            continue
        taken = history.checkpoints[-1].slash_total if history.checkpoints else 0
        own_reward = staker == own and leaf.reward_total > history.reward_paid
        if own_reward or leaf.slash_total > taken:
            receipt = await chain.settle(task, number, leaf, listed.proof(staker), history.beneficiary)
            log.info(
                "settled",
                task=str(Pubkey(task)),
                round=number,
                staker=str(Pubkey(staker)),
                signature=receipt.signature,
            )
