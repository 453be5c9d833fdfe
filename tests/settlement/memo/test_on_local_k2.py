"""Memos on a real local K2, over JSON-RPC: rounds with spam and conflicts, nodes racing, a rejected list."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio
from solders.keypair import Keypair

from koii_p2p.localk2.server import serve
from koii_p2p.localk2.settings import LocalK2Settings
from koii_p2p.records.keys import SecretKey
from koii_p2p.settlement.instructions import Tag
from koii_p2p.settlement.interface import Receipt
from koii_p2p.settlement.memo.chain import LinkFault
from koii_p2p.settlement.memo.genesis import Genesis, GenesisStake
from koii_p2p.settlement.memo.records import MemoRecord, instructions
from koii_p2p.settlement.memo.settlement import MemoSettlement
from koii_p2p.settlement.refusals import AlreadyAnchored, AlreadyVetoed, ProgramError
from koii_p2p.settlement.rpc import RpcClient
from koii_p2p.settlement.sending import Sender, keypair_of

from ..virtual_chain import KOII
from .memo_world import terms

SPAM_AT_ONCE = 5


@pytest.mark.slow
async def test_two_rounds_over_rpc(tmp_path: Path, nursery: trio.Nursery) -> None:
    chain = await nursery.start(serve, LocalK2Settings(tmp_path, port=0, slot_ms=60, finality=4))
    payer, stakers = SecretKey.generate(), [SecretKey.generate() for _ in range(3)]
    async with RpcClient(chain.url) as rpc:
        with trio.fail_after(90):
            await rpc.request_airdrop(payer.public_key, 100 * KOII)
            while await rpc.get_balance(payer.public_key) == 0:
                await trio.sleep(0.02)
            genesis = Genesis.make(
                terms(
                    creator=payer.public_key,
                    starting_slot=await rpc.get_slot() + 5,
                    round_time=150,
                    submission_window=50,
                    audit_window=70,
                ),
                [GenesisStake(one.public_key, 5 * KOII, one.public_key) for one in stakers],
                pledged=100 * KOII,
            )
            await _rounds(rpc, genesis, payer, stakers)
    nursery.cancel_scope.cancel()


async def _rounds(rpc: RpcClient, genesis: Genesis, payer: SecretKey, stakers: list[SecretKey]) -> None:
    task, clock = genesis.terms.task, genesis.terms.clock
    nodes = [MemoSettlement(rpc, genesis, payer, staker) for staker in stakers]
    created = await MemoSettlement(rpc, genesis, payer).create_task(genesis.terms, 0)

    await _until(nodes[0], clock.commitment(0).opens - 10)
    async with trio.open_nursery() as spam:
        spam.start_soon(_flood, rpc, genesis, payer)
        await _until(nodes[0], clock.commitment(0).opens)
        assert await _all(nodes, lambda node: node.anchor_commitment(task, 0, b"c" * 32)) == 1
        await _until(nodes[0], clock.distribution(0).opens)
        assert await _all(nodes, lambda node: node.anchor_list(task, 0, b"l" * 32, KOII, 0)) == 1
        await _until(nodes[0], clock.distribution_audit(0).opens)
        assert await _all(nodes, lambda node: node.veto(task, 0, 0)) >= 2
        spam.cancel_scope.cancel()

    state = await nodes[0].task_state(task)
    held = state.rounds[0]
    assert held.rejected
    assert held.list_by is not None
    free = [node for node, key in zip(nodes, stakers, strict=True) if key.public_key not in held.anchorers]
    await free[0].anchor_commitment(task, 0, b"d" * 32, attempt=1)
    await free[0].anchor_list(task, 0, b"m" * 32, KOII, 0, attempt=1)

    fresh = MemoSettlement(rpc, genesis, SecretKey.generate())
    state = await fresh.task_state(task)
    assert state.created_slot == created.receipt.slot
    assert (state.rounds[0].attempt, state.rounds[0].list_root, state.anchors) == (1, b"m" * 32, 5)
    assert state == await nodes[0].task_state(task), "who followed the chain and who reads it at once agree"
    reasons = [one.refusal for one in await fresh.judged(task)]
    assert reasons.count(ProgramError.ANCHORER_BELOW_MINIMUM) >= SPAM_AT_ONCE
    assert LinkFault.UNKNOWN not in reasons
    assert len(await fresh.history(task)) == len(await rpc.get_address_history(task, limit=10_000))


async def _all(nodes: list[MemoSettlement], act) -> int:  # type: ignore[no-untyped-def]
    """Let every node do it at once; returns how many got a receipt rather than hearing that it is done."""
    receipts: list[Receipt] = []

    async def one(node: MemoSettlement) -> None:
        try:
            receipts.append(await act(node))
        except (AlreadyAnchored, AlreadyVetoed):
            return

    async with trio.open_nursery() as together:
        for node in nodes:
            together.start_soon(one, node)
    return len(receipts)


async def _flood(rpc: RpcClient, genesis: Genesis, payer: SecretKey) -> None:
    """Records of strangers for every place there is, all the time."""
    task = genesis.terms.task
    sender, number = Sender(rpc, payer), 0
    while True:
        async with trio.open_nursery() as together:
            for _ in range(SPAM_AT_ONCE):
                stranger, number = Keypair(), number + 1
                kind = (Tag.ANCHOR_COMMITMENT, Tag.ANCHOR_LIST, Tag.VETO)[number % 3]
                record = MemoRecord(kind, 0, number % 2, b"%032d" % number, bytes(16), task[:24])
                key = bytes(stranger.pubkey())
                both = instructions(record, key, bytes(keypair_of(payer).pubkey()), task)
                together.start_soon(sender.send, "spam", both, stranger)
        await trio.sleep(0.3)


async def _until(node: MemoSettlement, slot: int) -> None:
    while await node.slot() < slot:
        await trio.sleep(0.01)
