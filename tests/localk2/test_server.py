"""A real server in this process: HTTP, WebSocket, limits, pace."""

from __future__ import annotations

import json
import socket
import struct
from contextlib import AsyncExitStack, suppress
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio
from solders.keypair import Keypair
from solders.pubkey import Pubkey
from trio_websocket import ConnectionClosed, WebSocketConnection, open_websocket_url

from koii_p2p.errors import NetworkError
from koii_p2p.limits import Limits
from koii_p2p.localk2 import LocalK2Address, LocalK2Settings, serve
from koii_p2p.localk2.ledger import Ledger
from koii_p2p.localk2.rpc import LocalRpc
from koii_p2p.localk2.rpc_node import RpcNode
from koii_p2p.localk2.server import keep_pace
from koii_p2p.localk2.subscriptions import Socket, Subscriptions, SubscriptionStatistics
from koii_p2p.settlement.instructions import PROGRAM_ID
from koii_p2p.settlement.rpc import RpcClient
from tests.localk2.chain import KOII, memo_wire, open_ledger, transfer_wire


async def wallet(client: RpcClient, lamports: int = 10 * KOII) -> Keypair:
    keypair = Keypair()
    signature = await client.request_airdrop(bytes(keypair.pubkey()), lamports)
    while True:
        status = (await client.get_signature_statuses([signature]))[0]
        if status is not None and status.reached("confirmed"):
            return keypair
        await trio.sleep(0.01)


async def call(opened: WebSocketConnection, method: str, *params: Any) -> Any:
    await opened.send_message(json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}))
    while True:
        reply = json.loads(await opened.get_message())
        if "id" in reply:
            return reply.get("result", reply.get("error"))


async def notice(opened: WebSocketConnection, kind: str) -> Any:
    with trio.fail_after(5):
        while True:
            message = json.loads(await opened.get_message())
            if message.get("method") == f"{kind}Notification":
                return message["params"]


async def test_both_ports_answer_http_and_the_health_check(k2: LocalK2Address) -> None:
    async with httpx.AsyncClient() as browser:
        for url in (k2.url, k2.ws.replace("ws:", "http:")):
            health = await browser.get(f"{url}/health")
            assert (health.status_code, health.text) == (200, "ok")
            reply = await browser.post(url, json={"jsonrpc": "2.0", "id": 1, "method": "getHealth"})
            assert reply.json() == {"jsonrpc": "2.0", "id": 1, "result": "ok"}
            assert reply.headers["access-control-allow-origin"] == "*"
        assert (await browser.options(k2.url)).status_code == 204
        assert (await browser.get(k2.url)).status_code == 405


async def test_a_request_beyond_the_limit_is_refused(k2: LocalK2Address) -> None:
    async with httpx.AsyncClient() as browser:
        reply = await browser.post(k2.url, content=b" " * (Limits().rpc_request_bytes + 1))
    assert reply.status_code == 413
    assert reply.json()["error"]["code"] == -32600


async def test_the_settlement_program_is_loaded_at_its_address(client: RpcClient) -> None:
    program = await client.get_account(PROGRAM_ID)
    assert program is not None
    assert program.executable


async def test_200_transfers_at_once_all_land_once(tmp_path: Path, nursery: trio.Nursery) -> None:
    # 400 ms a slot: the one blockhash must outlive the test on a busy machine.
    address = await nursery.start(partial(serve, LocalK2Settings(tmp_path, port=0, slot_ms=400)))
    async with RpcClient(address.url) as client:
        await check_200_transfers(client)


async def check_200_transfers(client: RpcClient) -> None:
    payer, to = await wallet(client), Keypair().pubkey()
    blockhash, _ = await client.get_latest_blockhash()
    wires = [transfer_wire(payer, to, 1_000_000 + index, blockhash) for index in range(200)]
    landed = []

    async def send(wire: bytes) -> None:
        landed.append(await client.send_and_confirm(wire))

    async with trio.open_nursery() as nursery:
        for wire in wires:
            nursery.start_soon(send, wire)
    assert len({one.signature for one in landed}) == 200
    assert await client.get_balance(bytes(to)) == sum(1_000_000 + index for index in range(200))
    assert await client.get_balance(bytes(payer.pubkey())) == 10 * KOII - sum(
        1_000_000 + index + 5000 for index in range(200)
    )
    history = await client.get_address_history(bytes(to), limit=1000)
    assert {line.signature for line in history} == {one.signature for one in landed}


async def test_subscriptions_hear_slots_signatures_accounts_logs_and_programs(
    k2: LocalK2Address, client: RpcClient
) -> None:
    payer, to = await wallet(client), Keypair().pubkey()
    level = {"commitment": "confirmed", "encoding": "base64"}
    blockhash, _ = await client.get_latest_blockhash()
    async with AsyncExitStack() as stack:
        sockets = {
            kind: await stack.enter_async_context(open_websocket_url(k2.ws))
            for kind in ("slot", "account", "logs", "program", "signature", "root")
        }
        number = await call(sockets["slot"], "slotSubscribe")
        first, second = [await notice(sockets["slot"], "slot") for _ in range(2)]
        assert second["result"]["slot"] == first["result"]["slot"] + 1
        assert await call(sockets["slot"], "slotUnsubscribe", number) is True
        await call(sockets["root"], "rootSubscribe")
        assert (await notice(sockets["root"], "root"))["result"] >= 0

        await call(sockets["account"], "accountSubscribe", str(to), level)
        await call(sockets["logs"], "logsSubscribe", {"mentions": [str(to)]}, level)
        await call(sockets["program"], "programSubscribe", "11111111111111111111111111111111", level)
        signature = await client.send_transaction(transfer_wire(payer, to, KOII, blockhash))
        await call(sockets["signature"], "signatureSubscribe", signature, {"commitment": "finalized"})
        account = await notice(sockets["account"], "account")
        assert account["result"]["value"]["lamports"] == KOII
        logs = await notice(sockets["logs"], "logs")
        assert logs["result"]["value"]["signature"] == signature
        heard = {(await notice(sockets["program"], "program"))["result"]["value"]["pubkey"] for _ in range(2)}
        assert heard == {str(payer.pubkey()), str(to)}
        finalized = await notice(sockets["signature"], "signature")
        assert finalized["result"]["value"] == {"err": None}
        assert finalized["result"]["context"]["slot"] >= account["result"]["context"]["slot"]


async def test_a_signature_that_is_settled_already_is_told_after_its_subscription_number(
    k2: LocalK2Address, client: RpcClient
) -> None:
    payer = await wallet(client)
    blockhash, _ = await client.get_latest_blockhash()
    landed = await client.send_and_confirm(memo_wire(payer, b"before", blockhash))
    async with open_websocket_url(k2.ws) as opened:
        number = await call(opened, "signatureSubscribe", landed.signature, {"commitment": "confirmed"})
        assert (await notice(opened, "signature"))["subscription"] == number
        assert await call(opened, "getHealth") == "ok"


async def test_hostile_websocket_messages_are_answered_with_errors(k2: LocalK2Address) -> None:
    async with open_websocket_url(k2.ws) as opened:
        for text, code in (
            ("{", -32700),
            ("[]", -32600),
            ('{"jsonrpc":"2.0","id":1,"method":"fooSubscribe"}', -32601),
            ('{"jsonrpc":"2.0","id":1,"method":"accountSubscribe","params":[7]}', -32602),
            ('{"jsonrpc":"2.0","id":1,"method":"logsSubscribe","params":[{}]}', -32602),
            ('{"jsonrpc":"2.0","id":1,"method":"slotUnsubscribe","params":[99]}', -32602),
        ):
            await opened.send_message(text)
            assert json.loads(await opened.get_message())["error"]["code"] == code
        error = {}
        for _ in range(Limits().localk2_subscriptions + 1):
            error = await call(opened, "logsSubscribe", {"mentions": [str(Keypair().pubkey())]})
        assert error["code"] == -32600


async def test_a_socket_beyond_the_limit_of_a_message_is_closed_and_the_chain_goes_on(
    k2: LocalK2Address, client: RpcClient
) -> None:
    async with open_websocket_url(k2.ws) as opened:
        await opened.send_message("x" * (Limits().rpc_request_bytes + 1))
        with pytest.raises(ConnectionClosed):
            await opened.get_message()
    before = await client.get_slot()
    with trio.fail_after(5):
        while await client.get_slot() <= before:
            await trio.sleep(0.02)


async def test_a_busy_port_is_a_clear_message_and_the_folder_stays_free(
    k2: LocalK2Address, tmp_path: Path
) -> None:
    port = int(k2.url.rpartition(":")[2])
    with pytest.raises(NetworkError, match="cannot listen") as caught:
        await serve(LocalK2Settings(tmp_path / "other", port=port, ws_port=0))
    assert str(port) in caught.value.what
    assert "Address already in use" in caught.value.why
    assert not (tmp_path / "other").exists()


async def test_cancelling_seals_the_open_slot_and_closes_both_ports(tmp_path: Path) -> None:
    settings = LocalK2Settings(tmp_path, port=0, slot_ms=60_000)
    key = bytes(Keypair().pubkey())
    async with trio.open_nursery() as nursery:
        address = await nursery.start(partial(serve, settings))
        async with RpcClient(address.url) as client:
            await client.request_airdrop(key, KOII)
            assert await client.get_balance(key, "confirmed") == 0
        nursery.cancel_scope.cancel()
    for url in (address.url, address.ws):
        with pytest.raises(OSError):
            await trio.open_tcp_stream("127.0.0.1", int(url.rpartition(":")[2]))
    async with trio.open_nursery() as nursery:
        address = await nursery.start(partial(serve, settings))
        async with RpcClient(address.url) as client:
            assert await client.get_balance(key, "confirmed") == KOII
        nursery.cancel_scope.cancel()


async def test_after_a_stall_the_lost_time_is_not_made_up_in_one_burst(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    ledger: Ledger = open_ledger(tmp_path)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(keep_pace, [RpcNode(ledger)], 0.4)
        await trio.sleep(4.2)
        assert ledger.slot == 11
        autojump_clock.jump(3600)
        await trio.sleep(0.1)
        assert ledger.slot <= 11 + 10
        at = ledger.slot
        await trio.sleep(4)
        assert ledger.slot - at == 10
        nursery.cancel_scope.cancel()
    ledger.close()


HOSTILE_CONNECTIONS = [
    b"",
    b"\x00" * 100,
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(100),  # a TLS hello
    b"GET / HTTP/1.1\r\n",
    b"GET / HTTP/9.9\r\nhost: x\r\n\r\n",
    b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: -1\r\n\r\n",
    b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 99999999999\r\n\r\n{",
    b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
    b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\nffffffff\r\n" + b"x" * 200_000,
    b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\nhost: x\r\n\r\n",
    b"GET / HTTP/1.1\r\n" + b"".join(b"a%d: b\r\n" % index for index in range(20_000)) + b"\r\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(200),
    b"GET / HTTP/1.1\r\nhost: x\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\n",
    b"GET / HTTP/1.1\r\nhost: x\r\nupgrade: h2c\r\nconnection: upgrade\r\nhttp2-settings: !\r\n\r\n",
    b"GET / HTTP/1.1\r\nhost: x\r\nupgrade: websocket\r\nconnection: upgrade\r\nsec-websocket-version: 13\r\n"
    b"sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n" + b"\xff" * 300,
    b"GET / HTTP/1.1\r\nhost: x\r\nupgrade: websocket\r\nconnection: upgrade\r\nsec-websocket-version: 13\r\n"
    b"sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n\x81\x82\x00\x00\x00\x00\xff\xfe",  # not UTF-8
    b"CONNECT x:1 HTTP/1.1\r\nhost: x\r\n\r\n",
]


@pytest.mark.parametrize("content", HOSTILE_CONNECTIONS, ids=range(len(HOSTILE_CONNECTIONS)))
@pytest.mark.parametrize("reset", [False, True], ids=["close", "reset"])
async def test_hostile_bytes_on_a_connection_do_not_end_the_chain(
    k2: LocalK2Address, client: RpcClient, content: bytes, reset: bool
) -> None:
    for url in (k2.url, k2.ws):
        stream = await trio.open_tcp_stream("127.0.0.1", int(url.rpartition(":")[2]))
        if reset:
            linger = struct.pack("ii", 1, 0)
            stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        with trio.move_on_after(0.3):
            try:
                await stream.send_all(content)
                while await stream.receive_some(65536):
                    pass
            except trio.BrokenResourceError:
                pass  # the server may well hang up
        await stream.aclose()
    before = await client.get_slot()
    with trio.fail_after(10):
        while await client.get_slot() <= before:
            await trio.sleep(0.02)


async def test_a_reader_that_falls_behind_is_cut_off_and_forgotten(tmp_path: Path) -> None:
    limits = Limits(localk2_notices=2)
    ledger = open_ledger(tmp_path)
    subscriptions = Subscriptions(ledger, LocalRpc(RpcNode(ledger), limits), limits)
    outgoing, waiting = trio.open_memory_channel[Any](limits.localk2_notices)
    cut: list[bool] = []
    reader = Socket(outgoing, lambda: cut.append(True))
    assert subscriptions.connect(reader)
    asked = {"jsonrpc": "2.0", "id": 1, "method": "slotSubscribe", "params": []}
    assert subscriptions.answer(reader, asked)["result"] == 1
    for _ in range(5):
        ledger.seal()
    assert cut == [True]
    assert subscriptions.statistics() == SubscriptionStatistics(
        sockets=0, subscriptions=0, notices=2, cut_off=1, failed=0
    )
    assert waiting.statistics().current_buffer_used == 2
    ledger.close()


async def test_a_reader_that_never_reads_does_not_hold_up_the_end(tmp_path: Path) -> None:
    settings = LocalK2Settings(tmp_path, port=0, slot_ms=20)
    address = {"encoding": "base64", "commitment": "processed"}
    one = {
        "jsonrpc": "2.0",
        "id": 1,
        "method": "getAccountInfo",
        "params": [str(Pubkey(PROGRAM_ID)), address],
    }
    body = json.dumps([one] * 64).encode()
    request = b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body)
    with trio.fail_after(15):
        async with trio.open_nursery() as nursery:
            running = await nursery.start(partial(serve, settings))
            stream = await trio.open_tcp_stream("127.0.0.1", int(running.url.rpartition(":")[2]))
            with trio.move_on_after(1):
                await stream.send_all(request * 20)
                await trio.sleep_forever()
            nursery.cancel_scope.cancel()
    await trio.aclose_forcefully(stream)


async def test_a_connection_beyond_the_limit_is_closed_and_the_others_go_on(
    tmp_path: Path, nursery: trio.Nursery
) -> None:
    settings = LocalK2Settings(tmp_path, port=0, slot_ms=20)
    limits = Limits(localk2_connections=2)
    address = await nursery.start(partial(serve, settings, limits=limits))
    port = int(address.url.rpartition(":")[2])
    request = b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n"

    async def healthy(stream: trio.SocketStream) -> bool:
        await stream.send_all(request)
        answer = b""
        while not answer.endswith(b"ok"):
            received = await stream.receive_some(1000)
            if not received:
                return False
            answer += received
        return True

    held = [await trio.open_tcp_stream("127.0.0.1", port) for _ in range(2)]
    assert [await healthy(stream) for stream in held] == [True, True]
    third = await trio.open_tcp_stream("127.0.0.1", port)
    assert await third.receive_some(1) == b""
    assert await healthy(held[0])
    await held[1].aclose()
    answered = False
    with trio.fail_after(5):
        while not answered:  # until the server has noticed that the second one is gone
            with suppress(trio.BrokenResourceError):
                answered = await healthy(await trio.open_tcp_stream("127.0.0.1", port))
    assert answered
