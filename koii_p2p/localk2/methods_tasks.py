"""JSON-RPC methods that only K2 has: the state of Koii tasks, in parts.

Shapes as `@_koii/web3.js` reads them (src/connection.ts): each answer is a value in its context; a state is
JSON text in base64 under `data`, one node's own stake or submission is a plain value there.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from typing import Any, Final

from solders.pubkey import Pubkey

from koii_p2p.localk2.methods_chain import Method, require_context_slot
from koii_p2p.localk2.params import INVALID_PARAMS, Options, Params, RpcFailure, invalid
from koii_p2p.localk2.rpc_node import RpcNode
from koii_p2p.localk2.shapes import contextual
from koii_p2p.localk2.task_reader import TaskState

ALL_ROUNDS: Final = -1
_SUBMISSION: Final = ("submissions", "submissions_audit_trigger")
_DISTRIBUTION: Final = (
    "distribution_rewards_submission",
    "distributions_audit_trigger",
    "distributions_audit_record",
)
_PARTS: Final[Mapping[str, tuple[str, ...]]] = {
    "submission": _SUBMISSION,
    "distribution": _DISTRIBUTION,
    "balance": ("available_balances",),
    "stake": ("stake_list",),
}
_ENCODINGS: Final = (None, "base64", "jsonParsed")


def _get_task_account_info(node: RpcNode, params: Params) -> Any:
    options = _options(node, params, 1)
    state = _state(node, params.key(0), options)
    if state is None:
        return contextual(node, None, options.commitment)
    # A part that was not asked for is empty, never absent.
    left_out: TaskState = {
        name: {} for part, names in _PARTS.items() if not options.boolean(part) for name in names
    }
    return contextual(node, _data({**state, **left_out}), options.commitment)


def _get_task_submission_info(node: RpcNode, params: Params) -> Any:
    return _rounds(node, params, _SUBMISSION)


def _get_task_distribution_info(node: RpcNode, params: Params) -> Any:
    return _rounds(node, params, _DISTRIBUTION)


def _rounds(node: RpcNode, params: Params, names: tuple[str, ...]) -> Any:
    options = _options(node, params, 1)
    wanted = _round(options)
    state = _state(node, params.key(0), options)
    if state is None:
        return contextual(node, None, options.commitment)
    parts = {name: _of_round(state[name], wanted) for name in names}
    return contextual(node, _data(parts), options.commitment)


def _get_my_task_stake_info(node: RpcNode, params: Params) -> Any:
    options = _options(node, params, 2)
    staker = str(params.key(1))
    state = _state(node, params.key(0), options)
    stake = None if state is None else state["stake_list"].get(staker)
    if stake is None:
        # Koii's node looks for these words.
        raise RpcFailure(INVALID_PARAMS, "No stake available on this task")
    return contextual(node, {"data": stake}, options.commitment)


def _get_my_task_submission_round_info(node: RpcNode, params: Params) -> Any:
    options = _options(node, params, 2)
    submitter = str(params.key(1))
    wanted = _round(options)
    state = _state(node, params.key(0), options)
    if state is None:
        return contextual(node, None, options.commitment)
    found = {
        name: submissions[submitter]
        for name, submissions in _of_round(state["submissions"], wanted).items()
        if submitter in submissions
    }
    data = found if wanted == ALL_ROUNDS else found.get(str(wanted))
    return contextual(node, {"data": data}, options.commitment)


def _options(node: RpcNode, params: Params, index: int) -> Options:
    options = params.options(index)
    require_context_slot(node, options)
    if options.text("encoding") not in _ENCODINGS:
        raise invalid("the encoding is base64 or jsonParsed here")
    return options


def _round(options: Options) -> int:
    return options.signed_integer("round", default=ALL_ROUNDS, at_least=ALL_ROUNDS)


def _of_round(rounds: Mapping[str, Any], wanted: int) -> dict[str, Any]:
    return {name: value for name, value in rounds.items() if wanted == ALL_ROUNDS or name == str(wanted)}


def _state(node: RpcNode, address: Pubkey, options: Options) -> TaskState | None:
    account = node.account(address, options.commitment)
    if account is None:
        return None
    for reader in node.task_readers:
        try:
            state = reader.read(address, account)
        except ValueError as error:
            raise RpcFailure(INVALID_PARAMS, f"The task account cannot be read: {error}") from error
        if state is not None:
            return state
    raise invalid(f"account {address} is not a task that can be read here; its owner is {account.owner}")


def _data(state: Mapping[str, Any]) -> dict[str, Any]:
    text = json.dumps(state, separators=(",", ":"), ensure_ascii=False)
    return {"data": [base64.b64encode(text.encode()).decode(), "base64"]}


METHODS: Final[Mapping[str, Method]] = {
    "getTaskAccountInfo": _get_task_account_info,
    "getTaskSubmissionInfo": _get_task_submission_info,
    "getTaskDistributionInfo": _get_task_distribution_info,
    "getMyTaskStakeInfo": _get_my_task_stake_info,
    "getMyTaskSubmissionRoundInfo": _get_my_task_submission_round_info,
}
