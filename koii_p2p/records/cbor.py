"""Deterministic CBOR (RFC 8949 section 4.2.1), decoded strictly.

cbor2 does the work; this file closes what it leaves open. Its decoder is lenient (long integers, double
keys, trailing bytes) and interprets dozens of tags, so untrusted bytes are first walked by a loop that
neither recurses nor allocates, then decoded, encoded again and compared.
"""

from __future__ import annotations

import cbor2

from koii_p2p.records.reasons import RecordReason

COSE_SIGN1_TAG = 18
"""The only tag that may ever appear, and only around the whole item (RFC 9052 section 2)."""

LARGEST_KEY = 23
"""Map keys are 0..23, one byte each: only then does cbor2's `canonical` order (RFC 7049) equal RFC 8949's."""

U64_MAX = 2**64 - 1

_SIMPLE_VALUES = frozenset({0xF4, 0xF5, 0xF6})  # false, true, null


_LEAVES = frozenset({bool, bytes, str, type(None)})


class CborError(ValueError):
    """Bytes that are not one deterministic CBOR item, or a value that has no such encoding."""

    def __init__(self, reason: RecordReason, detail: str = "") -> None:
        super().__init__(detail or reason.__doc__)
        self.reason = reason


def encode(value: object, *, max_depth: int = 8, tag: int | None = None) -> bytes:
    """Encode integers, bytes, text, booleans, None, lists and maps with keys 0..23, deterministically.

    With `tag`, the item carries this tag (below 24). Raises `CborError` for everything that `decode` would
    refuse: other types, integers beyond 64 bits, other keys, nesting beyond `max_depth`.
    """
    _check_value(value, max_depth)
    return _dump(value, tag)


def decode(data: bytes, *, max_bytes: int, max_depth: int = 8, tag: int | None = None) -> object:
    """Decode exactly one deterministic item of at most `max_bytes` bytes and `max_depth` nested containers.

    With `tag`, the item must carry this tag, and what it encloses is returned; without, tags are refused.
    Maps come back as `dict[int, ...]`, arrays as `list`. Raises `CborError`, and nothing else, for any bytes.
    Time and memory are linear in `len(data)`, whatever lengths the bytes declare.
    """
    if len(data) > max_bytes:
        raise CborError(RecordReason.TOO_LARGE, f"{len(data)} bytes where at most {max_bytes} are allowed.")
    _walk(data, max_depth, tag)
    try:
        value: object = cbor2.loads(data if tag is None else data[1:])
    except cbor2.CBORDecodeError as error:
        # After the walk, only the content of a text string can still be wrong.
        raise CborError(RecordReason.BAD_TEXT) from error
    if _dump(value, tag) != data:
        raise CborError(RecordReason.NOT_CANONICAL)
    return value


def _check_value(value: object, depth: int) -> None:
    """Refuse what has no encoding here, deep and cyclic values first: those would overflow cbor2's stack."""
    if type(value) in _LEAVES:
        return
    if isinstance(value, int):
        if not -U64_MAX - 1 <= value <= U64_MAX:
            raise CborError(RecordReason.OUT_OF_RANGE, "An integer of more than 64 bits.")
    elif isinstance(value, list | tuple | dict):
        if depth == 0:
            raise CborError(RecordReason.TOO_DEEP)
        if isinstance(value, dict):
            for key in value:
                if type(key) is not int or not 0 <= key <= LARGEST_KEY:
                    raise CborError(RecordReason.BAD_KEY, f"{key!r} is not a map key in 0..{LARGEST_KEY}.")
        for item in value.values() if isinstance(value, dict) else value:
            _check_value(item, depth - 1)
    else:
        raise CborError(RecordReason.FORBIDDEN_TYPE, f"{type(value).__name__} has no deterministic encoding.")


def _dump(value: object, tag: int | None) -> bytes:
    """Encode a value whose types and depth are known to be good."""
    try:
        data: bytes = cbor2.dumps(value, canonical=True)
    except UnicodeEncodeError as error:
        raise CborError(RecordReason.BAD_TEXT, "Text with a lone surrogate has no UTF-8 form.") from error
    return data if tag is None else bytes((0xC0 | tag,)) + data


def _walk(data: bytes, max_depth: int, tag: int | None) -> None:
    """Check, in one loop over its heads, that `data` is one well-formed item of allowed types.

    RFC 8949 section 3 defines the heads; appendix C has this check as a recursion.
    Every declared length is held against the bytes that are left before anything relies on it.
    """
    end = len(data)
    position = 0
    if tag is not None:
        if not data or data[0] != 0xC0 | tag:
            raise CborError(RecordReason.NOT_COSE, f"The item does not carry tag {tag}.")
        position = 1
    enclosing: list[tuple[int, bool]] = []
    left, in_map = 1, False  # items still to come in the innermost container; a map of n pairs has 2n
    while True:
        while left == 0:
            if not enclosing:
                if position != end:
                    raise CborError(RecordReason.TRAILING_BYTES)
                return
            left, in_map = enclosing.pop()
        if position >= end:
            raise CborError(RecordReason.TRUNCATED)
        head = data[position]
        position += 1
        left -= 1
        if in_map and left & 1:
            if head > LARGEST_KEY:
                raise CborError(RecordReason.BAD_KEY)
            continue
        major, argument = head >> 5, head & 0x1F
        if argument >= 24:
            if argument >= 28:
                raise CborError(RecordReason.INDEFINITE_LENGTH)
            width = 1 << (argument - 24)
            if width > end - position:
                raise CborError(RecordReason.TRUNCATED)
            argument = int.from_bytes(data[position : position + width], "big")
            position += width
        if major <= 1:  # integers
            continue
        if major <= 3:  # byte and text strings
            if argument > end - position:
                raise CborError(RecordReason.TRUNCATED)
            position += argument
        elif major <= 5:  # arrays and maps
            items = argument if major == 4 else 2 * argument
            if len(enclosing) >= max_depth:
                raise CborError(RecordReason.TOO_DEEP, f"More than {max_depth} nested arrays and maps.")
            if items > end - position:  # an item takes at least one byte
                raise CborError(RecordReason.TRUNCATED)
            enclosing.append((left, in_map))
            left, in_map = items, major == 5
        elif head not in _SIMPLE_VALUES:
            raise CborError(RecordReason.FORBIDDEN_TYPE)
