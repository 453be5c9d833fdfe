"""The client against a real local K2 process that has one fault, or several RPC nodes of which some are bad."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
from solders.keypair import Keypair
from solders.pubkey import Pubkey
from trio_websocket import serve_websocket

from koii_p2p.errors import ConfigurationError
from koii_p2p.limits import Limits
from koii_p2p.settlement.rpc import (
    BlockPruned,
    RpcClient,
    RpcDisagreement,
    RpcError,
    RpcProtocolError,
    RpcUnreachable,
    TransactionExpired,
    transaction_signature,
)
from koii_p2p.settlement.websocket import WebSocketUnusable, wait_for_signature
from tests.localk2.chain import KOII, K2Process, free_port, k2_process, memo_wire, transfer_wire
from tests.localk2.test_server import wallet

from .test_rpc import Node, result

pytestmark = pytest.mark.slow

PATIENT = Limits(confirmation_seconds=60.0)
QUICK = Limits(rpc_deadline=2.0, rpc_retries=1)


async def admin(url: str, method: str, *params: Any) -> Any:
    async with RpcClient(url) as client:
        return await client.ask(method, list(params), lambda value: value)


@asynccontextmanager
async def chain(
    path: Path, *, slot_ms: int = 20, rpc_nodes: int = 1, **faults: Any
) -> AsyncIterator[tuple[K2Process, list[str]]]:
    """A K2 process and the URLs of its RPC nodes, all with the same faults."""
    options = ["--slot-ms", str(slot_ms), "--finality", "8", "--faults", json.dumps(faults)]
    with k2_process(path, *options, "--allow-faults", "--rpc-nodes", str(rpc_nodes)) as running:
        yield running, running.address.get("nodes", [running.address["url"]])


async def pay_all(client: RpcClient, payer: Keypair, to: Pubkey, amounts: Sequence[int]) -> int:
    """Pay every amount in a transaction of its own, at once; the sum of the fees."""
    fees: list[int] = []
    blockhash, last_valid = await client.get_latest_blockhash()

    async def pay(amount: int) -> None:
        wire = transfer_wire(payer, to, amount, blockhash)
        landed = await client.send_and_confirm(wire, last_valid_block_height=last_valid)
        fees.append(landed.fee or 0)

    async with trio.open_nursery() as nursery:
        for amount in amounts:
            nursery.start_soon(pay, amount)
    return sum(fees)


AMOUNTS = [KOII // 100 + index for index in range(20)]


async def test_a_fifth_of_the_transactions_lost_is_made_up_for_and_nothing_is_paid_twice(
    tmp_path: Path,
) -> None:
    async with chain(tmp_path, slot_ms=50, drop=0.2, seed=1) as (_, (url,)):
        async with RpcClient(url, limits=PATIENT) as client:
            payer, to = await wallet(client), Keypair().pubkey()
            await pay_all(client, payer, to, AMOUNTS)
            assert await client.get_balance(bytes(to)) == sum(AMOUNTS)
        found = await admin(url, "getFaults")
        assert found["statistics"]["dropped_transactions"] > 0


async def test_a_node_30_slots_behind_confirms_everything_later(tmp_path: Path) -> None:
    async with chain(tmp_path, lag=30) as (_, (url,)), RpcClient(url, limits=PATIENT) as client:
        payer, to = await wallet(client), Keypair().pubkey()
        await pay_all(client, payer, to, AMOUNTS)
        assert await client.get_balance(bytes(to)) == sum(AMOUNTS)


async def test_delayed_and_reordered_transactions_land_once(tmp_path: Path) -> None:
    async with (
        chain(tmp_path, delay_slots=5, reorder=True, delay_ms=30) as (_, (url,)),
        RpcClient(url, limits=PATIENT) as client,
    ):
        payer, to = await wallet(client), Keypair().pubkey()
        await pay_all(client, payer, to, AMOUNTS)
        assert await client.get_balance(bytes(to)) == sum(AMOUNTS)


async def test_what_is_rolled_back_is_sent_again_until_it_is_finalized(tmp_path: Path) -> None:
    async with chain(tmp_path, slot_ms=100) as (_, (url,)), RpcClient(url, limits=PATIENT) as client:
        payer, to = await wallet(client), Keypair().pubkey()
        while await client.get_slot("finalized") < 4:
            await trio.sleep(0.05)
        blockhash, last_valid = await client.get_latest_blockhash("finalized")
        wire = transfer_wire(payer, to, KOII, blockhash)
        async with trio.open_nursery() as nursery:
            landed: list[Any] = []

            async def pay() -> None:
                landed.append(
                    await client.send_and_confirm(
                        wire, commitment="finalized", last_valid_block_height=last_valid
                    )
                )

            nursery.start_soon(pay)
            while not await client.get_balance(bytes(to)):
                await trio.sleep(0.02)
            # It is confirmed, and now it never was.
            rolled = await admin(url, "rollBack", 3, {"landAgain": 0})
            assert rolled["undone"] == 1
            assert await client.get_balance(bytes(to), "processed") == 0
        assert await client.get_balance(bytes(to), "finalized") == KOII
        assert len(landed) == 1
        assert landed[0].slot > rolled["slot"]


async def test_a_transaction_whose_blockhash_was_rolled_back_expires_and_the_next_one_pays_once(
    tmp_path: Path,
) -> None:
    async with chain(tmp_path) as (_, (url,)), RpcClient(url, limits=PATIENT) as client:
        payer, to = await wallet(client), Keypair().pubkey()
        while await client.get_slot() < 10:
            await trio.sleep(0.02)
        blockhash, last_valid = await client.get_latest_blockhash()
        await admin(url, "rollBack", 5)
        assert await client.is_blockhash_valid(blockhash) is False
        wire = transfer_wire(payer, to, KOII, blockhash)
        with pytest.raises(TransactionExpired):
            await client.send_and_confirm(wire, last_valid_block_height=last_valid)
        assert await client.get_block_height("finalized") > last_valid
        await pay_all(client, payer, to, [KOII])
        assert await client.get_balance(bytes(to)) == KOII


async def test_a_transaction_that_is_always_lost_is_sent_until_it_expires_and_no_longer(
    tmp_path: Path,
) -> None:
    async with chain(tmp_path, slot_ms=40, drop=1.0) as (_, (url,)):
        async with RpcClient(url, limits=PATIENT) as client:
            payer = await wallet(client)
            blockhash, last_valid = await client.get_latest_blockhash()
            with pytest.raises(TransactionExpired):
                await client.send_and_confirm(
                    memo_wire(payer, b"x", blockhash), last_valid_block_height=last_valid
                )
            assert await client.get_block_height("finalized") > last_valid
        found = await admin(url, "getFaults")
        assert found["statistics"]["dropped_transactions"] >= 3


async def test_a_blockhash_that_a_node_behind_does_not_know_is_not_taken_for_expired(
    tmp_path: Path,
) -> None:
    async with chain(tmp_path, rpc_nodes=2) as (_, (fresh, behind)):
        await admin(behind, "setFaults", {"lag": 60})
        async with RpcClient(fresh) as ahead, RpcClient(behind, limits=PATIENT) as client:
            payer, to = await wallet(ahead), Keypair().pubkey()
            blockhash, last_valid = await ahead.get_latest_blockhash()
            wire = transfer_wire(payer, to, KOII, blockhash)
            # Preflight at the node behind says BlockhashNotFound for more than a second.
            await client.send_and_confirm(wire, last_valid_block_height=last_valid)
            assert await ahead.get_balance(bytes(to)) == KOII


async def test_a_restart_in_the_middle_loses_the_open_slot_and_the_client_sends_again(tmp_path: Path) -> None:
    port = str(free_port())
    with k2_process(tmp_path, "--slot-ms", "200", "--port", port) as first:
        url = first.address["url"]
        async with RpcClient(url, limits=PATIENT) as client:
            payer, to = await wallet(client), Keypair().pubkey()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(pay_all, client, payer, to, AMOUNTS)
                while not await client.get_balance(bytes(to), "processed"):
                    await trio.sleep(0.005)
                first.kill()
                await trio.sleep(0.5)
                with k2_process(tmp_path, "--slot-ms", "50", "--port", port):
                    with trio.fail_after(60):
                        while nursery.child_tasks:
                            await trio.sleep(0.05)
                    assert await client.get_balance(bytes(to)) == sum(AMOUNTS)


@pytest.mark.parametrize("kind", ["malformed", "id"])
async def test_a_wrong_reply_is_refused_and_does_not_lose_a_transaction(tmp_path: Path, kind: str) -> None:
    async with chain(tmp_path, slot_ms=50) as (_, (url,)), RpcClient(url, limits=PATIENT) as client:
        payer, to = await wallet(client), Keypair().pubkey()
        blockhash, last_valid = await client.get_latest_blockhash()
        await admin(url, "setFaults", {"wrong": [kind], "wrong_share": 1.0})
        with pytest.raises(RpcProtocolError):
            await client.get_balance(bytes(to))
        await admin(url, "setFaults", {"wrong_share": 0.4, "seed": 3})
        wire = transfer_wire(payer, to, KOII, blockhash)
        landed = await client.send_and_confirm(wire, last_valid_block_height=last_valid)
        await admin(url, "clearFaults")
        assert await client.get_balance(bytes(to)) == KOII
        assert landed.signature
        assert client.statistics().protocol_errors > 1


async def test_a_rate_limit_is_waited_for(tmp_path: Path) -> None:
    async with chain(tmp_path, rate=4) as (_, (url,)), RpcClient(url) as client:
        slots = [await client.get_slot() for _ in range(7)]
        assert slots == sorted(slots)
        assert client.statistics().retries > 0
    # No time is left to wait as long as the node asks for: said at once.
    async with (
        chain(tmp_path, rate=1) as (_, (url,)),
        RpcClient(url, limits=Limits(rpc_deadline=0.9)) as hasty,
    ):
        await hasty.get_slot()
        with pytest.raises(RpcUnreachable, match="429"):
            await hasty.get_slot()
        assert hasty.statistics().retries == 0


async def test_a_lost_request_is_asked_again_within_the_deadline(tmp_path: Path) -> None:
    async with (
        chain(tmp_path, drop_requests=0.3, seed=2) as (_, (url,)),
        RpcClient(url, limits=Limits(rpc_deadline=4.0, rpc_retries=5)) as client,
    ):
        for _ in range(6):
            assert await client.get_slot() >= 0
        assert client.statistics().retries > 0
        assert client.statistics().unreachable == 0


async def test_a_forgotten_block_is_not_replaced_by_a_later_one(tmp_path: Path) -> None:
    async with chain(tmp_path) as (_, (url,)), RpcClient(url) as client:
        while await client.get_slot("finalized") < 20:
            await trio.sleep(0.05)
        first = await client.get_first_block(5)
        assert first is not None
        assert first[0] == 5
        await admin(url, "pruneHistory", 15)
        with pytest.raises(BlockPruned) as caught:
            await client.get_first_block(5)
        assert (caught.value.slot, caught.value.first) == (5, 15)
        assert (await client.get_first_block(15) or (0,))[0] == 15
        # A slot that has no block is passed over; that is no forgetting.
        rolled = await admin(url, "rollBack", 3)
        found = None
        while found is None:
            found = await client.get_first_block(rolled["slot"] + 1)
        assert found[0] == rolled["slot"] + 4


# -- several RPC nodes of one chain


async def test_a_liar_among_three_is_outvoted(tmp_path: Path) -> None:
    async with chain(tmp_path, rpc_nodes=3) as (_, urls), RpcClient(urls) as client:
        payer, to = await wallet(client), Keypair().pubkey()
        await admin(urls[0], "setFaults", {"wrong": ["account"]})
        await pay_all(client, payer, to, AMOUNTS[:3])
        assert await client.get_balance(bytes(to)) == sum(AMOUNTS[:3])
        account = await client.get_account(bytes(to))
        assert account is not None
        assert account.lamports == sum(AMOUNTS[:3])
        assert [one.outvoted > 0 for one in client.nodes()] == [True, False, False]


async def test_of_two_nodes_that_contradict_each_other_none_is_believed(tmp_path: Path) -> None:
    async with chain(tmp_path, rpc_nodes=2) as (_, urls), RpcClient(urls, limits=QUICK) as client:
        payer = await wallet(client)
        await admin(urls[0], "setFaults", {"wrong": ["account"]})
        with pytest.raises(RpcDisagreement, match="getBalance") as caught:
            await client.get_balance(bytes(payer.pubkey()))
        assert all(url in caught.value.why for url in urls)
        # One word is enough for what nothing hangs on.
        assert await client.get_health() == "ok"


@pytest.mark.parametrize(
    "fault",
    [
        {"drop_requests": 1.0},
        {"lag": 30},
        {"unhealthy": True, "drop": 1.0},
        {"wrong": ["malformed"]},
        {"rate": 1},
    ],
    ids=["away", "behind", "ill", "malformed", "rate limit"],
)
async def test_three_nodes_bear_one_bad_one(tmp_path: Path, fault: dict[str, Any]) -> None:
    async with (
        chain(tmp_path, slot_ms=50, rpc_nodes=3) as (_, urls),
        RpcClient(",".join(urls), limits=PATIENT) as client,
    ):
        payer, to = await wallet(client), Keypair().pubkey()
        await admin(urls[0], "setFaults", fault)
        await pay_all(client, payer, to, AMOUNTS[:5])
        with trio.fail_after(20):
            while await client.get_balance(bytes(to)) != sum(AMOUNTS[:5]):
                await trio.sleep(0.05)
        slot = await client.get_slot()
        async with RpcClient(urls[1]) as good:
            assert slot >= await good.get_slot() - 10
        history = await client.get_address_history(bytes(to), limit=10)
        assert len(history) == 5


async def test_two_of_three_away_is_said_and_not_guessed(tmp_path: Path) -> None:
    async with chain(tmp_path, rpc_nodes=3) as (_, urls):
        gone = ["http://127.0.0.1:1", "http://127.0.0.1:2"]
        async with RpcClient([urls[0], *gone], limits=QUICK) as client:
            with pytest.raises(RpcUnreachable):
                await client.get_slot()
            assert await client.get_health() == "ok"
            assert [one.failures > 0 for one in client.nodes()] == [False, True, True]
            reports = await client.survey()
            assert [one.ill is None for one in reports] == [True, False, False]
            assert reports[0].genesis is not None
        async with RpcClient([urls[0], *gone], limits=QUICK, quorum=1) as trusting:
            assert await trusting.get_slot() >= 0


async def test_a_refusal_is_an_answer_that_a_quorum_gives(tmp_path: Path) -> None:
    async with chain(tmp_path, rpc_nodes=3) as (_, urls):
        await admin(urls[2], "setFaults", {"wrong": ["id"]})
        async with RpcClient(urls) as client:
            payer = await wallet(client)
            blockhash, _ = await client.get_latest_blockhash()
            with pytest.raises(RpcError) as caught:
                await client.send_transaction(transfer_wire(payer, payer.pubkey(), 10**15, blockhash))
            assert caught.value.code == -32002
            assert await client.get_block_hash(10_000_000) is None


@pytest.mark.parametrize(
    ("urls", "quorum"),
    [
        ("", None),
        ([], None),
        (["http://a", "http://a"], None),
        ("http://a,http://a", None),
        ([f"http://a:{port}" for port in range(1, 18)], None),
        ("http://a,ftp://b", None),
        ("http://a,http://b", 3),
        ("http://a", 0),
    ],
)
def test_nodes_that_cannot_be_used_are_a_configuration_error(urls: Any, quorum: int | None) -> None:
    with pytest.raises(ConfigurationError):
        RpcClient(urls, quorum=quorum)


def test_the_quorum_is_a_majority_unless_given() -> None:
    names = [f"http://node{index}" for index in range(5)]
    assert [RpcClient(names[:count]).quorum for count in range(1, 6)] == [1, 2, 2, 3, 3]
    assert RpcClient("http://a?key=1,2, https://b/x http://c").url == "http://a, https://b/x, http://c"


# -- WebSocket


async def test_a_websocket_says_when_a_transaction_has_settled(tmp_path: Path) -> None:
    async with chain(tmp_path, slot_ms=100) as (running, (url,)), RpcClient(url) as client:
        payer = await wallet(client)
        for settled_at in (url, running.address["ws"].replace("ws:", "http:")):
            blockhash, _ = await client.get_latest_blockhash()
            signature = await client.send_transaction(memo_wire(payer, settled_at.encode(), blockhash))
            promised = trio.Event()
            with trio.fail_after(10):
                await wait_for_signature(settled_at, signature, "finalized", promised.set)
            assert promised.is_set()
            (status,) = await client.get_signature_statuses([signature])
            assert status is not None
            assert status.commitment == "finalized"


async def test_confirming_with_a_websocket_asks_less_often_than_without(tmp_path: Path) -> None:
    asked = []
    async with chain(tmp_path, slot_ms=300) as (_, (url,)), RpcClient(url) as client:
        payer = await wallet(client)
        for without in (False, True):
            if without:
                client.socket_failed(url)
            before = client.statistics().calls
            blockhash, last_valid = await client.get_latest_blockhash()
            await client.send_and_confirm(
                memo_wire(payer, b"%d" % without, blockhash),
                commitment="finalized",
                last_valid_block_height=last_valid,
            )
            asked.append(client.statistics().calls - before)
    assert asked[0] < asked[1]


async def test_a_websocket_that_is_none_or_breaks_is_done_without(tmp_path: Path) -> None:
    async def hostile(stream: trio.SocketStream) -> None:
        await stream.receive_some(65536)
        await stream.send_all(
            b"HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\n\r\n" + b"\xff" * 300
        )
        await stream.aclose()

    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(trio.serve_tcp, hostile, 0)
        port = listeners[0].socket.getsockname()[1]
        for url in (f"http://127.0.0.1:{port}", "http://127.0.0.1:1"):
            with pytest.raises(WebSocketUnusable), trio.fail_after(20):
                await wait_for_signature(url, "1" * 64, "confirmed", lambda: None)
        nursery.cancel_scope.cancel()
    # The local K2 closes before the notice: confirming goes on by asking.
    async with chain(tmp_path, slot_ms=50) as (running, (url,)):
        async with RpcClient(url) as client:
            payer = await wallet(client)
            blockhash, _ = await client.get_latest_blockhash()
            await client.send_and_confirm(memo_wire(payer, b"x", blockhash))
        running.kill()
        with pytest.raises(WebSocketUnusable):
            await wait_for_signature(url, "1" * 64, "confirmed", lambda: None)


async def test_a_node_that_names_too_early_an_expiry_is_not_believed_while_the_blockhash_lives(
    tmp_path: Path,
) -> None:
    async with (
        chain(tmp_path, slot_ms=100, drop=1.0) as (_, (url,)),
        RpcClient(url, limits=PATIENT) as client,
    ):
        payer, to = await wallet(client), Keypair().pubkey()
        while await client.get_slot("finalized") < 3:
            await trio.sleep(0.05)
        blockhash, _ = await client.get_latest_blockhash()
        wire = transfer_wire(payer, to, KOII, blockhash)

        async def find_room() -> None:
            await trio.sleep(2.5)  # longer than it takes to look at the expiry once
            await admin(url, "clearFaults")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(find_room)
            await client.send_and_confirm(wire, last_valid_block_height=1)
        assert await client.get_balance(bytes(to)) == KOII


async def test_a_node_that_is_ill_for_a_while_is_waited_for(tmp_path: Path) -> None:
    async with chain(tmp_path, slot_ms=50) as (_, (url,)), RpcClient(url, limits=PATIENT) as client:
        payer, to = await wallet(client), Keypair().pubkey()
        await admin(url, "setFaults", {"unhealthy": True})
        with pytest.raises(RpcError):
            await client.get_health()

        async def recover() -> None:
            await trio.sleep(1)
            assert await client.get_balance(bytes(to)) == 0
            await admin(url, "clearFaults")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(recover)
            await pay_all(client, payer, to, [KOII])
        assert await client.get_balance(bytes(to)) == KOII


@pytest.mark.parametrize(
    "said",
    [
        ["{"],
        ["[1]"],
        ['{"id": 2, "result": 1}'],
        ['{"id": 1, "result": true}'],
        ['{"id": 1, "error": {"code": -32601, "message": "no"}}'],
        ['{"id": 1, "result": 1}', '"' + "x" * 70_000 + '"'],
        ['{"id": 1, "result": 1}', "[" * 60_000],
        ['{"id": 1, "result": 1}'] + ['{"method": "slotNotification"}'] * 80,
        ['{"id": 1, "result": 1}', '{"method": "signatureNotification", "params": {"subscription": 2}}'],
        ['{"id": 1, "result": 1}'],
    ],
    ids=[
        "cut", "no object", "another id", "no number", "refused", "too large", "deep", "too many", "another's",
        "closes",
    ],
)  # fmt: skip
async def test_a_websocket_that_says_anything_else_is_done_without(
    said: list[str], nursery: trio.Nursery
) -> None:
    async def talk(request: Any) -> None:
        opened = await request.accept()
        await opened.get_message()
        for message in said:
            await opened.send_message(message)
        await opened.aclose()

    server = await nursery.start(partial(serve_websocket, talk, "127.0.0.1", 0, ssl_context=None))
    with pytest.raises(WebSocketUnusable), trio.fail_after(20):
        await wait_for_signature(f"http://127.0.0.1:{server.port}", "1" * 64, "confirmed", lambda: None)
    nursery.cancel_scope.cancel()


async def test_one_node_that_takes_everything_does_not_hide_what_a_quorum_refuses(
    tmp_path: Path, nursery: trio.Nursery
) -> None:
    refused = memo_wire(Keypair(), b"nobody pays for this", bytes(32))
    yes_man = await nursery.start(Node(result(transaction_signature(refused))).run)
    async with (
        chain(tmp_path, rpc_nodes=2) as (_, urls),
        RpcClient([yes_man.url, *urls], limits=QUICK) as client,
    ):
        with pytest.raises(RpcError) as caught:
            await client.send_transaction(refused)
        assert caught.value.code == -32002
        # Two that cannot take it now are no refusal: one that takes it is enough.
        for url in urls:
            await admin(url, "setFaults", {"unhealthy": True})
        assert await client.send_transaction(refused) == transaction_signature(refused)
    nursery.cancel_scope.cancel()


async def test_a_node_that_hangs_is_passed_over_afterwards(tmp_path: Path) -> None:
    async with (
        chain(tmp_path, rpc_nodes=3) as (_, urls),
        RpcClient(urls, limits=QUICK) as client,
    ):
        await admin(urls[0], "setFaults", {"drop_requests": 1.0})
        assert await client.get_health() == "ok"
        assert [one.resting for one in client.nodes()] == [True, False, False]
        before = client.statistics().attempts
        assert await client.get_health() == "ok"
        assert client.statistics().attempts == before + 1
        # Once it is well again, and has rested, it is asked again.
        await admin(urls[0], "clearFaults")
        with trio.fail_after(20):
            while client.nodes()[0].failures:
                await client.get_slot()
                await trio.sleep(0.1)
