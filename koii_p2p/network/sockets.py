"""TCP sockets: read in large pieces, listened on alone.

The system is asked directly: a small message costs more in the layers of trio's streams than in the kernel.
"""

from __future__ import annotations

import os
from abc import abstractmethod
from collections.abc import Callable

import trio
from libp2p.abc import IRawConnection
from libp2p.custom_types import THandler
from libp2p.io.abc import ReadWriteCloser
from libp2p.io.exceptions import ConnectionClosedError
from libp2p.io.trio import TrioTCPStream
from libp2p.network.connection.raw_connection import RawConnection
from libp2p.transport.exceptions import OpenConnectionError
from libp2p.transport.tcp.tcp import TCP, TCPListener
from multiaddr import Multiaddr
from trio.lowlevel import checkpoint, wait_readable

from koii_p2p.network.containment import Guard
from koii_p2p.network.frames import READ_BYTES
from koii_p2p.network.identity import multiaddr_text


class RawSocket(ReadWriteCloser):
    """What Noise runs over: a socket, or a stream through a relay."""

    #: Whether a relay is between the two ends.
    relayed = False

    @property
    @abstractmethod
    def place(self) -> str:
        """The other end as a multiaddr; of a relayed one, the relay it is reached through."""

    @abstractmethod
    async def read_some(self, max_bytes: int = READ_BYTES) -> bytes:
        """Return what is there, at least one byte and at most `max_bytes`; nothing when the other end closed.

        Raises `ConnectionClosedError` when the connection broke.
        """

    @abstractmethod
    def unread(self, data: bytes) -> None:
        """Put bytes back, to be read next."""

    async def meet(self, key: bytes, *, dialled: bool) -> None:
        """Learn whose socket it is: before the handshake who is to answer, after it who has dialled us."""


class TcpSocket(RawSocket):
    """A socket read in large pieces; the library's asks the system for two bytes of length, then for a message."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self._stream = stream
        self._unread = b""
        #: Whether the last read took all there was; then there is no use in asking before the system says more came.
        self._drained = True
        peer = stream.socket.getpeername()
        self._remote = (str(peer[0]), int(peer[1]))

    async def read_some(self, max_bytes: int = READ_BYTES) -> bytes:
        """Return what is there, at least one byte and at most `max_bytes`; nothing when the other end closed.

        Raises `ConnectionClosedError` when the connection broke.
        """
        if self._unread:
            data, self._unread = self._unread[:max_bytes], self._unread[max_bytes:]
            return data
        socket = self._stream.socket
        try:
            while (descriptor := socket.fileno()) >= 0:
                await (wait_readable(descriptor) if self._drained else checkpoint())
                try:
                    data = os.read(socket.fileno(), max_bytes)
                except BlockingIOError:
                    self._drained = True
                    continue
                self._drained = len(data) < max_bytes
                return data
        except OSError as error:
            if socket.fileno() >= 0:
                raise ConnectionClosedError(str(error), transport="tcp") from error
        except trio.ClosedResourceError:
            pass
        return b""

    def unread(self, data: bytes) -> None:
        """Put bytes back, to be read next."""
        self._unread = data + self._unread

    async def read(self, n: int | None = None) -> bytes:
        """Return up to `n` bytes, from what was read before if there is any."""
        if n == 0:
            return b""
        if not self._unread:
            self._unread = await self.read_some()
        return await self.read_some(READ_BYTES if n is None else n) if self._unread else b""

    async def write(self, data: bytes) -> None:
        """Send all of `data`, waiting only while the system has no room. Raises `ConnectionClosedError` when the
        connection is gone.
        """
        try:
            try:
                sent = os.write(self._stream.socket.fileno(), data)
            except BlockingIOError:
                sent = 0
            if sent < len(data):
                await self._stream.send_all(memoryview(data)[sent:])
        except (OSError, trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise ConnectionClosedError(str(error), transport="tcp") from error

    async def close(self) -> None:
        """Close the socket."""
        await self._stream.aclose()

    @property
    def place(self) -> str:
        """The other end as a multiaddr."""
        return multiaddr_text(*self._remote)

    def get_remote_address(self) -> tuple[str, int]:
        """Return the address and port of the other end."""
        return self._remote


#: Makes our socket of one of trio's.
SocketMaker = Callable[[trio.SocketStream], TcpSocket]


class ExclusiveListener(TCPListener):
    """A TCP listener that owns its port (the library shares it with any other process of the user)."""

    def __init__(
        self, handler: THandler, guard: Guard, errors: dict[str, OSError], make: SocketMaker
    ) -> None:
        super().__init__(handler)
        self._guard = guard
        self._errors = errors
        self._make = make

    def get_addrs(self) -> tuple[Multiaddr, ...]:
        """Return where it listens; nothing any more once it is being closed, where the library raises `OSError`."""
        try:
            return super().get_addrs()
        except OSError:
            return ()

    async def listen(self, maddr: Multiaddr) -> None:
        """Listen on an IP address and port. Raises `OpenConnectionError`; the cause is kept in `errors`."""
        host = maddr.value_for_protocol("ip4" if "/ip4/" in str(maddr) else "ip6")
        try:
            opened = await trio.open_tcp_listeners(int(str(maddr.value_for_protocol("tcp"))), host=host)
        except OSError as error:
            self._errors[str(maddr)] = error
            raise OpenConnectionError(str(error)) from error

        async def serve(stream: trio.SocketStream) -> None:
            # This runs under a system task of trio, where an exception would end the process.
            with self._guard.contain("listener"):
                made = self._make(stream)  # fails for whoever has reset the connection already
                try:
                    await self.handler(made)
                finally:
                    await made.close()
            await stream.aclose()

        if self._nursery is None:
            await self._spawn_background_task()
        assert self._nursery is not None
        await self._nursery.start(trio.serve_listeners, serve, opened)
        self.listeners.extend(opened)


class ExclusiveTCP(TCP):
    """TCP whose listeners own their ports and whose sockets are read in large pieces."""

    def __init__(self, guard: Guard, make: SocketMaker = TcpSocket) -> None:
        super().__init__()
        self._guard = guard
        self._make = make
        #: Why an address could not be listened on, by the address; the swarm only says that it could not.
        self.errors: dict[str, OSError] = {}

    def create_listener(self, handler_function: THandler) -> TCPListener:
        """Return a listener that gives its connections to `handler_function`."""
        return ExclusiveListener(handler_function, self._guard, self.errors, self._make)

    def wrap(self, stream: trio.SocketStream) -> TcpSocket:
        """Make a socket of ours of one that was connected by itself."""
        return self._make(stream)

    async def dial(self, maddr: Multiaddr) -> IRawConnection:
        """Connect to an address. Raises `OpenConnectionError`."""
        connection = await super().dial(maddr)
        assert isinstance(connection, RawConnection)
        assert isinstance(connection.stream, TrioTCPStream)
        connection.stream = self._make(connection.stream.stream)
        return connection
