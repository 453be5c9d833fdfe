"""The RPC client against hostile servers, scripted nodes, and the real local K2."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator, Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
from solders.keypair import Keypair

from koii_p2p.errors import ChainError, ConfigurationError
from koii_p2p.limits import Limits
from koii_p2p.localk2 import LocalK2Settings, serve
from koii_p2p.settlement.rpc import (
    DataSize,
    Memcmp,
    RpcClient,
    RpcError,
    RpcProtocolError,
    RpcUnreachable,
    TransactionExpired,
    TransactionFailed,
    TransactionUnconfirmed,
    transaction_signature,
)
from tests.localk2.chain import KOII, memo_wire, transfer_wire

QUICK = Limits(rpc_deadline=2.0, rpc_retries=1, rpc_response_bytes=10_000)
KEY = bytes(range(32))
WIRE = memo_wire(Keypair(), b"x", bytes(32))
SIGNATURE = transaction_signature(WIRE)
Reply = Callable[[dict[str, Any]], Any]


class Node:
    """A server that answers every request with the bytes its script makes."""

    def __init__(self, respond: Callable[[dict[str, Any]], bytes], drip: float = 0.0) -> None:
        self.requests: list[dict[str, Any]] = []
        self._respond = respond
        self._drip = drip
        self.url = ""

    async def run(self, task_status: Any) -> None:
        async with trio.open_nursery() as nursery:
            listeners = await nursery.start(partial(trio.serve_tcp, self._talk, 0, host="127.0.0.1"))
            self.url = f"http://127.0.0.1:{listeners[0].socket.getsockname()[1]}"
            task_status.started(self)

    async def _talk(self, stream: trio.SocketStream) -> None:
        received = b""
        try:
            while b"\r\n\r\n" not in received or not received.partition(b"\r\n\r\n")[2].endswith(b"}"):
                received += await stream.receive_some(65536)
            request = json.loads(received.partition(b"\r\n\r\n")[2])
            self.requests.append(request)
            answer = self._respond(request)
            step = 1 if self._drip else max(len(answer), 1)
            for start in range(0, len(answer), step):
                await stream.send_all(answer[start : start + step])
                await trio.sleep(self._drip)
            await stream.aclose()
        except trio.BrokenResourceError:
            return


def http(body: bytes, status: str = "200 OK", headers: str = "") -> bytes:
    head = f"HTTP/1.1 {status}\r\ncontent-length: {len(body)}\r\nconnection: close\r\n{headers}\r\n"
    return head.encode() + body


def result(value: Any) -> Callable[[dict[str, Any]], bytes]:
    return lambda request: http(json.dumps({"jsonrpc": "2.0", "id": request["id"], "result": value}).encode())


def error(value: Any) -> Callable[[dict[str, Any]], bytes]:
    return lambda request: http(json.dumps({"jsonrpc": "2.0", "id": request["id"], "error": value}).encode())


def raw(body: bytes, status: str = "200 OK", headers: str = "") -> Callable[[dict[str, Any]], bytes]:
    return lambda request: http(body, status, headers)


def contextual(value: Any, slot: int = 200) -> dict[str, Any]:
    return {"context": {"slot": slot}, "value": value}


@pytest.fixture
async def node(nursery: trio.Nursery) -> AsyncIterator[Callable[..., Any]]:
    async def start(respond: Callable[[dict[str, Any]], bytes], drip: float = 0.0) -> Node:
        started: Node = await nursery.start(Node(respond, drip).run)
        return started

    yield start
    nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    "respond",
    [
        raw(b"<html>oops</html>"),
        raw(b""),
        raw(b"\xff\xfe"),
        raw(b"[" * 5000),
        raw(b'{"jsonrpc":"2.0","id":1,"result":NaN}'),
        raw(b'{"id":1,"result":5}'),
        raw(b'{"jsonrpc":"2.0","id":1}'),
        raw(b'{"jsonrpc":"2.0","id":99,"result":5}'),
        raw(b'{"jsonrpc":"2.0","id":true,"result":5}'),
        raw(b'{"jsonrpc":"2.0","id":"1","result":5}'),
        raw(b"[]"),
        raw(b'{"jsonrpc":"2.0","id":1,"error":"no"}'),
        raw(b'{"jsonrpc":"2.0","id":1,"error":{"code":"-32005"}}'),
        raw(b"gone", "500 Internal Server Error"),
        raw(b"", "404 Not Found"),
        raw(b"", "302 Found", "location: http://127.0.0.1:1/\r\n"),
        raw(b"\x1f\x8b", headers="content-encoding: gzip\r\n"),
        result(-5),
        result(True),
        result(1.5),
        result("abc"),
        result(None),
        result(2**64),
        result([5]),
        lambda request: http(json.dumps({"jsonrpc": "2.0", "id": 1, "result": "x" * 20_000}).encode()),
    ],
)
async def test_an_answer_that_is_no_slot_is_one_ordinary_error(
    node: Any, respond: Callable[[dict[str, Any]], bytes]
) -> None:
    server = await node(respond)
    async with RpcClient(server.url, limits=QUICK) as client:
        with pytest.raises(RpcProtocolError) as caught:
            await client.get_slot()
        assert server.url in caught.value.what
        assert client.statistics().protocol_errors == 1
    assert len(server.requests) == 1  # an answer is never asked for twice


@pytest.mark.parametrize("code", [-32002, -32005, -32016, -32000, 429, -32700, 7])
@pytest.mark.parametrize("data", [None, {"numSlotsBehind": 42}, "odd"])
async def test_every_error_code_with_and_without_data_is_an_rpc_error(
    node: Any, code: int, data: Any
) -> None:
    value = {"code": code, "message": "Node is\x1b[31m behind"} | ({} if data is None else {"data": data})
    server = await node(error(value))
    async with RpcClient(server.url, limits=QUICK) as client:
        with pytest.raises(RpcError) as caught:
            await client.get_slot()
    assert (caught.value.code, caught.value.data) == (code, data)
    assert "\x1b" not in str(caught.value)
    assert isinstance(caught.value, ChainError)


async def test_an_error_without_an_id_is_an_error_and_a_result_without_one_is_not(node: Any) -> None:
    failed = await node(raw(b'{"jsonrpc":"2.0","id":null,"error":{"code":-32700,"message":"Parse error"}}'))
    async with RpcClient(failed.url, limits=QUICK) as client:
        with pytest.raises(RpcError, match="Parse error"):
            await client.get_slot()
    nameless = await node(raw(b'{"jsonrpc":"2.0","id":null,"result":5}'))
    async with RpcClient(nameless.url, limits=QUICK) as client:
        with pytest.raises(RpcProtocolError):
            await client.get_slot()


@pytest.mark.parametrize("status", ["429 Too Many Requests", "502 Bad Gateway", "503 Service Unavailable"])
async def test_a_busy_proxy_is_asked_again_and_then_given_up(node: Any, status: str) -> None:
    server = await node(raw(b"slow down", status))
    async with RpcClient(server.url, limits=QUICK) as client:
        with pytest.raises(RpcUnreachable, match=status[:3]):
            await client.get_slot()
        assert client.statistics().retries == 1
    assert len(server.requests) == 2


async def test_a_connection_that_breaks_is_tried_again(node: Any) -> None:
    answers = [lambda request: b"", result(5)]
    server = await node(lambda request: answers.pop(0)(request))
    async with RpcClient(server.url, limits=QUICK) as client:
        assert await client.get_slot() == 5


async def test_an_airdrop_is_never_tried_twice(node: Any) -> None:
    server = await node(lambda request: b"")
    async with RpcClient(server.url, limits=QUICK) as client:
        with pytest.raises(RpcUnreachable):
            await client.request_airdrop(KEY, 5)
    assert len(server.requests) == 1


async def test_a_dripping_answer_ends_at_the_deadline(node: Any) -> None:
    server = await node(result(5), drip=0.2)
    async with RpcClient(server.url, limits=Limits(rpc_deadline=0.5, rpc_retries=0)) as client:
        start = trio.current_time()
        with pytest.raises(RpcUnreachable, match=r"within 0\.5 seconds"):
            await client.get_slot()
        assert trio.current_time() - start < 2


async def test_who_cannot_be_connected_to_was_not_asked(node: Any) -> None:
    async with RpcClient("http://127.0.0.1:1", limits=QUICK) as client:
        with pytest.raises(RpcUnreachable) as caught:
            await client.send_transaction(WIRE)
        assert caught.value.may_be_done is False
    hangs_up = await node(lambda request: b"")
    async with RpcClient(hangs_up.url, limits=QUICK) as client:
        with pytest.raises(RpcUnreachable) as caught:
            await client.send_transaction(WIRE)
        assert caught.value.may_be_done is True


async def test_nobody_listening_is_one_clear_message() -> None:
    async with RpcClient("http://user:secret@127.0.0.1:1/?api-key=secret", limits=QUICK) as client:
        with pytest.raises(RpcUnreachable) as caught:
            await client.get_slot()
    assert "http://127.0.0.1:1" in str(caught.value)
    assert "secret" not in str(caught.value)
    assert caught.value.exit_code == 5


@pytest.mark.parametrize("url", ["", "127.0.0.1:8899", "ftp://host", "http://", "http://[::1", "http://a:b"])
def test_a_url_that_cannot_work_is_a_configuration_error(url: str) -> None:
    with pytest.raises(ConfigurationError):
        RpcClient(url)


ACCOUNT = {
    "lamports": 5,
    "owner": "11111111111111111111111111111111",
    "data": [base64.b64encode(b"data").decode(), "base64"],
    "executable": False,
    "rentEpoch": 0,
}


@pytest.mark.parametrize(
    "change",
    [
        {"lamports": -1},
        {"lamports": "5"},
        {"owner": "1"},
        {"owner": "0OIl"},
        {"owner": "1" * 10_000},
        {"owner": 7},
        {"data": "AAAA"},
        {"data": ["!!", "base64"]},
        {"data": ["AAAA", "base58"]},
        {"executable": 0},
        {"executable": None},
    ],
)
async def test_an_account_with_one_wrong_field_is_refused(node: Any, change: dict[str, Any]) -> None:
    server = await node(result(contextual({**ACCOUNT, **change})))
    async with RpcClient(server.url, limits=QUICK) as client:
        with pytest.raises(RpcProtocolError):
            await client.get_account(KEY)


@pytest.mark.parametrize("missing", ["lamports", "owner", "data", "executable"])
async def test_an_account_with_a_field_missing_is_refused(node: Any, missing: str) -> None:
    fields = {name: value for name, value in ACCOUNT.items() if name != missing}
    server = await node(result(contextual(fields)))
    async with RpcClient(server.url, limits=QUICK) as client:
        with pytest.raises(RpcProtocolError, match=missing):
            await client.get_account(KEY)


async def test_lists_of_the_wrong_length_or_content_are_refused(node: Any) -> None:
    short = await node(result(contextual([None])))
    async with RpcClient(short.url, limits=QUICK) as client:
        with pytest.raises(RpcProtocolError):
            await client.get_multiple_accounts([KEY, KEY])
        with pytest.raises(RpcProtocolError):
            await client.get_signature_statuses([SIGNATURE, SIGNATURE])
    foreign = await node(result([{"pubkey": "11111111111111111111111111111111", "account": ACCOUNT}]))
    async with RpcClient(foreign.url, limits=QUICK) as client:
        with pytest.raises(RpcProtocolError, match="not asked for"):
            await client.get_program_accounts(KEY)
        with pytest.raises(RpcProtocolError, match="not asked for"):
            await client.get_program_accounts(bytes(32), [DataSize(9)])
        assert len(await client.get_program_accounts(bytes(32), [DataSize(4), Memcmp(1, b"ata")])) == 1


async def test_a_history_that_never_ends_is_refused(node: Any) -> None:
    line = {"signature": SIGNATURE, "slot": 1, "err": None, "memo": None, "blockTime": 1}
    server = await node(result([line] * 3))
    async with RpcClient(server.url, limits=QUICK) as client:
        with pytest.raises(RpcProtocolError, match="repeats"):
            await client.get_address_history(KEY, limit=3)


async def test_a_node_that_names_another_signature_or_transaction_is_refused(node: Any) -> None:
    other = transaction_signature(memo_wire(Keypair(), b"y", bytes(32)))
    server = await node(result(other))
    async with RpcClient(server.url, limits=QUICK) as client:
        with pytest.raises(RpcProtocolError):
            await client.send_transaction(WIRE)
    found = {
        "slot": 1,
        "transaction": [base64.b64encode(WIRE).decode(), "base64"],
        "meta": {"err": None, "fee": 1},
    }
    server = await node(result(found))
    async with RpcClient(server.url, limits=QUICK) as client:
        assert (await client.get_transaction(SIGNATURE)) is not None
        with pytest.raises(RpcProtocolError, match="not the one asked for"):
            await client.get_transaction(other)


class ScriptedNode:
    """A node whose methods are functions; enough of a chain for send_and_confirm."""

    def __init__(self, **methods: Callable[[], Any]) -> None:
        self.calls: list[str] = []
        self._methods = methods

    def __call__(self, request: dict[str, Any]) -> bytes:
        if request["method"] == "isBlockhashValid":
            return result(contextual(False))(request)
        self.calls.append(request["method"])
        value = self._methods[request["method"]]()
        if isinstance(value, RpcError):
            body = {"code": value.code, "message": value.message, "data": value.data}
            return error(body)(request)
        return result(value)(request)


def status(level: str, err: Any = None) -> dict[str, Any]:
    return contextual([{"slot": 9, "confirmations": 1, "err": err, "confirmationStatus": level}])


def finalized(height: int) -> dict[str, int]:
    return {"blockHeight": height, "absoluteSlot": height + 5}


UNKNOWN = contextual([None])


async def confirm(node: Any, script: ScriptedNode, seconds: float = 5) -> Any:
    server = await node(script)
    async with RpcClient(server.url, limits=Limits(confirmation_seconds=seconds)) as client:
        return await client.send_and_confirm(WIRE, last_valid_block_height=100)


async def test_confirming_waits_for_the_commitment_asked_for(node: Any) -> None:
    states = iter([UNKNOWN, status("processed"), status("processed"), status("confirmed")])
    script = ScriptedNode(
        sendTransaction=lambda: SIGNATURE,
        getSignatureStatuses=lambda: next(states),
        getEpochInfo=lambda: finalized(50),
        getTransaction=lambda: None,
    )
    landed = await confirm(node, script)
    assert (landed.signature, landed.slot, landed.fee) == (SIGNATURE, 9, None)
    assert script.calls.count("getSignatureStatuses") == 4


async def test_already_processed_looks_the_status_up(node: Any) -> None:
    states = iter([UNKNOWN, UNKNOWN, status("finalized")])
    script = ScriptedNode(
        sendTransaction=lambda: RpcError(-32002, "failed", {"err": "AlreadyProcessed"}),
        getSignatureStatuses=lambda: next(states),
        getEpochInfo=lambda: finalized(50),
        getTransaction=lambda: None,
    )
    assert (await confirm(node, script)).slot == 9


async def test_an_expired_blockhash_says_that_it_never_landed(node: Any) -> None:
    script = ScriptedNode(
        sendTransaction=lambda: SIGNATURE,
        getSignatureStatuses=lambda: UNKNOWN,
        getEpochInfo=lambda: finalized(101),
    )
    with pytest.raises(TransactionExpired):
        await confirm(node, script)


async def test_a_transaction_that_landed_in_the_last_block_is_found_after_expiry(node: Any) -> None:
    script = ScriptedNode(
        sendTransaction=lambda: SIGNATURE,
        getSignatureStatuses=lambda: status("confirmed"),
        getEpochInfo=lambda: finalized(101),
        getTransaction=lambda: None,
    )
    assert (await confirm(node, script)).slot == 9


async def test_a_node_that_has_not_come_to_the_expiry_says_nothing_about_it(node: Any) -> None:
    script = ScriptedNode(
        getSignatureStatuses=lambda: contextual([None], 103 + script.calls.count("getEpochInfo")),
        getEpochInfo=lambda: finalized(101),
    )
    with pytest.raises(TransactionExpired):
        await confirm(node, script, seconds=20)
    assert script.calls.count("getEpochInfo") == 3, "slot 106 belongs to height 101"


@pytest.mark.parametrize(("height", "known"), [(101, True), (249, True), (250, False)])
async def test_a_node_without_history_tells_an_expiry_while_its_memory_reaches_back(
    node: Any, height: int, known: bool
) -> None:
    without: list[bool] = []

    def answer(request: dict[str, Any]) -> bytes:
        match request["method"]:
            case "getEpochInfo":
                return result(finalized(height))(request)
            case "isBlockhashValid":
                return result(contextual(False))(request)
        if request["params"][1]["searchTransactionHistory"]:
            return error({"code": -32011, "message": "Transaction history is not available from this node"})(
                request
            )
        without.append(True)
        return result(contextual([None], height + 5))(request)

    server = await node(answer)
    async with RpcClient(server.url, limits=Limits(confirmation_seconds=1.0)) as client:
        with pytest.raises(TransactionExpired if known else TransactionUnconfirmed):
            await client.send_and_confirm(WIRE, last_valid_block_height=100)
    assert without


@pytest.mark.parametrize(
    "first", [SIGNATURE, RpcError(-32603, "oops"), "not a signature"], ids=["taken", "failed", "garbled"]
)
async def test_what_a_node_may_have_taken_is_not_refused_any_more(node: Any, first: Any) -> None:
    said = iter(
        [first, RpcError(-32002, "simulation failed"), RpcError(-32003, "bad"), RpcError(-32602, "no")]
    )
    script = ScriptedNode(
        sendTransaction=lambda: next(said, SIGNATURE),
        getSignatureStatuses=lambda: (
            status("confirmed") if script.calls.count("sendTransaction") > 4 else UNKNOWN
        ),
        getEpochInfo=lambda: finalized(50),
        getTransaction=lambda: None,
    )
    assert (await confirm(node, script, seconds=20)).slot == 9


async def test_time_running_out_says_that_the_fate_is_unknown(node: Any) -> None:
    script = ScriptedNode(
        sendTransaction=lambda: RpcError(-32005, "behind"),
        getSignatureStatuses=lambda: UNKNOWN,
        getEpochInfo=lambda: finalized(50),
    )
    with pytest.raises(TransactionUnconfirmed):
        await confirm(node, script, seconds=0.5)
    assert script.calls.count("getSignatureStatuses") > 1


@pytest.mark.parametrize(
    "data", [None, {}, {"err": {"InstructionError": [0, {"Custom": 7}]}, "logs": ["why"]}]
)
async def test_a_refused_preflight_is_a_failure_whatever_its_data(node: Any, data: Any) -> None:
    script = ScriptedNode(
        sendTransaction=lambda: RpcError(-32002, "simulation failed", data),
        getSignatureStatuses=lambda: UNKNOWN,
        getEpochInfo=lambda: finalized(50),
    )
    with pytest.raises(TransactionFailed) as caught:
        await confirm(node, script)
    assert (caught.value.signature, caught.value.slot) == (SIGNATURE, None)
    if data:
        assert (caught.value.custom_code, caught.value.logs) == (7, ("why",))


@pytest.mark.parametrize(
    ("status", "may_be_done"), [(None, True), ("502 Bad Gateway", True), ("429 Too Many Requests", False)]
)
async def test_a_refusal_after_a_lost_answer_is_none(
    node: Any, status: str | None, may_be_done: bool
) -> None:
    """The first answer to the transaction is lost, or there was no room for the call; then preflight refuses it."""
    sent = 0

    def answer(request: dict[str, Any]) -> bytes:
        nonlocal sent
        match request["method"]:
            case "getEpochInfo":
                return result(finalized(50))(request)
            case "getSignatureStatuses":
                return result(UNKNOWN)(request)
        sent += 1
        if sent == 1:
            return b"" if status is None else http(b"", status)
        return error({"code": -32002, "message": "simulation failed"})(request)

    server = await node(answer)
    async with RpcClient(server.url, limits=Limits(confirmation_seconds=1.5)) as client:
        with pytest.raises(TransactionUnconfirmed if may_be_done else TransactionFailed):
            await client.send_and_confirm(WIRE, last_valid_block_height=100)
    assert sent == 2


# -- the real local K2


@pytest.fixture
async def k2(tmp_path: Path, nursery: trio.Nursery) -> AsyncIterator[RpcClient]:
    address = await nursery.start(partial(serve, LocalK2Settings(tmp_path, port=0, slot_ms=20, finality=4)))
    async with RpcClient(address.url) as client:
        yield client
    nursery.cancel_scope.cancel()


async def funded(client: RpcClient) -> Keypair:
    keypair = Keypair()
    await client.request_airdrop(bytes(keypair.pubkey()), KOII)
    while not await client.get_balance(bytes(keypair.pubkey())):
        await trio.sleep(0.01)
    return keypair


async def test_a_transfer_confirms_with_its_slot_and_fee_and_reads_back(k2: RpcClient) -> None:
    payer, to = await funded(k2), Keypair().pubkey()
    blockhash, last_valid = await k2.get_latest_blockhash()
    wire = transfer_wire(payer, to, 900_000, blockhash)
    message_fee = await k2.get_fee_for_message(wire[65:])
    landed = await k2.send_and_confirm(wire, last_valid_block_height=last_valid)
    assert landed.fee == message_fee == 5000
    assert landed == await k2.send_and_confirm(wire)  # sending again finds it
    record = await k2.get_transaction(landed.signature)
    assert record is not None
    assert (record.wire, record.slot, record.err) == (wire, landed.slot, None)
    assert [line.signature for line in await k2.get_signatures_for_address(bytes(to))] == [landed.signature]
    account = await k2.get_account(bytes(to))
    assert account is not None
    assert (account.lamports, account.owner) == (900_000, bytes(32))
    accounts = await k2.get_multiple_accounts([bytes(to), KEY] * 60)
    assert (len(accounts), accounts[0], accounts[1]) == (120, account, None)


async def test_a_failing_transfer_says_why_and_that_no_fee_was_taken(k2: RpcClient) -> None:
    payer = await funded(k2)
    blockhash, _ = await k2.get_latest_blockhash()
    with pytest.raises(TransactionFailed) as caught:
        await k2.send_and_confirm(transfer_wire(payer, Keypair().pubkey(), 10**15, blockhash))
    assert (caught.value.custom_code, caught.value.slot) == (1, None)
    assert any("insufficient lamports" in line for line in caught.value.logs)
    assert await k2.get_balance(bytes(payer.pubkey()), "processed") == KOII


async def test_a_failure_that_landed_names_its_slot(k2: RpcClient) -> None:
    payer = await funded(k2)
    blockhash, _ = await k2.get_latest_blockhash()
    wire = transfer_wire(payer, Keypair().pubkey(), 10**15, blockhash)
    await k2.send_transaction(wire, skip_preflight=True)
    with pytest.raises(TransactionFailed, match="the fee was taken") as caught:
        await k2.send_and_confirm(wire)
    assert caught.value.slot is not None
    assert await k2.get_balance(bytes(payer.pubkey()), "processed") == KOII - 5000


async def test_a_blockhash_the_chain_never_had_expires(k2: RpcClient) -> None:
    payer = await funded(k2)
    with pytest.raises(TransactionExpired):
        await k2.send_and_confirm(memo_wire(payer, b"x", bytes(32)))


async def test_slots_blocks_and_blockhashes(k2: RpcClient) -> None:
    assert await k2.get_health() == "ok"
    assert len(await k2.get_genesis_hash()) == 32
    while await k2.get_slot() < 3:
        await trio.sleep(0.01)
    found = await k2.get_first_block(2)
    assert found is not None
    assert found == (2, await k2.get_block_hash(2))
    assert await k2.get_first_block(10_000_000) is None
    assert await k2.get_block_hash(10_000_000) is None
    finalized_slot = await k2.get_slot("finalized")
    assert await k2.get_slot("processed") > finalized_slot
    height, slot = await k2.get_finalized()
    assert slot >= finalized_slot
    assert height <= slot
    assert await k2.get_minimum_balance_for_rent_exemption(0) == 890_880
