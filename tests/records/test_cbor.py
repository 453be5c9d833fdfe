from __future__ import annotations

import cbor2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from koii_p2p.records import cbor
from koii_p2p.records.reasons import RecordReason

LIMIT = 1 << 20

scalars = st.none() | st.booleans() | st.integers(-(2**64), 2**64 - 1) | st.binary() | st.text()
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.integers(0, 23), inner, max_size=5),
    max_leaves=12,
)


def depth(value: object) -> int:
    if isinstance(value, list):
        return 1 + max(map(depth, value), default=0)
    if isinstance(value, dict):
        return 1 + max(map(depth, value.values()), default=0)
    return 0


def refusal(data: bytes, **options: int) -> RecordReason:
    with pytest.raises(cbor.CborError) as caught:
        cbor.decode(data, **{"max_bytes": LIMIT} | options)
    return caught.value.reason


@given(values)
def test_what_is_encoded_is_decoded(value: object) -> None:
    data = cbor.encode(value, max_depth=depth(value))
    assert cbor.decode(data, max_bytes=len(data), max_depth=depth(value)) == value
    tagged = cbor.encode(value, max_depth=depth(value), tag=18)
    assert cbor.decode(tagged, max_bytes=len(tagged), max_depth=depth(value), tag=18) == value
    assert cbor2.loads(data) == value


@given(st.binary(max_size=64) | values.map(cbor2.dumps))
def test_any_bytes_are_decoded_to_what_encodes_to_them_or_refused(data: bytes) -> None:
    try:
        value = cbor.decode(data, max_bytes=LIMIT, max_depth=20)
    except cbor.CborError:
        return
    assert cbor.encode(value, max_depth=20) == data


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        ("", RecordReason.TRUNCATED),
        ("1801", RecordReason.NOT_CANONICAL),  # 1 in two bytes
        ("190018", RecordReason.NOT_CANONICAL),
        ("1b00000000ffffffff", RecordReason.NOT_CANONICAL),
        ("3800", RecordReason.NOT_CANONICAL),
        ("580161", RecordReason.NOT_CANONICAL),  # a one-byte string with a long length
        ("980100", RecordReason.NOT_CANONICAL),
        ("b8010000", RecordReason.NOT_CANONICAL),
        ("a201000000", RecordReason.NOT_CANONICAL),  # keys 1, 0
        ("a200000000", RecordReason.NOT_CANONICAL),  # key 0 twice
        ("a1181800", RecordReason.BAD_KEY),  # key 24
        ("a12000", RecordReason.BAD_KEY),
        ("a1416100", RecordReason.BAD_KEY),
        ("a18000", RecordReason.BAD_KEY),
        ("a1a000", RecordReason.BAD_KEY),
        ("a1f500", RecordReason.BAD_KEY),
        ("f90000", RecordReason.FORBIDDEN_TYPE),  # floats
        ("fa00000000", RecordReason.FORBIDDEN_TYPE),
        ("fb0000000000000000", RecordReason.FORBIDDEN_TYPE),
        ("f7", RecordReason.FORBIDDEN_TYPE),  # undefined
        ("f0", RecordReason.FORBIDDEN_TYPE),
        ("f8ff", RecordReason.FORBIDDEN_TYPE),
        ("c100", RecordReason.FORBIDDEN_TYPE),  # tags: time, big number, shared value, regular expression
        ("c249010000000000000000", RecordReason.FORBIDDEN_TYPE),
        ("d81c80", RecordReason.FORBIDDEN_TYPE),
        ("d8236161", RecordReason.FORBIDDEN_TYPE),
        ("d200", RecordReason.FORBIDDEN_TYPE),  # 18, where no tag is wanted
        ("9fff", RecordReason.INDEFINITE_LENGTH),
        ("bfff", RecordReason.INDEFINITE_LENGTH),
        ("5f4161ff", RecordReason.INDEFINITE_LENGTH),
        ("7f6161ff", RecordReason.INDEFINITE_LENGTH),
        ("ff", RecordReason.INDEFINITE_LENGTH),
        ("1c", RecordReason.INDEFINITE_LENGTH),  # reserved
        ("0000", RecordReason.TRAILING_BYTES),
        ("8000", RecordReason.TRAILING_BYTES),
        ("8200", RecordReason.TRUNCATED),
        ("a100", RecordReason.TRUNCATED),
        ("4261", RecordReason.TRUNCATED),
        ("18", RecordReason.TRUNCATED),
        ("61ff", RecordReason.BAD_TEXT),
        ("62c080", RecordReason.BAD_TEXT),  # overlong
        ("63eda080", RecordReason.BAD_TEXT),  # surrogate
    ],
)
def test_strictness(data: str, reason: RecordReason) -> None:
    assert refusal(bytes.fromhex(data)) is reason


def test_size_and_depth_are_limits() -> None:
    data = cbor.encode([bytes(10)])
    assert refusal(data, max_bytes=len(data) - 1) is RecordReason.TOO_LARGE
    assert cbor.decode(data, max_bytes=len(data), max_depth=1) == [bytes(10)]
    assert refusal(data, max_depth=0) is RecordReason.TOO_DEEP
    assert refusal(b"\xa1\x00" * 9 + b"\x00") is RecordReason.TOO_DEEP
    assert depth(cbor.decode(b"\xa1\x00" * 8 + b"\x00", max_bytes=LIMIT)) == 8


@pytest.mark.parametrize("deep", [b"\x81" * 100_000, b"\xa1\x00" * 100_000, b"\x81" * 100_000 + b"\x00"])
def test_hostile_nesting_is_refused_without_recursion(deep: bytes) -> None:
    assert refusal(deep) is RecordReason.TOO_DEEP


@pytest.mark.parametrize("head", ["9b", "bb", "5b", "7b"])
@pytest.mark.parametrize("length", [2**32, 2**63 - 1, 2**64 - 1])
def test_huge_lengths_are_refused_before_anything_is_allocated(head: str, length: int) -> None:
    assert refusal(bytes.fromhex(head) + length.to_bytes(8, "big")) is RecordReason.TRUNCATED


def test_a_tag_is_there_exactly_if_wanted() -> None:
    assert refusal(b"\x00", tag=18) is RecordReason.NOT_COSE
    assert refusal(b"\xd1\x00", tag=18) is RecordReason.NOT_COSE
    assert refusal(b"\xd2", tag=18) is RecordReason.TRUNCATED
    assert refusal(b"\xd2\xd2\x00", tag=18) is RecordReason.FORBIDDEN_TYPE
    assert cbor.decode(b"\xd2\x00", max_bytes=2, tag=18) == 0


def cyclic() -> list[object]:
    value: list[object] = []
    value.append(value)
    return value


def nested(levels: int) -> object:
    value: object = 0
    for _ in range(levels):
        value = [value]
    return value


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (1.0, RecordReason.FORBIDDEN_TYPE),
        ({1, 2}, RecordReason.FORBIDDEN_TYPE),
        (object(), RecordReason.FORBIDDEN_TYPE),
        (bytearray(3), RecordReason.FORBIDDEN_TYPE),
        (cbor2.CBORTag(1, 0), RecordReason.FORBIDDEN_TYPE),
        (2**64, RecordReason.OUT_OF_RANGE),
        (-(2**64) - 1, RecordReason.OUT_OF_RANGE),
        ({24: 0}, RecordReason.BAD_KEY),
        ({-1: 0}, RecordReason.BAD_KEY),
        ({"a": 0}, RecordReason.BAD_KEY),
        ({True: 0}, RecordReason.BAD_KEY),
        ("\ud800", RecordReason.BAD_TEXT),
        (cyclic(), RecordReason.TOO_DEEP),
        (nested(9), RecordReason.TOO_DEEP),
        (nested(100_000), RecordReason.TOO_DEEP),
    ],
    ids=lambda value: type(value).__name__ if not isinstance(value, RecordReason) else value.value,
)
def test_what_has_no_encoding(value: object, reason: RecordReason) -> None:
    with pytest.raises(cbor.CborError) as caught:
        cbor.encode(value)
    assert caught.value.reason is reason
