"""Many streams over one connection: Yamux as its specification says, in batches and within bounds.

It takes the place of the library's muxer, whose wire it speaks. The library takes three locks, four awaits and a frame
of credit for every frame it reads, sends each frame by itself, keeps whatever a peer pushes past its window, and
never ends a write to a peer that reads nothing. Here one task reads: it cuts everything the socket had into frames
without awaiting between them. One task writes: everything that waits, as one message. Nothing else touches the socket,
so a cancelled caller can never leave half a frame behind.

Bounds: a peer may have `Limits.streams_per_connection` streams open, on each of them as many bytes unread as its
window says, and `Limits.connection_buffer_bytes` in all. Whoever exceeds a window loses the connection.

Source: https://github.com/hashicorp/yamux/blob/master/spec.md
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

import trio
from libp2p.abc import IMuxedConn, IMuxedStream
from libp2p.io.exceptions import ConnectionClosedError
from libp2p.stream_muxer.exceptions import MuxedConnUnavailable, MuxedStreamError
from trio.lowlevel import ParkingLot

from koii_p2p.network.yamux_stream import (
    ACK,
    DATA,
    FIN,
    FIRST_WINDOW,
    GO_AWAY,
    HEADER,
    HEADER_BYTES,
    PING,
    RST,
    SYN,
    WINDOW_UPDATE,
    ContainedStream,
    YamuxError,
)

if TYPE_CHECKING:
    from libp2p.connection_types import ConnectionType
    from libp2p.peer.id import ID
    from multiaddr import Multiaddr

    from koii_p2p.limits import Limits
    from koii_p2p.network.containment import Guard
    from koii_p2p.network.noise import NoiseChannel

GO_AWAY_NORMAL, GO_AWAY_PROTOCOL_ERROR = 0, 1
STREAM_NUMBERS = 2**32

LARGEST_WINDOW = 1024 * 1024  # 80 Mbit/s at 100 ms
BATCH_BYTES = 64 * 1024  # writers wait when this much is queued
REPLY_BYTES = 256 * 1024  # queued answers to a peer that reads nothing; writers stop at BATCH_BYTES

CLOSE_SECONDS = 0.5


class ContainedYamux(IMuxedConn):
    """A connection that a peer can neither block for ever nor fill without bound."""

    def __init__(
        self, conn: NoiseChannel, peer_id: ID, guard: Guard, limits: Limits, alive: set[ContainedYamux]
    ) -> None:
        self.peer_id = peer_id
        self.event_started = trio.Event()
        self.event_closed = trio.Event()
        #: Called when the connection has ended; the swarm's connection sets it.
        self.on_close: Callable[[], Awaitable[None]] | None = None
        self.streams: dict[int, ContainedStream] = {}
        self.since = trio.current_time()
        self.unread = 0
        self.rtt = 0.0
        #: Made only to see whether a peer can be dialled; nothing else is to be put on it.
        self.spare = False
        #: Both ends have dialled at once, through their NATs: it does not show that either can be dialled.
        self.punched = False
        self.patience = limits.peer_stall_seconds
        self._channel = conn
        self._guard = guard
        self._limits = limits
        self._alive = alive
        self._next = 1 if conn.is_initiator else 2
        self._open = [0, 0]
        """Open streams with even numbers, and with odd ones."""
        self._accepted: deque[ContainedStream] = deque()
        self._acceptable = ParkingLot()
        self._granted = 0
        self._out: list[bytes] = []
        self._out_bytes = 0
        self._sending = False
        self._sendable = ParkingLot()
        self._room = ParkingLot()
        self._rest = b""
        self._body_left = 0
        self._body_stream: ContainedStream | None = None
        self._body_ends = False
        self._heard_at = -math.inf
        self._pinged_at = -math.inf
        self._nursery: trio.Nursery | None = None
        self._ended = False
        alive.add(self)

    # streams

    async def open_stream(self) -> ContainedStream:
        """Open a stream. Raises `MuxedStreamError` when the connection has ended or has too many."""
        if self._ended:
            raise MuxedStreamError("The connection has ended.")
        if self._open[self._next & 1] >= self._limits.streams_per_connection:
            raise MuxedStreamError("Too many streams are open.")
        if self._next >= STREAM_NUMBERS:
            raise MuxedStreamError("The connection has used up its stream numbers.")
        stream = self._add(self._next)
        self._next += 2
        self.reply(WINDOW_UPDATE, SYN, stream.stream_id, 0)
        return stream

    async def accept_stream(self) -> IMuxedStream:
        """Wait for the peer to open a stream. Raises `MuxedConnUnavailable` when the connection has ended."""
        while not self._accepted:
            if self._ended:
                raise MuxedConnUnavailable("The connection has ended.")
            await self._acceptable.park()
        return self._accepted.popleft()

    def _add(self, number: int) -> ContainedStream:
        stream = self.streams[number] = ContainedStream(number, self)
        self._open[number & 1] += 1
        self._granted += FIRST_WINDOW
        return stream

    def grow(self, window: int) -> bool:
        """Ask to double a window of this size; return whether all windows together still fit the buffer bound."""
        if 2 * window > LARGEST_WINDOW or self._granted + window > self._limits.connection_buffer_bytes:
            return False
        self._granted += window
        return True

    def forget(self, number: int, window: int) -> None:
        """Drop a stream that is closed in both directions."""
        del self.streams[number]
        self._open[number & 1] -= 1
        self._granted -= window

    def count(self, what: str) -> None:
        """Count a fault of the peer."""
        self._guard.count("muxer", what)

    # sending

    async def send(self, header: bytes, body: bytes) -> None:
        """Queue a frame; wait while too much is queued."""
        self._queue(header, body)
        while self._out_bytes >= BATCH_BYTES and not self._ended:
            await self._room.park()

    @property
    def has_room(self) -> bool:
        """Whether a frame can be queued without waiting."""
        return self._out_bytes < BATCH_BYTES

    def send_nowait(self, header: bytes, body: bytes) -> None:
        """Queue a frame; only while there is room."""
        self._queue(header, body)

    def reply(self, kind: int, flags: int, number: int, value: int) -> None:
        """Queue a frame without a body, without waiting (the reader must not wait for the writer).

        A peer that takes nothing but makes us answer loses the connection.
        """
        self._queue(HEADER.pack(0, kind, flags, number, value), b"")
        if self._out_bytes > REPLY_BYTES and not self._ended:
            self.count("ReplyFlood")
            self._stop()

    def _queue(self, header: bytes, body: bytes) -> None:
        if self._ended:
            return
        self._out.append(header)
        if body:
            self._out.append(body)
        self._out_bytes += HEADER_BYTES + len(body)
        if self._sendable:
            self._sendable.unpark_all()

    async def _write_all(self) -> None:
        """Send whatever is queued, batch by batch, for ever; end the connection when the peer takes nothing."""
        with trio.CancelScope() as scope:
            while True:
                while not self._out:
                    await self._sendable.park()
                scope.deadline = trio.current_time() + self.patience
                self._sending = True
                await self._channel.write(self._take_all())
                self._sending = False
                scope.deadline = math.inf
        if scope.cancelled_caught:
            self.count("WriteStalled")
            self._stop()

    def _take_all(self) -> bytes:
        """Return all that is queued, for the channel alone: a slow peer's batch is not to be held twice."""
        batch = b"".join(self._out)
        self._out.clear()
        self._out_bytes = 0
        if self._room:
            self._room.unpark_all()
        return batch

    async def _ping(self) -> None:
        """Ask for a sign of life now and then, and look for streams that only we have closed."""
        await trio.sleep(min(0.5, self.patience))
        while True:
            asked = self._pinged_at = trio.current_time()
            self.reply(PING, SYN, 0, 0)
            await trio.sleep(self.patience)
            if self._heard_at < asked:
                self.count("Silent")
                self._stop()
            for stream in tuple(self.streams.values()):
                if stream.idle(trio.current_time()):
                    await stream.reset()

    # receiving

    async def _read_all(self) -> None:
        while data := await self._channel.read_some():
            self._heard_at = trio.current_time()
            self._feed(data)
            if self.unread > self._limits.connection_buffer_bytes:
                self.count("BufferFull")
                return

    def _feed(self, data: bytes) -> None:
        """Deal with all frames in `data`. Raises `YamuxError`."""
        if self._rest:
            data = self._rest + data
            self._rest = b""
        view = memoryview(data)
        at, end = 0, len(data)
        while not self._ended:
            if self._body_left:
                size = min(self._body_left, end - at)
                self._body_left -= size
                if self._body_stream is not None and not self._body_stream.was_reset:
                    self.unread += size
                    self._body_stream.receive(view[at : at + size])
                at += size
                if self._body_left:
                    return
                if self._body_ends and self._body_stream is not None:
                    self._body_stream.end()
            if end - at < HEADER_BYTES:
                self._rest = data[at:]
                return
            version, kind, flags, number, value = HEADER.unpack_from(data, at)
            at += HEADER_BYTES
            if version != 0:
                raise YamuxError(f"Version {version} of Yamux is unknown.")
            if kind <= WINDOW_UPDATE:
                self._stream_frame(kind, flags, number, value)
            elif kind == PING:
                self._pinged(flags, value)
            elif kind == GO_AWAY:
                raise ConnectionClosedError("The peer said goodbye.", transport="tcp")
            else:
                raise YamuxError(f"There is no frame of type {kind}.")

    def _stream_frame(self, kind: int, flags: int, number: int, value: int) -> None:
        stream = self._opened(number) if flags & SYN else self.streams.get(number)
        if kind == DATA and value:
            if stream is not None:
                stream.allow(value)
            elif value > LARGEST_WINDOW:
                raise YamuxError("A frame is larger than any window.")
            self._body_left = value
            self._body_stream = stream
            self._body_ends = bool(flags & FIN)
        elif stream is not None:
            if kind == WINDOW_UPDATE and value:
                stream.credit(value)
            if flags & FIN:
                stream.end()
        if stream is not None and flags & RST:
            stream.cut()

    def _opened(self, number: int) -> ContainedStream | None:
        """Take a stream that the peer opens, or refuse it when it has too many."""
        if number == 0 or (number ^ self._next) & 1 == 0:
            raise YamuxError(f"The peer may not open stream {number}.")
        if number in self.streams:
            raise YamuxError(f"Stream {number} was opened twice.")
        # Streams that were reset before anybody accepted them are no longer open but still cost a task each.
        if max(self._open[number & 1], len(self._accepted)) >= self._limits.streams_per_connection:
            self.count("TooManyStreams")
            self.reply(WINDOW_UPDATE, RST, number, 0)
            return None
        stream = self._add(number)
        self.reply(WINDOW_UPDATE, ACK, number, 0)
        self._accepted.append(stream)
        self._acceptable.unpark()
        return stream

    def _pinged(self, flags: int, value: int) -> None:
        if flags & SYN:
            self.reply(PING, ACK, 0, value)
        elif flags & ACK:
            sample = trio.current_time() - self._pinged_at
            self.rtt = sample if self.rtt == 0.0 else (self.rtt + sample) / 2

    # life

    async def start(self) -> None:
        """Run the connection until it ends; an exception ends this connection only."""
        try:
            with self._guard.contain("muxer"):
                async with trio.open_nursery() as nursery:
                    self._nursery = nursery
                    if self._ended:
                        nursery.cancel_scope.cancel()
                    nursery.start_soon(self._serve, self._write_all)
                    nursery.start_soon(self._serve, self._ping)
                    self.event_started.set()
                    await self._serve(self._read_all)
                    self._stop()
        finally:
            self.event_started.set()
            await self.abort()
        if self.on_close is not None:
            with self._guard.contain("muxer_close"):
                await self.on_close()

    async def _serve(self, part: Callable[[], Awaitable[None]]) -> None:
        """Run a part of the connection; when it cannot go on, say why if it is the peer's fault, and end it all."""
        try:
            await part()
        except ConnectionClosedError:
            self._stop()
        except YamuxError as error:
            self._guard.count("muxer", error)
            with trio.move_on_after(CLOSE_SECONDS):
                await self._goodbye(GO_AWAY_PROTOCOL_ERROR)
            self._stop()
        except Exception as error:  # noqa: BLE001 - above all a message that was not sealed with the key
            self._guard.count("muxer", error)
            self._stop()

    async def _goodbye(self, code: int) -> None:
        self._queue(HEADER.pack(0, GO_AWAY, 0, 0, code), b"")
        while (self._out or self._sending) and not self._ended:
            await trio.sleep(0.005)

    def _stop(self) -> None:
        """Let nobody wait any longer for this connection."""
        if self._ended:
            return
        self._ended = True
        for stream in tuple(self.streams.values()):
            stream.cut()
        self._room.unpark_all()
        self._acceptable.unpark_all()
        if self._nursery is not None:
            self._nursery.cancel_scope.cancel()

    async def close(self) -> None:
        """Say goodbye if the peer takes it at once, and close in any case."""
        if not self._ended and self._nursery is not None:
            with trio.move_on_after(CLOSE_SECONDS):
                await self._goodbye(GO_AWAY_NORMAL)
        await self.abort()

    async def abort(self) -> None:
        """Close the socket without a word and end every stream."""
        self._stop()
        if self.event_closed.is_set():
            return
        with trio.CancelScope(shield=True), self._guard.contain("muxer_close"):
            await self._channel.close()
        self.event_closed.set()
        self._alive.discard(self)

    @property
    def is_initiator(self) -> bool:
        """Whether we dialled."""
        return self._channel.is_initiator

    @property
    def is_established(self) -> bool:
        """Whether streams can be opened."""
        return self.event_started.is_set() and not self._ended

    @property
    def is_closed(self) -> bool:
        """Whether the connection has ended."""
        return self._ended

    def get_remote_address(self) -> tuple[str, int] | None:
        """Return the address and port of the other end; None if a relay is between."""
        return self._channel.get_remote_address()

    @property
    def place(self) -> str:
        """The other end as a multiaddr; of a relayed connection, the relay it is reached through."""
        return self._channel.place

    @property
    def relayed(self) -> bool:
        """Whether a relay is between the two ends."""
        return self._channel.relayed

    def get_transport_addresses(self) -> list[Multiaddr]:
        """Return the address of the other end."""
        return self._channel.get_transport_addresses()

    def get_connection_type(self) -> ConnectionType:
        """Say whether it is direct."""
        return self._channel.get_connection_type()
