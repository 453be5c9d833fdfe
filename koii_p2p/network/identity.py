"""A staking key and a libp2p PeerId are the same 32 bytes written two ways (PROTOCOL section 2).

Light on purpose: the command line prints PeerIds without loading libp2p.
"""

from __future__ import annotations

import base58

KEY_BYTES = 32

# The "identity" multihash (code 0x00, 36 bytes long) of the protobuf PublicKey {Type: Ed25519 (1), Data: 32 bytes}.
# libp2p specs, peer-ids: keys of at most 42 bytes are not hashed but put into the PeerId itself.
_PREFIX = bytes((0x00, 0x24, 0x08, 0x01, 0x12, 0x20))


def peer_id_bytes(key: bytes) -> bytes:
    """Return the 38 binary bytes of the PeerId of an ed25519 public key. Raises `ValueError` for another length."""
    if len(key) != KEY_BYTES:
        raise ValueError(f"A key has {KEY_BYTES} bytes, not {len(key)}.")
    return _PREFIX + key


def peer_id_text(key: bytes) -> str:
    """Return the PeerId of an ed25519 public key as libp2p prints it: base58, `12D3KooW...`."""
    return base58.b58encode(peer_id_bytes(key)).decode("ascii")


def key_of_peer_id(peer_id: bytes | str) -> bytes:
    """Return the ed25519 public key inside a PeerId (binary or base58).

    Raises `ValueError` for anything that does not carry an ed25519 key itself (RSA and secp256k1 identities,
    hashes, other text): such a peer cannot be a staker.
    """
    raw = base58.b58decode(peer_id) if isinstance(peer_id, str) else peer_id
    if len(raw) != len(_PREFIX) + KEY_BYTES or not raw.startswith(_PREFIX):
        raise ValueError("This PeerId does not carry an ed25519 key.")
    return raw[len(_PREFIX) :]


def multiaddr_text(address: str, port: int) -> str:
    """Return the multiaddr of a TCP port of an IP address."""
    return f"/{'ip6' if ':' in address else 'ip4'}/{address.partition('%')[0]}/tcp/{port}"
