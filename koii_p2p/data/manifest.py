"""What a blob is made of: sizes, code, and the hashes of every block and shard; and the references that name it.

A manifest is deterministic CBOR (RFC 8949 section 4.2.1), and its CID names the blob for readers:

    manifest = {
      0: 1,               ; version
      1: uint,            ; stored bytes of all blocks together
      2: uint,            ; block size: of every block but the last
      3: 1..256,          ; k, shards needed
      4: 1..256,          ; n, shards
      5: bstr .size 32,   ; SHA-256 of all stored bytes
      6: [* [
        bstr .size 32,    ; SHA-256 of the block
        bstr,             ; SHA-256 of its n shards, 32 bytes each
        bstr,             ; Merkle roots of its n shards, 32 bytes each
      ]],
      ? 7: bstr .size 16, ; nonce prefix of a private blob
      ? 8: bstr .size 32, ; seed of the placement of its shards
    }

All lengths follow from the sizes. A private blob's sizes and hashes are those of its closed blocks.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from koii_p2p.data.encryption import KEY_BYTES, OVERHEAD_BYTES, PREFIX_BYTES
from koii_p2p.data.erasure import Code
from koii_p2p.data.reasons import DataError, DataReason
from koii_p2p.records import cbor
from koii_p2p.records.cid import (
    DIGEST_BYTES,
    CidError,
    cid_from_text,
    cid_of,
    cid_of_digest,
    cid_to_text,
    is_cid,
)
from koii_p2p.rounds import merkle

VERSION: Final = 1
BLOCK_BYTES: Final = 1024 * 1024
"""Usual size of a block, and the largest: IPFS nodes exchange blocks of up to 2 MiB."""
LEAST_BLOCK_BYTES: Final = 1024
MAX_BLOB_BYTES: Final = 1024 * 1024 * 1024
MAX_MANIFEST_BYTES: Final = 4 * 1024 * 1024
"""Of 1 GiB in blocks of 1 MiB, the manifest takes 0.6 MiB with 8 shards a block and 2.1 MiB with 32."""
SEED_BYTES: Final = 32

_FIXED_BYTES: Final = 192  # more than the CBOR of everything but the blocks
_BLOCK_FIXED_BYTES: Final = 1 + 2 + DIGEST_BYTES + 2 * 5  # array, block digest, heads of two byte strings
_DEPTH: Final = 3
_KEY_DIGITS: Final = 2 * KEY_BYTES


@dataclass(frozen=True, slots=True)
class BlockEntry:
    """SHA-256 digests of one block and its shards, and the Merkle roots of its shards (`challenge.shard_root`)."""

    digest: bytes
    shards: tuple[bytes, ...]
    roots: tuple[bytes, ...]

    @property
    def cid(self) -> bytes:
        """CID of the block, which is its name on IPFS."""
        return cid_of_digest(self.digest)

    def shard_cid(self, shard: int) -> bytes:
        """CID of one shard."""
        return cid_of_digest(self.shards[shard])


@dataclass(frozen=True, slots=True)
class Manifest:
    """A blob of `size` stored bytes in blocks of `block_bytes`; `prefix` only if it is private.

    `seed` is what the holders of its shards are drawn with, such as the beacon of the round it was put in; it is there
    for every blob that nodes are to keep.

    Raises `DataError` when the numbers contradict each other or exceed their limits.
    """

    size: int
    block_bytes: int
    code: Code
    digest: bytes
    blocks: tuple[BlockEntry, ...]
    prefix: bytes | None = None
    seed: bytes | None = None

    def __post_init__(self) -> None:
        check_block_bytes(self.block_bytes)
        _require(0 <= self.size <= largest_blob(self.code, self.block_bytes), "its blob is too large")
        _require(
            len(self.blocks) == -(-self.size // self.block_bytes),
            "it has another number of blocks than its size",
        )
        _require(len(self.digest) == DIGEST_BYTES, "a digest of its blob is not 32 bytes long")
        for entry in self.blocks:
            _require(
                len(entry.shards) == len(entry.roots) == self.code.shards,
                "a block lacks hashes of its shards",
            )
            hashes = (entry.digest, *entry.shards, *entry.roots)
            _require(all(len(found) == DIGEST_BYTES for found in hashes), "a hash is not 32 bytes long")
        if self.prefix is not None:
            _require(len(self.prefix) == PREFIX_BYTES, "its nonce prefix is not 16 bytes long")
            shortest = self.length_of(len(self.blocks) - 1) if self.blocks else OVERHEAD_BYTES + 1
            _require(shortest > OVERHEAD_BYTES, "its last block has no room for what a private block adds")
        if self.seed is not None:
            _require(len(self.seed) == SEED_BYTES, "its placement seed is not 32 bytes long")

    @property
    def content(self) -> bytes:
        """CID of all stored bytes. That of a public blob of one block is the CID that IPFS has for the same bytes."""
        return cid_of_digest(self.digest)

    @property
    def is_private(self) -> bool:
        """Whether a key is needed to read it."""
        return self.prefix is not None

    @property
    def plain_size(self) -> int:
        """Bytes that a reader gets."""
        return self.size - OVERHEAD_BYTES * len(self.blocks) * self.is_private

    @property
    def root(self) -> bytes:
        """Merkle root over the roots of all shards, block by block: 32 bytes that stand for everything to be held."""
        return merkle.root([root for entry in self.blocks for root in entry.roots])

    def length_of(self, block: int) -> int:
        """Stored bytes of one block. Raises IndexError for a block that the blob does not have."""
        if not 0 <= block < len(self.blocks):
            raise IndexError(f"block {block} of a blob with {len(self.blocks)}")
        return min(self.block_bytes, self.size - block * self.block_bytes)

    def shard_length(self, block: int) -> int:
        """Bytes of each shard of one block. Raises IndexError for a block that the blob does not have."""
        return self.code.shard_bytes(self.length_of(block))

    def encode(self) -> bytes:
        """The bytes whose CID names the blob."""
        value: dict[int, object] = {
            0: VERSION,
            1: self.size,
            2: self.block_bytes,
            3: self.code.needed,
            4: self.code.shards,
            5: self.digest,
            6: [[entry.digest, b"".join(entry.shards), b"".join(entry.roots)] for entry in self.blocks],
        }
        if self.prefix is not None:
            value[7] = self.prefix
        if self.seed is not None:
            value[8] = self.seed
        return cbor.encode(value, max_depth=_DEPTH)

    @property
    def cid(self) -> bytes:
        """CID of the encoded manifest."""
        return cid_of(self.encode())


def decode_manifest(data: bytes, expected: bytes | None = None) -> Manifest:
    """Inverse of `Manifest.encode`. With `expected`, the CID of `data` must be this one. Raises `DataError`.

    Hash first: a manifest that nobody asked for is not even decoded.
    """
    if len(data) > MAX_MANIFEST_BYTES:
        raise DataError(
            DataReason.BAD_MANIFEST, f"A manifest of {len(data)} bytes; {MAX_MANIFEST_BYTES} are the most."
        )
    if expected is not None and cid_of(data) != expected:
        raise DataError(DataReason.WRONG_MANIFEST)
    try:
        value = cbor.decode(data, max_bytes=MAX_MANIFEST_BYTES, max_depth=_DEPTH)
    except cbor.CborError as error:
        raise DataError(
            DataReason.BAD_MANIFEST, f"The manifest is not CBOR as it should be: {error}"
        ) from error
    if not isinstance(value, dict):
        raise _bad("it is not a map")
    _require(
        value.keys() - {7, 8} == set(range(7)), "it lacks a field, or has one that manifests do not have"
    )
    _require(_number(value[0]) == VERSION, f"its version is not {VERSION}")
    code = Code(_number(value[3]), _number(value[4]))
    blocks = value[6]
    if not isinstance(blocks, list):
        raise _bad("its blocks are not a list")
    return Manifest(
        size=_number(value[1]),
        block_bytes=_number(value[2]),
        code=code,
        digest=_bytes(value[5]),
        blocks=tuple(_entry(block) for block in blocks),
        prefix=_bytes(value[7]) if 7 in value else None,
        seed=_bytes(value[8]) if 8 in value else None,
    )


def largest_blob(code: Code, block_bytes: int) -> int:
    """Stored bytes that a blob may have: 1 GiB, or less where its manifest would exceed its own limit."""
    entry_bytes = _BLOCK_FIXED_BYTES + 2 * DIGEST_BYTES * code.shards
    return min(MAX_BLOB_BYTES, (MAX_MANIFEST_BYTES - _FIXED_BYTES) // entry_bytes * block_bytes)


def check_block_bytes(block_bytes: int) -> None:
    """Raises `DataError` for a block size that is not 1 KiB to 1 MiB."""
    if not LEAST_BLOCK_BYTES <= block_bytes <= BLOCK_BYTES:
        raise DataError(
            DataReason.BAD_BLOCK_SIZE,
            f"Blocks of {block_bytes} bytes; {LEAST_BLOCK_BYTES} to {BLOCK_BYTES} are allowed.",
        )


@dataclass(frozen=True, slots=True)
class Reference:
    """What one person gives another to read a blob: the CID of its manifest, and the key of a private one.

    In text: the CID (59 characters), and for a private blob a full stop and the key in lower-case hexadecimal.
    Raises `DataError`.
    """

    manifest: bytes
    key: bytes | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if not is_cid(self.manifest):
            raise DataError(DataReason.BAD_REFERENCE, "A reference names a manifest by its CID.")
        if self.key is not None and len(self.key) != KEY_BYTES:
            raise DataError(DataReason.BAD_KEY, f"A key has {KEY_BYTES} bytes, not {len(self.key)}.")

    def to_text(self) -> str:
        """The one spelling; whoever reads it can read the blob."""
        return cid_to_text(self.manifest) + (f".{self.key.hex()}" if self.key is not None else "")

    @classmethod
    def from_text(cls, text: str) -> Reference:
        """Inverse of `to_text`. Raises `DataError`."""
        name, stop, digits = text.partition(".")
        if stop and (len(digits) != _KEY_DIGITS or not set(digits) <= set("0123456789abcdef")):
            raise DataError(
                DataReason.BAD_REFERENCE,
                f"The key after the full stop is not {_KEY_DIGITS} lower-case hex digits.",
            )
        try:
            return cls(cid_from_text(name), bytes.fromhex(digits) if stop else None)
        except CidError as error:
            raise DataError(DataReason.BAD_REFERENCE, f"Not a reference: {error}") from error


def _entry(value: object) -> BlockEntry:
    match value:
        case [bytes(digest), bytes(shards), bytes(roots)]:
            return BlockEntry(digest, _digests(shards), _digests(roots))
    raise _bad("a block is not three byte strings")


def _digests(joined: bytes) -> tuple[bytes, ...]:
    return tuple(joined[start : start + DIGEST_BYTES] for start in range(0, len(joined), DIGEST_BYTES))


def _number(value: object) -> int:
    if type(value) is not int:
        raise _bad("a field that is a number holds something else")
    return value


def _bytes(value: object) -> bytes:
    if not isinstance(value, bytes):
        raise _bad("a field that is bytes holds something else")
    return value


def _require(holds: bool, otherwise: str) -> None:
    if not holds:
        raise _bad(otherwise)


def _bad(why: str) -> DataError:
    return DataError(DataReason.BAD_MANIFEST, f"The manifest cannot be used: {why}.")
