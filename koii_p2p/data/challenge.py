"""Availability audits: a holder shows a leaf of a shard that nobody could know before, with its Merkle path.

A shard is cut into leaves of 1 KiB (the last may be shorter), hashed as in RFC 6962; its root is in the manifest. Which
leaf is asked for follows from a beacon, so the holder cannot keep only what will be asked, and the auditor cannot ask
for what it knows to be missing. An answer proves that the holder had the leaf at hand in time. It does not prove where
the shard lies: a holder that fetches the leaf from another in time passes too, and while it can, so can a reader.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from hashlib import sha256
from typing import Final

from koii_p2p.data.reasons import DataError, DataReason
from koii_p2p.records import cbor
from koii_p2p.rounds import merkle
from koii_p2p.rounds.merkle import Proof

LEAF_BYTES: Final = 1024
MAX_ANSWER_BYTES: Final = 4096
"""A leaf, and a path of up to 64 hashes: 3 KiB and a little."""

_DOMAIN: Final = b"koii-p2p/1 data challenge"
_DEPTH: Final = 2


class Finding(Enum):
    """What an answer shows. Everything but HELD counts as no answer."""

    HELD = "held"
    WRONG_LEAF = "wrong_leaf"
    """Not as long as the leaf asked for, or its path leads from another place in the shard."""
    WRONG_PATH = "wrong_path"
    """The path does not lead to the shard's root: these are not the shard's bytes."""


@dataclass(frozen=True, slots=True)
class Answer:
    """The bytes of one leaf and its path to the shard's root."""

    leaf: bytes
    proof: Proof


def leaf_count(shard_bytes: int) -> int:
    """Leaves of a shard of so many bytes, which has one at least."""
    return max(1, -(-shard_bytes // LEAF_BYTES))


def shard_root(shard: bytes) -> bytes:
    """Merkle root, 32 bytes, of a shard's leaves."""
    return merkle.root(_leaves(shard))


def challenged_leaf(
    beacon: bytes, auditor: bytes, holder: bytes, root: bytes, shard_bytes: int, draw: int = 0
) -> int:
    """Number of the leaf that `auditor` asks `holder` for, of the shard with this root; `draw` 0, 1, ... for several.

    SHA-256(domain || beacon || auditor || holder || root || draw, 4 bytes little-endian) modulo the number of leaves.
    Of a shard of which a fraction f is gone, c draws miss it with probability (1 - f)^c at most, leaves being equal.
    """
    seed = _DOMAIN + beacon + auditor + holder + root + draw.to_bytes(4, "little")
    return int.from_bytes(sha256(seed).digest(), "big") % leaf_count(shard_bytes)


def answer(shard: bytes, leaf: int) -> Answer:
    """What a holder of the shard says to the challenge of one leaf. Raises IndexError for a leaf it does not have."""
    leaves = _leaves(shard)
    proof = merkle.prove(leaves, leaf)
    return Answer(leaves[leaf], proof)


def judge(given: Answer, root: bytes, shard_bytes: int, leaf: int) -> Finding:
    """Whether this answers for leaf number `leaf` of the shard of `shard_bytes` bytes with this root.

    Raises IndexError for a leaf that such a shard does not have: that is the auditor's mistake.
    """
    leaves = leaf_count(shard_bytes)
    if not 0 <= leaf < leaves:
        raise IndexError(f"leaf {leaf} of a shard with {leaves}")
    length = min(LEAF_BYTES, shard_bytes - leaf * LEAF_BYTES)
    place = len(given.proof.siblings), given.proof.directions
    if len(given.leaf) != length or place != merkle.place_of(leaf, leaves):
        return Finding.WRONG_LEAF
    return Finding.HELD if merkle.verify(root, given.leaf, given.proof) else Finding.WRONG_PATH


def encode_answer(given: Answer) -> bytes:
    """Deterministic CBOR [leaf, directions, siblings]."""
    return cbor.encode([given.leaf, given.proof.directions, list(given.proof.siblings)], max_depth=_DEPTH)


def decode_answer(data: bytes) -> Answer:
    """Inverse of `encode_answer`. Raises `DataError`; what it says is for `judge` to find out."""
    try:
        value = cbor.decode(data, max_bytes=MAX_ANSWER_BYTES, max_depth=_DEPTH)
    except cbor.CborError as error:
        raise DataError(DataReason.BAD_ANSWER, str(error)) from error
    match value:
        case [bytes(leaf), int(directions), list(siblings)] if type(directions) is int and all(
            isinstance(sibling, bytes) for sibling in siblings
        ):
            return Answer(leaf, Proof(tuple(siblings), directions))
    raise DataError(DataReason.BAD_ANSWER)


def _leaves(shard: bytes) -> list[bytes]:
    return [shard[start : start + LEAF_BYTES] for start in range(0, max(1, len(shard)), LEAF_BYTES)]
