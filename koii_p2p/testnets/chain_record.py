"""What K2 holds of a task, as raw bytes: accounts, transactions, blockhashes. Read from K2, or from a file.

Nothing here is interpreted, so that a check made from the file is the check made from the chain.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import base58
import trio

from koii_p2p.errors import ChainError
from koii_p2p.rounds.clock import RoundClock
from koii_p2p.settlement.history import Fetched, LaterVersion, fetch_transactions
from koii_p2p.settlement.instructions import PROGRAM_ID, vault_address
from koii_p2p.settlement.layouts import STAKE_LAYOUT, STAKE_MAGIC, VAULT_LAYOUT
from koii_p2p.settlement.refusals import UnknownTask
from koii_p2p.settlement.rpc import (
    Account,
    DataSize,
    Memcmp,
    RpcClient,
    SignatureInfo,
    TransactionRecord,
)

_ATTEMPTS: Final = 8
_PAUSE_SECONDS: Final = 0.3
_KEY_BYTES: Final = 32


class RecordUnreadable(ValueError):
    """A file that does not hold what K2 said."""


@dataclass(frozen=True, slots=True)
class ChainRecord:
    """Raw answers of one K2 node. Keys, digests and blockhashes are 32 bytes, amounts Roe.

    `rents` are the rent minima of a vault and of a stake account. `transactions` is oldest first. `blocks` holds, by
    round, slot and blockhash of the first block at or after the end of the submissions. `balances` are those of the
    wallets asked for.
    """

    genesis: bytes
    program: bytes
    task: bytes
    slot: int
    rents: tuple[int, int]
    task_account: Account
    vault: Account | None
    stakes: tuple[tuple[bytes, Account], ...]
    transactions: tuple[tuple[SignatureInfo, Fetched], ...]
    blocks: Mapping[int, tuple[int, bytes]]
    balances: Mapping[bytes, int]


async def read_chain(
    rpc: RpcClient,
    task: bytes,
    clock: RoundClock,
    rounds: Iterable[int],
    wallets: Iterable[bytes],
    *,
    limit: int,
) -> ChainRecord:
    """Read everything about a task, at rest: again, if the task changed in between, up to eight times.

    `limit` bounds the transactions. Raises `ChainError`.
    """
    genesis = await rpc.get_genesis_hash()
    rents = (
        await rpc.get_minimum_balance_for_rent_exemption(VAULT_LAYOUT.size),
        await rpc.get_minimum_balance_for_rent_exemption(STAKE_LAYOUT.size),
    )
    blocks = {}
    for number in rounds:
        found = await rpc.get_first_block(clock.submission(number).closes)
        if found is not None:
            blocks[number] = found
    addresses = [task, vault_address(task), *wallets]
    known: dict[str, Fetched] = {}

    def take(line: SignatureInfo, found: Fetched) -> None:
        known[line.signature] = found

    for _ in range(_ATTEMPTS):
        before = await rpc.get_multiple_accounts(addresses)
        lines = await rpc.get_address_history(task, limit=limit)
        missing = [line for line in lines if known.get(line.signature) is None]
        await fetch_transactions(rpc, missing, take)
        stakes = await rpc.get_program_accounts(
            PROGRAM_ID,
            [
                DataSize(STAKE_LAYOUT.size),
                Memcmp(0, STAKE_MAGIC),
                Memcmp(STAKE_LAYOUT.field("task").offset, task),
            ],
        )
        slot = await rpc.get_slot()
        after = await rpc.get_multiple_accounts(addresses)
        newest = await rpc.get_address_history(task, limit=1)
        if before == after and newest[:1] == lines[:1]:
            account, vault, *rest = after
            if account is None:
                raise UnknownTask(task)
            balances = {
                address: 0 if held is None else held.lamports
                for address, held in zip(addresses[2:], rest, strict=True)
            }
            transactions = tuple((line, known[line.signature]) for line in reversed(lines))
            return ChainRecord(
                genesis, PROGRAM_ID, task, slot, rents, account, vault, stakes, transactions, blocks, balances
            )
        await trio.sleep(_PAUSE_SECONDS)
    raise ChainError(
        "The task cannot be read at rest.",
        f"It changed during each of {_ATTEMPTS} tries to read it whole.",
        "Try again; right after a round was settled many transactions arrive.",
    )


# --- as a file


def encode_record(record: ChainRecord) -> bytes:
    """As JSON: keys in base58, data in base64, in the order of the fields."""
    value = {
        "genesis": _text(record.genesis),
        "program": _text(record.program),
        "task": _text(record.task),
        "slot": record.slot,
        "rents": list(record.rents),
        "task_account": _account_json(record.task_account),
        "vault": None if record.vault is None else _account_json(record.vault),
        "stakes": [{"address": _text(address), **_account_json(held)} for address, held in record.stakes],
        "transactions": [
            {
                "signature": line.signature,
                "slot": line.slot,
                "err": line.err,
                "transaction": _transaction_json(found),
            }
            for line, found in record.transactions
        ],
        "blocks": {
            str(number): {"slot": slot, "blockhash": _text(blockhash)}
            for number, (slot, blockhash) in record.blocks.items()
        },
        "balances": {_text(key): amount for key, amount in record.balances.items()},
    }
    return json.dumps(value, indent=1).encode()


def decode_record(data: bytes) -> ChainRecord:
    """Read back what `encode_record` wrote. Raises `RecordUnreadable`."""
    try:
        value = json.loads(data)
        vault_rent, stake_rent = value["rents"]
        return ChainRecord(
            genesis=_key(value["genesis"]),
            program=_key(value["program"]),
            task=_key(value["task"]),
            slot=int(value["slot"]),
            rents=(int(vault_rent), int(stake_rent)),
            task_account=_account(value["task_account"]),
            vault=None if value["vault"] is None else _account(value["vault"]),
            stakes=tuple((_key(item["address"]), _account(item)) for item in value["stakes"]),
            transactions=tuple(_transaction(item) for item in value["transactions"]),
            blocks={
                int(number): (int(block["slot"]), _key(block["blockhash"]))
                for number, block in value["blocks"].items()
            },
            balances={_key(key): int(amount) for key, amount in value["balances"].items()},
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise RecordUnreadable(f"it is not a chain record: {type(error).__name__}: {error}") from error


def _text(key: bytes) -> str:
    return base58.b58encode(key).decode()


def _key(text: str) -> bytes:
    if len(text) > 44:  # base58 decoding is quadratic
        raise ValueError("a key has at most 44 characters")
    key = base58.b58decode(text)
    if len(key) != _KEY_BYTES:
        raise ValueError(f"a key has {_KEY_BYTES} bytes, not {len(key)}")
    return key


def _account_json(account: Account) -> dict[str, Any]:
    return {
        "lamports": account.lamports,
        "owner": _text(account.owner),
        "data": base64.b64encode(account.data).decode(),
    }


def _account(value: Mapping[str, Any]) -> Account:
    data = base64.b64decode(value["data"], validate=True)
    return Account(int(value["lamports"]), _key(value["owner"]), data, executable=False)


def _transaction_json(record: Fetched) -> dict[str, Any] | str | None:
    if not isinstance(record, TransactionRecord):
        return None if record is None else record.value
    return {
        "slot": record.slot,
        "err": record.err,
        "fee": record.fee,
        "wire": base64.b64encode(record.wire).decode(),
        "loaded": [_text(key) for key in record.loaded],
    }


def _transaction(value: Mapping[str, Any]) -> tuple[SignatureInfo, Fetched]:
    line = SignatureInfo(str(value["signature"]), int(value["slot"]), value["err"], None, None)
    found = value["transaction"]
    if found is None or isinstance(found, str):
        return line, None if found is None else LaterVersion(found)
    wire = base64.b64decode(found["wire"], validate=True)
    loaded = tuple(_key(key) for key in found.get("loaded", ()))
    return line, TransactionRecord(
        int(found["slot"]), None, wire, found["err"], int(found["fee"]), (), loaded
    )
