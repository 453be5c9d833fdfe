"""Tells the network when a connection comes and goes."""

from __future__ import annotations

from collections.abc import Callable

from libp2p.abc import INetConn, INetStream, INetwork, INotifee
from multiaddr import Multiaddr


class LinkEvents(INotifee):
    """A notifee of the swarm; it must not block, for the swarm waits for it."""

    def __init__(self, changed: Callable[[bytes], None]) -> None:
        self._changed = changed

    async def connected(self, network: INetwork, conn: INetConn) -> None:
        """Report the peer."""
        self._changed(conn.muxed_conn.peer_id.to_bytes())

    async def disconnected(self, network: INetwork, conn: INetConn) -> None:
        """Report the peer."""
        self._changed(conn.muxed_conn.peer_id.to_bytes())

    async def opened_stream(self, network: INetwork, stream: INetStream) -> None:
        """Ignore it."""

    async def closed_stream(self, network: INetwork, stream: INetStream) -> None:
        """Ignore it."""

    async def listen(self, network: INetwork, multiaddr: Multiaddr) -> None:
        """Ignore it."""

    async def listen_close(self, network: INetwork, multiaddr: Multiaddr) -> None:
        """Ignore it."""
