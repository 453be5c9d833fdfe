"""A task on a running K2 with one anchored round: something for explorers to look at."""

from __future__ import annotations

from dataclasses import dataclass

import trio

from koii_p2p.records.keys import SecretKey
from koii_p2p.rounds.terms import TaskTerms
from koii_p2p.settlement.program import ProgramSettlement
from koii_p2p.settlement.rpc import RpcClient
from tests.localk2.chain import KOII

DIGEST = b"c" * 32


@dataclass(frozen=True, slots=True)
class AnchoredTask:
    """The task, its only staker, and the transaction that anchored its round 0."""

    task: bytes
    staker: bytes
    signature: str


async def anchored_task(url: str, slot_ms: int = 20) -> AnchoredTask:
    """Create, fund and stake a task, and anchor a commitment for its first round."""
    payer, staker = SecretKey.generate(), SecretKey.generate()
    async with RpcClient(url) as rpc:
        await rpc.request_airdrop(payer.public_key, 100 * KOII)
        while not await rpc.get_balance(payer.public_key):
            await trio.sleep(slot_ms / 1000)
        node = ProgramSettlement(rpc, payer, staker)
        terms = TaskTerms(
            task=bytes(32),
            creator=bytes(32),
            name="explored",
            program="examples.hello_world",
            starting_slot=await node.slot() + 60,
            round_time=50,
            submission_window=20,
            audit_window=15,
            bounty_per_round=3 * KOII,
            minimum_stake=KOII,
        )
        made = await node.create_task(terms, nonce=1)
        await node.fund(made.task, 50 * KOII)
        await node.stake(made.task, 5 * KOII, staker.public_key)
        opens = (await node.task_state(made.task)).terms.clock.commitment(0).opens
        while await node.slot() < opens:
            await trio.sleep(slot_ms / 1000)
        receipt = await node.anchor_commitment(made.task, 0, DIGEST)
        return AnchoredTask(made.task, staker.public_key, receipt.signature)
