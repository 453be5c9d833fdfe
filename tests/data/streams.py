"""Blobs of tests, put and got whole."""

from __future__ import annotations

from collections.abc import Iterable

from koii_p2p.data.blob import BlobDecoder, BlobEncoder, CodedBlock, Verdict
from koii_p2p.data.encryption import BlockCipher
from koii_p2p.data.erasure import Code
from koii_p2p.data.manifest import LEAST_BLOCK_BYTES, Manifest

KEY = bytes(range(32))
PREFIX = bytes(range(100, 116))
CIPHER = BlockCipher(KEY, PREFIX)


def put(
    pieces: Iterable[bytes],
    code: Code,
    cipher: BlockCipher | None = None,
    block_bytes: int = LEAST_BLOCK_BYTES,
) -> tuple[list[CodedBlock], Manifest]:
    """All coded blocks of a stream, and its manifest."""
    encoder = BlobEncoder(code, block_bytes=block_bytes, cipher=cipher)
    blocks = [block for piece in pieces for block in encoder.feed(piece)]
    last, manifest = encoder.finish()
    return [*blocks, *last], manifest


def get(blocks: list[CodedBlock], manifest: Manifest, key: bytes | None = None) -> bytes:
    """The blob of these blocks, put together of the last k shards of each, asked for as the decoder says."""
    decoder = BlobDecoder(manifest, key)
    found: list[bytes] = []
    while wanted := decoder.wanted():
        block = wanted[0]
        for shard in block.candidates[-block.missing :]:
            fed = decoder.feed(block.block, shard, blocks[block.block].shards[shard])
            assert fed.verdict is Verdict.TAKEN
            found += fed.pieces
    decoder.finish()
    return b"".join(found)
