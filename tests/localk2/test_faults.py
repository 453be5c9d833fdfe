"""The fault switches, one by one: at the node's methods, and on a running server."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio
from solders.keypair import Keypair
from trio_websocket import open_websocket_url

from koii_p2p.errors import ConfigurationError
from koii_p2p.limits import Limits
from koii_p2p.localk2 import LocalK2Address, LocalK2Settings, serve
from koii_p2p.localk2.faults import MOST_LAG_SLOTS, Faults, FaultSwitches
from koii_p2p.localk2.ledger import Ledger
from koii_p2p.localk2.rpc import LocalRpc
from koii_p2p.localk2.rpc_node import RpcNode
from koii_p2p.localk2.transactions import decode
from tests.localk2.chain import KOII, funded, memo_wire


class FaultyChain:
    """The methods of a ledger with faults, without sockets."""

    def __init__(self, path: Path, **faults: Any) -> None:
        settings = LocalK2Settings(path, port=0, finality=4, allow_faults=True)
        self.ledger = Ledger(settings, programs={}, limits=Limits())
        self.node = RpcNode(self.ledger, Faults(**faults))
        self.rpc = LocalRpc(self.node, Limits(), admin=True)

    def reply(self, method: str, *params: Any) -> dict[str, Any]:
        call = {"jsonrpc": "2.0", "id": 7, "method": method, "params": list(params)}
        return self.rpc.answer(call, stranger=None)

    def result(self, method: str, *params: Any) -> Any:
        reply = self.reply(method, *params)
        assert "error" not in reply, reply
        return reply["result"]

    def send(self, wire: bytes) -> Any:
        options = {"encoding": "base64", "skipPreflight": True}
        return self.result("sendTransaction", base64.b64encode(wire).decode(), options)

    def seal(self) -> None:
        self.node.before_seal()
        self.ledger.seal()

    def landed(self) -> list[bytes]:
        """The memos of the last sealed slot, in order."""
        stored = self.ledger.store.transactions_of(self.ledger.slot - 1)
        return [bytes(decode(one.wire).message.instructions[0].data) for one in stored]

    def blockhash(self) -> bytes:
        return self.ledger.latest_blockhash("confirmed")[0]


@pytest.fixture
def chain(tmp_path: Path) -> Iterator[Callable[..., FaultyChain]]:
    made: list[FaultyChain] = []

    def make(**faults: Any) -> FaultyChain:
        made.append(FaultyChain(tmp_path / str(len(made)), **faults))
        return made[-1]

    yield make
    for one in made:
        one.ledger.close()


def test_a_dropped_transaction_is_answered_as_taken_and_the_same_ones_are_dropped_again(
    chain: Callable[..., FaultyChain],
) -> None:
    fates = []
    for _ in range(2):
        one = chain(drop=0.3, seed=1)
        payer = funded(one.ledger)
        signatures = [one.send(memo_wire(payer, b"%d" % index, one.blockhash())) for index in range(100)]
        statuses = one.result("getSignatureStatuses", signatures)["value"]
        fates.append([status is None for status in statuses])
        assert one.node.switches.statistics().dropped_transactions == sum(fates[-1])
    assert fates[0] == fates[1]
    assert 15 < sum(fates[0]) < 45
    other = chain(drop=0.3, seed=2)
    payer = funded(other.ledger)
    signatures = [other.send(memo_wire(payer, b"%d" % index, other.blockhash())) for index in range(100)]
    assert [one is None for one in other.result("getSignatureStatuses", signatures)["value"]] != fates[0]


def test_a_lagging_node_answers_as_of_then_and_passes_transactions_on(
    chain: Callable[..., FaultyChain],
) -> None:
    one = chain(lag=5)
    for _ in range(20):
        one.seal()
    to = Keypair().pubkey()
    old = one.blockhash()
    one.ledger.airdrop(to, KOII)
    signature = one.send(memo_wire(funded(one.ledger), b"new", one.blockhash()))
    slot = one.ledger.slot
    levels = ("processed", "confirmed", "finalized")

    def seen() -> tuple[Any, ...]:
        options = [{"commitment": level} for level in levels]
        balances = [one.result("getBalance", str(to), option)["value"] // KOII for option in options]
        status = one.result("getSignatureStatuses", [signature])["value"][0]
        return (*balances, None if status is None else status["confirmationStatus"])

    assert [one.result("getSlot", {"commitment": level}) for level in levels] == [
        slot - 5,
        slot - 6,
        slot - 10,
    ]
    assert seen() == (0, 0, 0, None)
    assert one.ledger.account(to, "processed") is not None  # it did land
    for _ in range(5):
        one.seal()
    assert seen() == (1, 0, 0, "processed")
    one.seal()
    assert seen() == (1, 1, 0, "confirmed")
    for _ in range(4):
        one.seal()
    assert seen() == (1, 1, 1, "finalized")
    # A blockhash that is newer than what the node knows is unknown to it.
    fresh = memo_wire(funded(one.ledger), b"fresh", one.blockhash())
    text = base64.b64encode(fresh).decode()
    refused = one.reply("sendTransaction", text, {"encoding": "base64"})["error"]
    assert (refused["code"], refused["data"]["err"]) == (-32002, "BlockhashNotFound")
    assert one.result("getLatestBlockhash")["value"]["blockhash"] != str(old)
    context = one.result("getBalance", str(to))["context"]["slot"]
    assert context == one.ledger.slot_at("finalized") - 5


def test_an_old_state_is_kept_for_the_longest_lag(chain: Callable[..., FaultyChain]) -> None:
    one = chain(lag=MOST_LAG_SLOTS)
    to = Keypair().pubkey()
    one.ledger.airdrop(to, KOII)
    landed = one.ledger.slot
    one.seal()
    while one.ledger.slot_at("finalized") - MOST_LAG_SLOTS < landed:
        assert one.result("getBalance", str(to))["value"] == 0
        one.seal()
    assert one.result("getBalance", str(to))["value"] == KOII


def test_delayed_transactions_land_slots_later_in_their_order(chain: Callable[..., FaultyChain]) -> None:
    one = chain(delay_slots=2)
    payer = funded(one.ledger)
    one.seal()
    sent = [one.send(memo_wire(payer, b"%d" % index, one.blockhash())) for index in range(5)]
    landed = []
    for _ in range(4):
        one.seal()
        landed.append(len(one.landed()))
    assert landed == [0, 0, 5, 0]
    slot = one.result("getSignatureStatuses", sent)["value"][0]["slot"]
    block = one.result("getBlock", slot, {"commitment": "confirmed", "transactionDetails": "signatures"})
    assert block["signatures"] == sent


def test_reordered_transactions_land_in_an_order_drawn_from_the_seed(
    chain: Callable[..., FaultyChain],
) -> None:
    orders = []
    for seed in (1, 1, 2):
        one = chain(reorder=True, seed=seed)
        payer = funded(one.ledger)
        one.seal()
        for index in range(8):
            one.send(memo_wire(payer, b"%d" % index, one.blockhash()))
        one.seal()
        orders.append(one.landed())
    assert len(orders[0]) == 8
    assert orders[0] == orders[1] != orders[2]
    assert orders[0] != sorted(orders[0])


@pytest.mark.parametrize(("faults", "behind"), [({"unhealthy": True}, None), ({"lag": 200}, 200)])
def test_an_unhealthy_node_says_so_and_takes_no_transaction_with_preflight(
    chain: Callable[..., FaultyChain], faults: dict[str, Any], behind: int | None
) -> None:
    one = chain(**faults)
    error = one.reply("getHealth")["error"]
    assert (error["code"], error["data"]) == (-32005, {"numSlotsBehind": behind})
    wire = base64.b64encode(memo_wire(funded(one.ledger), b"x", one.blockhash())).decode()
    assert one.reply("sendTransaction", wire, {"encoding": "base64"})["error"]["code"] == -32005
    assert one.result("clearFaults")["faults"] == Faults().as_json()
    assert one.result("getHealth") == "ok"


def test_history_is_pruned_at_once_and_kept_short(chain: Callable[..., FaultyChain]) -> None:
    one = chain()
    payer = funded(one.ledger)
    signature = one.send(memo_wire(payer, b"x", one.blockhash()))
    for _ in range(40):
        one.seal()
    assert one.result("getTransaction", signature) is not None
    assert one.result("pruneHistory", 30) == {"firstSlot": 30}
    assert one.result("getTransaction", signature) is None
    assert one.result("getSignaturesForAddress", str(payer.pubkey())) == []
    assert one.result("getFirstAvailableBlock") == 30
    assert one.reply("getBlock", 5)["error"]["code"] == -32001
    one.result("setFaults", {"history": 8})
    for _ in range(20):
        one.seal()
    assert one.ledger.slot - 10 <= one.result("getFirstAvailableBlock") <= one.ledger.slot - 8
    oldest = one.result("getFirstAvailableBlock")
    one.result("clearFaults")
    for _ in range(20):
        one.seal()
    assert one.result("getFirstAvailableBlock") == oldest
    # What is not finalized is never forgotten, whatever is asked for.
    assert one.result("pruneHistory", 10**6) == {"firstSlot": one.ledger.slot_at("finalized")}


def test_rolling_back_over_the_admin_method(chain: Callable[..., FaultyChain]) -> None:
    one = chain()
    for _ in range(8):
        one.seal()
    to = Keypair().pubkey()
    one.ledger.airdrop(to, KOII)
    base = one.ledger.slot - 1
    one.seal()
    one.seal()
    assert one.result("rollBack", 2, {"landAgain": 0}) == {"slot": base, "undone": 1, "landedAgain": 0}
    assert one.result("getBalance", str(to), {"commitment": "processed"})["value"] == 0
    confirmed = {"commitment": "confirmed"}
    assert one.result("getSlot", confirmed) == base
    assert one.reply("getBlock", base + 1, confirmed)["error"]["code"] == -32007
    one.seal()
    assert one.result("getBlocks", base, base + 9, confirmed) == [base, base + 3]
    heights = [one.result(name, confirmed) for name in ("getSlot", "getBlockHeight")]
    assert heights == [base + 3, base + 1]
    assert one.result("getEpochInfo", confirmed)["blockHeight"] == base + 1
    assert "cannot be rolled back" in one.reply("rollBack", 50)["error"]["message"]


@pytest.mark.parametrize(
    "values",
    [
        {"drop": 2}, {"drop": True}, {"drop": "0.2"}, {"lag": -1}, {"lag": MOST_LAG_SLOTS + 1}, {"lag": 1.5},
        {"wrong": "id"}, {"wrong": ["all"]}, {"rate": 0}, {"history": 0}, {"unhealthy": 1}, {"seed": -1},
        {"drops": 0.2}, [], 7, None,
    ],
)  # fmt: skip
def test_faults_that_do_not_exist_are_refused_and_change_nothing(
    chain: Callable[..., FaultyChain], values: Any
) -> None:
    one = chain(lag=3)
    with pytest.raises(ConfigurationError, match="not possible"):
        Faults().changed(values)
    assert one.reply("setFaults", values)["error"]["code"] == -32602
    assert one.node.switches.now == Faults(lag=3)


def test_each_wrong_reply_is_wrong_in_its_way() -> None:
    account = {"lamports": 5, "data": ["", "base64"], "owner": "x"}
    results: list[Any] = [
        {"context": {"slot": 1}, "value": account},
        {"context": {"slot": 1}, "value": 5},
        [{"pubkey": "k", "account": account}],
        {"context": {"slot": 1}, "value": [None, account]},
    ]
    for value in results:
        right = {"jsonrpc": "2.0", "id": 1, "result": value}
        wrong = json.loads(FaultSwitches(Faults(wrong=("account",))).spoiled(right))
        assert wrong["id"] == 1
        assert json.dumps(wrong["result"]) == json.dumps(value).replace(": 5", ": 1000000005")
        other = json.loads(FaultSwitches(Faults(wrong=("id",))).spoiled([right, right]))
        assert [one["id"] for one in other] == [2, 2]
        cut = FaultSwitches(Faults(wrong=("malformed",))).spoiled(right)
        with pytest.raises(ValueError):
            json.loads(cut)
        assert json.loads(FaultSwitches(Faults(wrong=("id",), wrong_share=0)).spoiled(right)) == right


# -- a running server


async def start(nursery: trio.Nursery, path: Path, **settings: Any) -> LocalK2Address:
    asked = {"port": 0, "slot_ms": 20, "finality": 4, "allow_faults": True, **settings}
    address: LocalK2Address = await nursery.start(partial(serve, LocalK2Settings(path, **asked)))
    return address


def call(method: str, *params: Any) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": 1, "method": method, "params": list(params)}


async def test_the_rate_limit_answers_429_with_retry_after_and_lets_admin_methods_through(
    tmp_path: Path, nursery: trio.Nursery
) -> None:
    address = await start(nursery, tmp_path, faults=Faults(rate=3))
    async with httpx.AsyncClient() as browser:
        replies = [await browser.post(address.url, json=call("getSlot")) for _ in range(8)]
        limited = [reply for reply in replies if reply.status_code == 429]
        assert [reply.status_code for reply in replies[:3]] == [200, 200, 200]
        assert limited
        assert {reply.headers["retry-after"] for reply in limited} == {"1"}
        assert limited[0].json()["error"]["code"] == 429
        found = (await browser.post(address.url, json=call("getFaults"))).json()["result"]
        assert found["statistics"]["over_rate"] == len(limited)
        await browser.post(address.url, json=call("clearFaults"))
        after = [await browser.post(address.url, json=call("getSlot")) for _ in range(8)]
        assert {reply.status_code for reply in after} == {200}


async def test_a_dropped_request_is_never_answered_and_a_delayed_one_is_later(
    tmp_path: Path, nursery: trio.Nursery
) -> None:
    address = await start(nursery, tmp_path, faults=Faults(drop_requests=1.0))
    async with httpx.AsyncClient(timeout=0.5) as browser:
        with pytest.raises(httpx.ReadTimeout):
            await browser.post(address.url, json=call("getSlot"))
        await browser.post(address.url, json=call("setFaults", {"drop_requests": 0, "delay_ms": 300}))
        begun = trio.current_time()
        assert (await browser.post(address.url, json=call("getSlot"))).status_code == 200
        assert trio.current_time() - begun >= 0.3
        found = (await browser.post(address.url, json=call("getFaults"))).json()["result"]
        assert found["statistics"]["dropped_requests"] == 1
    nursery.cancel_scope.cancel()


async def test_faults_reach_a_websocket_too(tmp_path: Path, nursery: trio.Nursery) -> None:
    address = await start(nursery, tmp_path, faults=Faults(drop_requests=1.0))
    async with open_websocket_url(address.ws) as opened:
        await opened.send_message(json.dumps(call("getSlot")))
        await opened.send_message(json.dumps(call("setFaults", {"drop_requests": 0, "rate": 1})))
        # The first answer is to the second call: the first call was lost.
        assert json.loads(await opened.get_message())["result"]["statistics"]["dropped_requests"] == 1
        await opened.send_message(json.dumps(call("getSlot")))
        assert "result" in json.loads(await opened.get_message())
        await opened.send_message(json.dumps(call("getSlot")))
        assert json.loads(await opened.get_message())["error"]["code"] == 429


async def test_the_health_page_uses_the_words_of_real_nodes(tmp_path: Path, nursery: trio.Nursery) -> None:
    address = await start(nursery, tmp_path)
    async with httpx.AsyncClient() as browser:
        words = []
        for faults in ({}, {"unhealthy": True}, {"unhealthy": False, "lag": 200}):
            await browser.post(address.url, json=call("setFaults", faults))
            words.append((await browser.get(f"{address.url}/health")).text)
    assert words == ["ok", "unknown", "behind"]


async def test_admin_methods_need_the_flag_and_are_not_for_browser_pages(
    tmp_path: Path, nursery: trio.Nursery
) -> None:
    closed = await start(nursery, tmp_path / "closed", allow_faults=False)
    opened = await start(nursery, tmp_path / "opened")
    async with httpx.AsyncClient() as browser:
        for method in ("setFaults", "clearFaults", "getFaults", "rollBack", "pruneHistory"):
            error = (await browser.post(closed.url, json=call(method, {}))).json()["error"]
            assert error["code"] == -32050
            assert "--allow-faults" in error["message"]
        page = {"origin": "http://example.org"}
        error = (await browser.post(opened.url, json=call("getFaults"), headers=page)).json()["error"]
        assert (error["code"], "browser" in error["message"]) == (-32050, True)
        # In a batch, admin methods have no caller that is known.
        batch = (await browser.post(opened.url, json=[call("getFaults")])).json()
        assert batch[0]["error"]["code"] == -32050
        assert "result" in (await browser.post(opened.url, json=call("getFaults"))).json()


async def test_a_transfer_is_seen_by_a_lagging_reader_later(tmp_path: Path, nursery: trio.Nursery) -> None:
    address = await start(nursery, tmp_path, slot_ms=50, faults=Faults(lag=20))
    to = str(Keypair().pubkey())
    async with httpx.AsyncClient() as browser:
        await browser.post(address.url, json=call("requestAirdrop", to, KOII))
        asked = call("getBalance", to, {"commitment": "processed"})
        seen = [(await browser.post(address.url, json=asked)).json()["result"]["value"]]
        with trio.fail_after(10):
            while not seen[-1]:
                await trio.sleep(0.05)
                seen.append((await browser.post(address.url, json=asked)).json()["result"]["value"])
    assert (seen[0], seen[-1]) == (0, KOII)
