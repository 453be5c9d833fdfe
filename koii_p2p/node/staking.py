"""Bringing a node's stake up to what its operator wants."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import structlog
import trio
from solders.pubkey import Pubkey

from koii_p2p.errors import ChainError
from koii_p2p.settlement.interface import Settlement

log = structlog.get_logger(__name__)

LOOK_SECONDS = 1.0
TRY_AGAIN_SECONDS = 60.0
"""Each try that K2 refuses may cost a fee."""


async def bring_up_stake(
    chain: Settlement, task: bytes, staker: bytes, wanted: int, beneficiary: bytes
) -> None:
    """Stake what is missing from `wanted` Roe of the staker's stake in a task; nothing if it has as much.

    Raises `ChainError`, also if the task takes no stakes.
    """
    staked = sum(
        history.checkpoints[-1].stake
        for history in await chain.stakes(task)
        if history.staker == staker and history.checkpoints
    )
    missing = wanted - staked
    if missing > 0:
        receipt = await chain.stake(task, missing, beneficiary)
        log.info("staked", task=str(Pubkey(task)), amount=missing, signature=receipt.signature)


async def stake_when_active(
    stake: Callable[[], Awaitable[None]],
    is_active: Callable[[], bool],
    failed: Callable[[str, Exception], None],
) -> None:
    """Stake as soon as the task takes stakes again. What goes wrong is told to `failed`, and tried again later."""
    while True:
        while not is_active():
            await trio.sleep(LOOK_SECONDS)
        try:
            await stake()
            return
        except ChainError as error:
            failed("stake", error)
        await trio.sleep(TRY_AGAIN_SECONDS)
