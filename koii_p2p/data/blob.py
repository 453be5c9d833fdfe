"""Blobs as streams: bytes in, coded blocks and a manifest out; and shards in, bytes out.

Neither side ever holds the blob: the encoder keeps less than one block, the decoder the shards of a few. The first k
shards of a block are the block itself, so a blob of one block with level none is stored as the very bytes that IPFS
knows under the same CID.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from hashlib import sha256
from typing import Final

from koii_p2p.data.challenge import shard_root
from koii_p2p.data.encryption import OVERHEAD_BYTES, BlockCipher
from koii_p2p.data.erasure import Code, decode, encode
from koii_p2p.data.manifest import (
    BLOCK_BYTES,
    BlockEntry,
    Manifest,
    check_block_bytes,
    largest_blob,
)
from koii_p2p.data.reasons import DataError, DataReason
from koii_p2p.records.meanings import Meaning

AHEAD: Final = 4
"""Blocks that a decoder takes shards of at the same time."""


@dataclass(frozen=True, slots=True)
class CodedBlock:
    """One block of a blob: its number, its shards in order, and their hashes."""

    number: int
    shards: tuple[bytes, ...] = field(repr=False)
    entry: BlockEntry


class BlobEncoder:
    """Cuts a stream into blocks and codes each as soon as it is whole. Holds less than a block between calls.

    With a `cipher`, blocks are closed before they are coded, and are as long as others with what that adds. `seed`
    goes into the manifest, for who places the shards.
    Raises `DataError` for a block size that is not 1 KiB to 1 MiB.
    """

    def __init__(
        self,
        code: Code,
        *,
        block_bytes: int = BLOCK_BYTES,
        cipher: BlockCipher | None = None,
        seed: bytes | None = None,
    ) -> None:
        check_block_bytes(block_bytes)
        self._code = code
        self._block_bytes = block_bytes
        self._cipher = cipher
        self._seed = seed
        self._plain_bytes = block_bytes - (OVERHEAD_BYTES if cipher else 0)
        self._most = largest_blob(code, block_bytes) // block_bytes * self._plain_bytes
        self._taken = 0
        self._rest = bytearray()
        self._size = 0
        self._digest = sha256()
        self._entries: list[BlockEntry] = []
        self._finished = False

    @property
    def taken(self) -> int:
        """Bytes fed so far."""
        return self._taken

    def feed(self, data: bytes) -> tuple[CodedBlock, ...]:
        """Take the next bytes; the blocks that became whole, coded. Feed no more than a block to get no more than one.

        Raises `DataError` when the blob gets larger than its manifest can say; nothing of `data` is taken then.
        """
        self._check_open()
        if self._taken + len(data) > self._most:
            raise DataError(
                DataReason.BLOB_TOO_LARGE,
                f"More than {self._most} bytes, the most in {self._code} and blocks of {self._block_bytes}.",
            )
        self._taken += len(data)
        self._rest += data
        blocks: list[CodedBlock] = []
        start = 0
        while len(self._rest) - start >= self._plain_bytes:
            blocks.append(self._code_block(bytes(self._rest[start : start + self._plain_bytes])))
            start += self._plain_bytes
        del self._rest[:start]
        return tuple(blocks)

    def finish(self) -> tuple[tuple[CodedBlock, ...], Manifest]:
        """The last block, if bytes are left for one, and the manifest of the whole blob."""
        self._check_open()
        last = (self._code_block(bytes(self._rest)),) if self._rest else ()
        self._rest.clear()
        self._finished = True
        prefix = self._cipher.prefix if self._cipher else None
        manifest = Manifest(
            self._size,
            self._block_bytes,
            self._code,
            self._digest.digest(),
            tuple(self._entries),
            prefix,
            self._seed,
        )
        return last, manifest

    def _check_open(self) -> None:
        if self._finished:
            raise DataError(DataReason.FINISHED)

    def _code_block(self, plain: bytes) -> CodedBlock:
        number = len(self._entries)
        block = self._cipher.close(number, plain) if self._cipher else plain
        self._size += len(block)
        self._digest.update(block)
        shards = encode(self._code, block)
        entry = BlockEntry(
            sha256(block).digest(),
            tuple(sha256(shard).digest() for shard in shards),
            tuple(shard_root(shard) for shard in shards),
        )
        self._entries.append(entry)
        return CodedBlock(number, shards, entry)


class Verdict(Meaning):
    """What a decoder says of one shard that it was fed."""

    TAKEN = "taken", "Right, and used or kept for use."
    NOT_NEEDED = "not_needed", "Its block is complete without it, or it was there already."
    TOO_EARLY = "too_early", "Its block is too far ahead; nothing is wrong with it, but it was not kept."
    UNKNOWN = "unknown", "The blob has no such block or shard: the question was wrong, not the answer."
    WRONG_LENGTH = "wrong_length", "Not as long as the manifest says: whoever sent it is to blame."
    WRONG_HASH = "wrong_hash", "Not the bytes whose hash the manifest has: whoever sent it is to blame."
    WRONG_ROOT = (
        "wrong_root",
        "The right bytes, and not the Merkle root that the manifest has: its author lied.",
    )

    @property
    def is_sender_wrong(self) -> bool:
        """Whether no honest holder sends this."""
        return self in (Verdict.WRONG_LENGTH, Verdict.WRONG_HASH)


@dataclass(frozen=True, slots=True)
class Fed:
    """What came of one shard: the verdict on it, and the blocks that a reader can have now, in order."""

    verdict: Verdict
    pieces: tuple[bytes, ...] = field(default=(), repr=False)


@dataclass(frozen=True, slots=True)
class Wanted:
    """A block that is being put together: `missing` more of the shards in `candidates` (data shards first)."""

    block: int
    missing: int
    candidates: tuple[int, ...]


def check_shard(manifest: Manifest, block: int, shard: int, data: bytes) -> Verdict:
    """What `check_bytes` says, and whether their Merkle root is the manifest's: for who is to hold them.

    A manifest with right hashes and wrong roots can be read, and makes a liar of every holder that is challenged; so
    nobody holds a shard of one.
    """
    verdict = check_bytes(manifest, block, shard, data)
    if verdict is Verdict.TAKEN and shard_root(data) != manifest.blocks[block].roots[shard]:
        return Verdict.WRONG_ROOT
    return verdict


def check_bytes(manifest: Manifest, block: int, shard: int, data: bytes) -> Verdict:
    """Whether these bytes are the shard of this number of this block: TAKEN, or what is wrong. Keeps nothing."""
    if not (0 <= block < len(manifest.blocks) and 0 <= shard < manifest.code.shards):
        return Verdict.UNKNOWN
    if len(data) != manifest.shard_length(block):
        return Verdict.WRONG_LENGTH
    if sha256(data).digest() != manifest.blocks[block].shards[shard]:
        return Verdict.WRONG_HASH
    return Verdict.TAKEN


class BlobDecoder:
    """Puts a blob together from any k shards of each block, in any order within a few blocks.

    Every shard is checked against the manifest before it is kept, so a wrong one costs nothing but itself. Holds k
    shards of each of `ahead` blocks at most, and of a block that is complete before an earlier one, its bytes.

    Raises `DataError` when a private blob comes without a key, or a public one with a key.
    """

    def __init__(self, manifest: Manifest, key: bytes | None = None, *, ahead: int = AHEAD) -> None:
        if manifest.is_private != (key is not None):
            raise DataError(DataReason.WRONG_KEY)
        self._manifest = manifest
        self._cipher: BlockCipher | None = None
        if key is not None and manifest.prefix is not None:
            self._cipher = BlockCipher(key, manifest.prefix)
        self._ahead = ahead
        self._next = 0
        self._kept: dict[int, dict[int, bytes]] = {}
        self._whole: dict[int, bytes] = {}
        self._digest = sha256()

    @property
    def is_complete(self) -> bool:
        """Whether every block was handed out."""
        return self._next == len(self._manifest.blocks)

    def wanted(self) -> tuple[Wanted, ...]:
        """What to fetch now, the earliest block first; empty when the blob is complete."""
        code = self._manifest.code
        found: list[Wanted] = []
        for block in range(self._next, min(self._next + self._ahead, len(self._manifest.blocks))):
            if block not in self._whole:
                kept = self._kept.get(block, {})
                others = tuple(shard for shard in range(code.shards) if shard not in kept)
                found.append(Wanted(block, code.needed - len(kept), others))
        return tuple(found)

    def feed(self, block: int, shard: int, data: bytes, *, checked: bool = False) -> Fed:
        """Take one shard; one that is `checked` was TAKEN by `check_bytes`, and is not hashed again.

        Raises `DataError` when right shards make up a wrong block, or the key is wrong. The first is the doing of who
        wrote the manifest, never of who sent shards; the blob cannot be had.
        """
        code = self._manifest.code
        if not (0 <= block < len(self._manifest.blocks) and 0 <= shard < code.shards):
            return Fed(Verdict.UNKNOWN)
        if block >= self._next + self._ahead:
            return Fed(Verdict.TOO_EARLY)
        if block < self._next or block in self._whole or shard in self._kept.get(block, {}):
            return Fed(Verdict.NOT_NEEDED)
        verdict = Verdict.TAKEN if checked else check_bytes(self._manifest, block, shard, data)
        if verdict is not Verdict.TAKEN:
            return Fed(verdict)
        kept = self._kept.setdefault(block, {})
        kept[shard] = data
        if len(kept) < code.needed:
            return Fed(Verdict.TAKEN)
        self._whole[block] = self._put_together(block, kept)
        del self._kept[block]
        return Fed(Verdict.TAKEN, self._in_order())

    def finish(self) -> None:
        """Say that nothing more comes. Raises `DataError` when blocks are missing, or all together are another blob."""
        if not self.is_complete:
            raise DataError(
                DataReason.INCOMPLETE, f"{self._next} of {len(self._manifest.blocks)} blocks could be read."
            )
        if self._digest.digest() != self._manifest.digest:
            raise DataError(
                DataReason.FALSE_MANIFEST, "The blocks are right, but the blob is not what they make up."
            )

    def _put_together(self, block: int, shards: dict[int, bytes]) -> bytes:
        found = decode(self._manifest.code, shards, self._manifest.length_of(block))
        if sha256(found).digest() != self._manifest.blocks[block].digest:
            raise DataError(
                DataReason.FALSE_MANIFEST,
                f"The shards {sorted(shards)} of block {block} are right, but not the block that they make up.",
            )
        return found

    def _in_order(self) -> tuple[bytes, ...]:
        pieces: list[bytes] = []
        while (stored := self._whole.pop(self._next, None)) is not None:
            pieces.append(self._cipher.open(self._next, stored) if self._cipher else stored)
            self._digest.update(stored)
            self._next += 1
        return tuple(pieces)
