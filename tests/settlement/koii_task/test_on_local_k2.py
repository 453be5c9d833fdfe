"""The stand-in deployed to a real local K2 by real loader transactions, and a round of the carrier over JSON-RPC."""

from __future__ import annotations

import struct
from dataclasses import replace
from pathlib import Path

import pytest
import trio
from solders.instruction import AccountMeta, Instruction
from solders.keypair import Keypair
from solders.pubkey import Pubkey
from solders.system_program import ID as SYSTEM_PROGRAM
from solders.system_program import CreateAccountParams, create_account

from koii_p2p.localk2.server import serve
from koii_p2p.localk2.settings import LocalK2Settings
from koii_p2p.records.keys import SecretKey
from koii_p2p.settlement.koii_task.instructions import CLOCK, RENT
from koii_p2p.settlement.koii_task.readings import NATIVE
from koii_p2p.settlement.koii_task.settlement import KoiiTaskSettings, KoiiTaskSettlement
from koii_p2p.settlement.koii_task.state import PayoutRecord
from koii_p2p.settlement.refusals import AlreadyAnchored, AlreadyVetoed
from koii_p2p.settlement.rpc import RpcClient
from koii_p2p.settlement.sending import Sender
from scripts.koii_standin.state import ELF, account_bytes, local_vars

from ..virtual_chain import KOII
from .standin_world import terms, through_koiis_form

LOADER = Pubkey.from_string("BPFLoaderUpgradeab1e11111111111111111111111")
PIECE = 900


@pytest.mark.slow
async def test_a_round_over_rpc(tmp_path: Path, nursery: trio.Nursery) -> None:
    chain = await nursery.start(serve, LocalK2Settings(tmp_path, port=0, slot_ms=30, finality=4))
    payer, stakers = SecretKey.generate(), [SecretKey.generate() for _ in range(3)]
    async with RpcClient(chain.url) as rpc:
        with trio.fail_after(90):
            await rpc.request_airdrop(payer.public_key, 1000 * KOII)
            while await rpc.get_balance(payer.public_key) == 0:
                await trio.sleep(0.02)
            settings = KoiiTaskSettings(
                NATIVE,
                task_space=account_bytes(20),
                staking_space=1000,
                local_vars=local_vars(NATIVE),
                total_bounty=10 * KOII,
                program=await _deploy(rpc, payer),
                read_state=through_koiis_form,
            )
            await _round(rpc, settings, payer, stakers)
    nursery.cancel_scope.cancel()


async def _round(
    rpc: RpcClient, settings: KoiiTaskSettings, payer: SecretKey, stakers: list[SecretKey]
) -> None:
    nodes = [KoiiTaskSettlement(rpc, settings, payer, staker) for staker in stakers]
    wanted = replace(terms(), round_time=90, submission_window=45, audit_window=45)
    task = (await nodes[0].create_task(wanted, nonce=1)).task
    async with trio.open_nursery() as together:
        for node in nodes:
            together.start_soon(node.stake, task, 3 * KOII, payer.public_key)
    clock = (await nodes[0].task_state(task)).terms.clock

    await _until(nodes[0], clock.distribution(0).opens)
    committed: list[bytes | None] = []

    async def commit(node: KoiiTaskSettlement) -> None:
        try:
            await node.anchor_commitment(task, 0, bytes(node.staker or b""))
            committed.append(node.staker)
        except AlreadyAnchored:
            return

    async with trio.open_nursery() as together:
        for node in nodes:
            together.start_soon(commit, node)
    held = (await nodes[0].task_state(task)).rounds[0]
    assert held.commitment == held.commitment_by
    assert held.commitment_by in committed
    amounts = {one.public_key: KOII for one in stakers}
    await nodes[0].submit_list(task, 0, amounts)

    await _until(nodes[0], clock.distribution_audit(0).opens)
    for node in nodes[:2]:
        try:
            await node.veto(task, 0, 0)
        except AlreadyVetoed:
            continue
    assert (await nodes[2].task_state(task)).rounds[0].rejected
    await _until(nodes[0], clock.settles_at(0))
    await nodes[1].payout(task, 0, stakers[0].public_key)
    state = await nodes[0].koii_state(task)
    assert state.distributions_audit_record == {0: PayoutRecord.SUCCESSFUL}
    assert state.available_balances == amounts
    beneficiary = SecretKey.generate().public_key
    await nodes[2].claim_reward(task, beneficiary)
    assert await nodes[0].balance(beneficiary) == KOII


async def _until(node: KoiiTaskSettlement, slot: int) -> None:
    while await node.slot() < slot:
        await trio.sleep(0.01)


async def _deploy(rpc: RpcClient, payer: SecretKey) -> bytes:
    """What `solana program deploy` does: a buffer, its pieces, and the program made of it. Returns its address."""
    elf, sender = ELF.read_bytes(), Sender(rpc, payer)
    wallet, buffer, program = sender.payer.pubkey(), Keypair(), Keypair()
    data, _ = Pubkey.find_program_address([bytes(program.pubkey())], LOADER)

    async def account(key: Keypair, size: int) -> Instruction:
        rent = await rpc.get_minimum_balance_for_rent_exemption(size + 100)
        params = CreateAccountParams(
            from_pubkey=wallet, to_pubkey=key.pubkey(), lamports=rent, space=size, owner=LOADER
        )
        return create_account(params)

    def loader(tag: int, rest: bytes, *accounts: AccountMeta) -> Instruction:
        return Instruction(LOADER, struct.pack("<I", tag) + rest, list(accounts))

    def meta(key: Pubkey, flags: str = "") -> AccountMeta:
        return AccountMeta(key, is_signer="s" in flags, is_writable="w" in flags)

    begin = loader(0, b"", meta(buffer.pubkey(), "w"), meta(wallet))
    await sender.send("make a buffer", [await account(buffer, 37 + len(elf)), begin], buffer)
    async with trio.open_nursery() as together:
        for start in range(0, len(elf), PIECE):
            piece = elf[start : start + PIECE]
            rest = struct.pack("<IQ", start, len(piece)) + piece
            write = loader(1, rest, meta(buffer.pubkey(), "w"), meta(wallet, "s"))
            together.start_soon(sender.send, "write a piece", [write])
    deploy = loader(
        2,
        struct.pack("<Q", len(elf)),
        meta(wallet, "sw"),
        meta(data, "w"),
        meta(program.pubkey(), "w"),
        meta(buffer.pubkey(), "w"),
        meta(Pubkey(RENT)),
        meta(Pubkey(CLOCK)),
        meta(SYSTEM_PROGRAM),
        meta(wallet, "s"),
    )
    receipt = await sender.send("deploy", [await account(program, 36), deploy], program)
    while await rpc.get_slot() <= receipt.slot:  # a program can be called from the next slot on
        await trio.sleep(0.02)
    return bytes(program.pubkey())
