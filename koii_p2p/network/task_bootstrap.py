"""A bootstrap peer in a task's record on K2, so that a node which knows only the task finds its network.

The record has one field for it, 64 bytes of text that the task's creator may change at any time (`metadata`, UpdateTask
of the settlement program). An address as libp2p writes it is too long with its PeerId, so it is packed:

    p2p:<base64url, without padding, of: ed25519 key 32 bytes | TCP port 2 bytes, big-endian | IPv4 address 4 bytes>

which is 55 characters. Who answers there has to prove that key, so the record can send a node to nobody else.
"""

from __future__ import annotations

import base64
import binascii
import ipaddress
from typing import Final

from koii_p2p.errors import ConfigurationError
from koii_p2p.network.identity import KEY_BYTES, multiaddr_text
from koii_p2p.network.settings import PeerAddress, parse_peer_address

PREFIX: Final = "p2p:"
PORT_BYTES: Final = 2
IP_BYTES: Final = 4
CHARACTERS: Final = len(PREFIX) + 51


def bootstrap_text(address: str) -> str:
    """Pack the address of a peer, such as `/ip4/203.0.113.7/tcp/4001/p2p/12D3...`. Raises `ConfigurationError`."""
    peer = parse_peer_address(address)
    parts = peer.transport.split("/")
    if len(parts) != 5 or parts[1] != "ip4":
        raise ConfigurationError(
            f"The address {address!r} cannot be put into a task's record.",
            "There is room for an IPv4 address and a port, not for a name, IPv6 or a relay.",
            "Write it like /ip4/203.0.113.7/tcp/4001/p2p/12D3KooW...",
        )
    packed = peer.key + int(parts[4]).to_bytes(PORT_BYTES, "big") + ipaddress.IPv4Address(parts[2]).packed
    return PREFIX + base64.urlsafe_b64encode(packed).rstrip(b"=").decode()


def bootstrap_in(metadata: str) -> PeerAddress | None:
    """The peer that a task's record names; None if it says something else, such as a CID."""
    if not metadata.startswith(PREFIX) or len(metadata) != CHARACTERS:
        return None
    try:
        packed = base64.b64decode(metadata[len(PREFIX) :] + "=", altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        return None
    key, port, ip = packed[:KEY_BYTES], packed[KEY_BYTES:-IP_BYTES], packed[-IP_BYTES:]
    number = int.from_bytes(port, "big")
    if number == 0:
        return None
    return PeerAddress(key, multiaddr_text(str(ipaddress.IPv4Address(ip)), number))
