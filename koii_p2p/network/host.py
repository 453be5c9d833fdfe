"""The libp2p host: TCP, Noise and Yamux, with every fault of a peer contained to that peer."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

import trio
from libp2p.abc import IMuxedConn, INetConn, INetStream, IRawConnection
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.crypto.x25519 import create_new_key_pair as create_noise_key_pair
from libp2p.custom_types import THandler
from libp2p.host.basic_host import BasicHost
from libp2p.io.abc import ReadWriteCloser
from libp2p.io.trio import TrioTCPStream
from libp2p.metrics.swarm import SwarmEvent
from libp2p.network.config import ConnectionConfig, RetryConfig
from libp2p.network.connection.raw_connection import RawConnection
from libp2p.network.connection.swarm_connection import SwarmConn
from libp2p.network.exceptions import SwarmException
from libp2p.network.swarm import Swarm
from libp2p.peer.id import ID
from libp2p.peer.peerstore import PeerStore
from libp2p.security.noise.transport import PROTOCOL_ID as NOISE
from libp2p.security.noise.transport import Transport as NoiseTransport
from libp2p.transport.exceptions import OpenConnectionError
from libp2p.transport.tcp.tcp import TCP, TCPListener
from libp2p.utils.address_validation import expand_wildcard_address
from multiaddr import Multiaddr

from koii_p2p.errors import NetworkError
from koii_p2p.limits import Limits
from koii_p2p.network.containment import Guard, at_most
from koii_p2p.network.identity import key_of_peer_id
from koii_p2p.network.muxer import BufferedSocket, ContainedUpgrader, ContainedYamux, buffer_reads
from koii_p2p.network.settings import NetworkSettings

#: `gate(key)`: whether a peer with this key may connect.
Gate = Callable[[bytes], bool]

NEVER = 10 * 365 * 86400.0


class ExclusiveListener(TCPListener):
    """A TCP listener that owns its port (the library shares it with any other process of the user)."""

    def __init__(self, handler: THandler, guard: Guard, errors: dict[str, OSError]) -> None:
        super().__init__(handler)
        self._guard = guard
        self._errors = errors

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
                await self.handler(TrioTCPStream(stream))
            await stream.aclose()

        if self._nursery is None:
            await self._spawn_background_task()
        assert self._nursery is not None
        await self._nursery.start(trio.serve_listeners, serve, opened)
        self.listeners.extend(opened)


class ExclusiveTCP(TCP):
    """TCP whose listeners own their ports."""

    def __init__(self, guard: Guard) -> None:
        super().__init__()
        self._guard = guard
        #: Why an address could not be listened on, by the address; the swarm only says that it could not.
        self.errors: dict[str, OSError] = {}

    def create_listener(self, handler_function: THandler) -> TCPListener:
        """Return a listener that gives its connections to `handler_function`."""
        return ExclusiveListener(handler_function, self._guard, self.errors)


class ContainedSwarm(Swarm):
    """The library's swarm without its resource manager: the bounds are `Limits`, held here and in the muxer."""

    def __init__(
        self,
        peer_id: ID,
        peerstore: PeerStore,
        upgrader: ContainedUpgrader,
        max_peers: int,
        guard: Guard,
        limits: Limits,
    ) -> None:
        self.tcp = ExclusiveTCP(guard)
        super().__init__(
            peer_id,
            peerstore,
            upgrader,
            [self.tcp],
            retry_config=RetryConfig(max_retries=0),  # the connector knows when to try again
            connection_config=ConnectionConfig(
                max_connections=max_peers,
                min_connections=0,
                low_watermark=0,
                high_watermark=max_peers,
                max_connections_per_peer=4,
                inbound_upgrade_timeout=2 * limits.negotiation_deadline,
                outbound_upgrade_timeout=2 * limits.negotiation_deadline,
                inbound_stream_protocol_negotiation_timeout=limits.negotiation_deadline,
                outbound_stream_protocol_negotiation_timeout=limits.negotiation_deadline,
                auto_connect_interval=NEVER,
            ),
        )
        self._guard = guard
        self.alive = upgrader.alive
        self.gate: Gate = lambda key: True
        self.refused: Counter[str] = Counter()

    async def dial_peer(self, peer_id: ID) -> list[INetConn]:
        """Refuse: only the connector dials, with its own deadline and back-off."""
        raise SwarmException(f"There is no connection to {peer_id}.")

    def _schedule_auto_connect(self) -> None:
        """Do nothing: the library would dial whatever addresses strangers told it."""

    async def add_conn(self, muxed_conn: IMuxedConn, direction: str = "unknown") -> SwarmConn:
        """Register a connection unless its peer is banned, ourselves, or no ed25519 identity."""
        reason = self._why_not(muxed_conn.peer_id)
        if reason is not None:
            self.refused[reason] += 1
            await muxed_conn.close()
            raise SwarmException(f"A connection was refused: {reason}.")
        return await super().add_conn(muxed_conn, direction)

    def _why_not(self, peer_id: ID) -> str | None:
        try:
            key = key_of_peer_id(peer_id.to_bytes())
        except ValueError:
            return "not an ed25519 identity"
        if peer_id == self.self_id:
            return "own identity"
        return None if self.gate(key) else "banned"

    async def upgrade_outbound_raw_conn(
        self, raw_conn: IRawConnection, peer_id: ID, pre_scope: object = None
    ) -> SwarmConn:
        """Secure and mux a dialled connection, reading its socket in large pieces."""
        buffer_reads(raw_conn)
        return await super().upgrade_outbound_raw_conn(raw_conn, peer_id, pre_scope)

    async def _do_handle_inbound_connection(
        self, read_write_closer: ReadWriteCloser, maddr: Multiaddr, failure_event: SwarmEvent
    ) -> None:
        """Serve an inbound connection until it closes; the library holds its slot until the swarm stops."""
        raw = RawConnection(BufferedSocket(read_write_closer), False)
        try:
            with self._guard.contain("inbound"):
                muxed = await self.upgrade_inbound_raw_conn(raw, maddr)
                assert isinstance(muxed, ContainedYamux)
                await muxed.event_closed.wait()
        finally:
            with at_most(1.0), self._guard.contain("inbound_close"):
                await raw.close()

    def muxer_of(self, connection: INetConn) -> ContainedYamux:
        """Return the muxer under a connection of this swarm."""
        muxed = connection.muxed_conn
        assert isinstance(muxed, ContainedYamux)
        return muxed


class ContainedHost(BasicHost):
    """The library's host, where a stream that fails is reset and counted, and one peer holds a bounded number."""

    def __init__(self, swarm: ContainedSwarm, guard: Guard, limits: Limits) -> None:
        super().__init__(swarm, negotiate_timeout=int(limits.negotiation_deadline))
        self.swarm = swarm
        self._guard = guard
        self._limits = limits

    async def _swarm_stream_handler(self, net_stream: INetStream) -> None:
        """Negotiate the protocol of an inbound stream and run its handler; what they raise ends this stream."""
        connection = net_stream.swarm_conn  # type: ignore[attr-defined]
        if len(connection.streams) > self._limits.streams_per_connection:
            self._guard.count("stream", "TooMany")
            await net_stream.reset()
            return
        finished = False
        try:
            with self._guard.contain("stream"):
                await super()._swarm_stream_handler(net_stream)
                finished = True
        finally:
            if not finished:
                with at_most(1.0):
                    await net_stream.reset()

    async def _identify_peer(self, peer_id: ID, *, reason: str) -> None:
        """Ask a new peer what it speaks. It runs as a system task, so nothing but cancellation may leave it."""
        with self._guard.contain("identify"):
            await super()._identify_peer(peer_id, reason=reason)


def build_host(seed: bytes, settings: NetworkSettings, guard: Guard, limits: Limits) -> ContainedHost:
    """Build a host whose identity is the ed25519 key of `seed` (32 bytes): the staking key."""
    quiet_library()
    pair = create_new_key_pair(seed)
    noise = NoiseTransport(pair, noise_privkey=create_noise_key_pair().private_key)
    peer_id = ID.from_pubkey(pair.public_key)
    peerstore = PeerStore()
    peerstore.add_key_pair(peer_id, pair)
    upgrader = ContainedUpgrader({NOISE: noise}, guard, limits)
    return ContainedHost(
        ContainedSwarm(peer_id, peerstore, upgrader, settings.max_peers, guard, limits), guard, limits
    )


def quiet_library() -> None:
    """Silence the library's own log: it writes a traceback for what any stranger can provoke. We count instead."""
    logging.getLogger("libp2p").setLevel(logging.CRITICAL)


@asynccontextmanager
async def running_host(host: ContainedHost, listen: Sequence[str], limits: Limits) -> AsyncIterator[None]:
    """Listen and serve for the length of the block, then close everything within `Limits.stop_deadline`.

    Raises `NetworkError` when an address cannot be listened on.
    """
    addresses = [Multiaddr(text) for text in listen]
    async with host.run(addresses):
        try:
            _check_listening(host.swarm, addresses)
            yield
        finally:
            with at_most(limits.stop_deadline):
                await close_connections(host.swarm)
            with at_most(limits.stop_deadline):
                await host.close()
            # Cancellation reaches the library's tasks first; it marks connections closed without closing sockets.
            for muxer in tuple(host.swarm.alive):
                await muxer.abort()


async def close_connections(swarm: ContainedSwarm, peer_id: ID | None = None) -> None:
    """Close all connections, or those of one peer, side by side (the library takes 0.2 s for each in turn)."""
    async with trio.open_nursery() as nursery:
        for connection in swarm.get_connections(peer_id):
            nursery.start_soon(connection.close)


def _check_listening(swarm: ContainedSwarm, addresses: Sequence[Multiaddr]) -> None:
    for address in addresses:
        if str(address) not in swarm.listeners:
            error = swarm.tcp.errors.get(str(address))
            raise NetworkError(
                what=f"The node cannot listen on {address}.",
                why=f"The system says: {error.strerror if error else 'it is not an address of this machine'}.",
                remedy="Stop the program that uses the port, or listen on another address.",
            )


def advertised(host: ContainedHost) -> tuple[str, ...]:
    """Return where others can dial us: the listening addresses, 0.0.0.0 and :: replaced by the machine's own.

    Loopback addresses are left out when there are others.
    """
    found: dict[str, None] = {}
    for address in host.get_transport_addrs():
        found.update(dict.fromkeys(map(str, expand_wildcard_address(address))))
    outward = tuple(text for text in found if not text.startswith(("/ip4/127.", "/ip6/::1/")))
    return outward or tuple(found)
