"""JSON-RPC methods that send, simulate and look up transactions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from solders.hash import Hash
from solders.message import Message, MessageV0, from_bytes_versioned

from koii_p2p.localk2.bank import Simulation, UnknownLookupTable
from koii_p2p.localk2.ledger import BLOCKHASH_SLOTS, SlotFull, Status
from koii_p2p.localk2.methods_chain import Method, require_context_slot
from koii_p2p.localk2.params import (
    INTERNAL_ERROR,
    NODE_UNHEALTHY,
    PREFLIGHT_FAILURE,
    SIGNATURE_FAILURE,
    Options,
    Params,
    RpcFailure,
    base64_bytes,
    invalid,
    key_of,
    signature_of,
    transaction_bytes,
)
from koii_p2p.localk2.rpc_node import RpcNode
from koii_p2p.localk2.shapes import account_json, contextual, transaction_json
from koii_p2p.localk2.transactions import (
    PACKET_BYTES,
    Incoming,
    MalformedTransaction,
    decode,
    error_text,
    signature_text,
)

_STATUSES_PER_CALL: Final = 256
_HISTORY_PER_CALL: Final = 1000
_SIMULATED_ACCOUNTS: Final = 32
_NOTHING: Final = Simulation(None, (), 0, 0, None, {})


def _request_airdrop(node: RpcNode, params: Params) -> Any:
    try:
        signature, err = node.airdrop(params.key(0), params.integer(1))
    except SlotFull as error:
        raise _slot_full() from error
    if err is not None:
        raise RpcFailure(INTERNAL_ERROR, f"Airdrop failed: {error_text(err)}", {"err": err})
    return signature_text(signature)


def _send_transaction(node: RpcNode, params: Params) -> Any:
    options = params.options(1)
    incoming = _incoming(params, options)
    if not incoming.signed():
        raise RpcFailure(SIGNATURE_FAILURE, "Transaction signature verification failure")
    if not options.boolean("skipPreflight"):
        _preflight(node, incoming)
    try:
        node.submit(incoming)
    except SlotFull as error:
        raise _slot_full() from error
    except UnknownLookupTable as error:
        raise invalid(str(error)) from error
    # As on a real node, the answer says that it was taken; only the status tells what became of it.
    return signature_text(incoming.signature)


def _simulate_transaction(node: RpcNode, params: Params) -> Any:
    options = params.options(1)
    incoming = _incoming(params, options)
    check_signatures = options.boolean("sigVerify")
    replace_blockhash = options.boolean("replaceRecentBlockhash")
    if check_signatures and replace_blockhash:
        raise invalid("sigVerify may not be used with replaceRecentBlockhash")
    if check_signatures and not incoming.signed():
        raise RpcFailure(SIGNATURE_FAILURE, "Transaction signature verification failure")
    value = _NOTHING
    err: Any = None
    replacement = None
    if replace_blockhash:
        blockhash, last_valid = node.latest_blockhash("processed")
        replacement = {"blockhash": str(Hash(blockhash)), "lastValidBlockHeight": last_valid}
    elif not node.blockhash_valid(incoming.blockhash):
        err = "BlockhashNotFound"
    if err is None:
        value = node.simulate(incoming.transaction, check_signatures=False)
        err = value.err
    result = {
        "err": err,
        "logs": list(value.logs),
        "accounts": _simulated_accounts(node, options, value),
        "unitsConsumed": value.compute_units,
        "innerInstructions": None,
        "replacementBlockhash": replacement,
        "returnData": value.return_data,
    }
    return contextual(node, result, "processed")


def _get_fee_for_message(node: RpcNode, params: Params) -> Any:
    text = params.text(0)
    if len(text) > 2 * PACKET_BYTES:
        raise invalid("the message is too large")
    try:
        message = from_bytes_versioned(base64_bytes(text))
    except ValueError as error:
        raise invalid(f"failed to deserialize message: {error}") from error
    if not isinstance(message, Message | MessageV0):
        raise invalid("only legacy and version 0 messages are known here")
    commitment = params.options(1).commitment
    if not node.blockhash_valid(bytes(message.recent_blockhash)):
        return contextual(node, None, commitment)
    return contextual(node, node.bank.fee_of(message), commitment)


def _get_signature_statuses(node: RpcNode, params: Params) -> Any:
    signatures = [signature_of(item) for item in params.items(0, at_most=_STATUSES_PER_CALL)]
    history = params.options(1).boolean("searchTransactionHistory")
    found = [node.status(signature, search_history=history) for signature in signatures]
    return contextual(node, [_status_json(node, one) for one in found], "processed")


def _get_transaction(node: RpcNode, params: Params) -> Any:
    options = params.options(1)
    stored = node.store.transaction(params.signature(0))
    if stored is None or stored.slot > node.slot_at(options.settled()):
        return None
    return {"slot": stored.slot, "blockTime": stored.block_time, **transaction_json(stored, options)}


def _get_signatures_for_address(node: RpcNode, params: Params) -> Any:
    options = params.options(1)
    require_context_slot(node, options)
    limit = options.integer("limit")
    limit = _HISTORY_PER_CALL if limit is None else limit
    if not 1 <= limit <= _HISTORY_PER_CALL:
        raise invalid(f"Invalid limit; max {_HISTORY_PER_CALL}")
    lines = node.store.history(
        bytes(params.key(0)),
        node.slot_at(options.settled()),
        limit,
        before=options.signature("before"),
        until=options.signature("until"),
    )
    return [
        {
            "signature": signature_text(line.signature),
            "slot": line.slot,
            "err": line.err,
            "memo": line.memo,
            "blockTime": line.block_time,
            "confirmationStatus": node.commitment_of(line.slot),
        }
        for line in lines
    ]


def _incoming(params: Params, options: Options) -> Incoming:
    wire = transaction_bytes(params.text(0), options.text("encoding") or "base58")
    try:
        return decode(wire)
    except MalformedTransaction as error:
        raise invalid(str(error)) from error


def _preflight(node: RpcNode, incoming: Incoming) -> None:
    node.check_health()
    err: Any = node.obstacle(incoming)
    value = _NOTHING
    if err is None:
        value = node.simulate(incoming.transaction, check_signatures=True)
        err = value.err
    if err is None:
        return
    data = {
        "err": err,
        "logs": list(value.logs),
        "accounts": None,
        "unitsConsumed": value.compute_units,
        "innerInstructions": None,
        "returnData": value.return_data,
        "replacementBlockhash": None,
        "loadedAccountsDataSize": 0,
    }
    raise RpcFailure(PREFLIGHT_FAILURE, f"Transaction simulation failed: {error_text(err)}", data)


def _simulated_accounts(node: RpcNode, options: Options, value: Simulation) -> list[Any] | None:
    wanted = options.options("accounts")
    if wanted is None:
        return None
    keys = [key_of(item) for item in wanted.items("addresses", _SIMULATED_ACCOUNTS)]
    found = [value.accounts.get(key) or node.account(key, "processed") for key in keys]
    return [account_json(account, wanted, "base64") for account in found]


def _status_json(node: RpcNode, status: Status | None) -> Any:
    if status is None:
        return None
    level = node.commitment_of(status.slot)
    confirmations = min(max(node.slot - status.slot - 1, 0), BLOCKHASH_SLOTS)
    return {
        "slot": status.slot,
        "confirmations": None if level == "finalized" else confirmations,
        "err": status.err,
        # Deprecated, but solana's own clients refuse a reply without it.
        "status": {"Ok": None} if status.err is None else {"Err": status.err},
        "confirmationStatus": level,
    }


def _slot_full() -> RpcFailure:
    return RpcFailure(NODE_UNHEALTHY, "The open slot is full; try again", {"numSlotsBehind": None})


METHODS: Final[Mapping[str, Method]] = {
    "requestAirdrop": _request_airdrop,
    "sendTransaction": _send_transaction,
    "simulateTransaction": _simulate_transaction,
    "getFeeForMessage": _get_fee_for_message,
    "getSignatureStatuses": _get_signature_statuses,
    "getTransaction": _get_transaction,
    "getSignaturesForAddress": _get_signatures_for_address,
}
