"""Whether others can get to a node, by its addresses, by where peers see it, and by who has dialled it."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from koii_p2p.node.checkup import Finding, Level, ok

CHECK: Final = "reachable"
EVERYWHERE: Final = "/ip4/0.0.0.0/tcp/4001"
_ELSEWHERE: Final = "203.0.113.1"  # TEST-NET-3 of RFC 5737: routed like the Internet, and nobody's


@dataclass(frozen=True, slots=True)
class Place:
    """An IP address and TCP port."""

    host: ipaddress.IPv4Address | ipaddress.IPv6Address
    port: int

    def __str__(self) -> str:
        host = f"[{self.host}]" if self.host.version == 6 else str(self.host)
        return f"{host}:{self.port}" if self.port else f"{host}, at any free port"

    @property
    def multiaddr(self) -> str:
        """As operators write it."""
        return f"/ip{self.host.version}/{self.host}/tcp/{self.port}"


def place_of(multiaddr: str) -> Place | None:
    """The place in a multiaddr over TCP; None if it has none, or a name, or is that of a relay."""
    parts = multiaddr.split("/")
    if (
        "p2p-circuit" in parts
        or len(parts) < 5
        or parts[1] not in ("ip4", "ip6")
        or parts[3] != "tcp"
        or not parts[4].isdecimal()
    ):
        return None
    try:
        return Place(ipaddress.ip_address(parts[2]), int(parts[4]))
    except ValueError:
        return None


def outgoing_address() -> str | None:
    """The address of this machine that it speaks to the Internet from; None without a route. Nothing is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((_ELSEWHERE, 9))
        except OSError:
            return None
        return str(probe.getsockname()[0])


def would_be_at(listen: Sequence[str], own: str | None) -> tuple[str, ...]:
    """Where a node with these listening addresses would be, `own` in place of every wildcard."""
    found = []
    for text in listen:
        place = place_of(text)
        if place is not None and place.host.is_unspecified and own is not None:
            found.append(f"/ip4/{own}/tcp/{place.port}")
        else:
            found.append(text)
    return tuple(found)


def judge(
    addresses: Sequence[str],
    observed: Sequence[str] = (),
    peers: Sequence[Mapping[str, Any]] = (),
    *,
    local: bool,
    report: Mapping[str, Any] | None = None,
) -> Finding:
    """Why nobody can reach a node, or that somebody did.

    `addresses` are where it says it is, `observed` where peers say they see it, `peers` as the API shows them, and
    `local` says that its whole network is meant to be on this machine. What peers say is a hint: any may lie. `report`
    is what the API says under `/reach`: what came of peers' dialling the node weighs more than any address.
    """
    tried = _tried(report or {})
    if tried is not None:
        return tried
    places = [place for text in addresses if (place := place_of(text)) is not None]
    came_in = [place_of(str(peer["remote"])) for peer in peers if not peer["outgoing"]]
    from_outside = sum(1 for place in came_in if place is not None and place.host.is_global)
    if not addresses:
        return Finding(
            CHECK, Level.ERROR, "The node listens on no address.", f"Give it one: --listen {EVERYWHERE}."
        )
    shown = ", ".join(str(place) for place in places) or ", ".join(addresses)
    if from_outside:
        return ok(CHECK, f"It can be reached: {from_outside} of its peers have dialled it from the Internet.")
    if places and all(place.host.is_loopback for place in places):
        what = f"It listens on loopback only ({shown}): nobody beyond this machine can reach it."
        return (
            ok(CHECK, what) if local else Finding(CHECK, Level.WARNING, what, f"Use --listen {EVERYWHERE}.")
        )
    outside = [place for place in places if place.host.is_global]
    seen = [place for text in observed if (place := place_of(text)) is not None and place.host.is_global]
    if outside or not places:
        elsewhere = [place for place in seen if place.host not in {one.host for one in places}]
        if elsewhere and places:
            what = f"It says that it is at {shown}, but peers see it at {elsewhere[0].host}."
            return Finding(
                CHECK, Level.WARNING, what, "If that is another machine, correct --listen or --announce."
            )
        return ok(CHECK, f"It is at {shown}. Whether a firewall is before it shows when a peer dials it.")
    if local:
        return ok(CHECK, f"It is at {shown}, for this machine and its local network.")
    return _behind(shown, places[0], seen)


def _tried(report: Mapping[str, Any]) -> Finding | None:
    """What follows from the dialling of peers; None if none of the Internet has tried."""
    access, agreeing, asked = (report.get(name) for name in ("access", "agreeing", "asked"))
    if access == "public":
        where = ", ".join(str(place) for text in report["confirmed"] if (place := place_of(text)) is not None)
        at = f" at {where}" if where else ""
        return ok(CHECK, f"It can be reached{at}: {agreeing} peers of the Internet have dialled it.")
    if access != "private":
        return None
    failed = [verdict for verdict in report["verdicts"] if not verdict["reached"]]
    places = [place for verdict in failed if (place := place_of(verdict["place"])) is not None]
    outside = places[-1]
    inside = next((place for text in report["listening"] if (place := place_of(text)) is not None), outside)
    why = failed[-1]["why"]
    what = f"It cannot be dialled from the Internet: {agreeing} of {asked} peers tried {outside} and failed ({why})."
    relays = report["relays"]
    if relays:
        what += f" It is reached through {len(relays)} relay{'s' if len(relays) > 1 else ''}, and takes part."
    else:
        what += " It takes part by dialling others; peers that are behind a NAT as well cannot get at it."
    if inside.host == outside.host:
        remedy = f"To be dialled directly, let the firewall of this machine take TCP port {inside.port}."
    else:
        remedy = (
            f"To be dialled directly, forward TCP port {inside.port} of the router to {inside.host}, and keep the "
            f"port the same at every start: --listen /ip4/0.0.0.0/tcp/{inside.port}."
        )
    level = Level.OK if relays else Level.WARNING
    return Finding(CHECK, level, what, remedy)


def _behind(shown: str, own: Place, seen: Sequence[Place]) -> Finding:
    """Of a node that has private addresses only."""
    port = own.port or 4001
    fixed = "" if own.port else f"--listen /ip4/0.0.0.0/tcp/{port} (now the port is another at every start), "
    forward = f"forward TCP port {port} of the router to {own.host}"
    if seen:
        outside = Place(seen[0].host, port)
        what = f"It has private addresses only ({shown}), and peers see it at {outside.host}: it is behind a NAT."
        remedy = f"To be reached, {forward}, and start it with {fixed}--announce {outside.multiaddr}."
    else:
        what = f"It has private addresses only ({shown}), probably behind a NAT; no peer says where it sees the node."
        remedy = (
            f"To be reached from the Internet, {forward}, and start it with {fixed}--announce and the router's "
            "address. It works without: it dials others."
        )
    return Finding(CHECK, Level.WARNING, what, remedy)
