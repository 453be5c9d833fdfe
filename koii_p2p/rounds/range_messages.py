"""Messages of set reconciliation: what is said about consecutive ranges of the item order, in bounded bytes.

A message is one deterministic CBOR item (RFC 8949 section 4.2.1), in CDDL (RFC 8610):

    message     = [* range]
    range       = skip / fingerprint / ids / want
    skip        = [upper, 0]
    fingerprint = [upper, 1, bstr .size 16]   ; of the sender's items in the range, see item_set.py
    ids         = [upper, 2, bstr]            ; 32 bytes for each of the sender's items in the range, in their order
    want        = [upper, 3]
    upper       = bstr .size (0..65)          ; empty: the end of the order

A range reaches from the `upper` of the one before (the first: from the start of the order) to below its own
`upper`. A bound is a prefix of an item, compared as byte strings: it stands below all items that start with it.
Bounds ascend strictly; only the last may be empty; none ends with a zero byte, which would say the same as the
bound without it. Two skips never follow one another. Nothing is said about what lies above the last `upper`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

from koii_p2p.records.cbor import CborError, decode, encode
from koii_p2p.rounds.item_set import END, FINGERPRINT_BYTES, FIRST, ID_BYTES, ITEM_BYTES

LEAST_MESSAGE_BYTES = 512
"""A message of this size has room for any gap, one id or fingerprint, and the closing skip: progress."""


class ReconcileError(ValueError):
    """A message of a peer that no honest peer sends, or an exchange longer than honest peers need."""


class Mode(IntEnum):
    """What a range says."""

    SKIP = 0
    FINGERPRINT = 1
    IDS = 2
    WANT = 3


_WITH_PAYLOAD = frozenset({Mode.FINGERPRINT, Mode.IDS})
_HEAD_BYTES = 5  # of the message's array: up to 2**32 - 1 ranges
_RANGE_BYTES = 2  # head of a range's array, and its mode


@dataclass(frozen=True, slots=True)
class Range:
    """What is said about the items from `lower` to below `upper`. `payload` is empty where the mode has none."""

    lower: bytes
    upper: bytes
    mode: Mode
    payload: bytes = b""


def parse(message: bytes, max_bytes: int) -> list[Range]:
    """Ranges of a peer's message. Raises `ReconcileError`; takes time linear in the message."""
    try:
        entries = decode(message, max_bytes=max_bytes, max_depth=2)
    except CborError as error:
        raise ReconcileError(str(error)) from error
    if not isinstance(entries, list):
        raise ReconcileError("The message is not a list of ranges.")
    ranges: list[Range] = []
    lower, previous = FIRST, None
    for entry in entries:
        if lower == END:
            raise ReconcileError("A range follows the end of the order.")
        upper, mode, payload = _parts(entry)
        if upper <= lower:
            raise ReconcileError("The bounds do not ascend.")
        if mode is Mode.SKIP and previous is Mode.SKIP:
            raise ReconcileError("A skip follows a skip.")
        ranges.append(Range(lower, upper, mode, payload))
        lower, previous = upper, mode
    return ranges


def split_ids(payload: bytes) -> list[bytes]:
    """Ids of the payload of an `ids` range. Raises `ReconcileError` when one occurs twice."""
    ids = [payload[start : start + ID_BYTES] for start in range(0, len(payload), ID_BYTES)]
    if len(set(ids)) != len(ids):
        raise ReconcileError("An id is listed twice.")
    return ids


class MessageWriter:
    """Collects ranges in ascending order as long as the message stays within `max_bytes`.

    Gaps become skips. Room for one closing skip is kept free, so `message` never has to give anything up.
    """

    def __init__(self, max_bytes: int) -> None:
        self._room = max_bytes - _HEAD_BYTES - _size(END, None)
        self._end = FIRST
        self._entries: list[list[object]] = []

    def ids_that_fit(self, lower: bytes) -> int:
        """How many ids a range from `lower` may list, whatever its upper bound."""
        longest_heads = _RANGE_BYTES + 2 + ITEM_BYTES + 5
        return max(0, self._room - self._gap(lower) - longest_heads) // ID_BYTES

    def add(self, lower: bytes, upper: bytes, mode: Mode, payload: bytes | None = None) -> bool:
        """Say something about a range at or above the last one; False, and nothing changes, without room."""
        gap = self._gap(lower)
        size = gap + _size(upper, payload)
        if size > self._room:
            return False
        self._room -= size
        if gap:
            self._entries.append([_wire(lower), int(Mode.SKIP)])
        self._entries.append([_wire(upper), int(mode), *(() if payload is None else (payload,))])
        self._end = upper
        return True

    def message(self, upper: bytes = FIRST) -> bytes:
        """The message; what lies between the last range and `upper` is skipped."""
        closing = [[_wire(upper), int(Mode.SKIP)]] if upper > self._end else []
        return encode([*self._entries, *closing])

    def _gap(self, lower: bytes) -> int:
        return _size(lower, None) if lower > self._end else 0


def _parts(entry: object) -> tuple[bytes, Mode, bytes]:
    if not isinstance(entry, list) or not 2 <= len(entry) <= 3:
        raise ReconcileError("A range is not a list of two or three.")
    return _bound(entry[0]), *_content(entry)


def _bound(value: object) -> bytes:
    if not isinstance(value, bytes) or len(value) > ITEM_BYTES:
        raise ReconcileError(f"A bound is not a byte string of at most {ITEM_BYTES} bytes.")
    if value.endswith(b"\x00"):
        raise ReconcileError("A bound ends with a zero byte.")
    return value or END


def _content(entry: Sequence[object]) -> tuple[Mode, bytes]:
    number = entry[1]
    if type(number) is not int or not 0 <= number <= max(Mode):  # a bool is an int, too
        raise ReconcileError("A mode is unknown.")
    mode = Mode(number)
    if (len(entry) == 3) is not (mode in _WITH_PAYLOAD):
        raise ReconcileError("A range has more or less than its mode says.")
    payload = entry[2] if len(entry) == 3 else b""
    if not isinstance(payload, bytes):
        raise ReconcileError("What a range says is not a byte string.")
    if mode is Mode.FINGERPRINT and len(payload) != FINGERPRINT_BYTES:
        raise ReconcileError(f"A fingerprint is not {FINGERPRINT_BYTES} bytes.")
    if mode is Mode.IDS and len(payload) % ID_BYTES:
        raise ReconcileError(f"A list of ids is not a multiple of {ID_BYTES} bytes.")
    return mode, payload


def _wire(bound: bytes) -> bytes:
    return b"" if bound == END else bound


def _size(upper: bytes, payload: bytes | None) -> int:
    """Bytes of an encoded range; those of a one byte longer bound where it is `END`."""
    return _RANGE_BYTES + _string_size(len(upper)) + (0 if payload is None else _string_size(len(payload)))


def _string_size(length: int) -> int:
    """Bytes of an encoded byte string: its head (RFC 8949 section 3) and itself."""
    return length + (1 if length < 24 else 2 if length < 2**8 else 3 if length < 2**16 else 5)
