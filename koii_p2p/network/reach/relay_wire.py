"""The messages of circuit relay v2, and the socket that a relayed stream is.

Each message is a protobuf behind its length as a varint; at most `MESSAGE_BYTES` of it are read. The wire is that of
every libp2p implementation. The library's own relay is not used: it takes whose reservation it is from the request,
writes a status into circuits that it cuts, looks at a circuit's deadline only when bytes pass, and ends the circuits
of a peer together.

Source: https://github.com/libp2p/specs/blob/master/relay/circuit-v2.md
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol

from libp2p.exceptions import BaseLibp2pError
from libp2p.io.exceptions import ConnectionClosedError
from libp2p.relay.circuit_v2.pb.circuit_pb2 import HopMessage, Limit, Status, StopMessage

from koii_p2p.network.containment import at_most
from koii_p2p.network.frames import READ_BYTES, FrameError, varint_frame
from koii_p2p.network.identity import peer_id_text
from koii_p2p.network.settings import CIRCUIT
from koii_p2p.network.sockets import RawSocket
from koii_p2p.network.streams import PeerStream, StreamFailed, read_message

if TYPE_CHECKING:
    from koii_p2p.limits import Limits

HOP: Final = "/libp2p/circuit/relay/0.2.0/hop"
STOP: Final = "/libp2p/circuit/relay/0.2.0/stop"
MESSAGE_BYTES: Final = 8 * 1024
CLOSE_SECONDS: Final = 1.0


class BadMessage(Exception):
    """Bytes that are not a message of this protocol."""


class Message(Protocol):
    """What is needed of a protobuf message."""

    def SerializeToString(self) -> bytes:
        """Return its bytes."""

    def ParseFromString(self, data: bytes) -> int:
        """Take the values in `data`."""


class MessageStream:
    """A stream on which messages are exchanged before it carries something else."""

    def __init__(self, stream: PeerStream) -> None:
        self.stream = stream
        self._buffer = bytearray()

    async def send(self, message: Message) -> None:
        """Send a message. Raises `StreamFailed`."""
        await self.stream.write(varint_frame(message.SerializeToString()))

    async def receive(self, message: Message) -> None:
        """Read the next message into `message`. Raises `BadMessage`, `StreamFailed`."""
        try:
            data = await read_message(self.stream, MESSAGE_BYTES, self._buffer)
        except FrameError as error:
            raise BadMessage(str(error)) from error
        if data is None:
            raise BadMessage("The stream ended before the message.")
        try:
            message.ParseFromString(data)
        except Exception as error:  # whatever the library makes of a stranger's bytes
            raise BadMessage(f"{type(error).__name__}: {error}") from error

    def rest(self) -> bytes:
        """Return, once, what came behind the last message."""
        rest = bytes(self._buffer)
        self._buffer.clear()
        return rest


def hop_status(status: Status.ValueType, *, limit: Limit | None = None) -> HopMessage:
    """A relay's answer to whoever asked it."""
    return HopMessage(type=HopMessage.STATUS, status=status, limit=limit)


def stop_status(status: Status.ValueType) -> StopMessage:
    """The answer of the far end to a relay."""
    return StopMessage(type=StopMessage.STATUS, status=status)


def circuit_limit(limits: Limits) -> Limit:
    """What a relay of ours carries of one connection: seconds, and bytes of both directions together."""
    return Limit(duration=int(limits.relay_circuit_seconds), data=limits.relay_circuit_bytes)


class RelayedSocket(RawSocket):
    """A stream through a relay, as what Noise runs over."""

    relayed = True

    def __init__(self, stream: PeerStream, unread: bytes) -> None:
        self._stream = stream
        self._unread = unread
        self._place = f"/p2p/{peer_id_text(stream.key)}{CIRCUIT}"

    @property
    def place(self) -> str:
        """The relay."""
        return self._place

    async def read_some(self, max_bytes: int = READ_BYTES) -> bytes:
        """Return what is there, at most `max_bytes`; nothing at the end. Raises `ConnectionClosedError`."""
        if self._unread:
            data, self._unread = self._unread[:max_bytes], self._unread[max_bytes:]
            return data
        try:
            return await self._stream.read_some(max_bytes)
        except StreamFailed as error:
            raise ConnectionClosedError(str(error), transport="relay") from error

    def unread(self, data: bytes) -> None:
        """Put bytes back, to be read next."""
        self._unread = data + self._unread

    async def read(self, n: int | None = None) -> bytes:
        """Return up to `n` bytes. Raises `ConnectionClosedError`."""
        return b"" if n == 0 else await self.read_some(READ_BYTES if n is None else n)

    async def write(self, data: bytes) -> None:
        """Send all of `data`. Raises `ConnectionClosedError`."""
        try:
            await self._stream.write(data)
        except StreamFailed as error:
            raise ConnectionClosedError(str(error), transport="relay") from error

    async def close(self) -> None:
        """Say that nothing more is sent; the far end then closes its half. Cut the stream if that takes too long."""
        with at_most(CLOSE_SECONDS) as scope:
            try:
                await self._stream.close()
            except BaseLibp2pError:
                await self._stream.reset()
        if scope.cancelled_caught:
            await self._stream.reset()

    def get_remote_address(self) -> tuple[str, int] | None:
        """Return None: the other end has no address that could be seen from here."""
        return None
