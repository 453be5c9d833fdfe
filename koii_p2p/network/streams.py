"""A stream to a peer, and what is told about links, without any type of the library."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

from koii_p2p.network.frames import READ_BYTES, FrameError, split_varint
from koii_p2p.network.identity import key_of_peer_id

if TYPE_CHECKING:
    from libp2p.network.stream.net_stream import NetStream

    from koii_p2p.network.muxer import ContainedYamux
    from koii_p2p.network.yamux_stream import ContainedStream


class StreamReason(Enum):
    """Why there is no stream; the values are those of `RequestReason`."""

    NOT_CONNECTED = "not connected"
    """There is no connection to the peer."""

    REFUSED = "refused"
    """The peer speaks none of the protocols."""

    TIMED_OUT = "timed out"
    """The deadline passed."""

    BROKEN = "broken"
    """The stream or its connection was cut."""


class StreamFailed(Exception):
    """A stream could not be opened, or was cut; `reason` says why."""

    def __init__(self, reason: StreamReason, text: str) -> None:
        super().__init__(f"{reason.value}: {text}")
        self.reason = reason


@dataclass(frozen=True, slots=True)
class LinkUp:
    """A peer is connected that was not."""

    key: bytes
    outgoing: bool
    """Whether we dialled."""
    address: str
    """The other end of the connection as a multiaddr; of an incoming one the port is a passing one, of a relayed one it
    is the relay: `/p2p/<relay>/p2p-circuit`."""


@dataclass(frozen=True, slots=True)
class LinkDown:
    """The last connection of a peer is gone."""

    key: bytes


LinkEvent = LinkUp | LinkDown

#: `watcher(event)`; it must not block, and what it raises is counted and goes no further.
LinkWatcher = Callable[[LinkEvent], None]


class PeerStream:
    """A stream to or from a peer on which a protocol was agreed. One task may read and one may write at a time."""

    def __init__(self, stream: NetStream) -> None:
        muxed: ContainedStream = stream.muxed_stream  # type: ignore[assignment]
        self.key = key_of_peer_id(muxed.muxed_conn.peer_id.to_bytes())
        self.protocol = str(stream.get_protocol())
        self._stream = stream
        self._muxed = muxed

    @property
    def link(self) -> ContainedYamux:
        """The connection it is on."""
        return self._muxed.muxed_conn

    async def read_some(self, max_bytes: int = READ_BYTES) -> bytes:
        """Return what is there, at least one byte and at most `max_bytes`; nothing once the peer has closed.

        Does not yield while something is there. Raises `StreamFailed` (BROKEN).
        """
        from libp2p.exceptions import BaseLibp2pError

        try:
            return await self._muxed.read_some(max_bytes)
        except BaseLibp2pError as error:
            raise StreamFailed(StreamReason.BROKEN, str(error)) from error

    async def write(self, data: bytes) -> None:
        """Send all of `data`, waiting only while the peer or the socket is behind.

        It goes out together with whatever else waits for this connection, so one call with many frames is one
        message. After a cancelled write an unknown part has been sent: reset the stream. Raises `StreamFailed`
        (BROKEN), also when the peer takes nothing for `Limits.peer_stall_seconds`.
        """
        from libp2p.exceptions import BaseLibp2pError

        try:
            await self._muxed.write(data)
        except BaseLibp2pError as error:
            raise StreamFailed(StreamReason.BROKEN, str(error)) from error

    def write_nowait(self, data: bytes) -> bool:
        """Send all of `data` if that needs no waiting; return whether it was taken, all of it or nothing.

        It is not taken while another task writes, nor once the stream is gone; `write` then says why.
        """
        return self._muxed.write_nowait(data)

    async def close(self) -> None:
        """Say that nothing more will be written; what the peer sends can still be read to its end."""
        await self._stream.close()

    async def reset(self) -> None:
        """Cut the stream in both directions, without waiting; harmless when it is gone already."""
        await self._stream.reset()

    @property
    def closed(self) -> bool:
        """Whether nothing can be sent or received any more (what was received may still be read)."""
        return self._muxed.closed


async def read_message(stream: PeerStream, limit: int, rest: bytearray) -> bytes | None:
    """Read one varint-framed message, of which `rest` may hold a part, and leave there what comes after it.

    None when the stream ended before it began. Raises `FrameError`, also for one of more than `limit` bytes, and
    `StreamFailed`.
    """
    while (found := split_varint(rest, 0, limit)) is None:
        data = await stream.read_some()
        if not data:
            if rest:
                raise FrameError("The stream ended inside a message.")
            return None
        rest += data
    start, end = found
    message = bytes(rest[start:end])
    del rest[:end]
    return message


#: `handler(stream)`; when it returns the stream is closed, and when it raises it is reset.
StreamHandler = Callable[[PeerStream], Awaitable[None]]
