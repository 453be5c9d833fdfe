"""How the node's settings and limits become the parameters of its gossip router."""

from __future__ import annotations

import ipaddress

from koii_p2p.gossip.parameters import Bounds, GossipParameters, degrees_for
from koii_p2p.limits import Limits
from koii_p2p.network.settings import NetworkSettings

SUBNET_BITS = 64
"""Of an IPv6 address: the smallest network a site gets, so one host may have every address in it (RFC 4291)."""


def gossip_parameters(settings: NetworkSettings, limits: Limits) -> GossipParameters:
    """Return the parameters of the router of a node."""
    bounds = Bounds(
        rpc_bytes=limits.gossip_rpc_bytes,
        message_bytes=limits.gossip_message_bytes,
        topic_bytes=limits.gossip_topic_bytes,
        topics_per_peer=limits.gossip_topics_per_peer,
        seen=limits.gossip_seen_ids,
        held=limits.own_messages_held,
        # Verdicts are given at once, so no more can wait than one RPC holds.
        pending=limits.gossip_rpc_messages,
        pending_per_peer=limits.gossip_rpc_messages,
        messages_per_rpc=limits.gossip_rpc_messages,
    )
    return GossipParameters(
        degrees=degrees_for(settings.expected_peers),
        bounds=bounds,
        heartbeat=round(1000 * settings.heartbeat),
        seen=round(1000 * limits.gossip_seen_seconds),
    )


def address_group(address: str) -> bytes | None:
    """Return what peers behind one network share (P6): the IPv4 address, or the /64 of an IPv6 address.

    `address` is a multiaddr. None for loopback, which all nodes of a machine share, and for a relayed connection, whose
    other end has no address that we could see.
    """
    if not address.startswith(("/ip4/", "/ip6/")):
        return None
    ip = ipaddress.ip_address(address.split("/")[2])
    if isinstance(ip, ipaddress.IPv6Address) and ip.ipv4_mapped is not None:
        ip = ip.ipv4_mapped
    if ip.is_loopback:
        return None
    return ip.packed if isinstance(ip, ipaddress.IPv4Address) else ip.packed[: SUBNET_BITS // 8]
