from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from koii_p2p.network.frames import FrameError, FrameSplitter, encode_varint, varint_frame


def test_varints_are_those_of_the_specification() -> None:
    # multiformats unsigned-varint, examples
    assert encode_varint(1) == b"\x01"
    assert encode_varint(127) == b"\x7f"
    assert encode_varint(128) == b"\x80\x01"
    assert encode_varint(300) == b"\xac\x02"
    assert encode_varint(16384) == b"\x80\x80\x01"


@given(st.lists(st.binary(max_size=300), max_size=8), st.integers(1, 700))
def test_the_splitter_finds_the_same_frames_however_they_are_cut(payloads: list[bytes], size: int) -> None:
    data = b"".join(map(varint_frame, payloads))
    splitter = FrameSplitter(300)
    assert [
        frame for at in range(0, len(data), size) for frame in splitter.feed(data[at : at + size])
    ] == payloads
    assert not splitter.inside


def test_the_splitter_refuses_what_cannot_be_and_says_when_it_is_inside_a_frame() -> None:
    splitter = FrameSplitter(10)
    assert splitter.feed(varint_frame(b"one") + varint_frame(b"two") + b"\x05th") == [b"one", b"two"]
    assert splitter.inside
    assert splitter.feed(b"ree") == [b"three"]
    with pytest.raises(FrameError, match="at most 10"):
        splitter.feed(encode_varint(11))
    with pytest.raises(FrameError, match="does not end"):
        FrameSplitter(10).feed(b"\xff" * 10)
