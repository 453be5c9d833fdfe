"""K2's own methods for tasks, over accounts in the forms that a task program keeps."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from solders.account import Account
from solders.keypair import Keypair
from solders.pubkey import Pubkey

from koii_p2p.limits import Limits
from koii_p2p.localk2.ledger import Ledger
from koii_p2p.localk2.rpc import LocalRpc
from koii_p2p.localk2.rpc_node import RpcNode
from koii_p2p.localk2.task_reader import KOII_TASK_PROGRAM, KPL_TASK_PROGRAM, JsonTaskReader, TaskState
from tests.localk2.chain import KOII, open_ledger

NODES = [str(Keypair.from_seed(bytes([index] * 32)).pubkey()) for index in range(3)]
STATE: TaskState = {
    "is_allowlisted": True,
    "is_active": True,
    "task_name": "hello-world             ",
    "total_bounty_amount": 10**10,
    "submissions": {
        "7": {
            NODES[0]: {"submission_value": "a", "slot": 90},
            NODES[1]: {"submission_value": "b", "slot": 91},
        },
        "8": {NODES[0]: {"submission_value": "c", "slot": 190}},
    },
    "submissions_audit_trigger": {"7": {NODES[1]: {"trigger_by": NODES[0], "slot": 95, "votes": []}}},
    "distribution_rewards_submission": {"6": {NODES[0]: {"submission_value": NODES[0], "slot": 92}}},
    "distributions_audit_trigger": {},
    "distributions_audit_record": {"6": "PayoutSuccessful"},
    "available_balances": {NODES[1]: 500},
    "stake_list": {NODES[0]: 2 * 10**9, NODES[1]: 10**9},
    "round_time": 600,
    "starting_slot": 0,
}


class Chain:
    def __init__(self, ledger: Ledger, node: RpcNode) -> None:
        self.rpc = LocalRpc(node, Limits())
        self._bank = ledger.bank

    def put(self, data: bytes, owner: Pubkey = KOII_TASK_PROGRAM) -> str:
        address = Keypair().pubkey()
        self._bank.restore([(bytes(address), Account(KOII, data, owner))])
        return str(address)

    def reply(self, method: str, *params: Any) -> dict[str, Any]:
        call = {"jsonrpc": "2.0", "id": 1, "method": method, "params": list(params)}
        return self.rpc.answer(call)

    def value(self, method: str, *params: Any) -> Any:
        reply = self.reply(method, *params)
        assert "error" not in reply, reply
        assert reply["result"]["context"]["slot"] >= 0
        return reply["result"]["value"]

    def state(self, method: str, *params: Any) -> Any:
        text, encoding = self.value(method, *params)["data"]
        assert encoding == "base64"
        return json.loads(base64.b64decode(text))


@pytest.fixture
def chain(tmp_path: Path) -> Iterator[Chain]:
    ledger = open_ledger(tmp_path)
    yield Chain(ledger, RpcNode(ledger))
    ledger.close()


@pytest.fixture
def task(chain: Chain) -> str:
    return chain.put(json.dumps(STATE).encode() + bytes(2000))


def test_parts_that_are_not_asked_for_are_empty_and_never_absent(chain: Chain, task: str) -> None:
    bare = chain.state("getTaskAccountInfo", task, {"encoding": "base64", "commitment": "confirmed"})
    assert bare["task_name"] == STATE["task_name"]
    for name in ("submissions", "distributions_audit_record", "available_balances", "stake_list"):
        assert bare[name] == {}
    every = {"submission": True, "distribution": True, "balance": True, "stake": True}
    whole = chain.state("getTaskAccountInfo", task, every)
    assert whole == {**STATE, "ip_address_list": {}}
    some = chain.state("getTaskAccountInfo", task, {"stake": True})
    assert (some["stake_list"], some["submissions"]) == (STATE["stake_list"], {})


def test_submissions_and_distributions_by_round(chain: Chain, task: str) -> None:
    names = {"submissions", "submissions_audit_trigger"}
    assert chain.state("getTaskSubmissionInfo", task, {"round": -1}) == {name: STATE[name] for name in names}
    seven = chain.state("getTaskSubmissionInfo", task, {"round": 7})
    assert seven == {name: {"7": STATE[name]["7"]} for name in names}
    assert chain.state("getTaskSubmissionInfo", task, {"round": 9}) == {name: {} for name in names}
    lists = chain.state("getTaskDistributionInfo", task, {"round": 6})
    assert lists["distributions_audit_record"] == {"6": "PayoutSuccessful"}
    assert lists["distribution_rewards_submission"]["6"][NODES[0]]["submission_value"] == NODES[0]
    assert set(lists) == {
        "distribution_rewards_submission",
        "distributions_audit_trigger",
        "distributions_audit_record",
    }


def test_my_stake_and_my_submissions(chain: Chain, task: str) -> None:
    assert chain.value("getMyTaskStakeInfo", task, NODES[1]) == {"data": 10**9}
    error = chain.reply("getMyTaskStakeInfo", task, NODES[2])["error"]
    assert "No stake available on this task" in error["message"]
    seven = chain.value("getMyTaskSubmissionRoundInfo", task, NODES[0], {"round": 7})
    assert seven == {"data": {"submission_value": "a", "slot": 90}}
    assert chain.value("getMyTaskSubmissionRoundInfo", task, NODES[1], {"round": 8}) == {"data": None}
    every = chain.value("getMyTaskSubmissionRoundInfo", task, NODES[0], {"round": -1})["data"]
    assert {name: one["submission_value"] for name, one in every.items()} == {"7": "a", "8": "c"}


def test_accounts_that_are_no_tasks(chain: Chain) -> None:
    nobody = str(Keypair().pubkey())
    assert chain.value("getTaskAccountInfo", nobody) is None
    assert chain.value("getTaskSubmissionInfo", nobody) is None
    foreign = chain.put(json.dumps(STATE).encode(), owner=Pubkey(bytes(32)))
    staking = chain.put(bytes(100))
    damaged = chain.put(b'{"is_allowlisted":true,"submissions":[')
    odd = chain.put(b'{"submissions":[]}')
    deep = chain.put(b'{"a":' + b"[" * 50_000)
    for address, words in (
        (foreign, "is not a task"),
        (staking, "is not a task"),
        (damaged, "cannot be read"),
        (odd, "not an object"),
        (deep, "cannot be read"),
    ):
        error = chain.reply("getTaskAccountInfo", address)["error"]
        assert error["code"] == -32602
        assert words in error["message"]
    assert chain.rpc.statistics().internal_errors == 0


@pytest.mark.parametrize(
    "options", [{"round": -2}, {"round": "7"}, {"encoding": "base58"}, {"submission": 1}]
)
def test_options_that_cannot_be_used_are_refused(chain: Chain, task: str, options: dict[str, Any]) -> None:
    method = "getTaskAccountInfo" if "submission" in options else "getTaskSubmissionInfo"
    assert chain.reply(method, task, options)["error"]["code"] == -32602


class OneNumberReader:
    """A stand-in for a reader of a program with its own layout: a little-endian stake of one node."""

    def read(self, address: Pubkey, account: Account) -> TaskState | None:
        if account.owner != KPL_TASK_PROGRAM:
            return None
        empty = JsonTaskReader().read(address, Account(1, b"{}", KOII_TASK_PROGRAM))
        assert empty is not None
        return {**empty, "stake_list": {NODES[0]: int.from_bytes(account.data, "little")}}


def test_a_reader_that_is_plugged_in_reads_its_programs_accounts(tmp_path: Path) -> None:
    ledger = open_ledger(tmp_path)
    chain = Chain(ledger, RpcNode(ledger, task_readers=[OneNumberReader()]))
    own = chain.put((77).to_bytes(8, "little"), owner=KPL_TASK_PROGRAM)
    text = chain.put(json.dumps(STATE).encode())
    assert chain.value("getMyTaskStakeInfo", own, NODES[0]) == {"data": 77}
    assert chain.value("getMyTaskStakeInfo", text, NODES[0]) == {"data": 2 * 10**9}
    ledger.close()
