"""Sending through real local K2 processes that lose, hold and contradict: each action lands once, for its price."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import trio
from solders.keypair import Keypair
from solders.pubkey import Pubkey
from solders.system_program import TransferParams, transfer

from koii_p2p.limits import Limits
from koii_p2p.settlement.priority_fees import PriorityFees, priority_fee
from koii_p2p.settlement.rpc import RpcClient, RpcUnreachable, transaction_signature
from koii_p2p.settlement.sending import UNITS_OF_AN_INSTRUCTION, Sender
from tests.localk2.chain import KOII, transfer_wire
from tests.localk2.test_server import wallet

from .between import Between, Call, standing
from .test_rpc_faults import PATIENT, admin, chain

pytestmark = pytest.mark.slow

SIGNATURE_FEE = 5000


async def pay(sender: Sender, to: Pubkey, amount: int) -> int:
    """Pay through the sender; the fee."""
    payment = transfer(TransferParams(from_pubkey=sender.payer.pubkey(), to_pubkey=to, lamports=amount))
    fee = (await sender.send(f"pay {amount}", [payment])).fee
    assert fee is not None
    return fee


async def test_a_hundred_actions_land_once_each_though_a_fifth_of_the_transactions_is_lost(
    tmp_path: Path,
) -> None:
    async with chain(tmp_path, slot_ms=50, drop=0.2, seed=4) as (_, (url,)):
        async with RpcClient(url, limits=PATIENT) as client:
            sender, to = Sender(client, await wallet(client)), Keypair().pubkey()
            before = await client.get_balance(bytes(sender.payer.pubkey()))
            amounts = [KOII // 1000 + index for index in range(100)]
            async with trio.open_nursery() as nursery:
                for amount in amounts:
                    nursery.start_soon(pay, sender, to, amount)
            assert await client.get_balance(bytes(to)) == sum(amounts)
            assert len(await client.get_address_history(bytes(to), limit=1000)) == 100
            spent = before - await client.get_balance(bytes(sender.payer.pubkey()))
            assert spent == sum(amounts) + 100 * SIGNATURE_FEE
        found = await admin(url, "getFaults")
        assert found["statistics"]["dropped_transactions"] > 10


async def test_a_node_behind_the_same_url_does_not_make_a_landed_transaction_expired(tmp_path: Path) -> None:
    """One URL, two nodes: the height is asked of the one that is up to date, the status of the one 290 slots behind."""
    async with chain(tmp_path, slot_ms=20, rpc_nodes=2) as (_, urls):

        def choose(call: Call) -> int:
            return int(call["method"] == "getSignatureStatuses")

        async with (
            standing(Between(urls, choose)) as between,
            RpcClient(between.url, limits=PATIENT) as client,
        ):
            sender, to = Sender(client, await wallet(client)), Keypair().pubkey()
            while await client.get_slot() < 320:
                await trio.sleep(0.05)
            await admin(urls[1], "setFaults", {"lag": 290})
            await pay(sender, to, KOII)
            assert await client.get_balance(bytes(to)) == KOII
            assert len(await client.get_address_history(bytes(to), limit=10)) == 1


async def test_what_a_node_has_taken_is_not_called_refused_while_it_can_land(tmp_path: Path) -> None:
    """It is held for a while, the wallet is poorer in between, and preflight says so: it lands later all the same."""
    async with (
        chain(tmp_path, slot_ms=40, rpc_nodes=2) as (_, (holding, fresh)),
        RpcClient(fresh) as ahead,
        RpcClient(holding, limits=PATIENT) as client,
    ):
        payer, to = await wallet(ahead), Keypair().pubkey()
        held = await ahead.get_balance(bytes(payer.pubkey()))
        await admin(holding, "setFaults", {"delay_slots": 120})

        async def be_poor_for_a_while() -> None:
            while (await admin(holding, "getFaults"))["statistics"]["held_transactions"] == 0:
                await trio.sleep(0.02)
            blockhash, last_valid = await ahead.get_latest_blockhash()
            away = transfer_wire(payer, Keypair().pubkey(), held - KOII, blockhash)
            await ahead.send_and_confirm(away, last_valid_block_height=last_valid)
            await trio.sleep(3)  # so that it is sent again meanwhile
            await ahead.request_airdrop(bytes(payer.pubkey()), 2 * KOII)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(be_poor_for_a_while)
            await pay(Sender(client, payer), to, 2 * KOII)
        assert await client.get_balance(bytes(to)) == 2 * KOII


async def test_the_next_signature_bids_more_and_only_one_lands(tmp_path: Path) -> None:
    fees = PriorityFees(least=1000, most=3000)
    async with chain(tmp_path, slot_ms=20, drop=1.0) as (_, (url,)), RpcClient(url, limits=PATIENT) as client:
        sender, to = Sender(client, await wallet(client), fees), Keypair().pubkey()
        paid: list[int] = []

        async def make_room_for_the_second() -> None:
            first = await client.get_block_height("finalized")
            while await client.get_block_height("finalized") < first + 160:
                await trio.sleep(0.05)
            await admin(url, "clearFaults")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(make_room_for_the_second)
            paid.append(await pay(sender, to, KOII))
        assert paid == [SIGNATURE_FEE + priority_fee(UNITS_OF_AN_INSTRUCTION, 2000)]
        assert await client.get_balance(bytes(to)) == KOII
        assert len(await client.get_address_history(bytes(to), limit=10)) == 1


async def test_a_websocket_that_promises_and_then_is_silent_only_costs_time(tmp_path: Path) -> None:
    async with (
        chain(tmp_path, slot_ms=50) as (_, (url,)),
        standing(Between([url], sockets=True)) as between,
        RpcClient(between.url, limits=Limits(confirmation_seconds=20)) as client,
    ):
        sender, to = Sender(client, await wallet(client)), Keypair().pubkey()
        await pay(sender, to, KOII)
        assert await client.get_balance(bytes(to)) == KOII
        assert between.sockets_opened == 1


async def test_a_blockhash_that_one_of_three_nodes_made_up_is_not_signed(tmp_path: Path) -> None:
    made_up = str(Keypair().pubkey())

    def lie(call: Call, reply: Any) -> Any:
        if call["method"] == "getLatestBlockhash":
            reply["result"]["value"]["blockhash"] = made_up
        return reply

    async with (
        chain(tmp_path, slot_ms=50, rpc_nodes=3) as (_, urls),
        standing(Between(urls, answer=lie)) as between,
        RpcClient([urls[1], between.url, urls[2]], limits=PATIENT) as client,
    ):
        sender, to = Sender(client, await wallet(client)), Keypair().pubkey()
        for amount in range(KOII, KOII + 5):
            blockhash, _ = await client.get_latest_blockhash()
            assert str(Pubkey(blockhash)) != made_up
            await pay(sender, to, amount)
        assert await client.get_balance(bytes(to)) == 5 * KOII + 10


async def test_a_node_that_takes_it_and_does_not_say_so_is_reckoned_with(tmp_path: Path) -> None:
    """Of two that are asked first, one is behind and refuses, the other one's answers to what it takes are lost."""

    def lose(call: Call, reply: Any) -> Any:
        return None if call["method"] == "sendTransaction" else reply

    async with (
        chain(tmp_path, slot_ms=50, rpc_nodes=3) as (_, urls),
        standing(Between(urls, answer=lose)) as between,
        RpcClient(urls[2]) as ahead,
        RpcClient([between.url, urls[1]], limits=PATIENT) as client,
    ):
        while await ahead.get_slot() < 30:
            await trio.sleep(0.05)
        await admin(urls[1], "setFaults", {"lag": 25})
        payer, to = await wallet(ahead), Keypair().pubkey()
        blockhash, last_valid = await ahead.get_latest_blockhash()
        wire = transfer_wire(payer, to, KOII, blockhash)
        with pytest.raises(RpcUnreachable):
            await client.send_transaction(wire)
        landed = await client.send_and_confirm(wire, last_valid_block_height=last_valid)
        assert landed.signature == transaction_signature(wire)
        assert await ahead.get_balance(bytes(to)) == KOII


async def test_three_nodes_of_which_one_is_behind_and_one_loses_land_each_action_once(tmp_path: Path) -> None:
    async with (
        chain(tmp_path, slot_ms=50, rpc_nodes=3) as (_, urls),
        RpcClient(urls, limits=PATIENT) as client,
        RpcClient(urls[2]) as good,
    ):
        sender, to = Sender(client, await wallet(client)), Keypair().pubkey()
        while await good.get_slot() < 40:
            await trio.sleep(0.05)
        await admin(urls[0], "setFaults", {"lag": 30, "drop": 1.0})
        await admin(urls[1], "setFaults", {"drop": 0.5, "delay_ms": 20, "seed": 7})
        amounts = [KOII // 100 + index for index in range(20)]
        async with trio.open_nursery() as nursery:
            for amount in amounts:
                nursery.start_soon(pay, sender, to, amount)
        assert await good.get_balance(bytes(to)) == sum(amounts)
        assert len(await good.get_address_history(bytes(to), limit=100)) == 20


@pytest.mark.parametrize("lands_again", [0, 1.0], ids=["undone", "lands again"])
async def test_what_was_confirmed_and_rolled_back_is_in_the_chain_once(
    tmp_path: Path, lands_again: float
) -> None:
    """Whoever sends the same bytes again after a roll back pays once, whether or not they landed by themselves."""
    async with chain(tmp_path, slot_ms=100) as (_, (url,)), RpcClient(url, limits=PATIENT) as client:
        payer, to = await wallet(client), Keypair().pubkey()
        while await client.get_slot("finalized") < 4:
            await trio.sleep(0.05)
        blockhash, last_valid = await client.get_latest_blockhash("finalized")
        wire = transfer_wire(payer, to, KOII, blockhash)
        await client.send_and_confirm(wire, last_valid_block_height=last_valid)
        rolled = await admin(url, "rollBack", 3, {"landAgain": lands_again})
        assert rolled["undone"] == 1
        again = await client.send_and_confirm(
            wire, commitment="finalized", last_valid_block_height=last_valid
        )
        assert again.slot > rolled["slot"]
        assert await client.get_balance(bytes(to), "finalized") == KOII
        assert len(await client.get_address_history(bytes(to), limit=10)) == 1
