"""Agreeing on a protocol (multistream-select 1.0), with a bound on every line and on their number.

The library reads each line without a limit, one byte at a time for its length, and decodes whatever it was; a name
that is not UTF-8 leaves as an exception. Lines here are bytes, read in large pieces; what came behind the last one is
given back to the channel. Time limits are the caller's.

Source: https://github.com/multiformats/multistream-select
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Protocol

from koii_p2p.network.frames import FrameError, split_varint, varint_frame

MULTISTREAM = b"/multistream/1.0.0\n"
NOT_AVAILABLE = b"na\n"
LINE_BYTES = 1024  # as js-libp2p; go-libp2p takes 64 KiB
LINES = 32  # of one negotiation
READ_BYTES = 2048


class NegotiationError(Exception):
    """The other side speaks none of the protocols, or something else altogether."""


class Channel(Protocol):
    """Anything two sides can agree on a protocol over."""

    async def read_some(self, max_bytes: int) -> bytes:
        """Return what is there, at least one byte; nothing at the end."""

    async def write(self, data: bytes) -> None:
        """Send all of `data`."""

    def unread(self, data: bytes) -> None:
        """Put bytes back, to be read next."""


class _Lines:
    """Reads lines; each is one varint-prefixed message that ends in a newline."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._buffer = bytearray()
        self._count = 0

    async def next(self) -> bytes:
        self._count += 1
        if self._count > LINES:
            raise NegotiationError("Too many lines.")
        while True:
            try:
                found = split_varint(self._buffer, 0, LINE_BYTES)
            except FrameError as error:
                raise NegotiationError(str(error)) from error
            if found is not None:
                start, end = found
                line = bytes(self._buffer[start:end])
                del self._buffer[:end]
                if not line.endswith(b"\n"):
                    raise NegotiationError("A line does not end.")
                return line
            data = await self._channel.read_some(READ_BYTES)
            if not data:
                raise NegotiationError("The other side ended before a protocol was agreed on.")
            self._buffer += data

    @property
    def waiting(self) -> bool:
        """Whether more has come than was read."""
        return bool(self._buffer)

    def give_back(self) -> None:
        if self._buffer:
            self._channel.unread(bytes(self._buffer))


async def propose(channel: Channel, protocols: Sequence[str]) -> str:
    """Propose protocols in order, the first together with the greeting; return the one the other side speaks.

    Raises `NegotiationError`, or what the channel raises.
    """
    lines = _Lines(channel)
    greeting = varint_frame(MULTISTREAM)
    for number, protocol in enumerate(protocols):
        wanted = protocol.encode() + b"\n"
        await channel.write((greeting if number == 0 else b"") + varint_frame(wanted))
        if number == 0 and await lines.next() != MULTISTREAM:
            raise NegotiationError("The other side does not speak multistream 1.0.")
        answer = await lines.next()
        if answer == wanted:
            lines.give_back()
            return protocol
        if answer != NOT_AVAILABLE:
            raise NegotiationError("The answer is neither the protocol nor a refusal.")
    raise NegotiationError(f"The other side speaks none of {', '.join(protocols)}.")


async def answer(channel: Channel, known: Collection[str]) -> str:
    """Let the other side propose until it names a known protocol, and return that.

    Raises `NegotiationError`, or what the channel raises.
    """
    lines = _Lines(channel)
    if await lines.next() != MULTISTREAM:
        raise NegotiationError("The other side does not speak multistream 1.0.")
    reply = varint_frame(MULTISTREAM)
    if not lines.waiting:
        # Some, py-libp2p among them, propose nothing before they are greeted.
        await channel.write(reply)
        reply = b""
    while True:
        line = await lines.next()
        protocol = line[:-1].decode("utf-8", errors="replace")
        if protocol in known:
            await channel.write(reply + varint_frame(line))
            lines.give_back()
            return protocol
        await channel.write(reply + varint_frame(NOT_AVAILABLE))
        reply = b""
