"""The encrypted channel of a connection: the library's Noise handshake and keys, many messages per system call.

The library awaits the length and the body of each message through six layers of readers, and encrypts and sends each
frame by itself. Here one read of the socket is cut into all the messages it holds, and one write seals everything
that waits.

Wire (libp2p noise): a 2-byte big-endian length, then that many bytes of ciphertext of which the last 16 are the tag.
Source: https://github.com/libp2p/specs/blob/master/noise/README.md
"""

from __future__ import annotations

from collections.abc import Callable

from libp2p.abc import ISecureConn
from libp2p.connection_types import ConnectionType
from libp2p.crypto.keys import PrivateKey, PublicKey
from libp2p.peer.id import ID
from libp2p.security.noise.io import MAX_PLAINTEXT_LENGTH, NoiseTransportReadWriter
from libp2p.security.secure_session import SecureSession
from multiaddr import Multiaddr

from koii_p2p.network.frames import READ_BYTES
from koii_p2p.network.sockets import RawSocket

LENGTH_BYTES = 2


class NoiseChannel(ISecureConn):
    """A secured connection over a socket; it takes the place of the library's session after the handshake."""

    def __init__(self, session: SecureSession, socket: RawSocket) -> None:
        assert isinstance(session.conn, NoiseTransportReadWriter)
        self.is_initiator = session.is_initiator
        self._session = session
        self._socket = socket
        self._seal: Callable[[bytes], bytes] = session.conn.encrypt
        self._open: Callable[[bytes], bytes] = session.conn.decrypt
        self._sealed = bytearray()
        self._unread = b""

    async def read_some(self, max_bytes: int = 2 * READ_BYTES) -> bytes:
        """Return what is there, at least one byte and at most `max_bytes`; nothing when the other end closed.

        Raises `ConnectionClosedError` when the connection broke, `NoiseInvalidMessage` for bytes that were not sealed
        with its key.
        """
        data, self._unread = self._unread, b""
        while not data:
            more = await self._socket.read_some()
            if not more:
                return b""
            if self._sealed:
                self._sealed += more
                data, used = self._messages(self._sealed)
                del self._sealed[:used]
            else:
                data, used = self._messages(more)
                self._sealed += more[used:]
        if len(data) > max_bytes:
            self._unread = data[max_bytes:]
            return data[:max_bytes]
        return data

    def _messages(self, sealed: bytes | bytearray) -> tuple[bytes, int]:
        """Open all whole messages; return their contents, joined, and how many bytes they took."""
        opened: list[bytes] = []
        at, end = 0, len(sealed)
        with memoryview(sealed) as view:
            while end - at >= LENGTH_BYTES:
                start = at + LENGTH_BYTES
                stop = start + (sealed[at] << 8 | sealed[at + 1])
                if stop > end:
                    break
                opened.append(self._open(bytes(view[start:stop])))
                at = stop
        return opened[0] if len(opened) == 1 else b"".join(opened), at

    def unread(self, data: bytes) -> None:
        """Put opened bytes back, to be read next."""
        self._unread = data + self._unread

    async def read(self, n: int | None = None) -> bytes:
        """Return up to `n` bytes; nothing when the other end closed. Raises as `read_some`."""
        return b"" if n == 0 else await self.read_some(READ_BYTES if n is None else n)

    async def write(self, data: bytes) -> None:
        """Seal and send all of `data` at once. Raises `ConnectionClosedError`.

        A write that is cancelled leaves half a message behind; the connection is of no use then.
        """
        sealed: list[bytes] = []
        for start in range(0, len(data), MAX_PLAINTEXT_LENGTH):
            message = self._seal(data[start : start + MAX_PLAINTEXT_LENGTH])
            sealed.append(len(message).to_bytes(LENGTH_BYTES, "big"))
            sealed.append(message)
        whole = b"".join(sealed)
        del data, sealed  # a slow peer keeps what is being sent for long
        await self._socket.write(whole)

    async def close(self) -> None:
        """Close the socket."""
        await self._socket.close()

    def get_local_peer(self) -> ID:
        """Return our own identity."""
        return self._session.get_local_peer()

    def get_local_private_key(self) -> PrivateKey:
        """Return our own key."""
        return self._session.get_local_private_key()

    def get_remote_peer(self) -> ID:
        """Return the identity the other end proved."""
        return self._session.get_remote_peer()

    def get_remote_public_key(self) -> PublicKey:
        """Return the key the other end proved."""
        return self._session.get_remote_public_key()

    def get_remote_address(self) -> tuple[str, int] | None:
        """Return the address and port of the other end; None if a relay is between."""
        return self._socket.get_remote_address()

    @property
    def place(self) -> str:
        """The other end as a multiaddr."""
        return self._socket.place

    @property
    def relayed(self) -> bool:
        """Whether a relay is between the two ends."""
        return self._socket.relayed

    def get_transport_addresses(self) -> list[Multiaddr]:
        """Return the address of the other end."""
        return self._session.get_transport_addresses()

    def get_connection_type(self) -> ConnectionType:
        """Say whether it is direct."""
        return self._session.get_connection_type()
