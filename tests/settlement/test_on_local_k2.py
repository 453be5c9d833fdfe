"""The program's client against a real local K2, over JSON-RPC: a whole round, with several nodes anchoring at once."""

from __future__ import annotations

from pathlib import Path

import trio

from koii_p2p.localk2.server import serve
from koii_p2p.localk2.settings import LocalK2Settings
from koii_p2p.records.keys import SecretKey
from koii_p2p.rounds import merkle
from koii_p2p.rounds.distribution import Leaf
from koii_p2p.rounds.roster import roster_at
from koii_p2p.rounds.terms import TaskTerms
from koii_p2p.settlement.history import check_history
from koii_p2p.settlement.interface import Receipt
from koii_p2p.settlement.program import EMPTY_KEY, ProgramSettlement
from koii_p2p.settlement.refusals import AlreadyAnchored
from koii_p2p.settlement.rpc import RpcClient

from .virtual_chain import KOII

SLASH = 5 * KOII * 7000 // 10_000


async def test_a_round_over_rpc(tmp_path: Path, nursery: trio.Nursery) -> None:
    chain = await nursery.start(serve, LocalK2Settings(tmp_path, port=0, slot_ms=20, finality=4))
    payer, stakers = SecretKey.generate(), [SecretKey.generate() for _ in range(3)]
    async with RpcClient(chain.url) as rpc:
        with trio.fail_after(60):
            await rpc.request_airdrop(payer.public_key, 100 * KOII)
            while await rpc.get_balance(payer.public_key) == 0:
                await trio.sleep(0.02)
            await _round(payer, stakers, rpc)
    nursery.cancel_scope.cancel()


async def _round(payer: SecretKey, stakers: list[SecretKey], rpc: RpcClient) -> None:
    nodes = [ProgramSettlement(rpc, payer, staker) for staker in stakers]
    first = nodes[0]
    task = (await first.create_task(_terms(await first.slot() + 60), nonce=1)).task
    await first.fund(task, 50 * KOII)
    for node, staker in zip(nodes, stakers, strict=True):
        await node.stake(task, 5 * KOII, staker.public_key)
    clock = (await first.task_state(task)).terms.clock

    await _until(first, clock.commitment(0).opens)
    outcomes: list[Receipt | None] = []

    async def commit(node: ProgramSettlement) -> None:
        try:
            outcomes.append(await node.anchor_commitment(task, 0, b"c" * 32))
        except AlreadyAnchored:
            outcomes.append(None)

    async with trio.open_nursery() as together:
        for node in nodes:
            together.start_soon(commit, node)
    assert sum(one is not None for one in outcomes) == 1

    totals = zip(stakers, (KOII, KOII, 0), (0, 0, SLASH), strict=True)
    leaves = sorted(
        (Leaf(key.public_key, reward, slash) for key, reward, slash in totals), key=lambda leaf: leaf.staker
    )
    encoded = [leaf.encode() for leaf in leaves]
    await _until(first, clock.distribution(0).opens)
    await nodes[1].anchor_list(task, 0, merkle.root(encoded), 2 * KOII, SLASH)
    await _until(first, clock.settles_at(0))
    for leaf, proof in zip(leaves, merkle.all_proofs(encoded), strict=True):
        await first.settle(task, 0, leaf, proof, leaf.staker)

    assert [await first.balance(one.public_key) for one in stakers] == [KOII, KOII, 0]
    state, stakes = await first.task_state(task), await first.stakes(task)
    assert (state.vault, state.total_stake) == (48 * KOII + SLASH, 15 * KOII - SLASH)
    assert roster_at(stakes, 0, clock, KOII).total_stake == 15 * KOII
    entries = await first.history(task)
    assert len([entry for entry in entries if entry.err is None]) == 10
    assert check_history(entries, state) == ()
    found = await first.blockhash_after(state.created_slot)
    assert found is not None
    assert found[0] >= state.created_slot


def _terms(starting_slot: int) -> TaskTerms:
    return TaskTerms(
        task=EMPTY_KEY,
        creator=EMPTY_KEY,
        name="over rpc",
        program="examples.hello_world",
        starting_slot=starting_slot,
        round_time=50,
        submission_window=20,
        audit_window=15,
        bounty_per_round=3 * KOII,
        minimum_stake=KOII,
    )


async def _until(node: ProgramSettlement, slot: int) -> None:
    while await node.slot() < slot:
        await trio.sleep(0.01)
