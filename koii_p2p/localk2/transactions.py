"""A transaction as it arrives and as it is remembered, and the chain's errors as JSON-RPC words them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Final

from solders.message import Message, MessageV0
from solders.pubkey import Pubkey
from solders.rpc.responses import RpcSimulateTransactionResult
from solders.signature import Signature
from solders.transaction import VersionedTransaction

PACKET_BYTES: Final = 1232
"""The largest transaction a cluster takes: one IPv6 packet. LiteSVM itself has no such limit."""

MEMO_PROGRAMS: Final = frozenset(
    {"MemoSq4gqABAXKb96qnH8TysNcWxMyWCqXgDLGmfcHr", "Memo1UhkJRfHyvLMcVucJwxXeuD728EqVDDwQDxFMNo"}
)

COMPUTE_BUDGET: Final = Pubkey.from_string("ComputeBudget111111111111111111111111111111")

_ERROR_TEXTS: Final = {
    "BlockhashNotFound": "Blockhash not found",
    "AlreadyProcessed": "This transaction has already been processed",
    "AccountNotFound": "Attempt to debit an account but found no record of a prior credit.",
    "InsufficientFundsForFee": "Insufficient funds for fee",
    "SignatureFailure": "Transaction did not pass signature verification",
}


class MalformedTransaction(ValueError):
    """Bytes that are not one canonical, sane transaction of at most 1232 bytes."""


@dataclass(frozen=True, slots=True)
class Incoming:
    """A decoded transaction; its signatures are not checked yet."""

    wire: bytes
    transaction: VersionedTransaction
    message: Message | MessageV0

    @property
    def signature(self) -> bytes:
        """The first signature: the transaction's name."""
        return bytes(self.transaction.signatures[0])

    @property
    def blockhash(self) -> bytes:
        """The recent blockhash it was signed with."""
        return bytes(self.message.recent_blockhash)

    def signed(self) -> bool:
        """Whether every signature is good."""
        return all(self.transaction.verify_with_results())


@dataclass(frozen=True, slots=True)
class AccountKeys:
    """The accounts a transaction names: those in the message, then those its lookup tables give."""

    static: tuple[Pubkey, ...]
    loaded_writable: tuple[Pubkey, ...]
    loaded_readonly: tuple[Pubkey, ...]
    writable: tuple[Pubkey, ...]

    @property
    def all(self) -> tuple[Pubkey, ...]:
        """Every key, in the order instructions index them."""
        return self.static + self.loaded_writable + self.loaded_readonly


@dataclass(frozen=True, slots=True)
class LandedTransaction:
    """A transaction in a slot and what executing it gave: `err` and `meta` as the RPC returns them."""

    signature: bytes
    index: int
    wire: bytes
    err: Any
    memo: str | None
    meta: dict[str, Any]
    keys: tuple[bytes, ...]


def decode(wire: bytes) -> Incoming:
    """The transaction in these bytes.

    Raises:
        MalformedTransaction: too large, not a transaction, indexes out of range, trailing or non-canonical
        bytes.
    """
    if len(wire) > PACKET_BYTES:
        raise MalformedTransaction(
            f"decoded transaction too large: {len(wire)} bytes (max: {PACKET_BYTES} bytes)"
        )
    try:
        transaction = VersionedTransaction.from_bytes(wire)
        transaction.sanitize()
    except Exception as error:
        raise MalformedTransaction(f"failed to deserialize transaction: {error}") from error
    if bytes(transaction) != wire:
        raise MalformedTransaction("the transaction is followed by other bytes or not canonical")
    if not transaction.signatures:
        raise MalformedTransaction("the transaction has no signature")
    if not isinstance(transaction.message, Message | MessageV0):
        raise MalformedTransaction("only legacy and version 0 transactions are known here")
    return Incoming(wire, transaction, transaction.message)


def writable_indexes(message: Message | MessageV0) -> range | tuple[int, ...]:
    """Indexes of the message's own accounts that it may write (signers first, then the others)."""
    header = message.header
    signers = header.num_required_signatures
    last_signer = signers - header.num_readonly_signed_accounts
    last_other = len(message.account_keys) - header.num_readonly_unsigned_accounts
    return (*range(last_signer), *range(signers, last_other))


def memo_text(incoming: Incoming, keys: AccountKeys) -> str | None:
    """The transaction's memos as history lines show them: `[length] text`, joined by `; `."""
    memos = [
        bytes(instruction.data)
        for instruction in incoming.message.instructions
        if str(keys.all[instruction.program_id_index]) in MEMO_PROGRAMS
    ]
    return "; ".join(f"[{len(memo)}] {memo.decode(errors='replace')}" for memo in memos) or None


def unit_price(incoming: Incoming, keys: AccountKeys) -> int:
    """What the transaction bids for a compute unit, in micro-Roe (SetComputeUnitPrice: tag 3, then a u64)."""
    for instruction in incoming.message.instructions:
        data = bytes(instruction.data)
        if (
            keys.all[instruction.program_id_index] == COMPUTE_BUDGET
            and data[:1] == b"\x03"
            and len(data) == 9
        ):
            return int.from_bytes(data[1:], "little")
    return 0


def error_json(error: Any) -> Any:
    """A solders TransactionError as the RPC's JSON. Its own `to_json` drops the variant's name."""
    if error is None:
        return None
    return json.loads(RpcSimulateTransactionResult(err=error).to_json())["err"]


def error_text(error: Any) -> str:
    """The words Solana's nodes use for an error, as JSON."""
    match error:
        case str(name):
            return _ERROR_TEXTS.get(name, name)
        case {"InstructionError": [int(index), {"Custom": int(code)}]}:
            return f"Error processing Instruction {index}: custom program error: {code:#x}"
        case {"InstructionError": [int(index), what]}:
            return f"Error processing Instruction {index}: {what}"
    return json.dumps(error)


def signature_text(signature: bytes) -> str:
    """A signature in base58."""
    return str(Signature.from_bytes(signature))
