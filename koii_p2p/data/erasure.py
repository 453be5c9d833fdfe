"""Reed-Solomon over GF(256), k of n, systematic: the first k shards are the data, any k of the n give it back.

Byte b of shard i is the value at the point of i of the one polynomial of degree below k that has byte b of the data
shards as its values at their points. The points are those of zfec (0, then the powers of 2 from 2**0 on), so shards
are interchangeable with those of zfec and Tahoe-LAFS, byte for byte.

What one shard is made of follows from Lagrange's formula. With the points p of the k shards at hand, the shard with
point t is the sum of all `c(t, s) * shard s`,

    c(t, s) = A(t) / (A'(p_s) * (t - p_s))    A(x): product of all (x - p), A'(p_s): the same without (p_s - p_s)

a Cauchy matrix 1 / (t - p_s) with its rows and columns scaled (Roth and Lempel, "On MDS codes via Cauchy matrices",
1989; Blömer et al., "An XOR-based erasure-resilient coding scheme", 1995, for its use on packets). So encoding,
decoding and repairing one lost shard are the same operation, and no matrix is inverted.

Multiplying is `bytes.translate` with a table of 256 products, adding is XOR of big integers: 2 passes in C for each
shard read and shard made.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from koii_p2p.data.galois import POWERS, divide, multiply, products
from koii_p2p.data.reasons import DataError, DataReason

MAX_SHARDS: Final = 256
"""One for each point of the field."""

_POINTS: Final = bytes((0,)) + POWERS


@dataclass(frozen=True, slots=True)
class Code:
    """A block becomes `shards` (n) of which any `needed` (k) give it back. 1 of n is plain replication.

    Raises `DataError` unless 1 <= k <= n <= 256.
    """

    needed: int
    shards: int

    def __post_init__(self) -> None:
        if not 1 <= self.needed <= self.shards <= MAX_SHARDS:
            raise DataError(
                DataReason.BAD_CODE,
                f"{self.needed} of {self.shards} shards: 1 <= k <= n <= {MAX_SHARDS} must hold.",
            )

    def shard_bytes(self, block_bytes: int) -> int:
        """Length of every shard of a block: a k-th of it, rounded up."""
        return -(-block_bytes // self.needed)

    def __str__(self) -> str:
        return f"{self.needed}-of-{self.shards}"


def encode(code: Code, block: bytes) -> tuple[bytes, ...]:
    """All n shards of a block, each `code.shard_bytes(len(block))` long; the last data shards are filled with zeros."""
    length = code.shard_bytes(len(block))
    padded = block.ljust(length * code.needed, b"\0")
    data = tuple(padded[index * length : (index + 1) * length] for index in range(code.needed))
    parity = range(code.needed, code.shards)
    return data + tuple(_interpolate(data, tuple(range(code.needed)), tuple(parity)))


def decode(code: Code, shards: Mapping[int, bytes], block_bytes: int) -> bytes:
    """The block of `block_bytes` bytes whose shards these are, by number; k of them are used, data shards first.

    Shards must be known to be right: wrong bytes give a wrong block. Raises `DataError` when fewer than k are there,
    when a number is not 0..n-1, and when a length is not `code.shard_bytes(block_bytes)`.
    """
    data = rebuild(code, shards, range(code.needed), code.shard_bytes(block_bytes))
    return b"".join(data)[:block_bytes]


def rebuild(
    code: Code, shards: Mapping[int, bytes], wanted: Sequence[int], shard_bytes: int
) -> tuple[bytes, ...]:
    """The shards with the `wanted` numbers, in this order, from any k others; those at hand are handed back.

    A lost shard, parity too, is made directly, without the block. Raises `DataError` as `decode` does.
    """
    for index in (*shards, *wanted):
        if not 0 <= index < code.shards:
            raise DataError(DataReason.UNKNOWN_SHARD, f"Shard {index} of a code of {code.shards} shards.")
    for index, shard in shards.items():
        if len(shard) != shard_bytes:
            raise DataError(
                DataReason.WRONG_LENGTH,
                f"Shard {index} has {len(shard)} bytes where {shard_bytes} are right.",
            )
    lost = tuple(index for index in wanted if index not in shards)
    if lost and len(shards) < code.needed:
        raise DataError(DataReason.TOO_FEW_SHARDS, f"{len(shards)} shards where {code.needed} are needed.")
    sources = tuple(sorted(shards)[: code.needed])
    made = dict(zip(lost, _interpolate([shards[index] for index in sources], sources, lost), strict=True))
    return tuple(made[index] if index in made else shards[index] for index in wanted)


def _interpolate(shards: Sequence[bytes], sources: tuple[int, ...], targets: tuple[int, ...]) -> list[bytes]:
    """Shards `targets` of the polynomials that the shards with the numbers `sources` determine."""
    made: list[bytes] = []
    for row in _coefficients(sources, targets):
        total = 0
        for factor, shard in zip(row, shards, strict=True):
            total ^= int.from_bytes(shard.translate(products(factor)), "little")
        made.append(total.to_bytes(len(shards[0]), "little"))
    return made


@lru_cache(maxsize=64)
def _coefficients(sources: tuple[int, ...], targets: tuple[int, ...]) -> tuple[bytes, ...]:
    """Row for each target: what each source is multiplied with. No target is a source."""
    points = [_POINTS[index] for index in sources]
    scales = [_product(point ^ other for other in points if other != point) for point in points]
    rows: list[bytes] = []
    for target in targets:
        at = _POINTS[target]
        whole = _product(at ^ point for point in points)
        rows.append(
            bytes(
                divide(whole, multiply(scale, at ^ point))
                for point, scale in zip(points, scales, strict=True)
            )
        )
    return tuple(rows)


def _product(factors: Iterable[int]) -> int:
    total = 1
    for factor in factors:
        total = multiply(total, factor)
    return total
