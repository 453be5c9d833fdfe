"""How others get at this node, and how it gets at nodes that nobody can dial: its own ports, dial-backs, relays."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterator, Mapping, Sequence

import trio
from libp2p.network.connection.swarm_connection import SwarmConn
from libp2p.peer.id import ID
from multiaddr import Multiaddr

from koii_p2p.errors import NetworkError
from koii_p2p.limits import Limits
from koii_p2p.network.containment import Guard, at_most
from koii_p2p.network.dht.addresses import Scope, encoded, scope_of
from koii_p2p.network.host import ContainedHost, advertised, close_connections
from koii_p2p.network.identity import multiaddr_text, peer_id_bytes, peer_id_text
from koii_p2p.network.peer_table import Link
from koii_p2p.network.reach.dial_back import (
    PROOF,
    Access,
    Ask,
    Assessment,
    DialBack,
    Neighbour,
    Reachability,
    advertised_now,
    assess,
    seen_ipv4,
)
from koii_p2p.network.reach.hole_punch import HolePuncher
from koii_p2p.network.reach.relay import Relay
from koii_p2p.network.reach.relay_client import RelayClient, RelayFailed
from koii_p2p.network.reach.relay_wire import HOP, STOP, RelayedSocket
from koii_p2p.network.settings import CIRCUIT, PeerAddress, is_relayed, relay_of
from koii_p2p.network.statistics import ReachReport, RelayStatistics
from koii_p2p.network.streams import PeerStream, StreamFailed

IDLE_SECONDS = 5.0
"""A connection that was only a dial-back is closed when nothing is on it, or after this."""


class WaysIn:
    """Everything about reaching a node from outside, over one host."""

    def __init__(
        self,
        host: ContainedHost,
        announce: Sequence[str],
        links: Callable[[], Mapping[bytes, Link]],
        ask: Ask,
        guard: Guard,
        limits: Limits,
        *,
        relay: bool,
    ) -> None:
        self._host = host
        self._announce = announce
        self._links = links
        self._guard = guard
        self._through: dict[bytes, float] = {}
        """Relays that were dialled only to get at a peer behind them, and when that was last."""
        self._limits = limits
        own_key = host.own_key
        self.dial_back = DialBack(self._dial_with_proof, self._direct_ip, self._has_room, limits)
        self._reachability = Reachability(ask, self._able_to_dial, self._ports, guard, limits)
        self._client = RelayClient(
            host.open_stream,
            self._wants_relay,
            self._possible_relays,
            self._serve_relayed,
            guard,
            limits,
        )
        self._relay = Relay(own_key, host.open_stream, self._relay_addresses, limits) if relay else None
        self._puncher = HolePuncher(host, self._seen_ip, guard)
        host.told = lambda: self.addresses
        host.serve(PROOF, self._reachability.prove)
        host.serve(STOP, self._client.accept)
        if self._relay is not None:
            host.serve(HOP, self._relay.serve)

    async def run(self) -> None:
        """Ask peers to dial back, and keep places at relays while they are needed, for ever."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._reachability.run)
            nursery.start_soon(self._client.run)
            nursery.start_soon(self._leave_relays)

    def lost(self, key: bytes) -> None:
        """Note that a peer is gone."""
        self._client.lost(key)
        if self._relay is not None:
            self._relay.lost(key)

    async def ask(self, key: bytes) -> None:
        """Ask one connected peer now whether it can dial us."""
        await self._reachability.ask(key)

    async def reserve(self, key: bytes) -> bool:
        """Reserve at a connected relay now, needed or not; return whether that was granted."""
        return await self._client.reserve(key)

    async def dial(self, key: bytes, address: str) -> None:
        """Connect to a peer, directly or through a relay, which is connected first. Raises what the library raises."""
        swarm = self._host.swarm
        if not is_relayed(address):
            await swarm.dial_addr(Multiaddr(address), ID(peer_id_bytes(key)))
            return
        relay = relay_of(address)
        if relay.key in (self._host.own_key, key):
            raise RelayFailed("A node is no relay to itself.")
        if relay.key not in self._links():
            await self._dial_relay(relay)
        elif relay.key in self._through:
            self._through[relay.key] = trio.current_time()
        await swarm.dial_relayed(await self._client.connect(relay.key, key), ID(peer_id_bytes(key)))

    async def _dial_relay(self, relay: PeerAddress) -> None:
        """Connect to a relay that somebody else chose, so only to a few of them at a time."""
        if len(self._through) >= self._limits.relays_dialled:
            raise RelayFailed("As many relays as may be were dialled for single peers.")
        self._through[relay.key] = trio.current_time()
        try:
            await self._host.swarm.dial_addr(Multiaddr(relay.transport), ID(peer_id_bytes(relay.key)))
        except BaseException:
            self._through.pop(relay.key, None)
            raise

    async def _leave_relays(self) -> None:
        """Close the connections with relays that were dialled for peers, once we reach none through them, for ever."""
        while True:
            await trio.sleep(IDLE_SECONDS)
            with self._guard.contain("leave_relays"):
                in_use, now = self._relays_in_use(), trio.current_time()
                for relay, since in list(self._through.items()):
                    place = f"/p2p/{peer_id_text(relay)}{CIRCUIT}"
                    if place in in_use or now - since < 2 * self._limits.dial_deadline:
                        continue
                    del self._through[relay]
                    if not self._client.holds(relay):
                        with trio.move_on_after(self._limits.stop_deadline):
                            await close_connections(self._host.swarm, ID(peer_id_bytes(relay)))

    def _relays_in_use(self) -> set[str]:
        """The places of the relayed connections that there are."""
        swarm = self._host.swarm
        return {
            muxer.place
            for key in self._links()
            for one in swarm.connections_to(ID(peer_id_bytes(key)))
            if (muxer := swarm.muxer_of(one)).relayed
        }

    @property
    def addresses(self) -> tuple[str, ...]:
        """Return the addresses to tell others, each ending in our PeerId."""
        told = tuple(self._announce) or advertised_now(
            advertised(self._host), self._assessment(), self._client.addresses, internet=self._on_internet()
        )
        own = peer_id_text(self._host.own_key)
        return tuple(f"{text}/p2p/{own}" for text in told)

    @property
    def relay_statistics(self) -> RelayStatistics | None:
        """Return what this node carries for others; None if it is no relay."""
        return None if self._relay is None else self._relay.statistics()

    def report(self) -> ReachReport:
        """Return what is known of the ways in."""
        now = trio.current_time()
        found = self._assessment()
        return ReachReport(
            access=found.access.value,
            agreeing=found.agreeing,
            asked=found.asked,
            confirmed=found.confirmed,
            addresses=self.addresses,
            listening=advertised(self._host),
            announced=tuple(self._announce),
            observed=self._host.observed(),
            verdicts=self._reachability.verdicts(),
            verdict_ages=tuple(now - one.at for one in self._reachability.verdicts()),
            dialled_in=tuple(peer_id_text(key) for key in self._dialled_in()),
            relays=self._client.places(),
            relay=self.relay_statistics,
            hole_punches=self._puncher.statistics(),
            dialled_back=self.dial_back.dialled,
            dialbacks_refused=self.dial_back.refused,
        )

    # what is seen

    def within_reach(self, address: str) -> bool:
        """Say whether others may have us dial an address: none on this machine or in a private network, unless we
        listen there or have a direct connection. Else anybody could have us knock at doors that only we can get at.
        """
        scope = scope_of(encoded(address))
        if scope is Scope.WORLD:
            return True
        places = [*advertised(self._host), *(multiaddr_text(one.ip, 0) for one in self._neighbours())]
        return scope >= min((scope_of(encoded(text)) for text in places), default=Scope.MACHINE)

    def _assessment(self) -> Assessment:
        outside = [key for key, ip in self._dialled_in().items() if ip.is_global]
        asked = {one.peer_id for one in self._reachability.verdicts()}
        return assess(self._reachability.verdicts(), sum(peer_id_text(key) not in asked for key in outside))

    def _direct(self, key: bytes) -> Iterator[tuple[SwarmConn, str]]:
        """The direct connections with a peer, and the IP address at their other end."""
        for connection in self._host.swarm.connections_to(ID(peer_id_bytes(key))):
            remote = self._host.swarm.muxer_of(connection).get_remote_address()
            if remote is not None:
                yield connection, remote[0].partition("%")[0]

    def _direct_ip(self, key: bytes) -> str | None:
        return next((ip for _, ip in self._direct(key)), None)

    def _neighbours(self) -> list[Neighbour]:
        now = trio.current_time()
        return [
            Neighbour(key, ip, now - link.since)
            for key, link in self._links().items()
            if (ip := self._direct_ip(key)) is not None
        ]

    def _able_to_dial(self) -> list[Neighbour]:
        return [one for one in self._neighbours() if self._has_room(one.key)]

    def _has_room(self, key: bytes) -> bool:
        """Whether another connection with a peer can be made: what fails for want of room says nothing of reach."""
        swarm = self._host.swarm
        return (
            swarm.get_total_connections() < swarm.connection_config.max_connections
            and len(swarm.get_connections(ID(peer_id_bytes(key)))) < self._limits.connections_per_peer
        )

    def _on_internet(self) -> bool:
        return any(ipaddress.ip_address(one.ip).is_global for one in self._neighbours())

    def _dialled_in(self) -> dict[bytes, ipaddress.IPv4Address | ipaddress.IPv6Address]:
        """The peers that have dialled us directly by themselves, and where from."""
        found = {}
        for key in self._links():
            for connection, ip in self._direct(key):
                muxer = self._host.swarm.muxer_of(connection)
                if not (muxer.is_initiator or muxer.spare or muxer.punched):
                    found[key] = ipaddress.ip_address(ip)
        return found

    def _ports(self) -> list[int]:
        """The TCP ports that others may dial us at: those announced, and those listened on."""
        places = [*self._announce, *map(str, self._host.get_transport_addrs())]
        return [int(text.rpartition("/tcp/")[2]) for text in places if "/tcp/" in text]

    def _seen_ip(self) -> str | None:
        """The IPv4 address of the Internet that peers say we are at, of a node that cannot be dialled."""
        return seen_ipv4(self._reachability.verdicts()) if self._wants_relay() else None

    async def _serve_relayed(self, socket: RelayedSocket) -> None:
        await self._host.swarm.serve_relayed(socket, self._puncher.reached)

    # relays

    def _wants_relay(self) -> bool:
        return not self._announce and self._assessment().access is Access.PRIVATE

    def _possible_relays(self) -> Iterator[tuple[bytes, str]]:
        """Peers that we have dialled directly: so others can dial them as well. With where we did."""
        for key, link in self._links().items():
            if link.outgoing:
                for connection, _ in self._direct(key):
                    muxer = self._host.swarm.muxer_of(connection)
                    if muxer.is_initiator:
                        yield key, muxer.place
                        break

    def _relay_addresses(self) -> tuple[str, ...]:
        return tuple(text for text in self.addresses if not is_relayed(text))[
            : self._limits.presence_addresses
        ]

    # dialling back

    async def _dial_with_proof(self, key: bytes, address: str, proof: bytes) -> None:
        """Make a new connection to a peer, say the proof on it, and close it again when nothing else is on it."""
        connection = await self._host.swarm.dial_addr(Multiaddr(address), ID(peer_id_bytes(key)))
        assert isinstance(connection, SwarmConn)
        muxer = self._host.swarm.muxer_of(connection)
        muxer.spare = True
        try:
            stream: PeerStream = await self._host.open_on(connection, PROOF)
            await stream.write(proof)
            if await stream.read_some(1) != b"\x01":
                raise NetworkError("It was no proof.", "The peer did not take it.", "Ask again.")
            await stream.close()
        except StreamFailed as error:
            raise NetworkError("There was no proof.", str(error), "Ask again.") from error
        finally:
            with at_most(IDLE_SECONDS):
                while any(not one.closed for one in muxer.streams.values()):
                    await trio.sleep(0.05)
            with at_most(1.0):
                await connection.close()
