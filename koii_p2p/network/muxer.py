"""Yamux with bounds: on the time of a write, on what may lie unread, and on who notices when it fails."""

from __future__ import annotations

import trio
from libp2p.abc import IMuxedConn, IMuxedStream, IRawConnection, ISecureConn
from libp2p.io.abc import ReadWriteCloser
from libp2p.network.connection.exceptions import RawConnError
from libp2p.network.connection.raw_connection import RawConnection
from libp2p.peer.id import ID
from libp2p.stream_muxer.muxer_multistream import MuxerMultistream
from libp2p.stream_muxer.yamux.yamux import GO_AWAY_NORMAL, PROTOCOL_ID, Yamux, YamuxStream
from libp2p.transport.upgrader import TransportUpgrader

from koii_p2p.limits import Limits
from koii_p2p.network.containment import Guard
from koii_p2p.network.frames import READ_BYTES

CLOSE_SECONDS = 0.5


class PatientStream(YamuxStream):
    """A stream that gives credit back when half of its window is free, as go-yamux does.

    The library sends a frame of credit for every read: three for each gossip message, a third of all CPU.
    """

    async def _auto_tune_and_send_window_update(self, *, bytes_read: int = 0) -> None:
        async with self.window_lock:
            buffered = len(self.conn.stream_buffers.get(self.stream_id, b""))
            free = self.target_recv_window - self.recv_window - buffered
            if free < self.target_recv_window // 2:
                return
            credit = self._grow_to_delta(buffered) + self._apply_autotune_epoch(buffered)
        await self.send_window_update(credit)


class ContainedYamux(Yamux):
    """A connection that a peer can neither block for ever nor fill without bound."""

    def __init__(
        self, conn: ISecureConn, peer_id: ID, guard: Guard, limits: Limits, alive: set[ContainedYamux]
    ) -> None:
        super().__init__(conn, peer_id, is_initiator=conn.is_initiator)
        self._guard = guard
        self._limits = limits
        self._alive = alive
        alive.add(self)

    async def start(self) -> None:
        """Run the connection; an exception ends this connection only."""
        with self._guard.contain("muxer"):
            await super().start()
        with self._guard.contain("muxer_close"):
            # The reader leaves its streams waiting when the connection was closed while it was writing.
            await self._cleanup_on_error()
        self._alive.discard(self)

    async def _write_frame(self, data: bytes) -> None:
        """Send one frame, or give the connection up when the peer takes nothing for too long.

        The library waits for ever, and every other stream of the connection behind it.
        """
        with trio.move_on_after(self._limits.peer_stall_seconds) as scope:
            async with self._write_lock:
                await self.secured_conn.write(data)
        if scope.cancelled_caught:
            self._guard.count("muxer", "WriteStalled")
            await self.abort()
            raise RawConnError("The peer takes nothing.")

    async def _read_data_body(self, length: int) -> bytes:
        """Read the payload of a frame unless too much lies unread (the library does not enforce its window)."""
        unread = sum(map(len, self.stream_buffers.values()))
        if unread + length > self._limits.connection_buffer_bytes:
            self._guard.count("muxer", "BufferFull")
            return None  # type: ignore[return-value]  # the caller's sign that the connection has ended
        return await super()._read_data_body(length)

    async def open_stream(self) -> YamuxStream:
        """Open a stream that is patient with its credit."""
        stream = await super().open_stream()
        stream.__class__ = PatientStream  # the library makes its streams in the middle of its read loop
        return stream

    async def accept_stream(self) -> IMuxedStream:
        """Accept a stream and make it patient before anything is read from it."""
        stream = await super().accept_stream()
        stream.__class__ = PatientStream
        return stream

    async def close(self, error_code: int = GO_AWAY_NORMAL) -> None:
        """Say goodbye if the peer takes it at once, and close in any case."""
        with trio.move_on_after(CLOSE_SECONDS):
            await super().close(error_code)
        await self.abort()

    async def abort(self) -> None:
        """Close the socket without a word; the reader then ends every stream."""
        self.event_shutting_down.set()
        with trio.CancelScope(shield=True), self._guard.contain("muxer_close"):
            await self.secured_conn.close()
        self.event_closed.set()
        self._alive.discard(self)

    def silent_for(self, now: float) -> float:
        """Return for how many seconds a ping has gone unanswered; 0 when none is open."""
        if self._ping_id == 0 or self._ping_event.is_set() or self._ping_sent_time == 0.0:
            return 0.0
        return now - self._ping_sent_time


class _ContainedMuxers(MuxerMultistream):
    """Negotiates Yamux and makes it ours; the library names its own class here and ignores the one configured."""

    def __init__(self, guard: Guard, limits: Limits) -> None:
        super().__init__({PROTOCOL_ID: Yamux}, int(limits.negotiation_deadline))  # type: ignore[dict-item]
        self._guard = guard
        self._limits = limits
        self.alive: set[ContainedYamux] = set()

    async def new_conn(self, conn: ISecureConn, peer_id: ID) -> IMuxedConn:
        """Negotiate the muxer of a secured connection."""
        protocol, _ = await self._selector.select(conn, conn.is_initiator, self.negotiate_timeout)
        muxed = ContainedYamux(conn, peer_id, self._guard, self._limits, self.alive)
        return self._annotate_connection(muxed, conn, protocol)


class ContainedUpgrader(TransportUpgrader):
    """Noise, then Yamux, and nothing else: the library's default also takes plaintext, that is, any identity."""

    def __init__(self, noise: dict[str, object], guard: Guard, limits: Limits) -> None:
        super().__init__(noise, {PROTOCOL_ID: Yamux}, int(limits.negotiation_deadline))  # type: ignore[arg-type, dict-item]
        muxers = _ContainedMuxers(guard, limits)
        self.muxer_multistream = muxers
        #: Every connection whose socket is open.
        self.alive = muxers.alive


class BufferedSocket(ReadWriteCloser):
    """A socket read in large pieces: Noise asks for two bytes of length, then for the message, a system call each."""

    def __init__(self, socket: ReadWriteCloser) -> None:
        self._socket = socket
        self._buffer = b""

    async def read(self, n: int | None = None) -> bytes:
        """Return up to `n` bytes, from what was read before if there is any."""
        if n == 0:
            return b""
        if not self._buffer:
            self._buffer = await self._socket.read(READ_BYTES)
        size = len(self._buffer) if n is None else n
        data, self._buffer = self._buffer[:size], self._buffer[size:]
        return data

    async def write(self, data: bytes) -> None:
        """Send all of `data`."""
        await self._socket.write(data)

    async def close(self) -> None:
        """Close the socket."""
        await self._socket.close()

    def get_remote_address(self) -> tuple[str, int] | None:
        """Return the address of the other end."""
        return self._socket.get_remote_address()


def buffer_reads(connection: IRawConnection) -> None:
    """Put a buffered reader under a raw connection, once."""
    if isinstance(connection, RawConnection) and not isinstance(connection.stream, BufferedSocket):
        connection.stream = BufferedSocket(connection.stream)
