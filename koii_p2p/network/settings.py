"""What an operator may choose about the network, checked before libp2p is loaded where possible."""

from __future__ import annotations

from dataclasses import dataclass

from koii_p2p.errors import ConfigurationError
from koii_p2p.network.identity import key_of_peer_id


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
    #: How many nodes the net is expected to have; the mesh degree comes from it.
    expected_peers: int = 32
    #: Seconds between mesh repairs.
    heartbeat: float = 1.0


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
    transport, peer_id = _split(text)
    if peer_id is None:
        raise _bad_address(text, "It does not say which peer must answer there.")
    try:
        return PeerAddress(key=key_of_peer_id(peer_id), transport=transport)
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


_HOSTS = ("ip4", "ip6", "dns", "dns4", "dns6")


def _bad_address(text: str, why: str) -> ConfigurationError:
    return ConfigurationError(
        what=f"The address {text!r} cannot be used.",
        why=why,
        remedy="Write it like /ip4/203.0.113.7/tcp/4001, and a peer's like /ip4/203.0.113.7/tcp/4001/p2p/12D3KooW...",
    )
