"""From a socket to a connection with streams: Noise, then Yamux, and nothing else."""

from __future__ import annotations

from typing import TYPE_CHECKING

from libp2p.abc import IMuxedConn, IRawConnection, ISecureConn
from libp2p.network.connection.raw_connection import RawConnection
from libp2p.peer.id import ID
from libp2p.security.exceptions import HandshakeFailure
from libp2p.security.noise.transport import PROTOCOL_ID as NOISE
from libp2p.security.noise.transport import Transport as NoiseTransport
from libp2p.security.secure_session import SecureSession
from libp2p.stream_muxer.yamux.yamux import PROTOCOL_ID as YAMUX
from libp2p.transport.exceptions import MuxerUpgradeFailure, SecurityUpgradeFailure
from libp2p.transport.upgrader import TransportUpgrader

from koii_p2p.limits import Limits
from koii_p2p.network.containment import Guard
from koii_p2p.network.identity import key_of_peer_id
from koii_p2p.network.muxer import ContainedYamux
from koii_p2p.network.negotiation import Channel, NegotiationError, answer, propose
from koii_p2p.network.noise import NoiseChannel
from koii_p2p.network.sockets import RawSocket

if TYPE_CHECKING:
    from libp2p.custom_types import TSecurityOptions


class ContainedUpgrader(TransportUpgrader):
    """Negotiates with bounds, and speaks Noise and Yamux only: the library's default also takes plaintext, that is,
    any identity.
    """

    def __init__(self, noise: NoiseTransport, guard: Guard, limits: Limits) -> None:
        options: TSecurityOptions = {NOISE: noise}
        super().__init__(options, {}, int(limits.negotiation_deadline))
        self._noise = noise
        self._guard = guard
        self._limits = limits
        #: Every connection whose socket is open.
        self.alive: set[ContainedYamux] = set()

    async def upgrade_security(
        self, raw_conn: IRawConnection, is_initiator: bool, peer_id: ID | None = None
    ) -> ISecureConn:
        """Agree on Noise and shake hands. Raises `SecurityUpgradeFailure`; the time limit is the caller's."""
        assert isinstance(raw_conn, RawConnection)
        assert isinstance(raw_conn.stream, RawSocket)
        try:
            if peer_id is not None:
                await _meet(raw_conn.stream, peer_id, dialled=True)
            await _agree(raw_conn.stream, NOISE, is_initiator)
            if peer_id is None:
                session = await self._noise.secure_inbound(raw_conn)
                await _meet(raw_conn.stream, session.get_remote_peer(), dialled=False)
            else:
                session = await self._noise.secure_outbound(raw_conn, peer_id)
        except (NegotiationError, HandshakeFailure) as error:
            raise SecurityUpgradeFailure(str(error)) from error
        if peer_id is not None and session.get_remote_peer() != peer_id:
            raise SecurityUpgradeFailure(f"{session.get_remote_peer()} answers instead of {peer_id}.")
        assert isinstance(session, SecureSession)
        return NoiseChannel(session, raw_conn.stream)

    async def upgrade_connection(self, conn: ISecureConn, peer_id: ID) -> IMuxedConn:
        """Agree on Yamux. Raises `MuxerUpgradeFailure`; the time limit is the caller's."""
        assert isinstance(conn, NoiseChannel)
        try:
            await _agree(conn, YAMUX, conn.is_initiator)
        except NegotiationError as error:
            raise MuxerUpgradeFailure(str(error)) from error
        return ContainedYamux(conn, peer_id, self._guard, self._limits, self.alive)


async def _meet(stream: RawSocket, peer_id: ID, *, dialled: bool) -> None:
    try:
        key = key_of_peer_id(peer_id.to_bytes())
    except ValueError:
        return  # the swarm is about to refuse it, and to count that
    await stream.meet(key, dialled=dialled)


async def _agree(channel: Channel, protocol: str, is_initiator: bool) -> None:
    if is_initiator:
        await propose(channel, (protocol,))
    else:
        await answer(channel, (protocol,))
