"""Merkle trees of RFC 6962 section 2.1 over SHA-256: leaves and nodes are hashed in domains of their own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256

EMPTY_ROOT = sha256(b"").digest()
"""Root of the tree without leaves (RFC 6962 section 2.1: the hash of an empty string)."""

MAX_DEPTH = 64
"""Longest proof that is looked at. Fewer than 2**64 leaves exist, so an honest proof is never longer."""


@dataclass(frozen=True, slots=True)
class Proof:
    """Audit path of one leaf: siblings from the leaf up. Bit i of `directions`: sibling i is on the left."""

    siblings: tuple[bytes, ...]
    directions: int


def leaf_hash(leaf: bytes) -> bytes:
    """Hash of one leaf: SHA-256(0x00 || leaf)."""
    return sha256(b"\x00" + leaf).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """Hash of one inner node: SHA-256(0x01 || left || right)."""
    return sha256(b"\x01" + left + right).digest()


def root(leaves: Sequence[bytes]) -> bytes:
    """Root of the tree over `leaves` in the order given."""
    level = _leaf_hashes(leaves)
    if not level:
        return EMPTY_ROOT
    while len(level) > 1:
        level = _level_above(level)
    return level[0]


def prove(leaves: Sequence[bytes], index: int) -> Proof:
    """Audit path of `leaves[index]`. Raises IndexError when there is no such leaf (negative included)."""
    if not 0 <= index < len(leaves):
        raise IndexError(f"leaf {index} of a tree with {len(leaves)} leaves")
    return _path(_levels(leaves), index)


def all_proofs(leaves: Sequence[bytes]) -> tuple[Proof, ...]:
    """Audit paths of all leaves, hashing the tree once: O(n log n) instead of O(n * n)."""
    levels = _levels(leaves)
    return tuple(_path(levels, index) for index in range(len(leaves)))


def verify(root_hash: bytes, leaf: bytes, proof: Proof) -> bool:
    """Whether `proof` leads from `leaf` to `root_hash`. False, never an error, for a malformed proof."""
    depth = len(proof.siblings)
    if depth > MAX_DEPTH or not 0 <= proof.directions < 1 << depth:
        return False
    if any(len(sibling) != 32 for sibling in proof.siblings):
        return False
    current = leaf_hash(leaf)
    for height, sibling in enumerate(proof.siblings):
        on_the_left = proof.directions >> height & 1
        current = node_hash(sibling, current) if on_the_left else node_hash(current, sibling)
    return current == root_hash


def place_of(index: int, count: int) -> tuple[int, int]:
    """Length and directions of the audit path of a leaf in a tree of `count` (RFC 6962 section 2.1.1).

    Whoever asks for a certain leaf holds a proof against this: that of another leaf leads to the root as well.
    """
    length = directions = 0
    while count > 1:
        if index ^ 1 < count:
            directions |= (index & 1) << length
            length += 1
        index, count = index >> 1, (count + 1) >> 1
    return length, directions


def _leaf_hashes(leaves: Sequence[bytes]) -> list[bytes]:
    # As leaf_hash, and below as node_hash: a call for each would take as long as the hashing itself.
    return [sha256(b"\x00" + leaf).digest() for leaf in leaves]


def _level_above(level: list[bytes]) -> list[bytes]:
    # RFC 6962 splits at the largest power of two below n. Pairing from the left and carrying an odd last node
    # up unchanged builds the same tree from the bottom, without recursion.
    above = [
        sha256(b"\x01" + left + right).digest() for left, right in zip(level[::2], level[1::2], strict=False)
    ]
    if len(level) % 2:
        above.append(level[-1])
    return above


def _levels(leaves: Sequence[bytes]) -> list[list[bytes]]:
    levels = [_leaf_hashes(leaves)]
    while len(levels[-1]) > 1:
        levels.append(_level_above(levels[-1]))
    return levels


def _path(levels: list[list[bytes]], index: int) -> Proof:
    siblings: list[bytes] = []
    directions = 0
    for level in levels[:-1]:
        neighbour = index ^ 1
        if neighbour < len(level):  # otherwise this node is the odd last one and is carried up
            if neighbour < index:
                directions |= 1 << len(siblings)
            siblings.append(level[neighbour])
        index >>= 1
    return Proof(tuple(siblings), directions)
