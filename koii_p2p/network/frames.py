"""Reading length-prefixed frames from a stream in large pieces, never more than a limit allows."""

from __future__ import annotations

from typing import Protocol

READ_BYTES = 64 * 1024
VARINT_BYTES = 10  # an unsigned 64-bit varint


class FrameError(Exception):
    """A frame that cannot be: longer than the limit, a length that never ends, or cut off in the middle."""


class ByteStream(Protocol):
    """What is needed of a libp2p stream; `read` returns some bytes, and nothing or an exception at the end."""

    async def read(self, n: int | None = None) -> bytes:
        """Return up to `n` bytes."""

    async def write(self, data: bytes) -> None:
        """Send all of `data`."""


def encode_varint(value: int) -> bytes:
    """Encode an unsigned integer as libp2p does (LEB128, multiformats unsigned-varint)."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def varint_frame(payload: bytes) -> bytes:
    """Return `payload` behind its length as a varint."""
    return encode_varint(len(payload)) + payload


class VarintFrames:
    """Reads varint-prefixed frames (gossip RPCs), buffering: the library reads the length byte by byte."""

    def __init__(self, stream: ByteStream, limit: int) -> None:
        self._stream = stream
        self._limit = limit
        self._buffer = bytearray()

    async def next(self) -> bytes:
        """Return the next frame. Raises `FrameError`, or what the stream raises at its end."""
        while (length := self._length()) is None:
            await self._more()
        size, start = length
        if size > self._limit:
            raise FrameError(f"A frame of {size} bytes is announced, at most {self._limit} are read.")
        while len(self._buffer) < start + size:
            await self._more()
        frame = bytes(self._buffer[start : start + size])
        del self._buffer[: start + size]
        return frame

    def _length(self) -> tuple[int, int] | None:
        """Return the announced length and where the frame starts, or None if more bytes are needed."""
        value = 0
        for index, byte in enumerate(self._buffer[:VARINT_BYTES]):
            value |= (byte & 0x7F) << (7 * index)
            if byte < 0x80:
                return value, index + 1
        if len(self._buffer) >= VARINT_BYTES:
            raise FrameError("The length of a frame does not end.")
        return None

    async def _more(self) -> None:
        data = await self._stream.read(READ_BYTES)
        if not data:
            raise FrameError("The stream ended inside a frame." if self._buffer else "The stream ended.")
        self._buffer += data
