"""The libp2p host: TCP, Noise and Yamux, with every fault of a peer contained to that peer."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Sequence
from contextlib import asynccontextmanager, suppress

import trio
from libp2p.abc import IMuxedConn, INetConn, INetStream
from libp2p.connection_types import ConnectionType
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.crypto.x25519 import create_new_key_pair as create_noise_key_pair
from libp2p.custom_types import TProtocol
from libp2p.exceptions import BaseLibp2pError
from libp2p.host.basic_host import BasicHost
from libp2p.host.exceptions import StreamFailure
from libp2p.io.abc import ReadWriteCloser
from libp2p.network.config import ConnectionConfig, RetryConfig
from libp2p.network.connection.raw_connection import RawConnection
from libp2p.network.connection.swarm_connection import SwarmConn
from libp2p.network.exceptions import SwarmException
from libp2p.network.stream.net_stream import NetStream
from libp2p.network.swarm import Swarm
from libp2p.peer.id import ID
from libp2p.peer.peerstore import PeerStore, PeerStoreError
from libp2p.rcmgr import Direction
from libp2p.security.noise.transport import Transport as NoiseTransport
from libp2p.utils.address_validation import expand_wildcard_address
from multiaddr import Multiaddr

from koii_p2p.errors import NetworkError
from koii_p2p.limits import Limits
from koii_p2p.network.admission import Admission
from koii_p2p.network.containment import Guard, at_most
from koii_p2p.network.identity import key_of_peer_id, peer_id_bytes
from koii_p2p.network.muxer import ContainedYamux
from koii_p2p.network.negotiation import NegotiationError, answer, propose
from koii_p2p.network.settings import NetworkSettings
from koii_p2p.network.sockets import ExclusiveTCP, RawSocket, SocketMaker, TcpSocket
from koii_p2p.network.streams import PeerStream, StreamFailed, StreamHandler, StreamReason
from koii_p2p.network.upgrader import ContainedUpgrader
from koii_p2p.network.yamux_stream import ContainedStream

#: `gate(key)`: whether a peer with this key may connect.
Gate = Callable[[bytes], bool]

NEVER = 10 * 365 * 86400.0
SURPLUS_SECONDS = 5.0


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
        make_socket: SocketMaker = TcpSocket,
    ) -> None:
        self.tcp = ExclusiveTCP(guard, make_socket)
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
                max_connections_per_peer=limits.connections_per_peer + 1,  # it would close one that works
                inbound_upgrade_timeout=2 * limits.negotiation_deadline,
                outbound_upgrade_timeout=2 * limits.negotiation_deadline,
                auto_connect_interval=NEVER,
            ),
        )
        self._guard = guard
        self._limits = limits
        self.alive = upgrader.alive
        self.admission = Admission(limits)
        self.gate: Gate = lambda key: True
        self.refused: Counter[str] = Counter()

    async def dial_peer(self, peer_id: ID) -> list[INetConn]:
        """Refuse: only the connector dials, with its own deadline and back-off."""
        raise SwarmException(f"There is no connection to {peer_id}.")

    def _schedule_auto_connect(self) -> None:
        """Do nothing: the library would dial whatever addresses strangers told it."""

    async def notify_opened_stream(self, stream: INetStream) -> None:
        """Tell nobody: the library starts a task for each listener, none of which looks at streams."""

    async def notify_closed_stream(self, stream: INetStream) -> None:
        """Tell nobody, as above."""

    async def notify_disconnected(self, conn: INetConn) -> None:
        """Tell the listeners, and forget what a peer that is gone has said of itself, which may be a megabyte."""
        await super().notify_disconnected(conn)
        peer_id = conn.muxed_conn.peer_id
        if not self.get_connections(peer_id):
            with suppress(PeerStoreError):
                self.peerstore.clear_peerdata(peer_id)

    async def add_conn(self, muxed_conn: IMuxedConn, direction: str = "unknown") -> SwarmConn:
        """Register a connection unless its peer is banned, ourselves, no ed25519 identity, or has too many."""
        reason = self._why_not(muxed_conn.peer_id)
        if reason is not None:
            self.refused[reason] += 1
            await muxed_conn.close()
            raise SwarmException(f"A connection was refused: {reason}.")
        connection = await super().add_conn(muxed_conn, direction)
        if connection.is_closed:
            # It closed before the library had put it into its table, from which nothing would ever take it again.
            self.remove_conn(connection)
            await self.notify_disconnected(connection)
            raise SwarmException("The connection was closed at once.")
        return connection

    def _why_not(self, peer_id: ID) -> str | None:
        try:
            key = key_of_peer_id(peer_id.to_bytes())
        except ValueError:
            return "not an ed25519 identity"
        if peer_id == self.self_id:
            return "own identity"
        if len(self.get_connections(peer_id)) >= self._limits.connections_per_peer:
            return "too many of one peer"
        return None if self.gate(key) else "banned"

    async def _handle_inbound_connection(self, read_write_closer: ReadWriteCloser, maddr: Multiaddr) -> None:
        """Serve an incoming connection until it closes; the library holds its slot until the swarm stops."""
        assert isinstance(read_write_closer, TcpSocket)
        place = self.admission.enter(read_write_closer.get_remote_address()[0])
        if place is None:
            self.refused["too many of one network"] += 1
            return
        try:
            with self._guard.contain("inbound"):
                muxed: IMuxedConn | None = None
                with place.handshake:
                    muxed = await self.upgrade_inbound_raw_conn(
                        RawConnection(read_write_closer, False), maddr
                    )
                if muxed is None:
                    self.refused["handshake made room"] += 1
                    return
                self.admission.settle(place)
                assert isinstance(muxed, ContainedYamux)
                await muxed.event_closed.wait()
        finally:
            self.admission.leave(place)
            with at_most(1.0), self._guard.contain("inbound_close"):
                await read_write_closer.close()

    async def serve_relayed(
        self, socket: RawSocket, up: Callable[[ContainedYamux], Awaitable[None]] | None = None
    ) -> None:
        """Serve an incoming connection through a relay until it closes, with `up(muxer)` beside it.

        A fault of the peer is counted, and ends it.
        """
        with self._guard.contain("inbound_relayed"):
            muxed = await self.upgrade_inbound_raw_conn(_relayed(socket, False), Multiaddr(socket.place))
            assert isinstance(muxed, ContainedYamux)
            async with trio.open_nursery() as nursery:
                if up is not None:
                    nursery.start_soon(up, muxed)
                await muxed.event_closed.wait()
                nursery.cancel_scope.cancel()

    async def dial_relayed(self, socket: RawSocket, peer_id: ID) -> None:
        """Make a connection of a stream through a relay. Raises `SwarmException`."""
        await self.upgrade_outbound_raw_conn(_relayed(socket, True), peer_id)

    def muxer_of(self, connection: INetConn) -> ContainedYamux:
        """Return the muxer under a connection of this swarm."""
        muxed = connection.muxed_conn
        assert isinstance(muxed, ContainedYamux)
        return muxed

    def connections_to(self, peer_id: ID) -> list[SwarmConn]:
        """Return the usable connections to a peer, the one that both ends prefer first.

        A direct one comes before a relayed one. When both have dialled, the one that the lower key dialled comes first;
        both ends come to the same result.
        """
        outgoing = Direction.OUTBOUND if self.self_id.to_bytes() < peer_id.to_bytes() else Direction.INBOUND
        usable = [
            connection
            for connection in self.get_connections(peer_id)
            if isinstance(connection, SwarmConn)
            and connection.event_started.is_set()
            and not connection.is_closed
            and not connection.muxed_conn.is_closed
        ]
        return sorted(
            usable,
            key=lambda connection: (
                self.muxer_of(connection).spare,
                self.muxer_of(connection).relayed,
                connection.direction != outgoing,
            ),
        )

    def surplus(self, now: float) -> list[SwarmConn]:
        """Return connections beside the preferred one on which nothing goes on, to be closed by us.

        Only the lower key closes, so that the two ends never close one each; and nobody closes one in use, so that
        no stream is lost and no link is left one-way.
        """
        found: list[SwarmConn] = []
        for peer_id in tuple(self.connections):
            if self.self_id.to_bytes() < peer_id.to_bytes():
                found += [
                    connection
                    for connection in self.connections_to(peer_id)[1:]
                    if not self.muxer_of(connection).streams
                    and now - self.muxer_of(connection).since > SURPLUS_SECONDS
                ]
        return found


class ContainedHost(BasicHost):
    """The library's host, where a stream that fails is reset and counted, and one peer holds a bounded number."""

    def __init__(self, swarm: ContainedSwarm, guard: Guard, limits: Limits) -> None:
        #: The addresses to tell others by identify, each with our PeerId. The library asks while it is built.
        self.told: Callable[[], Sequence[str]] = tuple
        super().__init__(swarm, negotiate_timeout=int(limits.negotiation_deadline))
        self.swarm = swarm
        self.own_key = key_of_peer_id(swarm.self_id.to_bytes())
        self._guard = guard
        self._limits = limits

    def serve(self, protocol: str, handler: StreamHandler) -> None:
        """Give every stream on which a peer proposes `protocol` to `handler`."""

        async def handle(stream: INetStream) -> None:
            assert isinstance(stream, NetStream)
            await handler(PeerStream(stream))

        self.set_stream_handler(TProtocol(protocol), handle)

    def withdraw(self, protocol: str) -> None:
        """Serve a protocol no longer; its open streams go on."""
        self.remove_stream_handler(TProtocol(protocol))

    async def open_stream(self, key: bytes, protocols: Sequence[str]) -> PeerStream:
        """Open a stream to a connected peer for the first of `protocols` that it speaks.

        Raises `StreamFailed`; the time limit is `Limits.negotiation_deadline` at most.
        """
        stream = await self._open(ID(peer_id_bytes(key)), protocols)
        return PeerStream(stream)

    async def new_stream(self, peer_id: ID, protocol_ids: Sequence[TProtocol]) -> INetStream:
        """Open a stream for the library's own services. Raises `StreamFailure`."""
        try:
            return await self._open(peer_id, protocol_ids)
        except StreamFailed as error:
            raise StreamFailure(str(error)) from error

    async def _open(self, peer_id: ID, protocols: Sequence[str]) -> NetStream:
        connections = self.swarm.connections_to(peer_id)
        if not connections:
            raise StreamFailed(StreamReason.NOT_CONNECTED, f"There is no connection to {peer_id}.")
        return await self._open_on(connections[0], protocols)

    async def open_on(self, connection: SwarmConn, protocol: str) -> PeerStream:
        """Open a stream on this connection and no other. Raises `StreamFailed`."""
        return PeerStream(await self._open_on(connection, [protocol]))

    async def _open_on(self, connection: SwarmConn, protocols: Sequence[str]) -> NetStream:
        peer_id = connection.muxed_conn.peer_id
        try:
            stream = await connection.new_stream()
        except BaseLibp2pError as error:
            raise StreamFailed(StreamReason.BROKEN, f"No stream to {peer_id}: {error}") from error
        agreed = False
        try:
            with trio.fail_after(self._limits.negotiation_deadline):
                protocol = await propose(_muxed(stream), protocols)
            stream.set_protocol(TProtocol(protocol))
            agreed = True
        except NegotiationError as error:
            raise StreamFailed(StreamReason.REFUSED, str(error)) from error
        except trio.TooSlowError as error:
            raise StreamFailed(StreamReason.TIMED_OUT, f"{peer_id} does not answer.") from error
        except BaseLibp2pError as error:
            raise StreamFailed(StreamReason.BROKEN, str(error)) from error
        finally:
            if not agreed:
                with at_most(1.0):
                    await stream.reset()
        return stream

    def key_of(self, muxer: ContainedYamux) -> bytes:
        """Return the key of the peer at the other end of a connection."""
        return key_of_peer_id(muxer.peer_id.to_bytes())

    def get_addrs(self) -> list[Multiaddr]:
        """Return what identify tells others: where they can dial us, or where we listen if that is not known."""
        told = self.told()
        return [Multiaddr(text) for text in told] if told else super().get_addrs()

    def peer_record(self, key: bytes) -> bytes:
        """Return the signed peer record that a peer gave us by identify; empty while there is none."""
        with suppress(PeerStoreError):  # its addresses have expired
            envelope = self.get_peerstore().get_peer_record(ID(peer_id_bytes(key)))
            if envelope is not None:
                return envelope.marshal_envelope()
        return b""

    def observed(self) -> tuple[str, ...]:
        """Return where connected peers say they see us (libp2p specification, identify), the most agreed on first.

        Any of them may lie. The port is that of a connection of ours, unless the peer dialled us.
        """
        manager = self._observed_addr_manager
        return () if manager is None else tuple(str(address) for address in manager.addrs(min_observers=1))

    async def _swarm_stream_handler(self, net_stream: INetStream) -> None:
        """Agree on the protocol of an incoming stream and run its handler; what they raise ends this stream."""
        assert isinstance(net_stream, NetStream)
        muxed = _muxed(net_stream)
        try:
            with self._guard.contain("stream"):
                with trio.fail_after(self._limits.negotiation_deadline):
                    protocol = await answer(muxed, _names(self.multiselect.handlers))
                net_stream.set_protocol(TProtocol(protocol))
                handler = self.multiselect.handlers[TProtocol(protocol)]
                assert handler is not None
                await handler(net_stream)
                await self._finish(net_stream)
        finally:
            if not muxed.closed:
                with at_most(1.0):
                    await net_stream.reset()

    async def _finish(self, stream: NetStream) -> None:
        """Close a stream whose handler is done, and give the peer some time to close its half."""
        muxed = _muxed(stream)
        if muxed.closed:
            return
        await stream.close()
        with trio.move_on_after(self._limits.negotiation_deadline), suppress(BaseLibp2pError):
            while not muxed.closed and await muxed.read_some():
                pass

    async def _identify_peer(self, peer_id: ID, *, reason: str) -> None:
        """Ask a new peer what it speaks. It runs as a system task, so nothing but cancellation may leave it."""
        with self._guard.contain("identify"):
            await super()._identify_peer(peer_id, reason=reason)


def _relayed(socket: RawSocket, initiator: bool) -> RawConnection:
    return RawConnection(socket, initiator, ConnectionType.RELAYED, [Multiaddr(socket.place)])


def _muxed(stream: NetStream) -> ContainedStream:
    assert isinstance(stream.muxed_stream, ContainedStream)
    return stream.muxed_stream


def _names(handlers: Collection[TProtocol | None]) -> Collection[str]:
    return [str(name) for name in handlers if name]


def build_host(
    seed: bytes,
    settings: NetworkSettings,
    guard: Guard,
    limits: Limits,
    make_socket: SocketMaker = TcpSocket,
) -> ContainedHost:
    """Build a host whose identity is the ed25519 key of `seed` (32 bytes): the staking key."""
    quiet_library()
    pair = create_new_key_pair(seed)
    noise = NoiseTransport(pair, noise_privkey=create_noise_key_pair().private_key)
    peer_id = ID.from_pubkey(pair.public_key)
    peerstore = PeerStore()
    peerstore.add_key_pair(peer_id, pair)
    upgrader = ContainedUpgrader(noise, guard, limits)
    return ContainedHost(
        ContainedSwarm(peer_id, peerstore, upgrader, settings.max_peers, guard, limits, make_socket),
        guard,
        limits,
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
