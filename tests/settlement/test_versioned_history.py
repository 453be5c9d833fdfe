"""Histories with version 0 transactions and lookup tables, and with one of a version that the reader does not know,
on a real local K2."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import pytest
import trio
from solders.address_lookup_table_account import (
    ID as ADDRESS_LOOKUP_TABLE_ID,
)
from solders.address_lookup_table_account import (
    AddressLookupTableAccount,
    derive_lookup_table_address,
)
from solders.hash import Hash
from solders.instruction import AccountMeta, Instruction
from solders.keypair import Keypair
from solders.message import MessageV0
from solders.pubkey import Pubkey
from solders.system_program import ID as SYSTEM_PROGRAM
from solders.system_program import TransferParams, transfer
from solders.transaction import VersionedTransaction

from koii_p2p.localk2 import LocalK2Settings, serve
from koii_p2p.records.keys import SecretKey
from koii_p2p.settlement import instructions as encode
from koii_p2p.settlement.history import HistoryFault, check_history
from koii_p2p.settlement.instructions import Fund, Stake
from koii_p2p.settlement.memo.genesis import Genesis, GenesisStake
from koii_p2p.settlement.memo.records import instructions as memo_instructions
from koii_p2p.settlement.memo.settlement import MemoSettlement
from koii_p2p.settlement.program import ProgramSettlement
from koii_p2p.settlement.rpc import RpcClient, RpcError
from tests.localk2.test_server import wallet

from .between import Between, Call, standing
from .memo.memo_world import commitment, terms
from .test_on_local_k2 import _terms
from .virtual_chain import KOII

RECENT_SLOT = 435_888_000
"""The one slot that the local K2's virtual machine takes for a recent one: a table's address is made of it."""


@dataclass
class World:
    """Two tasks of one wallet on a K2, and the way to them."""

    url: str
    rpc: RpcClient
    payer: Keypair
    k2: ProgramSettlement
    task: bytes
    other: bytes

    async def send(self, *instructions: Instruction, table: AddressLookupTableAccount | None = None) -> str:
        """Land these instructions in a version 0 transaction; its name."""
        blockhash, last_valid = await self.rpc.get_latest_blockhash()
        tables = [] if table is None else [table]
        message = MessageV0.try_compile(self.payer.pubkey(), list(instructions), tables, Hash(blockhash))
        wire = bytes(VersionedTransaction(message, [self.payer]))
        return (await self.rpc.send_and_confirm(wire, last_valid_block_height=last_valid)).signature

    async def table_of(self, *keys: bytes) -> AddressLookupTableAccount:
        """A lookup table with these keys (https://docs.rs/solana-address-lookup-table-interface)."""
        authority = self.payer.pubkey()
        where, bump = derive_lookup_table_address(authority, RECENT_SLOT)
        accounts = [
            AccountMeta(where, False, True),
            AccountMeta(authority, True, False),
            AccountMeta(authority, True, True),
            AccountMeta(SYSTEM_PROGRAM, False, False),
        ]
        made = (0).to_bytes(4, "little") + RECENT_SLOT.to_bytes(8, "little") + bytes([bump])
        filled = (2).to_bytes(4, "little") + len(keys).to_bytes(8, "little") + b"".join(keys)
        await self.send(
            Instruction(ADDRESS_LOOKUP_TABLE_ID, made, accounts),
            Instruction(ADDRESS_LOOKUP_TABLE_ID, filled, accounts),
        )
        usable = await self.rpc.get_slot("processed") + 1
        while await self.rpc.get_slot("processed") <= usable:
            await trio.sleep(0.01)
        return AddressLookupTableAccount(where, [Pubkey(key) for key in keys])

    def mention(self, key: bytes) -> Instruction:
        """An instruction that does nothing, and names a key."""
        own = self.payer.pubkey()
        nothing = transfer(TransferParams(from_pubkey=own, to_pubkey=own, lamports=0))
        return Instruction(
            nothing.program_id,
            bytes(nothing.data),
            [*nothing.accounts, AccountMeta(Pubkey(key), False, False)],
        )


def older(call: Call) -> Call:
    """A call without what says which versions the caller knows: so version 0 becomes one that it does not know."""
    known = "maxSupportedTransactionVersion"
    params = [
        {name: value for name, value in one.items() if name != known} if isinstance(one, dict) else one
        for one in call["params"]
    ]
    return {**call, "params": params}


@pytest.fixture
async def world(tmp_path: Path, nursery: trio.Nursery) -> AsyncIterator[World]:
    address = await nursery.start(partial(serve, LocalK2Settings(tmp_path, port=0, slot_ms=20, finality=4)))
    async with RpcClient(address.url) as rpc:
        payer = await wallet(rpc)
        k2 = ProgramSettlement(rpc, payer, SecretKey.generate())
        tasks = [(await k2.create_task(_terms(10_000, 50), nonce)).task for nonce in (1, 2)]
        await k2.stake(tasks[0], KOII, k2.payer)
        yield World(address.url, rpc, payer, k2, *tasks)
    nursery.cancel_scope.cancel()


async def test_what_lookup_tables_name_belongs_to_the_task_it_is_for(world: World) -> None:
    """A stranger funds another task through a table, and only names this one; then this one, through a table too."""
    table = await world.table_of(world.other, *map(encode.vault_address, (world.task, world.other)))
    for task in (world.task, world.other):
        fund = encode.fund(task, world.k2.payer, 3 * KOII)
        name = await world.send(fund, world.mention(world.task), table=table)
        record = await world.rpc.get_transaction(name)
        assert record is not None
        assert encode.vault_address(task) in record.loaded
    entries = await world.k2.history(world.task)
    assert [type(one.instruction) for one in entries[1:]] == [Stake, Fund]
    for task in (world.task, world.other):
        state = await world.k2.task_state(task)
        assert state.funded == 3 * KOII
        assert check_history(await world.k2.history(task), state) == ()


async def test_a_transaction_of_a_later_version_spoils_no_history_and_hides_nothing(world: World) -> None:
    async with standing(Between([world.url], change=older)) as between, RpcClient(between.url) as rpc:
        old = ProgramSettlement(rpc, world.payer, SecretKey.generate())
        harmless = await world.send(world.mention(world.task))
        with pytest.raises(RpcError) as caught:
            await rpc.get_transaction(harmless)
        assert caught.value.code == -32015
        entries = await old.history(world.task)
        assert [(one.signature, one.instruction) for one in entries if one.later_version] == [
            (harmless, None)
        ]
        assert check_history(entries, await old.task_state(world.task)) == ()

        hidden = await world.send(encode.fund(world.task, world.k2.payer, KOII))
        findings = check_history(await old.history(world.task), await old.task_state(world.task))
        assert findings[0].fault is HistoryFault.TOTALS_DIFFER
        named = [one.text for one in findings if one.fault is HistoryFault.UNREADABLE]
        assert [any(name in text for text in named) for name in (harmless, hidden)] == [True, True]
        assert check_history(await world.k2.history(world.task), await old.task_state(world.task)) == ()


async def test_a_memo_of_a_later_version_is_passed_over(world: World) -> None:
    """Records count in legacy and version 0 transactions; of what the reader cannot have there is only its place."""
    staker = Keypair()
    own = Genesis.make(
        terms(starting_slot=10_000),
        [GenesisStake(bytes(staker.pubkey()), 2 * KOII, world.k2.payer)],
        pledged=KOII,
    )
    task = own.terms.task
    record = replace(commitment(0, bytes(16)), task=task[:24])
    name = await world.send(*memo_instructions(record, world.k2.payer, world.k2.payer, task))

    async with standing(Between([world.url], change=older)) as between, RpcClient(between.url) as rpc:
        reader = MemoSettlement(rpc, own, world.payer)
        assert [one.signature for one in await reader.history(task)] == [name]
        assert await reader.judged(task) == ()
        assert len(await MemoSettlement(world.rpc, own, world.payer).judged(task)) == 1
