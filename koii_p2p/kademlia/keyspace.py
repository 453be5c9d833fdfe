"""Where peers and keys lie, and how far apart: SHA-256 of their bytes, compared by XOR.

Source: libp2p specifications, kad-dht, "Distance"; Maymounkov and Mazieres, Kademlia, section 2.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from hashlib import sha256
from heapq import nsmallest

from koii_p2p.kademlia.random_source import RandomSource

BITS = 256
KEY_BYTES = 32
MULTIHASH_SHA256 = b"\x12\x20"
_CID_V1 = b"\x01"
_TRIES = 4096
"""How many random keys are tried for a far-off bucket: enough for 10 common bits, which 20 000 nodes need."""


@lru_cache(maxsize=16_384)
def place(key: bytes) -> int:
    """Return where a key or a peer id lies: its SHA-256 as a big-endian number."""
    return int.from_bytes(sha256(key).digest(), "big")


def common_bits(first: int, second: int) -> int:
    """Return how many leading bits two places share, 0 to 256."""
    return BITS - (first ^ second).bit_length()


def closest(peers: Iterable[bytes], target: int, count: int) -> list[bytes]:
    """Return the `count` peers nearest to a place, the nearest first."""
    return nsmallest(count, peers, key=lambda peer: place(peer) ^ target)


def random_key(own: int, bucket: int, source: RandomSource) -> bytes:
    """Return a key whose place shares `bucket` leading bits with ours, or as many as some thousand tries find.

    A place cannot be chosen, for it is a hash; so keys are drawn until one lies right.
    """
    best, nearest = source.randbytes(KEY_BYTES), BITS
    for _ in range(_TRIES):
        key = source.randbytes(KEY_BYTES)
        off = abs(common_bits(own, int.from_bytes(sha256(key).digest(), "big")) - bucket)
        if off < nearest:
            best, nearest = key, off
            if not off:
                break
    return best


def content_key(cid: bytes) -> bytes:
    """Return the key under which the providers of a CID are found: its multihash (kad-dht, "Content provider").

    What is no CIDv1 of a SHA-256 digest is a key as it is. Codec and version are left out so that one content has
    one key.
    """
    at = cid.find(MULTIHASH_SHA256, 2, 12)
    if cid.startswith(_CID_V1) and at > 0 and len(cid) == at + len(MULTIHASH_SHA256) + KEY_BYTES:
        return cid[at:]
    return cid
