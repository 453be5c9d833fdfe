"""Accounts and transactions as JSON-RPC shows them, with the fields that Solana's clients insist on."""

from __future__ import annotations

import base64
from typing import Any, Final, Protocol

import base58
from solders.account import Account
from solders.message import Message, MessageV0
from solders.transaction import VersionedTransaction

from koii_p2p.localk2.bank import instruction_json
from koii_p2p.localk2.params import INVALID_REQUEST, UNSUPPORTED_VERSION, Options, RpcFailure, invalid
from koii_p2p.localk2.store import StoredTransaction
from koii_p2p.localk2.transactions import MEMO_PROGRAMS, writable_indexes
from koii_p2p.settlement.rpc_replies import Commitment

API_VERSION: Final = "2.1.0"
_BASE58_DATA_BYTES: Final = 128
_ACCOUNT_ENCODINGS: Final = frozenset({"base58", "binary", "base64", "jsonParsed"})
_TRANSACTION_ENCODINGS: Final = frozenset({"json", "jsonParsed", "base64", "base58", "binary"})


class Slots(Protocol):
    """What knows where the chain is: the ledger, or a node that may be behind it."""

    def slot_at(self, commitment: Commitment) -> int:
        """The newest slot at a commitment."""
        ...


def contextual(slots: Slots, value: Any, commitment: Commitment) -> dict[str, Any]:
    """A value with the slot it was read at."""
    return {"context": {"apiVersion": API_VERSION, "slot": slots.slot_at(commitment)}, "value": value}


def account_json(account: Account | None, options: Options, default_encoding: str = "base58") -> Any:
    """An account in the encoding asked for, or null. `jsonParsed` gives base64: there is no parser."""
    if account is None:
        return None
    encoding = options.text("encoding") or default_encoding
    if encoding not in _ACCOUNT_ENCODINGS:
        raise invalid(f"unsupported encoding {encoding[:20]!r}; use base64 or base58")
    data = bytes(account.data)
    part = options.options("dataSlice")
    if part is not None:
        offset, length = part.integer("offset"), part.integer("length")
        if offset is None or length is None:
            raise invalid("dataSlice needs offset and length")
        data = data[offset : offset + length]
    return {
        "lamports": account.lamports,
        "owner": str(account.owner),
        "data": _data_json(data, encoding),
        "executable": account.executable,
        "rentEpoch": account.rent_epoch,
        "space": len(account.data),
    }


def transaction_json(stored: StoredTransaction, options: Options) -> dict[str, Any]:
    """A transaction with its meta in the encoding asked for.

    Raises:
        RpcFailure: -32015 for a version 0 transaction if the caller did not say that it knows them.
    """
    transaction = VersionedTransaction.from_bytes(stored.wire)
    message = transaction.message
    encoding = options.text("encoding") or "json"
    if encoding not in _TRANSACTION_ENCODINGS:
        raise invalid(f"unsupported encoding {encoding[:20]!r}")
    known_version = options.integer("maxSupportedTransactionVersion")
    version: int | str = 0 if isinstance(message, MessageV0) else "legacy"
    if version == 0 and known_version is None:
        raise RpcFailure(
            UNSUPPORTED_VERSION,
            "Transaction version (0) is not supported by the requesting client. Please try the request again"
            ' with the following configuration parameter: "maxSupportedTransactionVersion": 0',
        )
    meta = stored.meta
    shown: Any
    if encoding == "base64":
        shown = [base64.b64encode(stored.wire).decode(), "base64"]
    elif encoding in ("base58", "binary"):
        shown = [base58.b58encode(stored.wire).decode(), "base58"]
    else:
        assert isinstance(message, Message | MessageV0)
        parsed = encoding == "jsonParsed"
        body = _parsed_message(message, meta) if parsed else _message_json(message)
        if isinstance(message, MessageV0):
            body["addressTableLookups"] = [_lookup_json(lookup) for lookup in message.address_table_lookups]
        shown = {"signatures": [str(one) for one in transaction.signatures], "message": body}
        if parsed:
            meta = {**meta, "innerInstructions": _parsed_inner(meta, _all_keys(message, meta))}
    result: dict[str, Any] = {"transaction": shown, "meta": meta}
    if known_version is not None:
        result["version"] = version
    return result


def _data_json(data: bytes, encoding: str) -> Any:
    if encoding in ("base58", "binary"):
        if len(data) > _BASE58_DATA_BYTES:
            raise RpcFailure(
                INVALID_REQUEST,
                "Encoded binary (base 58) data should be less than 128 bytes, please use Base64 encoding.",
            )
        text = base58.b58encode(data).decode()
        return text if encoding == "binary" else [text, "base58"]
    return [base64.b64encode(data).decode(), "base64"]


def _message_json(message: Message | MessageV0) -> dict[str, Any]:
    header = message.header
    return {
        "header": {
            "numRequiredSignatures": header.num_required_signatures,
            "numReadonlySignedAccounts": header.num_readonly_signed_accounts,
            "numReadonlyUnsignedAccounts": header.num_readonly_unsigned_accounts,
        },
        "accountKeys": [str(key) for key in message.account_keys],
        "recentBlockhash": str(message.recent_blockhash),
        "instructions": [instruction_json(one) for one in message.instructions],
    }


def _all_keys(message: Message | MessageV0, meta: dict[str, Any]) -> list[str]:
    loaded = meta["loadedAddresses"]
    return [*(str(key) for key in message.account_keys), *loaded["writable"], *loaded["readonly"]]


def _parsed_message(message: Message | MessageV0, meta: dict[str, Any]) -> dict[str, Any]:
    keys = _all_keys(message, meta)
    own = len(message.account_keys)
    writable = set(writable_indexes(message)) | set(
        range(own, own + len(meta["loadedAddresses"]["writable"]))
    )
    signers = message.header.num_required_signatures
    return {
        "accountKeys": [
            {
                "pubkey": key,
                "signer": index < signers,
                "writable": index in writable,
                "source": "transaction" if index < own else "lookupTable",
            }
            for index, key in enumerate(keys)
        ],
        "instructions": [_parsed_instruction(instruction_json(one), keys) for one in message.instructions],
        "recentBlockhash": str(message.recent_blockhash),
    }


def _parsed_instruction(instruction: dict[str, Any], keys: list[str]) -> dict[str, Any]:
    program = keys[instruction["programIdIndex"]]
    height = instruction["stackHeight"]
    if program in MEMO_PROGRAMS:
        text = base58.b58decode(instruction["data"]).decode(errors="replace")
        return {"program": "spl-memo", "programId": program, "parsed": text, "stackHeight": height}
    return {
        "programId": program,
        "accounts": [keys[index] for index in instruction["accounts"]],
        "data": instruction["data"],
        "stackHeight": height,
    }


def _parsed_inner(meta: dict[str, Any], keys: list[str]) -> list[dict[str, Any]]:
    return [
        {
            "index": group["index"],
            "instructions": [_parsed_instruction(one, keys) for one in group["instructions"]],
        }
        for group in meta["innerInstructions"]
    ]


def _lookup_json(lookup: Any) -> dict[str, Any]:
    return {
        "accountKey": str(lookup.account_key),
        "writableIndexes": list(lookup.writable_indexes),
        "readonlyIndexes": list(lookup.readonly_indexes),
    }
