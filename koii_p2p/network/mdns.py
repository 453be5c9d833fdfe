"""Finding peers on the same local network by multicast DNS (libp2p specification, discovery/mdns)."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

import structlog
import trio

from koii_p2p.network.identity import key_of_peer_id, peer_id_text

log = structlog.get_logger(__name__)

#: `found(key, addresses)`: hints, not to be trusted: anybody on the network can answer.
Found = Callable[[bytes, tuple[str, ...]], None]


class _Collector:
    """Stands in for the library's peerstore: its listener reports here, on threads of zeroconf."""

    def __init__(self, found: Found, token: trio.lowlevel.TrioToken) -> None:
        self._found = found
        self._token = token

    def add_addrs(self, peer_id: object, addrs: Sequence[object], ttl: int) -> None:
        try:
            key = key_of_peer_id(str(peer_id))
            self._token.run_sync_soon(self._found, key, tuple(str(address) for address in addrs))
        except (ValueError, trio.RunFinishedError) as error:
            log.debug("mdns_ignored", error=str(error))

    def clear_addrs(self, peer_id: object) -> None:
        """Ignore that a service went away: the connector finds out by dialling."""


@asynccontextmanager
async def mdns(key: bytes, addresses: Sequence[str], found: Found) -> AsyncIterator[None]:
    """Announce this node and report others for the length of the block.

    Where multicast is not to be had this is said once in the log and nothing else happens. Everything of zeroconf
    blocks, so it runs on threads.
    """
    collector = _Collector(found, trio.lowlevel.current_trio_token())
    stop = None
    try:
        stop = await trio.to_thread.run_sync(_start, key, list(addresses), collector)
    except Exception as error:  # noqa: BLE001 - zeroconf raises its own and the system's; none may stop the node
        log.warning("mdns_unavailable", error=str(error))
    try:
        yield
    finally:
        if stop is not None:
            with trio.CancelScope(shield=True):
                await trio.to_thread.run_sync(stop)


def _start(key: bytes, addresses: list[str], collector: _Collector) -> Callable[[], None]:
    """Start announcing and listening; return the function that ends both."""
    from libp2p.discovery.mdns.broadcaster import PeerBroadcaster
    from libp2p.discovery.mdns.listener import PeerListener
    from libp2p.discovery.mdns.mdns import SERVICE_TYPE
    from libp2p.discovery.mdns.utils import stringGen
    from zeroconf import Zeroconf

    zeroconf = Zeroconf()
    name = f"{stringGen(63)}.{SERVICE_TYPE}"
    broadcaster = PeerBroadcaster(
        zeroconf=zeroconf,
        service_type=SERVICE_TYPE,
        service_name=name,
        peer_id=peer_id_text(key),
        port=0,
        listen_addrs=addresses,
    )
    listener = PeerListener(
        peerstore=collector,  # type: ignore[arg-type]
        zeroconf=zeroconf,
        service_type=SERVICE_TYPE,
        service_name=name,
    )
    broadcaster.register()

    def stop() -> None:
        try:
            broadcaster.unregister()
            listener.stop()
        finally:
            zeroconf.close()

    return stop
