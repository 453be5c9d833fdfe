"""One stream of a Yamux connection: a window of bytes in each direction, and what happens at its ends.

Nothing here touches the socket. The connection (`muxer.py`) hands in what its one reader cut out of the socket's bytes,
and takes the frames to be sent by its one writer.

Source: https://github.com/hashicorp/yamux/blob/master/spec.md
"""

from __future__ import annotations

import math
from struct import Struct
from typing import TYPE_CHECKING

import trio
from libp2p.abc import IMuxedStream
from libp2p.stream_muxer.exceptions import MuxedStreamClosed, MuxedStreamEOF, MuxedStreamReset
from trio.lowlevel import ParkingLot

from koii_p2p.network.frames import READ_BYTES

if TYPE_CHECKING:
    from koii_p2p.network.muxer import ContainedYamux

HEADER = Struct("!BBHII")  # version, type, flags, stream, length
HEADER_BYTES = 12
DATA, WINDOW_UPDATE, PING, GO_AWAY = range(4)
SYN, ACK, FIN, RST = 1, 2, 4, 8

FIRST_WINDOW = 256 * 1024  # the specification's
LARGEST_CREDIT = 2**31
FRAME_BYTES = 64 * 1024 - HEADER_BYTES  # larger frames would keep other streams waiting
LINGER_SECONDS = 30.0  # for the peer to close its half of a stream that we closed and do not read


class YamuxError(Exception):
    """The peer broke a rule of Yamux; its connection ends."""


class ContainedStream(IMuxedStream):
    """One stream: a window of bytes in each direction. One task may read and one may write at a time."""

    muxed_conn: ContainedYamux

    def __init__(self, number: int, connection: ContainedYamux) -> None:
        self.stream_id = number
        self.muxed_conn = connection
        self.was_reset = False
        self.fin_received = False
        self.fin_sent = False
        self.closed_at = math.inf
        self._unread = bytearray()
        self._forgotten = False
        """Whether the connection has let go of the stream and counts what lies unread no longer."""
        self._window = FIRST_WINDOW
        """How much the peer may have sent that was not read."""
        self._allowed = FIRST_WINDOW
        """How much the peer may send now."""
        self._owed = 0
        self._credited_at = -math.inf
        self._credit = FIRST_WINDOW
        """How much we may send now."""
        self._readable = ParkingLot()
        self._writable = ParkingLot()
        self._writing = False

    @property
    def closed(self) -> bool:
        """Whether nothing can be sent or received any more (what was received may still be read)."""
        return self.was_reset or (self.fin_sent and self.fin_received)

    # reading

    async def read_some(self, max_bytes: int = READ_BYTES) -> bytes:
        """Return what is there, at least one byte and at most `max_bytes`; nothing when the peer has closed.

        Does not yield while something is there. Raises `MuxedStreamReset` when the stream or connection was cut.
        """
        while not self._unread:
            if self.was_reset:
                raise MuxedStreamReset("The stream was reset.")
            if self.fin_received:
                return b""
            await self._readable.park()
        unread = self._unread
        if len(unread) <= max_bytes:
            data = bytes(unread)
            unread.clear()
        else:
            data = bytes(memoryview(unread)[:max_bytes])
            del unread[:max_bytes]
        if not self._forgotten:
            self.muxed_conn.unread -= len(data)
        self._owed += len(data)
        if self._owed * 2 >= self._window and not self.fin_received:
            self._give_credit()
        return data

    def unread(self, data: bytes) -> None:
        """Put bytes back, to be read next."""
        self._unread[:0] = data
        if not self._forgotten:
            self.muxed_conn.unread += len(data)
        self._owed -= len(data)

    def _give_credit(self) -> None:
        """Let the peer send as much as was read, when that is half the window; grow the window of a fast stream.

        A window that was used up within four round trips is what holds the stream back (go-yamux).
        """
        now = trio.current_time()
        if now - self._credited_at < 4 * self.muxed_conn.rtt and self.muxed_conn.grow(self._window):
            self._owed += self._window
            self._window *= 2
        self._credited_at = now
        self._allowed += self._owed
        self.muxed_conn.reply(WINDOW_UPDATE, 0, self.stream_id, self._owed)
        self._owed = 0

    async def read(self, n: int | None = None) -> bytes:
        """Return up to `n` bytes (None and -1: all that is there). Raises `MuxedStreamEOF` at the end."""
        data = await self.read_some(READ_BYTES if n is None or n < 0 else n)
        if not data:
            raise MuxedStreamEOF("The peer closed the stream.")
        return data

    # writing

    async def write(self, data: bytes) -> None:
        """Send all of `data`; returns once it is queued, waiting only while the peer or the socket is behind.

        Does not yield while there is room. Raises `MuxedStreamReset` when the stream or connection was cut, or the
        peer gave no credit for `Limits.peer_stall_seconds`; `MuxedStreamClosed` after `close`; `trio.BusyResourceError`
        when another task is writing. After a cancelled write an unknown part has been sent: reset the stream.
        """
        if self._writing:
            raise trio.BusyResourceError("another task is writing to this stream")
        self._writing = True
        try:
            at, end = 0, len(data)
            while at < end:
                self._check_writable()
                if not self._credit:
                    await self._wait_for_credit()
                    continue
                size = min(end - at, self._credit, FRAME_BYTES)
                self._credit -= size
                part = data if size == end else data[at : at + size]
                await self.muxed_conn.send(HEADER.pack(0, DATA, 0, self.stream_id, size), part)
                at += size
        finally:
            self._writing = False

    def write_nowait(self, data: bytes) -> bool:
        """Queue all of `data` if that needs no waiting; return whether it was taken, all of it or nothing."""
        size = len(data)
        busy = self._writing or self.was_reset or self.fin_sent or not self.muxed_conn.has_room
        if busy or not 0 < size <= min(self._credit, FRAME_BYTES):
            return False
        self._credit -= size
        self.muxed_conn.send_nowait(HEADER.pack(0, DATA, 0, self.stream_id, size), data)
        return True

    def _check_writable(self) -> None:
        if self.was_reset:
            raise MuxedStreamReset("The stream was reset.")
        if self.fin_sent:
            raise MuxedStreamClosed("The stream is closed for writing.")

    async def _wait_for_credit(self) -> None:
        with trio.move_on_after(self.muxed_conn.patience) as scope:
            await self._writable.park()
        if scope.cancelled_caught:
            self.muxed_conn.count("StreamStalled")
            await self.reset()

    async def close(self) -> None:
        """Say that nothing more will be written; what the peer sends can still be read."""
        if not self.was_reset and not self.fin_sent:
            self.fin_sent = True
            self.closed_at = trio.current_time()
            await self.muxed_conn.send(HEADER.pack(0, WINDOW_UPDATE, FIN, self.stream_id, 0), b"")
            self._forget_if_closed()

    async def reset(self) -> None:
        """Cut the stream in both directions, at once and without waiting."""
        if not self.closed:
            self.muxed_conn.reply(WINDOW_UPDATE, RST, self.stream_id, 0)
        self._drop_unread()
        self.cut()

    # what the connection tells

    def receive(self, data: bytes | memoryview) -> None:
        """Take bytes from the peer."""
        self._unread += data
        if self._readable:
            self._readable.unpark_all()

    def allow(self, size: int) -> None:
        """Take note of an announced frame. Raises `YamuxError` when the window has no room for it."""
        if size > self._allowed:
            raise YamuxError(f"The window of stream {self.stream_id} is overrun.")
        if self.fin_received:
            raise YamuxError("Data came after the end of a stream.")
        self._allowed -= size

    def credit(self, size: int) -> None:
        """Take credit from the peer. Raises `YamuxError` for more than any window holds."""
        self._credit += size
        if self._credit > LARGEST_CREDIT:
            raise YamuxError("More credit than any window holds.")
        if self._writable:
            self._writable.unpark_all()

    def end(self) -> None:
        """Note that the peer sends no more."""
        self.fin_received = True
        self._readable.unpark_all()
        self._forget_if_closed()

    def cut(self) -> None:
        """Note that the stream is no more. What came before the peer's end stays readable."""
        if not self.fin_received:
            self._drop_unread()
        self.was_reset = True
        self._readable.unpark_all()
        self._writable.unpark_all()
        self._forget_if_closed()

    def idle(self, now: float) -> bool:
        """Say whether we closed our half long ago and nobody reads the other."""
        return now - self.closed_at > LINGER_SECONDS and not self._readable

    def _drop_unread(self) -> None:
        if not self._forgotten:
            self.muxed_conn.unread -= len(self._unread)
        self._unread.clear()

    def _forget_if_closed(self) -> None:
        if self.closed and not self._forgotten:
            self._forgotten = True
            self.muxed_conn.unread -= len(self._unread)
            self.muxed_conn.forget(self.stream_id, self._window)

    def set_deadline(self, ttl: int) -> None:
        """Refuse: deadlines are trio's."""
        raise NotImplementedError("Use a cancel scope.")

    def get_remote_address(self) -> tuple[str, int] | None:
        """Return the address and port of the other end."""
        return self.muxed_conn.get_remote_address()

    async def __aenter__(self) -> ContainedStream:
        return self
