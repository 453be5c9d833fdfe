"""Addresses as the DHT carries them: binary multiaddrs of strangers, and what may be made of them."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from enum import IntEnum
from functools import lru_cache

from koii_p2p.network.admission import address_range

IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address

REMEMBERED = 8192
# Codes of the multiaddr table (multiformats/multicodec) as their varints.
_IP4, _IP6 = 0x04, 0x29


class Scope(IntEnum):
    """From where an address can be reached."""

    MACHINE = 0
    """Loopback, and the unspecified address, which is dialled as loopback."""
    SITE = 1
    """Private and link-local networks (RFC 1918, RFC 4193, RFC 6598)."""
    WORLD = 2
    """Everything else: names, and relays, whose own address is in front."""


@lru_cache(maxsize=REMEMBERED)
def encoded(address: str) -> bytes:
    """Return a multiaddr in binary; nothing for text that is none."""
    from multiaddr import Multiaddr
    from multiaddr.exceptions import Error

    try:
        return bytes(Multiaddr(address).to_bytes())
    except (Error, ValueError, TypeError):
        return b""


@lru_cache(maxsize=REMEMBERED)
def decoded(address: bytes) -> str:
    """Return a binary multiaddr as text; nothing for bytes that are none."""
    from multiaddr import Multiaddr

    try:
        text = str(Multiaddr(address))
    except Exception:  # noqa: BLE001 - whatever the library makes of a stranger's bytes
        return ""
    # The library fills up addresses that are cut off.
    return text if encoded(text) == address else ""


def ip_of(address: bytes) -> IPAddress | None:
    """Return the IP address a binary multiaddr begins with; None where it begins with something else."""
    if len(address) >= 5 and address[0] == _IP4:
        return ipaddress.IPv4Address(address[1:5])
    if len(address) >= 17 and address[0] == _IP6:
        found = ipaddress.IPv6Address(address[1:17])
        return found if found.ipv4_mapped is None else found.ipv4_mapped
    return None


@lru_cache(maxsize=REMEMBERED)
def scope_of(address: bytes) -> Scope:
    """Return from where a binary multiaddr can be reached."""
    ip = ip_of(address)
    if ip is None or ip.is_global:
        return Scope.WORLD
    return Scope.MACHINE if ip.is_loopback or ip.is_unspecified else Scope.SITE


@lru_cache(maxsize=REMEMBERED)
def group_of(address: bytes) -> str | None:
    """Return what peers of one network share: the /24 or /56 of a public address.

    None for loopback, private networks and what has no IP address, where many share one rightly.
    """
    ip = ip_of(address)
    return address_range(str(ip)) if ip is not None and ip.is_global else None


def believable(addresses: Iterable[bytes], via: Scope) -> tuple[bytes, ...]:
    """Leave out what cannot be meant for us: who is reached over the Internet knows nothing of our own networks.

    Else a stranger could have us knock at doors behind our firewall.
    """
    return tuple([one for one in addresses if one and scope_of(one) >= via])
