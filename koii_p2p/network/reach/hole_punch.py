"""A direct connection in place of a relayed one: both ends dial each other at once, through their NATs (DCUtR).

Whoever was reached through a relay opens a stream of `/libp2p/dcutr` on that connection. Both tell the other where they
will dial from: the IP address that peers see them at, and a local port that they have just taken and nothing listens
on. A NAT that keeps port numbers, as those of Linux do where they can, sends from that very port; behind one that does
not, punching fails and the relay stays. Messages are those of the specification, and so are the roles: who dialled
through the relay is the client of the new connection.

Source: https://github.com/libp2p/specs/blob/master/relay/DCUtR.md
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Final

import structlog
import trio
from libp2p.network.connection.raw_connection import RawConnection
from libp2p.peer.id import ID
from libp2p.relay.circuit_v2.pb.dcutr_pb2 import HolePunch
from multiaddr import Multiaddr

from koii_p2p.network.containment import Guard, at_most
from koii_p2p.network.host import ContainedHost
from koii_p2p.network.identity import multiaddr_text, peer_id_bytes, peer_id_text
from koii_p2p.network.muxer import ContainedYamux
from koii_p2p.network.reach.relay_wire import BadMessage, MessageStream
from koii_p2p.network.statistics import PunchStatistics
from koii_p2p.network.streams import PeerStream, StreamFailed

log = structlog.get_logger(__name__)

DCUTR: Final = "/libp2p/dcutr"
AGREE_SECONDS: Final = 10.0
TRIES: Final = 3
TRY_SECONDS: Final = 3.0
PAUSE_SECONDS: Final = 0.2
ADDRESSES: Final = 2
"""Of the other end, that are dialled."""
AGAIN_SECONDS: Final = 60.0
GOSSIP_STREAMS: Final = 2
"""They move over to the direct connection when the relayed one is closed; anything else is waited for."""
CLOSE_AFTER_SECONDS: Final = 60.0


class HolePuncher:
    """Tries to get past the relay, at most once in a while with each peer."""

    def __init__(self, host: ContainedHost, own_ip: Callable[[], str | None], guard: Guard) -> None:
        """`own_ip()` is the IPv4 address of the Internet that peers see us at; None if there is none, or no need."""
        self._host = host
        self._own_ip = own_ip
        self._guard = guard
        self._not_before: dict[bytes, float] = {}
        self._tried = self._punched = 0
        host.serve(DCUTR, self.answer)

    def statistics(self) -> PunchStatistics:
        """Return the counters."""
        return PunchStatistics(self._tried, self._punched)

    async def reached(self, muxer: ContainedYamux) -> None:
        """Try it with the peer of an incoming relayed connection, now and then while that lives, and close it if there
        is a direct one then. At first either end may not know yet where it is seen, or that it cannot be dialled.
        """
        with self._guard.contain("hole_punch"):
            key = self._host.key_of(muxer)
            while not (self._may(key) and await self._ask(key)):
                await trio.sleep(AGAIN_SECONDS)
            await self._leave(muxer)

    async def answer(self, stream: PeerStream) -> None:
        """Take part, on a stream that the other end has opened on a connection that we have dialled through a relay."""
        if not stream.link.relayed or not stream.link.is_initiator or not self._may(stream.key):
            await stream.reset()
            return
        messages, said = MessageStream(stream), HolePunch()
        with own_port() as port, trio.fail_after(AGREE_SECONDS + TRIES * TRY_SECONDS):
            await messages.receive(said)
            if said.type != HolePunch.CONNECT:
                raise BadMessage("It does not begin with CONNECT.")
            await messages.send(self._connect(port))
            places = dialable(said.ObsAddrs)
            await messages.receive(said)
            if said.type != HolePunch.SYNC:
                raise BadMessage("It does not go on with SYNC.")
            await self._punch(stream.key, port, places, client=True)

    async def _ask(self, key: bytes) -> bool:
        with own_port() as port, trio.move_on_after(AGREE_SECONDS + TRIES * TRY_SECONDS):
            try:
                stream = await self._host.open_stream(key, [DCUTR])
                messages, said = MessageStream(stream), HolePunch()
                asked = trio.current_time()
                await messages.send(self._connect(port))
                await messages.receive(said)
                there = trio.current_time() - asked
                places = dialable(said.ObsAddrs)
                await messages.send(HolePunch(type=HolePunch.SYNC))
                await trio.sleep(there / 2)  # when SYNC arrives
                done = await self._punch(key, port, places, client=False)
                with at_most(1.0):
                    await stream.reset()
                return done
            except (BadMessage, StreamFailed) as error:
                log.debug("hole_punch_refused", peer_id=peer_id_text(key), why=str(error))
        return False

    def _may(self, key: bytes) -> bool:
        now = trio.current_time()
        self._not_before = {one: until for one, until in self._not_before.items() if until > now}
        if self._own_ip() is None or key in self._not_before:
            return False
        self._not_before[key] = now + AGAIN_SECONDS / 2
        return True

    def _connect(self, port: int) -> HolePunch:
        ip = self._own_ip()
        places = () if ip is None else (Multiaddr(multiaddr_text(ip, port)).to_bytes(),)
        return HolePunch(type=HolePunch.CONNECT, ObsAddrs=places)

    async def _punch(self, key: bytes, port: int, places: Iterable[tuple[str, int]], *, client: bool) -> bool:
        """Dial until the other end's dial meets ours; return whether there is a direct connection now."""
        self._tried += 1
        for _ in range(TRIES):
            for ip, far in places:
                with trio.move_on_after(TRY_SECONDS), self._guard.contain("hole_punch_dial"):
                    await self._meet(key, port, ip, far, client=client)
                    self._punched += 1
                    log.info("hole_punched", peer_id=peer_id_text(key), place=multiaddr_text(ip, far))
                    return True
            await trio.sleep(PAUSE_SECONDS)
        return False

    async def _meet(self, key: bytes, port: int, ip: str, far: int, *, client: bool) -> None:
        """Dial one address from our port, and shake hands. Raises whatever a dial raises."""
        swarm, peer_id = self._host.swarm, ID(peer_id_bytes(key))
        ours = bound(port)
        try:
            await ours.connect((ip, far))
            raw = RawConnection(swarm.tcp.wrap(trio.SocketStream(ours)), client)
            if client:
                muxer = swarm.muxer_of(await swarm.upgrade_outbound_raw_conn(raw, peer_id))
            else:
                made = await swarm.upgrade_inbound_raw_conn(raw, Multiaddr(multiaddr_text(ip, far)))
                assert isinstance(made, ContainedYamux)
                muxer = made
        except BaseException:
            ours.close()
            raise
        muxer.punched = True
        if muxer.peer_id != peer_id:
            await muxer.close()
            raise WrongPeer(f"{muxer.peer_id} answers instead of {peer_id}.")

    async def _leave(self, relayed: ContainedYamux) -> None:
        """Close a relayed connection as soon as nothing but gossip is on it, which moves over."""
        with trio.move_on_after(CLOSE_AFTER_SECONDS):
            while len(relayed.streams) > GOSSIP_STREAMS:
                await trio.sleep(PAUSE_SECONDS)
        await relayed.close()


class WrongPeer(Exception):
    """Somebody else is where the peer should be."""


@contextmanager
def own_port() -> Iterator[int]:
    """A free local port for the length of the block, that sockets of ours can be bound to as well."""
    held = bound(0)
    try:
        yield int(held.getsockname()[1])
    finally:
        held.close()


def bound(port: int) -> trio.socket.SocketType:
    """A TCP socket of IPv4 that is bound to a port; several may be, as long as none listens."""
    made = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind(("0.0.0.0", port))
        return trio.socket.from_stdlib_socket(made)
    except BaseException:
        made.close()
        raise


def dialable(addresses: Iterable[bytes]) -> list[tuple[str, int]]:
    """The places among addresses of a stranger that may be dialled: IPv4, of the Internet, with a port."""
    found: list[tuple[str, int]] = []
    for raw in list(addresses)[: 4 * ADDRESSES]:
        try:
            parts = str(Multiaddr(raw)).split("/")
            ip, port = ipaddress.IPv4Address(parts[2]), int(parts[4])
        except Exception:  # noqa: BLE001 - whatever the library makes of a stranger's bytes
            continue
        outside = ip.is_global and not ip.is_multicast
        if parts[1] == "ip4" and parts[3] == "tcp" and len(parts) == 5 and outside and port:
            found.append((str(ip), port))
    return found[:ADDRESSES]
