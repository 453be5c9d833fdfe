"""The program's client against a real local K2, over JSON-RPC: a whole round, with several nodes anchoring at once,
and one whose first list a majority rejects."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
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
from koii_p2p.settlement.refusals import AlreadyAnchored, AlreadyVetoed
from koii_p2p.settlement.rpc import RpcClient

from .virtual_chain import KOII

SLASH = 5 * KOII * 7000 // 10_000


Story = Callable[[bytes, list[SecretKey], list[ProgramSettlement]], Awaitable[None]]


async def _on_a_new_task(tmp_path: Path, nursery: trio.Nursery, story: Story, round_time: int = 50) -> None:
    """Run a story with a funded task and the keys and clients of its three stakers."""
    chain = await nursery.start(serve, LocalK2Settings(tmp_path, port=0, slot_ms=30, finality=4))
    payer, stakers = SecretKey.generate(), [SecretKey.generate() for _ in range(3)]
    async with RpcClient(chain.url) as rpc:
        with trio.fail_after(60):
            await rpc.request_airdrop(payer.public_key, 100 * KOII)
            while await rpc.get_balance(payer.public_key) == 0:
                await trio.sleep(0.02)
            nodes = [ProgramSettlement(rpc, payer, staker) for staker in stakers]
            task = (await nodes[0].create_task(_terms(await nodes[0].slot() + 60, round_time), nonce=1)).task
            await nodes[0].fund(task, 50 * KOII)
            for node, staker in zip(nodes, stakers, strict=True):
                await node.stake(task, 5 * KOII, staker.public_key)
            await story(task, stakers, nodes)
    nursery.cancel_scope.cancel()


async def test_a_round_over_rpc(tmp_path: Path, nursery: trio.Nursery) -> None:
    await _on_a_new_task(tmp_path, nursery, _a_round)


async def test_a_majority_rejects_a_list_and_the_next_one_settles(
    tmp_path: Path, nursery: trio.Nursery
) -> None:
    # Room for three transactions, one after the other, between the audit's opening and the end of its period.
    await _on_a_new_task(tmp_path, nursery, _a_rejection, round_time=85)


async def _a_rejection(task: bytes, stakers: list[SecretKey], nodes: list[ProgramSettlement]) -> None:
    thief, first, second = nodes
    clock = (await first.task_state(task)).terms.clock
    leaf = Leaf(stakers[0].public_key, 3 * KOII, 0)
    await _until(first, clock.commitment(0).opens)
    await thief.anchor_commitment(task, 0, b"c" * 32)
    await _until(first, clock.distribution(0).opens)
    await thief.anchor_list(task, 0, merkle.root([leaf.encode()]), 3 * KOII, 0)
    await _until(first, clock.distribution_audit(0).opens)

    outcomes: list[Receipt | None] = []

    async def veto(node: ProgramSettlement) -> None:
        try:
            outcomes.append(await node.veto(task, 0, 0))
        except AlreadyVetoed:
            outcomes.append(None)

    async with trio.open_nursery() as together:
        for node in (first, second, first, second):
            together.start_soon(veto, node)
    assert sum(one is not None for one in outcomes) == 2
    rejected = (await first.task_state(task)).rounds[0]
    assert (rejected.rejected, rejected.veto_stake, rejected.attempt) == (True, 10 * KOII, 0)

    leaves = sorted((Leaf(one.public_key, KOII, 0) for one in stakers), key=lambda leaf: leaf.staker)
    encoded = [leaf.encode() for leaf in leaves]
    await first.anchor_commitment(task, 0, b"d" * 32, attempt=1)
    await second.anchor_list(task, 0, merkle.root(encoded), 3 * KOII, 0, attempt=1)
    await _until(first, clock.settles_at(0, 1))
    for leaf, proof in zip(leaves, merkle.all_proofs(encoded), strict=True):
        await first.settle(task, 0, leaf, proof, leaf.staker)
    assert [await first.balance(one.public_key) for one in stakers] == [KOII] * 3

    state = await first.task_state(task)
    assert (state.rounds[0].attempt, state.rounds[0].barred) == (1, (stakers[0].public_key,))
    assert state.anchors == 5
    assert check_history(await first.history(task), state) == ()


async def _a_round(task: bytes, stakers: list[SecretKey], nodes: list[ProgramSettlement]) -> None:
    first = nodes[0]
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
    assert roster_at(stakes, 0, state.terms).total_stake == 15 * KOII
    entries = await first.history(task)
    assert len([entry for entry in entries if entry.err is None]) == 10
    assert check_history(entries, state) == ()
    found = await first.blockhash_after(state.created_slot)
    assert found is not None
    assert found[0] >= state.created_slot


def _terms(starting_slot: int, round_time: int) -> TaskTerms:
    return TaskTerms(
        task=EMPTY_KEY,
        creator=EMPTY_KEY,
        name="over rpc",
        program="examples.hello_world",
        starting_slot=starting_slot,
        round_time=round_time,
        submission_window=20,
        audit_window=round_time - 35,
        bounty_per_round=3 * KOII,
        minimum_stake=KOII,
    )


async def _until(node: ProgramSettlement, slot: int) -> None:
    while await node.slot() < slot:
        await trio.sleep(0.01)
