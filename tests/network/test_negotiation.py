from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from koii_p2p.network.frames import encode_varint, varint_frame
from koii_p2p.network.negotiation import LINE_BYTES, LINES, NegotiationError, answer, propose

GREETING = varint_frame(b"/multistream/1.0.0\n")


def line(text: str) -> bytes:
    return varint_frame(text.encode() + b"\n")


class Script:
    """A channel whose other end says what it was given, a few bytes at a time."""

    def __init__(self, said: bytes, piece: int = 1000) -> None:
        self.left = said
        self.piece = piece
        self.written: list[bytes] = []

    async def read_some(self, max_bytes: int) -> bytes:
        size = min(self.piece, max_bytes)
        data, self.left = self.left[:size], self.left[size:]
        return data

    async def write(self, data: bytes) -> None:
        self.written.append(data)

    def unread(self, data: bytes) -> None:
        self.left = data + self.left


@given(st.integers(1, 60), st.binary(max_size=30))
async def test_both_sides_agree_and_leave_the_rest(piece: int, rest: bytes) -> None:
    proposer = Script(GREETING + line("na") + line("/b/1") + rest, piece)
    assert await propose(proposer, ("/a/1", "/b/1", "/c/1")) == "/b/1"
    assert proposer.written == [GREETING + line("/a/1"), line("/b/1")]
    assert proposer.left == rest

    answerer = Script(GREETING + line("/x/1") + line("/b/1") + rest, piece)
    assert await answer(answerer, {"/a/1", "/b/1"}) == "/b/1"
    assert b"".join(answerer.written) == GREETING + line("na") + line("/b/1")
    assert answerer.left == rest


async def test_one_that_waits_to_be_greeted_is_greeted() -> None:
    channel = Script(GREETING, piece=len(GREETING))
    with pytest.raises(NegotiationError, match="ended"):
        await answer(channel, {"/a/1"})
    assert channel.written == [GREETING]


async def test_refusals() -> None:
    with pytest.raises(NegotiationError, match="speaks none of /a/1, /b/1"):
        await propose(Script(GREETING + line("na") * 2), ("/a/1", "/b/1"))
    with pytest.raises(NegotiationError, match="neither"):
        await propose(Script(GREETING + line("/else/1")), ("/a/1",))
    with pytest.raises(NegotiationError, match="multistream"):
        await propose(Script(line("/multistream/2.0.0")), ("/a/1",))
    with pytest.raises(NegotiationError, match="multistream"):
        await answer(Script(line("hello")), {"/a/1"})


@pytest.mark.parametrize(
    "said",
    [
        encode_varint(LINE_BYTES + 1),
        encode_varint(2**63),
        b"\xff" * 12,
        b"\x00",
        varint_frame(b"no newline"),
        GREETING + line("x") * LINES,
        GREETING + varint_frame(b"\xff\xfe\n") * LINES,
        GREETING[:10],
        b"",
    ],
)
async def test_what_cannot_be_is_refused_at_once(said: bytes) -> None:
    channel = Script(said)
    with pytest.raises(NegotiationError):
        await answer(channel, {"/a/1"})
    with pytest.raises(NegotiationError):
        await propose(Script(said), ("/a/1",))


async def test_a_longest_line_is_read() -> None:
    name = "/" + "x" * (LINE_BYTES - 2)
    assert await answer(Script(GREETING + line(name)), {name}) == name
