"""What a network tells of itself: its peers and its counters."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from koii_p2p.network.dht.statistics import DhtStatistics
from koii_p2p.network.discovery import DiscoveryStatistics
from koii_p2p.network.gossip import GossipStatistics
from koii_p2p.network.reach.dial_back import Verdict
from koii_p2p.network.requests import RequestStatistics

if TYPE_CHECKING:
    from koii_p2p.conditions import ShapingStatistics


@dataclass(frozen=True, slots=True)
class PeerInfo:
    """A connected peer."""

    key: bytes
    peer_id: str
    addresses: tuple[str, ...]
    """Where it can be dialled, as far as known."""
    remote: str
    """The other end of the connection as we see it; the port is the one it listens on only if we dialled it."""
    connected_seconds: float
    outgoing: bool
    connections: int
    topics: tuple[str, ...]
    rejects: int
    score: float
    """What gossip thinks of it (GossipSub v1.1, "Peer Scoring"); below 0 it is not in any mesh."""
    bans: int


@dataclass(frozen=True, slots=True)
class RelayPlace:
    """A place that we have reserved at a relay."""

    relay: str
    addresses: tuple[str, ...]
    """Where we can be reached through it, without our PeerId."""
    seconds_left: float


@dataclass(frozen=True, slots=True)
class RelayStatistics:
    """What this node carries as a relay."""

    reservations: int
    circuits: int
    """Being carried now."""
    carried: int
    """Circuits since the start."""
    bytes: int
    refused: tuple[tuple[str, int], ...]
    """Requests turned down, by status of the specification."""
    ended: tuple[tuple[str, int], ...]
    """Why circuits ended: closed, cut, or a bound: seconds, bytes."""


@dataclass(frozen=True, slots=True)
class PunchStatistics:
    """How often a direct connection was tried in place of a relayed one, and made."""

    tried: int
    punched: int


@dataclass(frozen=True, slots=True)
class ReachReport:
    """How others get at this node, as far as it knows."""

    access: str
    """`public`, `private` or `unknown`: whether nodes of the Internet can dial it."""
    agreeing: int
    """Peers whose word, or whose coming in, says so."""
    asked: int
    """Peers that have something to say of it."""
    confirmed: tuple[str, ...]
    """Where peers got through when asked to dial, proved by their connection."""
    addresses: tuple[str, ...]
    """What it tells others."""
    listening: tuple[str, ...]
    announced: tuple[str, ...]
    observed: tuple[str, ...]
    """Where peers say they see it; any of them may lie."""
    verdicts: tuple[Verdict, ...]
    verdict_ages: tuple[float, ...]
    """Seconds since each of them."""
    dialled_in: tuple[str, ...]
    """PeerIds that have dialled it directly by themselves and are connected."""
    relays: tuple[RelayPlace, ...]
    relay: RelayStatistics | None
    """What it carries for others; None if it is no relay."""
    hole_punches: PunchStatistics
    dialled_back: int
    """Addresses it dialled because a peer asked it to."""
    dialbacks_refused: int


@dataclass(frozen=True, slots=True)
class NetworkStatistics:
    """Everything countable about the network since it was started."""

    peers: int
    connections: int
    inbound: int
    """Incoming sockets being served."""
    pending_inbound: int
    """Those of them that have not proved who they are."""
    banned: int
    bans: int
    disconnects: tuple[tuple[str, int], ...]
    """Peers we disconnected, by reason."""
    refused: tuple[tuple[str, int], ...]
    """Connections we refused, by reason."""
    contained: tuple[tuple[str, int], ...]
    """Faults kept from spreading, as `place:error`."""
    gossip: GossipStatistics | None
    """None while the network does not run."""
    requests: RequestStatistics
    discovery: DiscoveryStatistics
    dht: DhtStatistics
    shaping: ShapingStatistics | None = None
    """None unless the settings name conditions."""
    relay: RelayStatistics | None = None
    """None unless this node is a relay."""
