"""Which incoming sockets are served: bounds on those that have not proved who they are, and on those of one network.

Who holds many addresses of one network must not fill all places, nor keep others out by connecting and saying
nothing: when too many are still shaking hands, the oldest of the network with the most of them makes room.
"""

from __future__ import annotations

import ipaddress
from collections import Counter
from dataclasses import dataclass, field

import trio

from koii_p2p.limits import Limits

IPV4_BITS, IPV6_BITS = 24, 56
_LOOPBACK = ipaddress.IPv6Address("::1")


def address_range(address: str) -> str:
    """Return the network an IP address is counted under: its /24 (IPv4) or /56 (IPv6), as text.

    An IPv4 address written as IPv6 counts as IPv4, and ::1 alone, whose /56 is not of this machine. Raises
    `ValueError` for anything else.
    """
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address) and ip.ipv4_mapped is not None:
        ip = ip.ipv4_mapped
    bits = IPV4_BITS if isinstance(ip, ipaddress.IPv4Address) else IPV6_BITS
    if ip == _LOOPBACK:
        bits = ip.max_prefixlen
    return str(ipaddress.ip_network((ip, bits), strict=False))


@dataclass(slots=True, eq=False)
class Place:
    """An incoming socket that is being served."""

    network: str
    handshake: trio.CancelScope = field(default_factory=trio.CancelScope)
    """The handshake runs inside it; it is cancelled to make room for others."""


class Admission:
    """Gives places to incoming sockets."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._places: Counter[str] = Counter()
        self._pending: dict[Place, None] = {}

    def enter(self, address: str) -> Place | None:
        """Give a place to a socket from this IP address, or None when its network has too many."""
        network = address_range(address)
        if self._places[network] >= self._most(network):
            return None
        if len(self._pending) >= self._limits.pending_inbound:
            self._make_room()
        place = Place(network)
        self._places[network] += 1
        self._pending[place] = None
        return place

    def settle(self, place: Place) -> None:
        """Note that the peer has proved who it is."""
        self._pending.pop(place, None)

    def leave(self, place: Place) -> None:
        """Take the place back; once for each `enter`."""
        self._pending.pop(place, None)
        self._places[place.network] -= 1
        if not self._places[place.network]:
            del self._places[place.network]

    @property
    def pending(self) -> int:
        """How many have not proved who they are."""
        return len(self._pending)

    @property
    def total(self) -> int:
        """How many are being served."""
        return self._places.total()

    def _most(self, network: str) -> int:
        private = ipaddress.ip_network(network).is_private
        return self._limits.connections_per_private_range if private else self._limits.connections_per_range

    def _make_room(self) -> None:
        crowds = Counter(place.network for place in self._pending)
        crowd, _ = crowds.most_common(1)[0]
        oldest = next(place for place in self._pending if place.network == crowd)
        self.settle(oldest)
        oldest.handshake.cancel()
