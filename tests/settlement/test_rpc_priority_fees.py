"""Priority fees: what is bid, what is charged, and what recent blocks are said to have asked."""

from __future__ import annotations

from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from solders.compute_budget import set_compute_unit_limit
from solders.hash import Hash
from solders.instruction import AccountMeta, Instruction
from solders.keypair import Keypair
from solders.message import Message
from solders.transaction import VersionedTransaction

from koii_p2p.errors import ConfigurationError
from koii_p2p.localk2 import LocalK2Settings, serve
from koii_p2p.settlement.priority_fees import PriorityFees, at_percentile, priority_fee
from koii_p2p.settlement.rpc import RpcClient
from koii_p2p.settlement.sending import with_bid
from tests.localk2.chain import MEMO
from tests.localk2.test_server import wallet

UNITS = 20_000


@pytest.fixture
async def k2(tmp_path: Path, nursery: trio.Nursery) -> AsyncIterator[RpcClient]:
    address = await nursery.start(partial(serve, LocalK2Settings(tmp_path, port=0, slot_ms=20, finality=4)))
    async with RpcClient(address.url) as client:
        yield client
    nursery.cancel_scope.cancel()


async def bid(client: RpcClient, payer: Keypair, price: int) -> int:
    """Land a memo at a price; the fee it paid."""
    blockhash, last_valid = await client.get_latest_blockhash()
    memo = Instruction(MEMO, b"%d" % price, [AccountMeta(payer.pubkey(), True, True)])
    instructions = with_bid([set_compute_unit_limit(UNITS), memo], price)
    message = Message.new_with_blockhash(instructions, payer.pubkey(), Hash(blockhash))
    wire = bytes(VersionedTransaction(message, [payer]))
    landed = await client.send_and_confirm(wire, last_valid_block_height=last_valid)
    assert landed.fee is not None
    return landed.fee


async def test_the_chain_charges_what_was_computed_and_tells_what_was_bid(k2: RpcClient) -> None:
    payer = await wallet(k2)
    for price in (0, 7, 50_000):
        assert await bid(k2, payer, price) == 5000 + priority_fee(UNITS, price)
    asked = await k2.get_recent_prioritization_fees([bytes(payer.pubkey())])
    assert [price for price in asked if price] == [7, 50_000]
    # What nobody writes costs as much as the cheapest place in the block, where it was the only one.
    elsewhere = await k2.get_recent_prioritization_fees([bytes(Keypair().pubkey())])
    assert [price for price in elsewhere if price] == [7, 50_000]


async def test_the_bid_follows_recent_blocks_within_what_the_operator_pays(k2: RpcClient) -> None:
    payer = await wallet(k2)
    await bid(k2, payer, 50_000)
    own = [bytes(payer.pubkey())]
    assert await PriorityFees(least=0, most=10**6, percentile=100).price(k2, own) == 50_000
    assert await PriorityFees(least=0, most=900, percentile=100).price(k2, own) == 900
    assert await PriorityFees(least=60_000, most=10**6, percentile=100).price(k2, own) == 60_000
    assert await PriorityFees(least=0, most=10**6, percentile=1).price(k2, own) == 0
    assert await PriorityFees().price(k2, own) == 0


async def test_a_node_that_does_not_tell_costs_nothing() -> None:
    async with RpcClient("http://127.0.0.1:1") as nobody:
        assert await PriorityFees(least=3, most=10).price(nobody, []) == 3


def test_a_bid_that_was_not_enough_is_doubled_up_to_the_most() -> None:
    fees = PriorityFees(least=0, most=100)
    prices = [0]
    while prices[-1] < 100:
        prices.append(fees.raised(prices[-1]))
    assert prices == [0, 1, 2, 4, 8, 16, 32, 64, 100]
    assert PriorityFees().raised(0) == 0


@given(st.lists(st.integers(0, 2**64 - 1), max_size=200), st.integers(1, 100))
def test_a_percentile_is_one_of_the_prices_and_enough_of_them_do_not_exceed_it(
    prices: list[int], percentile: int
) -> None:
    found = at_percentile(prices, percentile)
    if not prices:
        assert found == 0
        return
    assert found in prices
    below = sum(price <= found for price in prices)
    assert below * 100 >= percentile * len(prices)
    assert sum(price < found for price in prices) * 100 < percentile * len(prices)


@pytest.mark.parametrize(
    "wrong", [{"least": 5, "most": 4}, {"least": -1}, {"most": 2**64}, {"percentile": 0}, {"percentile": 101}]
)
def test_fees_that_are_not_possible_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ConfigurationError):
        PriorityFees(**wrong)
