"""What a K2 node answers, as plain values: every field's type, sign and size checked before anything uses it.

Shapes follow Solana's JSON-RPC (https://solana.com/docs/rpc); K2 is a fork and keeps them. Keys and
blockhashes are 32 bytes, transaction signatures stay base58 text (they are names, and nothing here computes
with them). Every reader raises `ReplyError` for anything it does not fully understand; the client turns that
into `RpcProtocolError`.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import base58

Commitment = Literal["processed", "confirmed", "finalized"]
COMMITMENT_RANK: Mapping[Commitment, int] = {"processed": 0, "confirmed": 1, "finalized": 2}
_LEVELS: Mapping[str, Commitment] = {level: level for level in COMMITMENT_RANK}

_U64 = 2**64
_BASE58_KEY_CHARACTERS = 44  # the longest text of 32 bytes
_BASE58_SIGNATURE_CHARACTERS = 88  # the longest text of 64 bytes
_MOST_KEYS = 256  # an instruction names accounts by one byte

T = TypeVar("T")


class ReplyError(ValueError):
    """A reply that is not what the method promises."""


@dataclass(frozen=True, slots=True)
class Account:
    """One account: its balance in Roe, the program that owns it (32 bytes) and its data."""

    lamports: int
    owner: bytes
    data: bytes
    executable: bool


@dataclass(frozen=True, slots=True)
class SignatureStatus:
    """Where a transaction is: its slot, how settled that is, and the program's error (JSON) if it failed."""

    slot: int
    commitment: Commitment
    err: Any

    def reached(self, commitment: Commitment) -> bool:
        """Whether the slot is at least as settled as `commitment`."""
        return COMMITMENT_RANK[self.commitment] >= COMMITMENT_RANK[commitment]


@dataclass(frozen=True, slots=True)
class SignatureInfo:
    """One line of an address's history, newest first as the node lists it."""

    signature: str
    slot: int
    err: Any
    memo: str | None
    block_time: int | None


@dataclass(frozen=True, slots=True)
class TransactionRecord:
    """A transaction in a block: its wire bytes and what executing it gave. `fee` is in Roe.

    `loaded` are the keys that lookup tables gave, which follow those in the message; they are the node's word alone.
    """

    slot: int
    block_time: int | None
    wire: bytes
    err: Any
    fee: int
    logs: tuple[str, ...]
    loaded: tuple[bytes, ...] = ()


@dataclass(frozen=True, slots=True)
class BlockRecord:
    """A block: its blockhash and its parent's (32 bytes), unix time if known, and its transactions in order."""

    slot: int
    blockhash: bytes
    parent: int
    previous_blockhash: bytes
    height: int | None
    time: int | None
    transactions: tuple[TransactionRecord, ...]


def integer(value: Any, name: str = "result") -> int:
    """An unsigned 64-bit integer; booleans, floats and negative numbers are refused."""
    if type(value) is not int or not 0 <= value < _U64:
        raise ReplyError(f"{name} is not an unsigned 64-bit integer")
    return value


def signed_integer(value: Any, name: str) -> int:
    """A signed 64-bit integer (block times are the only ones)."""
    if type(value) is not int or not -_U64 // 2 <= value < _U64 // 2:
        raise ReplyError(f"{name} is not a signed 64-bit integer")
    return value


def text(value: Any, name: str = "result") -> str:
    """A JSON string."""
    if not isinstance(value, str):
        raise ReplyError(f"{name} is not text")
    return value


def boolean(value: Any, name: str = "result") -> bool:
    """A JSON true or false."""
    if not isinstance(value, bool):
        raise ReplyError(f"{name} is not true or false")
    return value


def mapping(value: Any, name: str = "result") -> dict[str, Any]:
    """A JSON object."""
    if not isinstance(value, dict):
        raise ReplyError(f"{name} is not an object")
    return value


def array(
    value: Any, name: str = "result", *, length: int | None = None, at_most: int | None = None
) -> list[Any]:
    """A JSON array, of exactly `length` or `at_most` so many items where given."""
    if not isinstance(value, list):
        raise ReplyError(f"{name} is not an array")
    if length is not None and len(value) != length:
        raise ReplyError(f"{name} has {len(value)} items where {length} were asked for")
    if at_most is not None and len(value) > at_most:
        raise ReplyError(f"{name} has {len(value)} items where at most {at_most} were asked for")
    return value


def field(value: Any, name: str) -> Any:
    """A field that must be there, whatever its value."""
    fields = mapping(value, f"the object around {name}")
    if name not in fields:
        raise ReplyError(f"{name} is missing")
    return fields[name]


def optional(value: Any, read: Callable[[Any, str], T], name: str) -> T | None:
    """`read(value, name)`, or None for a JSON null."""
    return None if value is None else read(value, name)


def contextual(value: Any) -> Any:
    """The `value` of an RpcResponse, whose context must name a slot."""
    integer(field(field(value, "context"), "slot"), "context.slot")
    return field(value, "value")


def key(value: Any, name: str = "result") -> bytes:
    """The 32 bytes of a base58 key or blockhash."""
    return _base58(value, name, _BASE58_KEY_CHARACTERS, 32)


def signature(value: Any, name: str = "result") -> str:
    """A transaction signature: base58 text of 64 bytes, returned as text."""
    _base58(value, name, _BASE58_SIGNATURE_CHARACTERS, 64)
    return str(value)


def account(value: Any, name: str = "account") -> Account:
    """An account asked for with base64 data."""
    return Account(
        lamports=integer(field(value, "lamports"), f"{name}.lamports"),
        owner=key(field(value, "owner"), f"{name}.owner"),
        data=_base64(field(value, "data"), f"{name}.data"),
        executable=boolean(field(value, "executable"), f"{name}.executable"),
    )


def keyed_account(value: Any) -> tuple[bytes, Account]:
    """One line of getProgramAccounts."""
    return key(field(value, "pubkey"), "pubkey"), account(field(value, "account"))


def signature_status(value: Any, name: str = "status") -> SignatureStatus:
    """One signature's status. Old nodes give only `confirmations` (null = finalized)."""
    slot = integer(field(value, "slot"), f"{name}.slot")
    fields = mapping(value, name)
    level = fields.get("confirmationStatus")
    if level is None:
        level = "finalized" if fields.get("confirmations", 0) is None else "processed"
    if not isinstance(level, str) or level not in _LEVELS:
        raise ReplyError(f"{name}.confirmationStatus is not a commitment level")
    return SignatureStatus(slot, _LEVELS[level], fields.get("err"))


def block_record(value: Any, slot: int) -> BlockRecord:
    """The block of a slot, asked for with its transactions in base64."""
    fields = mapping(value, "block")
    time = optional(fields.get("blockTime"), signed_integer, "blockTime")
    lines = array(field(value, "transactions"), "transactions")
    return BlockRecord(
        slot=slot,
        blockhash=key(field(value, "blockhash"), "blockhash"),
        parent=integer(field(value, "parentSlot"), "parentSlot"),
        previous_blockhash=key(field(value, "previousBlockhash"), "previousBlockhash"),
        height=optional(fields.get("blockHeight"), integer, "blockHeight"),
        time=time,
        transactions=tuple(
            transaction_record({**mapping(line, "transaction"), "slot": slot, "blockTime": time})
            for line in lines
        ),
    )


def agreed_statuses(
    told: Sequence[Sequence[SignatureStatus | None]], quorum: int
) -> list[SignatureStatus | None]:
    """What `quorum` nodes say of each signature: where it is, as settled as that many say; None = unknown.

    Nodes that are behind do not know it yet, or think it less settled, so their lists need not be equal.
    """
    return [_agreed_status(statuses, quorum) for statuses in zip(*told, strict=True)]


def _agreed_status(statuses: Sequence[SignatureStatus | None], quorum: int) -> SignatureStatus | None:
    known = [one for one in statuses if one is not None]
    for one in known:
        same = [other for other in known if (other.slot, other.err) == (one.slot, one.err)]
        if len(same) >= quorum:
            levels = sorted(
                (other.commitment for other in same), key=COMMITMENT_RANK.__getitem__, reverse=True
            )
            return SignatureStatus(one.slot, levels[quorum - 1], one.err)
    return None


def signature_info(value: Any) -> SignatureInfo:
    """One line of getSignaturesForAddress."""
    fields = mapping(value, "history line")
    return SignatureInfo(
        signature=signature(field(value, "signature"), "signature"),
        slot=integer(field(value, "slot"), "slot"),
        err=field(value, "err"),
        memo=optional(fields.get("memo"), text, "memo"),
        block_time=optional(fields.get("blockTime"), signed_integer, "blockTime"),
    )


def transaction_record(value: Any) -> TransactionRecord:
    """A transaction asked for in base64. Without `meta` nobody could tell whether it failed: refused."""
    meta = mapping(field(value, "meta"), "meta")
    logs = meta.get("logMessages")
    return TransactionRecord(
        slot=integer(field(value, "slot"), "slot"),
        block_time=optional(mapping(value).get("blockTime"), signed_integer, "blockTime"),
        wire=_base64(field(value, "transaction"), "transaction"),
        err=field(meta, "err"),
        fee=integer(field(meta, "fee"), "meta.fee"),
        logs=tuple(
            text(line, "log line") for line in array([] if logs is None else logs, "meta.logMessages")
        ),
        loaded=_loaded(meta.get("loadedAddresses")),
    )


def _loaded(value: Any) -> tuple[bytes, ...]:
    """The writable and then the other keys of lookup tables; none if the transaction has none, or the node is old."""
    if value is None:
        return ()
    return tuple(
        key(one, "loaded address")
        for name in ("writable", "readonly")
        for one in array(field(value, name), name, at_most=_MOST_KEYS)
    )


def transaction_signature(wire: bytes) -> str:
    """The name of a serialized transaction: its first signature, in base58.

    Raises:
        ValueError: these bytes do not begin with one to 127 whole signatures.
    """
    if not wire or not 1 <= wire[0] <= 127 or len(wire) < 1 + 64 * wire[0]:
        raise ValueError("these bytes are not a signed transaction")
    return base58.b58encode(wire[1:65]).decode()


def _base58(value: Any, name: str, characters: int, size: int) -> bytes:
    # The length is checked first: base58 decoding is quadratic.
    if not isinstance(value, str) or len(value) > characters:
        raise ReplyError(f"{name} is not base58 of {size} bytes")
    try:
        decoded = base58.b58decode(value)
    except ValueError as error:
        raise ReplyError(f"{name} is not base58") from error
    if len(decoded) != size:
        raise ReplyError(f"{name} is {len(decoded)} bytes, not {size}")
    return bytes(decoded)


def _base64(value: Any, name: str) -> bytes:
    pair = array(value, name, length=2)
    if pair[1] != "base64":
        raise ReplyError(f"{name} is not encoded in base64")
    try:
        return base64.b64decode(text(pair[0], name), validate=True)
    except (binascii.Error, ValueError) as error:
        raise ReplyError(f"{name} is not base64") from error
