"""The JSON-RPC methods on a ledger, without sockets: shapes and refusals."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import base58
import pytest
from solders.hash import Hash
from solders.keypair import Keypair
from solders.message import Message
from solders.signature import Signature
from solders.system_program import TransferParams, transfer
from solders.transaction import VersionedTransaction

from koii_p2p.limits import Limits
from koii_p2p.localk2.ledger import Ledger
from koii_p2p.localk2.rpc import METHODS, LocalRpc
from koii_p2p.localk2.rpc_node import RpcNode
from tests.localk2.chain import KOII, MEMO, funded, memo_wire, open_ledger, transfer_wire


class Chain:
    def __init__(self, path: Path) -> None:
        self.ledger: Ledger = open_ledger(path, finality=2)
        self.rpc = LocalRpc(RpcNode(self.ledger), Limits())

    def reply(self, method: str, *params: Any) -> dict[str, Any]:
        return self.rpc.answer({"jsonrpc": "2.0", "id": 7, "method": method, "params": list(params)})

    def result(self, method: str, *params: Any) -> Any:
        reply = self.reply(method, *params)
        assert reply["id"] == 7
        assert "error" not in reply, reply
        return reply["result"]

    def error(self, method: str, *params: Any) -> dict[str, Any]:
        error: dict[str, Any] = self.reply(method, *params)["error"]
        return error

    def send(self, wire: bytes, **options: Any) -> Any:
        text = base64.b64encode(wire).decode()
        return self.result("sendTransaction", text, {"encoding": "base64", **options})

    def blockhash(self) -> bytes:
        return self.ledger.latest_blockhash("confirmed")[0]


@pytest.fixture
def chain(tmp_path: Path) -> Iterator[Chain]:
    made = Chain(tmp_path)
    for _ in range(5):
        made.ledger.seal()
    yield made
    made.ledger.close()


NO_PARAMETERS = [
    "getHealth", "getVersion", "getGenesisHash", "getIdentity", "getSlotLeader", "getSlot", "getBlockHeight",
    "minimumLedgerSlot", "getFirstAvailableBlock", "getTransactionCount", "getEpochInfo", "getEpochSchedule",
    "getLatestBlockhash", "getRecentPrioritizationFees",
]  # fmt: skip


@pytest.mark.parametrize("method", NO_PARAMETERS)
def test_methods_without_parameters_answer(chain: Chain, method: str) -> None:
    assert chain.result(method) is not None


def test_every_method_refuses_parameters_of_the_wrong_type_without_an_internal_error(chain: Chain) -> None:
    hostile: list[Any] = [
        None, True, -1, 2**64, 1.5, "", "0OIl", "1" * 5000, [], [[]], [None] * 300, {}, {"encoding": 7},
        {"commitment": "soon"}, {"commitment": 3}, {"filters": [{"memcmp": {}}]}, {"filters": [1]},
        {"limit": 0}, {"minContextSlot": -1}, {"dataSlice": {}}, {"transactionDetails": "some"},
    ]  # fmt: skip
    key = str(Keypair().pubkey())
    for method in METHODS:
        for value in hostile:
            for params in (
                [value],
                [value, value],
                [key, value],
                [str(Signature.default()), value],
                [1, value],
            ):
                reply = chain.reply(method, *params)
                assert ("result" in reply) != ("error" in reply)
    assert chain.rpc.statistics().internal_errors == 0


def test_slots_by_commitment_and_the_minimum_context_slot(chain: Chain) -> None:
    slots = [
        chain.result("getSlot", {"commitment": level}) for level in ("processed", "confirmed", "finalized")
    ]
    assert slots == [6, 5, 3]
    assert chain.result("getSlot") == 3
    error = chain.error("getSlot", {"minContextSlot": 4})
    assert (error["code"], error["data"]) == (-32016, {"contextSlot": 3})


def test_blocks_are_linked_and_hold_their_transactions(chain: Chain) -> None:
    payer = funded(chain.ledger)
    chain.ledger.seal()
    signature = chain.send(memo_wire(payer, b"hello", chain.blockhash()))
    slot = chain.ledger.slot
    chain.ledger.seal()
    confirmed = {"commitment": "confirmed"}
    block = chain.result("getBlock", slot, {**confirmed, "transactionDetails": "signatures"})
    assert block["signatures"] == [signature]
    before = chain.result("getBlock", slot - 1, {**confirmed, "transactionDetails": "none"})
    assert block["previousBlockhash"] == before["blockhash"]
    assert block["parentSlot"] == slot - 1
    full = chain.result("getBlock", slot, confirmed)
    assert full["transactions"][0]["transaction"]["signatures"] == [signature]
    assert chain.result("getBlocks", 2, 4, confirmed) == [2, 3, 4]
    assert chain.result("getBlocks", slot - 1, confirmed) == [slot - 1, slot]
    assert chain.result("getBlocksWithLimit", 2, 2, confirmed) == [2, 3]
    assert chain.result("getBlocksWithLimit", slot + 10, 1, confirmed) == []
    assert chain.error("getBlock", slot)["code"] == -32004  # not finalized yet
    assert chain.error("getBlock", slot + 9, confirmed)["code"] == -32004
    assert chain.result("getBlockTime", slot) == block["blockTime"]


def test_an_accounts_data_in_each_encoding(chain: Chain) -> None:
    processed = {"commitment": "processed"}
    memo = chain.result("getAccountInfo", str(MEMO), {**processed, "encoding": "base64"})["value"]
    assert memo["executable"] is True
    assert memo["data"][1] == "base64"
    assert memo["space"] == len(base64.b64decode(memo["data"][0]))
    part = {**processed, "encoding": "base58", "dataSlice": {"offset": 0, "length": 4}}
    sliced = chain.result("getAccountInfo", str(MEMO), part)["value"]
    assert base58.b58decode(sliced["data"][0]) == b"\x7fELF"
    assert chain.error("getAccountInfo", str(MEMO), {**processed, "encoding": "base58"})["code"] == -32600
    assert chain.result("getAccountInfo", str(Keypair().pubkey()), processed)["value"] is None
    many = chain.result("getMultipleAccounts", [str(MEMO), str(Keypair().pubkey())], processed)["value"]
    assert [item is None for item in many] == [False, True]
    assert chain.error("getMultipleAccounts", [str(MEMO)] * 101, processed)["code"] == -32602


def test_sending_is_refused_as_real_nodes_refuse(chain: Chain) -> None:
    payer = funded(chain.ledger)
    good = memo_wire(payer, b"once", chain.blockhash())
    encoded = {"encoding": "base64"}

    def refused(wire: bytes, **options: Any) -> dict[str, Any]:
        return chain.error("sendTransaction", base64.b64encode(wire).decode(), {**encoded, **options})

    chain.send(good)
    again = refused(good)
    assert (again["code"], again["data"]["err"]) == (-32002, "AlreadyProcessed")
    unknown = refused(memo_wire(payer, b"x", bytes(32)))
    assert (unknown["code"], unknown["data"]["err"]) == (-32002, "BlockhashNotFound")
    poor = refused(transfer_wire(payer, payer.pubkey(), 10**15, chain.blockhash()))
    assert poor["data"]["err"] == {"InstructionError": [0, {"Custom": 1}]}
    assert any("insufficient lamports" in line for line in poor["data"]["logs"])
    forged = bytearray(good)
    forged[5] ^= 1
    assert refused(bytes(forged))["code"] == -32003
    assert refused(b"\x01\x02")["code"] == -32602
    assert "too large" in refused(bytes(1233))["message"]
    # Without preflight a failing transaction lands, and a duplicate is silently taken.
    assert chain.send(transfer_wire(payer, payer.pubkey(), 10**15, chain.blockhash()), skipPreflight=True)
    assert chain.send(good, skipPreflight=True)


def test_a_transaction_can_be_looked_up_in_every_encoding(chain: Chain) -> None:
    payer = funded(chain.ledger)
    wire = memo_wire(payer, b"from a test", chain.blockhash(), version_0=True)
    signature = chain.send(wire)
    status = chain.result("getSignatureStatuses", [signature, str(Signature.default())])["value"]
    assert status[1] is None
    assert (status[0]["confirmationStatus"], status[0]["status"]) == ("processed", {"Ok": None})
    options = {"commitment": "confirmed", "maxSupportedTransactionVersion": 0}
    assert chain.result("getTransaction", signature, options) is None
    chain.ledger.seal()
    raw = chain.result("getTransaction", signature, {**options, "encoding": "base64"})
    assert base64.b64decode(raw["transaction"][0]) == wire
    assert (raw["meta"]["fee"], raw["version"]) == (5000, 0)
    parsed = chain.result("getTransaction", signature, {**options, "encoding": "jsonParsed"})
    assert parsed["transaction"]["message"]["instructions"][0]["parsed"] == "from a test"
    plain = chain.result("getTransaction", signature, options)
    assert plain["transaction"]["message"]["header"]["numRequiredSignatures"] == 1
    assert chain.error("getTransaction", signature, {"commitment": "confirmed"})["code"] == -32015


def test_an_addresses_history_is_paged_newest_first(chain: Chain) -> None:
    payer = funded(chain.ledger)
    names = []
    for index in range(7):
        names.append(chain.send(memo_wire(payer, b"%d" % index, chain.blockhash())))
        if index % 3 == 2:
            chain.ledger.seal()
    chain.ledger.seal()
    address, level = str(payer.pubkey()), {"commitment": "confirmed"}

    def page(**options: Any) -> list[str]:
        lines = chain.result("getSignaturesForAddress", address, {**level, **options})
        return [line["signature"] for line in lines]

    newest_first = names[::-1]
    assert page()[:-1] == newest_first  # the last line is the airdrop
    assert page(limit=3) == newest_first[:3]
    assert page(before=newest_first[2], limit=2) == newest_first[3:5]
    assert page(until=newest_first[2]) == newest_first[:2]
    lines = chain.result("getSignaturesForAddress", address, {**level, "limit": 1})
    assert lines[0]["memo"] == "[1] 6"


def test_simulation_changes_nothing_and_needs_no_signature(chain: Chain) -> None:
    payer, to = funded(chain.ledger), Keypair().pubkey()
    payment = transfer(TransferParams(from_pubkey=payer.pubkey(), to_pubkey=to, lamports=KOII))
    message = Message.new_with_blockhash([payment], payer.pubkey(), Hash.default())
    unsigned = bytes(VersionedTransaction.populate(message, [Signature.default()]))
    text, encoded = base64.b64encode(unsigned).decode(), {"encoding": "base64"}
    unknown = chain.result("simulateTransaction", text, encoded)["value"]
    assert unknown["err"] == "BlockhashNotFound"
    asked = {**encoded, "replaceRecentBlockhash": True, "accounts": {"addresses": [str(to)]}}
    value = chain.result("simulateTransaction", text, asked)["value"]
    assert (value["err"], value["accounts"][0]["lamports"]) == (None, KOII)
    assert chain.result("getBalance", str(to), {"commitment": "processed"})["value"] == 0
    assert chain.error("simulateTransaction", text, {**encoded, "sigVerify": True})["code"] == -32003


def test_the_fee_of_a_message_until_its_blockhash_expires(chain: Chain) -> None:
    payer = funded(chain.ledger)
    message = VersionedTransaction.from_bytes(memo_wire(payer, b"x", chain.blockhash())).message
    text = base64.b64encode(bytes(message)).decode()
    assert chain.result("getFeeForMessage", text)["value"] == 5000
    for _ in range(151):
        chain.ledger.seal()
    assert chain.result("getFeeForMessage", text)["value"] is None


def test_an_airdrop_twice_in_one_slot_pays_twice_and_beyond_the_faucet_is_refused(chain: Chain) -> None:
    to = str(Keypair().pubkey())
    names = {chain.result("requestAirdrop", to, KOII) for _ in range(3)}
    assert len(names) == 3
    assert chain.result("getBalance", to, {"commitment": "processed"})["value"] == 3 * KOII
    refused = chain.error("requestAirdrop", to, 2**63)
    assert refused["code"] == -32603
    assert "Airdrop failed" in refused["message"]


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"", -32700),
        (b"{", -32700),
        (b"[" * 20_000, -32700),
        (b"[]", -32600),
        (b"7", -32600),
        (b'{"method":"getSlot"}', -32600),
        (b'{"jsonrpc":"2.0","id":1}', -32600),
        (b'{"jsonrpc":"2.0","id":1,"method":"__init__"}', -32601),
        (b'{"jsonrpc":"2.0","id":1,"method":"getSlot","params":{}}', -32602),
        (b"[" + b",".join([b"{}"] * 65) + b"]", -32600),
    ],
)
def test_bodies_that_are_not_calls(chain: Chain, body: bytes, code: int) -> None:
    reply = chain.rpc.answer_text(body)
    assert isinstance(reply, dict)
    assert reply["error"]["code"] == code


def test_a_batch_is_answered_in_order(chain: Chain) -> None:
    body = b'[{"jsonrpc":"2.0","id":1,"method":"getHealth"},3,{"jsonrpc":"2.0","id":"b","method":"getSlot"}]'
    replies = chain.rpc.answer_text(body)
    assert isinstance(replies, list)
    assert [reply["id"] for reply in replies] == [1, None, "b"]
    assert replies[0]["result"] == "ok"
