"""Signed peer records: how a peer says under its own key where it can be dialled (libp2p specs, RFC 0003)."""

from __future__ import annotations

from libp2p.peer.envelope import ENVELOPE_DOMAIN, consume_envelope
from libp2p.peer.id import ID

from koii_p2p.network.identity import peer_id_bytes


class BadPeerRecord(ValueError):
    """Bytes that are not a record signed by the peer it is of."""


def recorded_addresses(key: bytes, record: bytes) -> tuple[str, ...]:
    """Return the multiaddrs in a signed record of the peer with this key. Raises `BadPeerRecord`."""
    peer_id = ID(peer_id_bytes(key))
    try:
        envelope, said = consume_envelope(record, ENVELOPE_DOMAIN)
        signer = ID.from_pubkey(envelope.public_key)
    except Exception as error:  # whatever the library makes of a stranger's bytes
        raise BadPeerRecord(f"{type(error).__name__}: {error}") from error
    if signer != peer_id or said.peer_id != peer_id:
        raise BadPeerRecord("The record is of another peer.")
    return tuple(str(address) for address in said.addrs)
