from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from koii_p2p.tasks.frames import HEADER_BYTES, Frame, FrameError, body_length, decode_body, encode_frame


def test_a_frame_comes_back_as_it_was() -> None:
    data = encode_frame(Frame.CALL, 5, 3, ["text", b"bytes", -1, None, True], max_bytes=100)
    length = body_length(data[:HEADER_BYTES], max_bytes=100)
    assert length == len(data) - HEADER_BYTES
    frame, items = decode_body(data[HEADER_BYTES:], max_bytes=100)
    assert frame is Frame.CALL
    assert items == [5, 3, ["text", b"bytes", -1, None, True]]


@pytest.mark.parametrize("items", [(b"x" * 200,), (1.5,), (object(),), ("\ud800",), ({"text": 1},), (2**64,)])
def test_what_cannot_be_said_is_a_frame_error(items: tuple[object, ...]) -> None:
    with pytest.raises(FrameError):
        encode_frame(Frame.RESULT, *items, max_bytes=100)


@pytest.mark.parametrize("length", [0, 101, 2**32 - 1])
def test_a_header_outside_the_limits_is_refused(length: int) -> None:
    with pytest.raises(FrameError):
        body_length(length.to_bytes(4, "big"), max_bytes=100)


@pytest.mark.parametrize(
    "body", [b"", b"\x80", b"\x01", b"\x81\x18\xff", b"\x81\xf5", b"\x81\x61a", b"\x81\x07\x00"]
)
def test_malformed_bodies_are_refused(body: bytes) -> None:
    with pytest.raises(FrameError):
        decode_body(body, max_bytes=100)


@given(st.binary(max_size=200))
def test_no_bytes_raise_anything_else(body: bytes) -> None:
    try:
        frame, items = decode_body(body, max_bytes=200)
    except FrameError:
        return
    assert encode_frame(frame, *items, max_bytes=200)[HEADER_BYTES:] == body
