"""Values as bytes in the order of `values.compare`, short enough for an index; and the ranges that a filter asks for.

Texts are cut after 64 bytes and numbers rounded to doubles, so an index finds candidates, which the filter then judges.
Null, numbers, texts and booleans are indexed, and arrays by each of their elements, as in NeDB; objects are not.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Final

from koii_p2p.data.collections.query import Bounds
from koii_p2p.data.collections.values import Found, Json

TEXT_BYTES: Final = 64
MOST_ELEMENTS: Final = 256
"""Elements of one array that are indexed; a document with more of them in an indexed field is found by a scan only."""

_NULL, _NUMBER, _TEXT, _BOOLEAN, _UNINDEXED = b"\x01", b"\x02", b"\x03", b"\x04", b"\x0f"
_FINISH: Final = (
    b"\x00\x01"  # below every escaped zero byte, so that a text sorts before those that it begins
)
_BEYOND: Final = b"\x00\x02"


def index_key(value: Found) -> bytes | None:
    """A value's place in an index, at most 131 bytes; None if it has none."""
    if value is None:
        return _NULL + _FINISH
    if isinstance(value, bool):
        return _BOOLEAN + _escaped(bytes((value,)))
    if isinstance(value, int | float):
        return _NUMBER + _escaped(_number(float(value)))
    if isinstance(value, str):
        return _TEXT + _escaped(value.encode("utf-8", "surrogatepass")[:TEXT_BYTES])
    return None


def index_keys(value: Found) -> set[bytes]:
    """All places of a field's value. An array that is too long has one, which every question finds."""
    found: set[bytes] = set()
    for count, item in enumerate(_elements(value)):
        if count == MOST_ELEMENTS:
            return {_UNINDEXED}
        key = index_key(item)
        if key is not None:
            found.add(key)
    return found


def index_ranges(bounds: Bounds) -> list[tuple[bytes, bytes]] | None:
    """Ranges of places, from the first to before the second, that hold every match; None if an index cannot tell."""
    too_long = (_UNINDEXED, _UNINDEXED + b"\xff")
    if bounds.equal is not None:
        keys = [index_key(value) for value in bounds.equal]
        if None in keys:
            return None
        return [*sorted({(key, _above(key)) for key in keys if key is not None}), too_long]
    ends = [end[0] for end in (bounds.low, bounds.high) if end is not None]
    kind = _kind(ends[0])
    if kind is None or any(_kind(end) != kind for end in ends):
        return []  # nothing is above or below such a value, or between two of different types
    low = kind if bounds.low is None else _key(bounds.low[0])
    high = bytes((kind[0] + 1,)) if bounds.high is None else _above(_key(bounds.high[0]))
    return [(low, high), too_long]


def _elements(value: Found) -> Iterator[Found]:
    if isinstance(value, list):
        for item in value:
            yield from _elements(item)
    else:
        yield value


def _key(value: Json) -> bytes:
    key = index_key(value)
    assert key is not None
    return key


def _above(key: bytes) -> bytes:
    """Above every row of a place, whatever follows the place in it."""
    return key[: -len(_FINISH)] + _BEYOND


def _kind(value: Json) -> bytes | None:
    if isinstance(value, bool):
        return None
    return _NUMBER if isinstance(value, int | float) else _TEXT if isinstance(value, str) else None


def _escaped(content: bytes) -> bytes:
    return content.replace(b"\x00", b"\x00\xff") + _FINISH


def _number(value: float) -> bytes:
    """A double in 8 bytes whose order is that of the numbers: the sign flipped, of negative ones everything."""
    bits = int.from_bytes(struct.pack(">d", value + 0.0), "big")
    return (bits ^ (2**64 - 1) if bits >> 63 else bits | 1 << 63).to_bytes(8, "big")
