"""The records of one round as a sorted set that tells a fingerprint of any stretch of it in constant time.

An item is 65 bytes, `kind || author || id`: kind 1 byte, author 32, id 32 (SHA-256 of the record). The set
is ordered as byte strings are, so by kind, then author, then id. A fingerprint is

    SHA-256(S || N)[:16]    S: sum of SHAKE-256(item, 128 bytes) over the stretch modulo 2**1024, big-endian
                            N: number of items in the stretch, 8 bytes big-endian

Why a sum. The fingerprint must not depend on how a stretch was cut and must follow from prefix values, so
the hashes are combined in a group (Meyer, "Range-Based Set Reconciliation"; negentropy takes a sum of 256 bits).
XOR is a group too, but a linear one: with some 256 items to choose from, Gaussian elimination over GF(2) finds
at once a subset with any wanted XOR (Bellare and Micciancio, "A New Paradigm for Collision-free Hashing:
Incrementality at Reduced Cost", EUROCRYPT 1997, break XHASH so and propose the sum, AdHash, instead), and an
item that occurs twice vanishes. Carries keep a sum from being linear over GF(2).

Why so wide. Wagner's k-tree ("A Generalized Birthday Problem", CRYPTO 2002) finds k items, parted in two sets
with equal sums of b bits, in about k * 2**(b / (1 + log2 k)) steps. 256 bits fall to 2**33 steps for k = 1024
records, and an attacker may sign as many as its stakes; 1024 bits need 2**76 steps for k = 2**16, more than the
2**64 after which 16 bytes collide in any case. Two nodes that were given one of two such sets each would find
nothing to exchange; every third node that has another set still differs from both and brings them together.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable
from hashlib import sha256, shake_256
from itertools import accumulate

ID_BYTES = 32
KEY_BYTES = 32
ITEM_BYTES = 1 + KEY_BYTES + ID_BYTES
FINGERPRINT_BYTES = 16

FIRST = b""
"""Lower bound of the whole order: no item is below it."""

END = b"\xff" * (ITEM_BYTES + 1)
"""Upper bound of the whole order: every item is below it."""

_SUM_BYTES = 128
_COUNT_BYTES = 8
_MASK = (1 << 8 * _SUM_BYTES) - 1


def item_of(kind: int, author: bytes, id: bytes) -> bytes:
    """Item of the record `id` (32 bytes) of `author` (32 bytes). Raises ValueError for other sizes."""
    if not 0 <= kind <= 0xFF or len(author) != KEY_BYTES or len(id) != ID_BYTES:
        raise ValueError("an item is a kind of one byte, an author of 32 bytes and an id of 32 bytes")
    return bytes((kind,)) + author + id


def id_of(item: bytes) -> bytes:
    """Id, 32 bytes, of the record that `item` stands for."""
    return item[-ID_BYTES:]


def _fingerprint(total: int, count: int) -> bytes:
    message = (total & _MASK).to_bytes(_SUM_BYTES, "big") + count.to_bytes(_COUNT_BYTES, "big")
    return sha256(message).digest()[:FINGERPRINT_BYTES]


EMPTY_FINGERPRINT = _fingerprint(0, 0)
"""Fingerprint of a stretch without items."""


class ItemSet:
    """Items in order, without duplicates, and their prefix sums. Never changes: any number may share it.

    Raises ValueError when an item is not 65 bytes, or one id occurs with two kinds or authors.
    Building takes O(n log n) time, and about 320 bytes of memory per item beside the item.
    """

    def __init__(self, items: Iterable[bytes]) -> None:
        self._items = tuple(sorted(set(items)))
        if any(len(item) != ITEM_BYTES for item in self._items):
            raise ValueError(f"every item has {ITEM_BYTES} bytes")
        self._index = {id_of(item): index for index, item in enumerate(self._items)}
        if len(self._index) != len(self._items):
            raise ValueError("one id stands for one record, so it has one kind and one author")
        hashes = (int.from_bytes(shake_256(item).digest(_SUM_BYTES), "big") for item in self._items)
        self._sums = list(accumulate(hashes, initial=0))  # reduced when used: n items add log2(n) bits

    def __len__(self) -> int:
        return len(self._items)

    def position(self, bound: bytes) -> int:
        """Index of the first item that is not below `bound`: O(log n)."""
        return bisect_left(self._items, bound)

    def index_of(self, id: bytes) -> int | None:
        """Index of the item with this id, or None."""
        return self._index.get(id)

    def ids(self, start: int, stop: int) -> tuple[bytes, ...]:
        """Ids of the items from index `start` to before `stop`, in the order of the items."""
        return tuple(id_of(item) for item in self._items[start:stop])

    def fingerprint(self, start: int, stop: int) -> bytes:
        """Fingerprint, 16 bytes, of the items from index `start` to before `stop`."""
        return _fingerprint(self._sums[stop] - self._sums[start], stop - start)

    def bound_before(self, index: int) -> bytes:
        """Shortest byte string that is above item `index - 1` and not above item `index`; `index` >= 1.

        It never ends with a zero byte: its last byte is where the two items differ.
        """
        below, above = self._items[index - 1], self._items[index]
        length = next(length for length in range(ITEM_BYTES) if below[length] != above[length]) + 1
        return above[:length]
