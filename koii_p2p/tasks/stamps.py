"""What is signed about the REST of a task: the node's stamp on every reply, and requests that say who asks.

Koii docs: key concepts, "timestamps and slots in REST": a reply comes with the K2 slot, which whoever checks it holds
against the present one. The bytes that are signed have a fixed length and begin with a context of their own, so that
they are no signature of a record (which begins as COSE does), of a task's payload, or of a K2 transaction. Slots and
rounds are unsigned 64-bit numbers, big-endian.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Final

import base58

from koii_p2p.records.cose import Signer
from koii_p2p.tasks.services import signature_is_good

REPLY_CONTEXT: Final = b"koii-p2p/task-reply/1"
REQUEST_CONTEXT: Final = b"koii-p2p/task-request/1"

TASK: Final = "koii-task"
ROUND: Final = "koii-round"
SLOT: Final = "koii-slot"
REQUEST_HASH: Final = "koii-request-hash"
BODY_HASH: Final = "koii-body-hash"
KEY: Final = "koii-key"
SIGNATURE: Final = "koii-signature"

STAMP_HEADERS: Final = (TASK, ROUND, SLOT, REQUEST_HASH, BODY_HASH, KEY, SIGNATURE)
"""Of every reply of a task: its id, round and slot in decimal, hashes in hex, key and signature in base58."""

SIGNED_REQUEST_HEADERS: Final = (KEY, SLOT, SIGNATURE)
"""Of a request that says who asks."""

_U64_MAX: Final = 2**64 - 1
_LONGEST_NUMBER: Final = 20
_LONGEST_BASE58: Final = 90  # of a signature: 88


@dataclass(frozen=True, slots=True)
class Stamp:
    """What a node signs of one reply: of which task (32 bytes), in which round and slot, with which HTTP status, to
    which request and with which body (SHA-256).
    """

    task: bytes
    round: int
    slot: int
    status: int
    request_hash: bytes
    body_hash: bytes

    def message(self) -> bytes:
        """The bytes that are signed: context, task, round (8), slot (8), status (2), and the two hashes."""
        numbers = struct.pack(">QQH", self.round, self.slot, self.status)
        return REPLY_CONTEXT + self.task + numbers + self.request_hash + self.body_hash


@dataclass(frozen=True, slots=True)
class SignedStamp:
    """A stamp with the key (32 bytes) that it names and a signature (64 bytes) that nobody has checked."""

    stamp: Stamp
    key: bytes
    signature: bytes

    def is_good(self) -> bool:
        """Whether the key signed the stamp."""
        return signature_is_good(self.stamp.message(), self.signature, self.key)


def request_hash(method: str, target: bytes, body: bytes) -> bytes:
    """The SHA-256 of a request: its method, a space, its target as sent (path, and query if any), LF, the body."""
    return sha256(method.encode("ascii", "replace") + b" " + target + b"\n" + body).digest()


def stamp_headers(stamp: Stamp, signer: Signer) -> list[tuple[str, str]]:
    """Sign a stamp; the headers that carry it."""
    values = (
        _base58(stamp.task),
        str(stamp.round),
        str(stamp.slot),
        stamp.request_hash.hex(),
        stamp.body_hash.hex(),
        _base58(signer.public_key),
        _base58(signer.sign(stamp.message())),
    )
    return list(zip(STAMP_HEADERS, values, strict=True))


def read_stamp(status: int, headers: Mapping[str, str]) -> SignedStamp | None:
    """The stamp in the headers (lower-case names) of a reply with this status; None if it has none, or half of one."""
    found = [headers.get(name, "") for name in STAMP_HEADERS]
    task, key, signature = _from_base58(found[0], 32), _from_base58(found[5], 32), _from_base58(found[6], 64)
    round, slot = _number(found[1]), _number(found[2])
    asked, body = _from_hex(found[3]), _from_hex(found[4])
    if task is None or key is None or signature is None or asked is None or body is None:
        return None
    if round is None or slot is None or not 0 <= status <= 0xFFFF:
        return None
    return SignedStamp(Stamp(task, round, slot, status, asked, body), key, signature)


def request_message(task: bytes, node: bytes, slot: int, hashed: bytes) -> bytes:
    """What is signed to say who asks: context, task (32), the key of the node that is asked (32), slot (8), request
    hash (32). Raises `struct.error` for a slot beyond 64 bits.
    """
    return REQUEST_CONTEXT + task + node + struct.pack(">Q", slot) + hashed


def sign_request(
    signer: Signer, *, task: bytes, node: bytes, slot: int, method: str, target: str, body: bytes = b""
) -> dict[str, str]:
    """The headers that say who asks a node (its staking key) for `target` of a task, in this slot.

    `target` is path and query as they are sent: `/task/<id>/...`.
    """
    message = request_message(task, node, slot, request_hash(method, target.encode("ascii"), body))
    signature = _base58(signer.sign(message))
    return {KEY: _base58(signer.public_key), SLOT: str(slot), SIGNATURE: signature}


@dataclass(frozen=True, slots=True)
class SignedRequest:
    """What the headers of a request claim: who signed it, for which slot. Nobody has checked it."""

    key: bytes
    slot: int
    signature: bytes

    def is_good(self, task: bytes, node: bytes, hashed: bytes) -> bool:
        """Whether the key signed this request to this node."""
        return signature_is_good(request_message(task, node, self.slot, hashed), self.signature, self.key)


def read_signed_request(headers: Mapping[str, str]) -> SignedRequest | None:
    """What a request says of who signed it; None if its headers are not of that form. See `is_signed`."""
    key, signature = _from_base58(headers.get(KEY, ""), 32), _from_base58(headers.get(SIGNATURE, ""), 64)
    slot = _number(headers.get(SLOT, ""))
    if key is None or signature is None or slot is None:
        return None
    return SignedRequest(key, slot, signature)


def is_signed(headers: Mapping[str, str]) -> bool:
    """Whether a request claims to be signed."""
    return SIGNATURE in headers or KEY in headers


def _base58(data: bytes) -> str:
    return base58.b58encode(data).decode("ascii")


def _from_base58(text: str, length: int) -> bytes | None:
    if len(text) > _LONGEST_BASE58:  # before decoding, whose time grows with the square of the length
        return None
    try:
        data: bytes = base58.b58decode(text)
    except ValueError:
        return None
    return data if len(data) == length else None


def _from_hex(text: str) -> bytes | None:
    if len(text) != 64 or text != text.lower():
        return None
    try:
        data = bytes.fromhex(text)
    except ValueError:
        return None
    return data if len(data) == 32 else None  # fromhex passes over spaces


def _number(text: str) -> int | None:
    if not (text.isascii() and text.isdecimal()) or len(text) > _LONGEST_NUMBER:
        return None
    number = int(text)
    return number if number <= _U64_MAX and str(number) == text else None
