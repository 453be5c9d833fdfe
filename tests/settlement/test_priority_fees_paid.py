"""Priority fees as the carriers pay them on a real local K2: signatures and the bid, to the Roe, as was quoted."""

from __future__ import annotations

from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

import pytest
import trio
from solders.compute_budget import ID as COMPUTE_BUDGET
from solders.compute_budget import set_compute_unit_limit, set_compute_unit_price
from solders.hash import Hash
from solders.keypair import Keypair
from solders.pubkey import Pubkey
from solders.system_program import TransferParams, transfer
from solders.transaction import VersionedTransaction

from koii_p2p.localk2 import LocalK2Settings, serve
from koii_p2p.records.keys import SecretKey
from koii_p2p.rounds.distribution import Leaf
from koii_p2p.rounds.merkle import Proof
from koii_p2p.settlement import instructions as encode
from koii_p2p.settlement.interface import Receipt
from koii_p2p.settlement.koii_task.readings import NATIVE
from koii_p2p.settlement.koii_task.settlement import KoiiTaskSettings, KoiiTaskSettlement
from koii_p2p.settlement.memo.genesis import Genesis, GenesisStake
from koii_p2p.settlement.memo.settlement import MemoSettlement
from koii_p2p.settlement.priority_fees import PriorityFees, priority_fee
from koii_p2p.settlement.program import COMPUTE_UNITS, ProgramSettlement
from koii_p2p.settlement.refusals import PayerShort, ProgramError, ProgramRefused
from koii_p2p.settlement.rpc import RpcClient, TransactionFailed
from koii_p2p.settlement.sending import (
    MOST_UNITS,
    UNITS_OF_AN_INSTRUCTION,
    Sender,
    reserved_units,
    signed,
    with_bid,
)
from scripts.koii_standin.state import ELF, account_bytes, local_vars
from tests.localk2.test_server import wallet

from .koii_task.standin_world import terms as koii_terms
from .koii_task.standin_world import through_koiis_form
from .memo.memo_world import terms as memo_terms
from .test_on_local_k2 import _terms
from .virtual_chain import KOII

PRICE = 12_345
BID = PriorityFees(least=PRICE, most=PRICE)
SIGNATURE = 5000
STANDIN = bytes(range(32))


@pytest.fixture
async def rpc(tmp_path: Path, nursery: trio.Nursery) -> AsyncIterator[RpcClient]:
    settings = LocalK2Settings(tmp_path, port=0, slot_ms=20, finality=4)
    address = await nursery.start(partial(serve, settings, programs={STANDIN: ELF.read_bytes()}))
    async with RpcClient(address.url) as client:
        yield client
    nursery.cancel_scope.cancel()


async def bid_of(rpc: RpcClient, receipt: Receipt) -> tuple[int, int, int]:
    """What a transaction reserved and bid, and how many keys signed it."""
    record = await rpc.get_transaction(receipt.signature)
    assert record is not None
    transaction = VersionedTransaction.from_bytes(record.wire)
    keys = transaction.message.account_keys
    said = [
        bytes(one.data)
        for one in transaction.message.instructions
        if keys[one.program_id_index] == COMPUTE_BUDGET
    ]
    limits = [int.from_bytes(one[1:], "little") for one in said if one[0] == 2]
    prices = [int.from_bytes(one[1:], "little") for one in said if one[0] == 3]
    assert len(limits) == len(prices) == 1
    assert bytes(transaction.message.instructions[-1].data)[0] == 3, "the price is last: errors name places"
    return limits[0], prices[0], len(transaction.signatures)


async def assert_paid(rpc: RpcClient, receipt: Receipt) -> int:
    """The fee, which is that of the signatures and the bid; the units that were bid for."""
    units, price, signatures = await bid_of(rpc, receipt)
    assert price == PRICE
    assert receipt.fee == signatures * SIGNATURE + priority_fee(units, PRICE)
    return units


async def test_the_program_s_carrier_pays_what_it_quoted(rpc: RpcClient) -> None:
    payer, staker = await wallet(rpc, 100 * KOII), SecretKey.generate()
    k2 = ProgramSettlement(rpc, payer, staker, fees=BID)
    created = await k2.create_task(_terms(10_000, 50), nonce=1)
    units = {await assert_paid(rpc, created.receipt)}
    for round in range(3):
        before = await k2.balance(k2.payer)
        quoted = await k2.quote(encode.fund(created.task, k2.payer, KOII))
        receipt = await k2.fund(created.task, KOII)
        assert receipt.fee == quoted.fee == quoted.most
        assert before - await k2.balance(k2.payer) == KOII + quoted.fee
        units.add(await assert_paid(rpc, receipt))
        assert len(units) == round + 2, "no two transactions are the same, although they are for the same"
    stake = encode.stake(created.task, k2.payer, staker.public_key, k2.payer, 2 * KOII)
    quoted = await k2.quote(stake)
    staked = await k2.stake(created.task, 2 * KOII, k2.payer)
    assert staked.fee == quoted.fee
    units.add(await assert_paid(rpc, staked))
    assert all(COMPUTE_UNITS <= one < COMPUTE_UNITS + 100_000 for one in units)
    with pytest.raises(ProgramRefused) as caught:
        await k2.close(created.task)
    assert caught.value.error is ProgramError.TASK_ACTIVE, (
        "errors are still read with a bid behind the instruction"
    )


async def test_a_quote_is_kept_when_the_market_moves(rpc: RpcClient) -> None:
    payer, crowd = await wallet(rpc, 100 * KOII), await wallet(rpc, 100 * KOII)
    task = (await ProgramSettlement(rpc, payer).create_task(_terms(10_000, 50), nonce=1)).task
    k2 = ProgramSettlement(rpc, payer, fees=PriorityFees(least=10, most=10**6, percentile=100))
    quoted = await k2.quote(encode.fund(task, k2.payer, KOII))
    rival = ProgramSettlement(rpc, crowd, fees=PriorityFees(least=5000, most=5000))
    await rival.fund(task, KOII)
    receipt = await k2.fund(task, KOII)
    assert receipt.fee == quoted.fee
    units, price, _ = await bid_of(rpc, receipt)
    assert price == 10
    assert quoted.most == SIGNATURE + priority_fee(units, 40), "twice twice as much, if it is not taken"
    _, price, _ = await bid_of(rpc, await k2.fund(task, KOII))
    assert price == 5000, "what was asked since of those who write the same accounts"


async def test_a_sender_says_out_loud_what_the_runtime_would_reserve(rpc: RpcClient) -> None:
    sender = Sender(rpc, await wallet(rpc), BID)
    own = sender.payer.pubkey()
    for count in (1, 3, 8):
        payments = [
            transfer(TransferParams(from_pubkey=own, to_pubkey=Keypair().pubkey(), lamports=KOII // 100))
            for _ in range(count)
        ]
        fee = await sender.fee(payments, PRICE)
        receipt = await sender.send(f"pay {count}", payments)
        assert receipt.fee == fee
        assert await assert_paid(rpc, receipt) == min(count * UNITS_OF_AN_INSTRUCTION, MOST_UNITS)


async def test_a_wallet_that_cannot_pay_the_bid_is_told(rpc: RpcClient) -> None:
    sender = Sender(rpc, await wallet(rpc, KOII), PriorityFees(least=10**10, most=10**10))
    own = sender.payer.pubkey()
    with pytest.raises(PayerShort):
        await sender.send("pay", [transfer(TransferParams(from_pubkey=own, to_pubkey=own, lamports=1))])
    assert await rpc.get_balance(bytes(own)) == KOII


async def test_the_memo_carrier_pays_its_bid(rpc: RpcClient) -> None:
    payer, staker = SecretKey.generate(), SecretKey.generate()
    await rpc.request_airdrop(payer.public_key, KOII)
    while not await rpc.get_balance(payer.public_key):
        await trio.sleep(0.02)
    genesis = Genesis.make(
        memo_terms(creator=payer.public_key, starting_slot=10_000),
        [GenesisStake(staker.public_key, 5 * KOII, payer.public_key)],
        pledged=KOII,
    )
    created = await MemoSettlement(rpc, genesis, payer, staker, fees=BID).create_task(genesis.terms, 0)
    assert await assert_paid(rpc, created.receipt) == 2 * UNITS_OF_AN_INSTRUCTION
    assert await rpc.get_balance(payer.public_key) == KOII - (created.receipt.fee or 0)


async def test_the_koii_task_carrier_pays_its_bid(rpc: RpcClient) -> None:
    settings = KoiiTaskSettings(
        NATIVE,
        task_space=account_bytes(20),
        local_vars=local_vars(NATIVE),
        program=STANDIN,
        read_state=through_koiis_form,
    )
    carrier = KoiiTaskSettlement(rpc, settings, await wallet(rpc, 900 * KOII), fees=BID)
    created = await carrier.create_task(koii_terms(), nonce=1)
    assert await assert_paid(rpc, created.receipt) == 3 * UNITS_OF_AN_INSTRUCTION
    with pytest.raises(TransactionFailed):
        await carrier.set_active(bytes(32), active=True)


def test_the_largest_transactions_have_room_for_a_bid() -> None:
    proof = Proof(tuple(bytes([place]) * 32 for place in range(encode.PROOF_SIBLINGS)), 1)
    task, beneficiary, leaf = bytes([1]) * 32, bytes([2]) * 32, Leaf(bytes([3]) * 32, 5, 5)
    for instruction in (
        encode.settle(task, 7, leaf, proof, beneficiary),
        encode.withdraw(task, leaf.staker, beneficiary, 7, leaf, proof),
    ):
        whole = with_bid([set_compute_unit_limit(COMPUTE_UNITS), instruction], 2**64 - 1)
        assert len(signed(whole, Keypair(), (), bytes(Hash.default()))) <= 1232


def test_a_limit_that_is_there_is_kept() -> None:
    nothing = transfer(TransferParams(from_pubkey=Pubkey.default(), to_pubkey=Pubkey.default(), lamports=0))
    limited = [set_compute_unit_limit(70_000), nothing]
    assert with_bid(limited, 0) == limited
    assert with_bid(limited, 5) == [*limited, set_compute_unit_price(5)]
    assert reserved_units(with_bid(limited, 5)) == 70_000
    assert reserved_units([set_compute_unit_limit(2**32 - 1), nothing]) == MOST_UNITS
    assert reserved_units(with_bid([nothing] * 3, 1)) == reserved_units([nothing] * 3) == 600_000
