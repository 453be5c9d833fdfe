from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from koii_p2p.network.frames import FrameError, FrameSplitter, VarintFrames, encode_varint, varint_frame
from tests.network.test_requests import Pieces


def test_varints_are_those_of_the_specification() -> None:
    # multiformats unsigned-varint, examples
    assert encode_varint(1) == b"\x01"
    assert encode_varint(127) == b"\x7f"
    assert encode_varint(128) == b"\x80\x01"
    assert encode_varint(300) == b"\xac\x02"
    assert encode_varint(16384) == b"\x80\x80\x01"


@given(st.lists(st.binary(max_size=300), max_size=5), st.integers(1, 50))
async def test_frames_survive_any_cutting(payloads: list[bytes], size: int) -> None:
    data = b"".join(map(varint_frame, payloads))
    frames = VarintFrames(Pieces(*(data[i : i + size] for i in range(0, len(data), size))), 300)
    assert [await frames.next() for _ in payloads] == payloads
    with pytest.raises(FrameError):
        await frames.next()


async def test_a_frame_that_cannot_be_is_refused_before_it_is_read() -> None:
    with pytest.raises(FrameError, match="at most 10"):
        await VarintFrames(Pieces(encode_varint(11)), 10).next()
    with pytest.raises(FrameError, match="does not end"):
        await VarintFrames(Pieces(b"\xff" * 10), 10).next()
    with pytest.raises(FrameError, match="inside"):
        await VarintFrames(Pieces(varint_frame(b"hello")[:-1]), 10).next()


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
