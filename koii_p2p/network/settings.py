"""What an operator may choose about the network, checked before libp2p is loaded where possible."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from koii_p2p.errors import ConfigurationError
from koii_p2p.network.identity import key_of_peer_id, peer_id_text

DhtMode = Literal["off", "client", "server", "auto"]


@dataclass(frozen=True, slots=True)
class NetworkSettings:
    """Where to listen, whom to call first, and how large a net to expect.

    Addresses are multiaddrs over TCP, such as `/ip4/0.0.0.0/tcp/4001`; a bootstrap address ends in `/p2p/<PeerId>`.
    """

    listen: tuple[str, ...] = ("/ip4/0.0.0.0/tcp/0",)
    bootstrap: tuple[str, ...] = ()
    mdns: bool = False
    #: Addresses to tell others instead of the ones listened on (a node behind a forwarded port).
    announce: tuple[str, ...] = ()
    #: Peers beyond this are refused, in and out together.
    max_peers: int = 64
    #: The connector dials known peers until it has this many.
    target_peers: int = 8
    #: How many nodes the net is expected to have, until `Network.expect_peers` knows; the mesh degree comes from it.
    expected_peers: int = 32
    #: Seconds between mesh repairs.
    heartbeat: float = 1.0
    #: Carry connections between others, so that nodes behind a NAT can be reached through this one (circuit relay v2).
    relay: bool = False
    #: Whether to take part in the DHT: `auto` serves others as soon as they can reach this node, `client` never does.
    dht: DhtMode = "auto"
    #: A file of `koii_p2p.conditions` that makes links slow, lossy or cut, and is watched. For tests on one machine.
    conditions: Path | None = None


@dataclass(frozen=True, slots=True)
class PeerAddress:
    """An address with the key that must answer there: `transport` is the multiaddr without its `/p2p/` part."""

    key: bytes
    transport: str


def parse_listen(text: str) -> str:
    """Check an address to listen on. Raises `ConfigurationError` when it is no TCP multiaddr with an IP address."""
    transport, peer_id = _split(text)
    if peer_id is not None:
        raise _bad_address(text, "A listening address has no /p2p/ part.")
    if not transport.startswith(("/ip4/", "/ip6/")):
        raise _bad_address(text, "A listening address is an IP address, not a name.")
    return transport


def parse_peer_address(text: str) -> PeerAddress:
    """Check a dialable address that names its peer. Raises `ConfigurationError` when it does not."""
    transport, key = parse_dialable(text, names=True)
    if key is None:
        raise _bad_address(text, "It does not say which peer must answer there.")
    return PeerAddress(key=key, transport=transport)


def parse_dialable(text: str, *, names: bool = False) -> tuple[str, bytes | None]:
    """Check an address to dial, directly or through a relay; return it without the peer at its end, and that peer.

    Where strangers say an address it must have an IP address; `names` allows names as well. Of a relayed one,
    `/ip4/.../tcp/.../p2p/<relay>/p2p-circuit`, the relay stays. Raises `ConfigurationError`.
    """
    head, circuit, tail = text.partition(CIRCUIT)
    if circuit:
        transport, relay = parse_dialable(head, names=names)
        if relay is None:
            raise _bad_address(text, "It does not say which relay it leads through.")
        if CIRCUIT in tail or (tail and not tail.startswith("/p2p/")):
            raise _bad_address(text, "Behind the relay there is one peer, and nothing else.")
        return f"{transport}/p2p/{peer_id_text(relay)}{CIRCUIT}", _key(text, tail[5:] or None)
    transport, peer_id = _split(text)
    if not names and not transport.startswith(("/ip4/", "/ip6/")):
        raise _bad_address(text, "It is a name, not an IP address.")
    return transport, _key(text, peer_id)


def is_relayed(address: str) -> bool:
    """Whether an address leads through a relay."""
    return CIRCUIT in address


def relay_of(transport: str) -> PeerAddress:
    """The relay that a relayed address leads through. Raises `ConfigurationError` for one that is none."""
    return parse_peer_address(transport.partition(CIRCUIT)[0])


def _key(text: str, peer_id: str | None) -> bytes | None:
    try:
        return None if peer_id is None else key_of_peer_id(peer_id)
    except ValueError as error:
        raise _bad_address(text, str(error)) from error


def _split(text: str) -> tuple[str, str | None]:
    """Split a multiaddr into its TCP part and the PeerId after `/p2p/`, if any."""
    from multiaddr import Multiaddr
    from multiaddr.exceptions import Error as MultiaddrError

    try:
        address = Multiaddr(text)
        names = [protocol.name for protocol in address.protocols()]
    except (MultiaddrError, ValueError, TypeError) as error:
        raise _bad_address(text, "It is not a multiaddr.") from error
    peer_id = None
    if names and names[-1] == "p2p":
        names.pop()
        text, _, peer_id = str(address).rpartition("/p2p/")
    else:
        text = str(address)
    if len(names) != 2 or names[0] not in _HOSTS or names[1] != "tcp":
        raise _bad_address(text, "Only TCP over an IP address or a name is spoken.")
    return text, peer_id


CIRCUIT = "/p2p-circuit"
_HOSTS = ("ip4", "ip6", "dns", "dns4", "dns6")


def _bad_address(text: str, why: str) -> ConfigurationError:
    return ConfigurationError(
        what=f"The address {text!r} cannot be used.",
        why=why,
        remedy="Write it like /ip4/203.0.113.7/tcp/4001, and a peer's like /ip4/203.0.113.7/tcp/4001/p2p/12D3KooW...",
    )
