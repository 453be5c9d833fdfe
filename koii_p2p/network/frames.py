"""Reading length-prefixed frames from a stream in large pieces, never more than a limit allows."""

from __future__ import annotations

READ_BYTES = 64 * 1024
VARINT_BYTES = 10  # an unsigned 64-bit varint


class FrameError(Exception):
    """A frame that cannot be: longer than the limit, a length that never ends, or cut off in the middle."""


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


def split_varint(buffer: bytes | bytearray, start: int, limit: int) -> tuple[int, int] | None:
    """Find the varint-prefixed frame that begins at `start`; return where its payload starts and ends.

    Returns None while more bytes are needed. Raises `FrameError` for a length above `limit` or one that never ends.
    """
    size = shift = 0
    at = start
    for byte in buffer[start : start + VARINT_BYTES]:
        at += 1
        size |= (byte & 0x7F) << shift
        if byte < 0x80:
            if size > limit:
                raise FrameError(f"A frame of {size} bytes is announced, at most {limit} are read.")
            return (at, at + size) if at + size <= len(buffer) else None
        shift += 7
    if at - start >= VARINT_BYTES:
        raise FrameError("The length of a frame does not end.")
    return None


class FrameSplitter:
    """Cuts a stream of bytes into its varint-prefixed frames (gossip RPCs), all that are there at a time."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._rest = bytearray()

    def feed(self, data: bytes) -> list[bytes]:
        """Return the frames that `data` completes, in order; none when it ends inside the first.

        Raises `FrameError` when one is longer than the limit or its length never ends.
        """
        buffer: bytes | bytearray = data
        if self._rest:
            self._rest += data
            buffer = self._rest
        frames: list[bytes] = []
        at = 0
        while (found := split_varint(buffer, at, self._limit)) is not None:
            start, at = found
            frames.append(bytes(buffer[start:at]))
        if buffer is self._rest:
            del self._rest[:at]
        else:
            self._rest = bytearray(data[at:])
        return frames

    @property
    def inside(self) -> bool:
        """Whether a frame has begun and not ended."""
        return bool(self._rest)
