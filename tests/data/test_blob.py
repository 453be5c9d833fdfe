from __future__ import annotations

import random
import tracemalloc
from dataclasses import replace
from hashlib import sha256

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from koii_p2p.data.blob import AHEAD, BlobDecoder, BlobEncoder, Verdict, check_shard
from koii_p2p.data.challenge import shard_root
from koii_p2p.data.durability import Level
from koii_p2p.data.encryption import OVERHEAD_BYTES, BlockCipher
from koii_p2p.data.erasure import Code
from koii_p2p.data.manifest import BLOCK_BYTES, LEAST_BLOCK_BYTES
from koii_p2p.data.reasons import DataError, DataReason
from koii_p2p.records.cid import cid_of, cid_to_text
from tests.data.streams import CIPHER, KEY, PREFIX, get, put

CODE = Code(2, 4)
codes = st.sampled_from([Code(1, 1), Code(1, 3), CODE, Code(3, 5), Level.STANDARD.code])
streams = st.lists(
    st.tuples(st.binary(min_size=1, max_size=8), st.integers(0, 300)).map(lambda made: made[0] * made[1]),
    max_size=6,
)


def refusal(error: pytest.ExceptionInfo[DataError]) -> DataReason:
    return error.value.reason


@settings(max_examples=60)
@given(streams, codes, st.sampled_from([None, CIPHER]))
def test_what_is_put_can_be_got_however_it_is_cut(
    pieces: list[bytes], code: Code, cipher: BlockCipher | None
) -> None:
    whole = b"".join(pieces)
    blocks, manifest = put(pieces, code, cipher)
    assert put([whole], code, cipher) == (blocks, manifest)
    assert manifest.plain_size == len(whole)
    assert get(blocks, manifest, cipher.key if cipher else None) == whole
    for block in blocks:
        assert [len(shard) for shard in block.shards] == [manifest.shard_length(block.number)] * code.shards
        assert block.entry.roots == tuple(shard_root(shard) for shard in block.shards)


@given(st.permutations([(block, shard) for block in range(6) for shard in range(4)]))
def test_shards_may_come_in_any_order_wrong_ones_among_them(order: list[tuple[int, int]]) -> None:
    whole = bytes(range(256)) * 23
    blocks, manifest = put([whole], CODE)
    decoder = BlobDecoder(manifest)
    pieces: list[bytes] = []
    while not decoder.is_complete:
        for block, shard in order:
            right = blocks[block].shards[shard]
            wrong = bytes((right[0] ^ 1,)) + right[1:]
            for data in (wrong, right):
                fed = decoder.feed(block, shard, data)
                assert data is right or fed.verdict is not Verdict.TAKEN
                pieces += fed.pieces
    decoder.finish()
    assert b"".join(pieces) == whole


def test_a_public_blob_of_one_block_has_the_name_that_ipfs_gives_it() -> None:
    # `ipfs add --cid-version=1 --raw-leaves` of a file with these 12 bytes prints this CID.
    blocks, manifest = put([b"hello world\n"], Level.NONE.code)
    name = "bafkreifjjcie6lypi6ny7amxnfftagclbuxndqonfipmb64f2km2devei4"
    assert cid_to_text(manifest.content) == name
    assert [block.shards for block in blocks] == [(b"hello world\n",)]
    assert manifest.blocks[0].cid == manifest.blocks[0].shard_cid(0) == manifest.content


def test_an_empty_blob_has_no_blocks() -> None:
    blocks, manifest = put([], CODE)
    assert (blocks, manifest.size, manifest.content) == ([], 0, cid_of(b""))
    assert get(blocks, manifest) == b""


def test_a_block_is_coded_as_soon_as_it_is_whole() -> None:
    encoder = BlobEncoder(CODE, block_bytes=LEAST_BLOCK_BYTES)
    assert encoder.feed(bytes(LEAST_BLOCK_BYTES - 1)) == ()
    (first,) = encoder.feed(b"\0")
    assert (first.number, encoder.taken) == (0, LEAST_BLOCK_BYTES)
    last, manifest = encoder.finish()
    assert last == (), "nothing is left of a blob that ends with a block"
    assert len(manifest.blocks) == 1


def test_neither_side_holds_the_blob() -> None:
    size, piece, block_bytes = 6 * 1024 * 1024, bytes(32 * 1024), 64 * 1024
    encoder = BlobEncoder(CODE, block_bytes=block_bytes)
    tracemalloc.start()
    for _ in range(size // len(piece)):
        encoder.feed(piece)
    _, manifest = encoder.finish()
    decoder = BlobDecoder(manifest)
    shard = bytes(block_bytes // 2)  # of zeros, as all others
    got = sum(
        len(piece)
        for block in range(len(manifest.blocks))
        for index in (3, 0)
        for piece in decoder.feed(block, index, shard).pieces
    )
    decoder.finish()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert got == size
    assert peak < 16 * block_bytes, "1 MiB, of 6"


def test_a_finished_encoder_takes_nothing_more() -> None:
    encoder = BlobEncoder(CODE)
    encoder.finish()
    for again in (lambda: encoder.feed(b"more"), encoder.finish):
        with pytest.raises(DataError) as refused:
            again()
        assert refusal(refused) is DataReason.FINISHED


@pytest.mark.parametrize("block_bytes", [0, LEAST_BLOCK_BYTES - 1, BLOCK_BYTES + 1])
def test_block_sizes_have_bounds(block_bytes: int) -> None:
    with pytest.raises(DataError) as refused:
        BlobEncoder(CODE, block_bytes=block_bytes)
    assert refusal(refused) is DataReason.BAD_BLOCK_SIZE


def test_a_blob_that_gets_too_large_is_refused_before_anything_is_taken() -> None:
    # 255-of-256: the hashes of a block take 16 times as much as the least block, so the manifest ends it soon.
    code = Code(255, 256)
    encoder = BlobEncoder(code, block_bytes=LEAST_BLOCK_BYTES)
    most = 255 * LEAST_BLOCK_BYTES
    with pytest.raises(DataError) as refused:
        encoder.feed(bytes(most + 1))
    assert refusal(refused) is DataReason.BLOB_TOO_LARGE
    assert encoder.taken == 0
    assert len(encoder.feed(bytes(LEAST_BLOCK_BYTES))) == 1, "what fits is taken as before"


def test_every_wrong_shard_is_named_and_costs_nothing() -> None:
    blocks, manifest = put([random.Random(1).randbytes(1280)], CODE)
    right = blocks[0].shards
    decoder = BlobDecoder(manifest)
    assert decoder.wanted()[0].candidates == (0, 1, 2, 3)
    cases = [
        (0, 0, right[0][:-1], Verdict.WRONG_LENGTH),
        (0, 0, right[0] + b"\0", Verdict.WRONG_LENGTH),
        (0, 0, b"", Verdict.WRONG_LENGTH),
        (0, 0, right[1], Verdict.WRONG_HASH),
        (1, 0, right[0], Verdict.WRONG_LENGTH),
        (0, 4, right[0], Verdict.UNKNOWN),
        (0, -1, right[0], Verdict.UNKNOWN),
        (2, 0, right[0], Verdict.UNKNOWN),
        (-1, 0, right[0], Verdict.UNKNOWN),
        (0, 3, right[3], Verdict.TAKEN),
        (0, 3, right[3], Verdict.NOT_NEEDED),
        (0, 1, right[1], Verdict.TAKEN),
        (0, 0, right[0], Verdict.NOT_NEEDED),
    ]
    for block, shard, data, verdict in cases:
        assert decoder.feed(block, shard, data).verdict is verdict
        if verdict is not Verdict.NOT_NEEDED:
            assert check_shard(manifest, block, shard, data) is verdict
    assert [verdict for verdict in Verdict if verdict.is_sender_wrong] == [
        Verdict.WRONG_LENGTH,
        Verdict.WRONG_HASH,
    ]


def test_a_decoder_holds_few_blocks_and_says_so() -> None:
    blocks, manifest = put([bytes(2 * AHEAD * LEAST_BLOCK_BYTES)], CODE)
    decoder = BlobDecoder(manifest)
    assert [wanted.block for wanted in decoder.wanted()] == list(range(AHEAD))
    for number in range(1, AHEAD):
        for shard in range(2):
            fed = decoder.feed(number, shard, blocks[number].shards[shard])
            assert (fed.verdict, fed.pieces) == (Verdict.TAKEN, ()), "block 0 is still missing"
    assert decoder.feed(AHEAD, 0, blocks[AHEAD].shards[0]).verdict is Verdict.TOO_EARLY
    assert [(wanted.block, wanted.missing) for wanted in decoder.wanted()] == [(0, 2)]
    decoder.feed(0, 0, blocks[0].shards[0])
    assert len(decoder.feed(0, 1, blocks[0].shards[1]).pieces) == AHEAD
    assert decoder.feed(AHEAD, 0, blocks[AHEAD].shards[0]).verdict is Verdict.TAKEN


def test_a_blob_is_not_finished_before_its_last_block() -> None:
    blocks, manifest = put([bytes(3000)], CODE)
    decoder = BlobDecoder(manifest)
    for shard in range(2):
        decoder.feed(0, shard, blocks[0].shards[shard])
    with pytest.raises(DataError, match="1 of 3 blocks") as refused:
        decoder.finish()
    assert refusal(refused) is DataReason.INCOMPLETE


def test_false_manifests_are_told_from_false_shards() -> None:
    blocks, manifest = put([b"a" * 1500], CODE)
    other = replace(manifest.blocks[0], digest=sha256(b"not these").digest())
    decoder = BlobDecoder(replace(manifest, blocks=(other, manifest.blocks[1])))
    assert decoder.feed(0, 0, blocks[0].shards[0]).verdict is Verdict.TAKEN
    with pytest.raises(DataError, match="block 0") as refused:
        decoder.feed(0, 1, blocks[0].shards[1])
    assert refusal(refused) is DataReason.FALSE_MANIFEST

    whole = replace(manifest, digest=sha256(b"nor this").digest())
    with pytest.raises(DataError) as refused:
        get(blocks, whole)
    assert refusal(refused) is DataReason.FALSE_MANIFEST


def test_who_stores_a_private_blob_sees_only_how_long_it_is() -> None:
    plain = b"secret" * 400
    blocks, manifest = put([plain], Code(1, 1), CIPHER)
    stored = b"".join(block.shards[0] for block in blocks)
    assert b"secret" not in stored
    assert len(stored) == manifest.size == len(plain) + OVERHEAD_BYTES * len(blocks)
    assert manifest.content != cid_of(plain)
    assert KEY not in manifest.encode()
    again, _ = put([plain], Code(1, 1), BlockCipher(KEY, bytes(16)))
    assert again[0].shards != blocks[0].shards, "equal blobs of one key differ"
    assert KEY.hex() not in repr(CIPHER)
    assert repr(KEY) not in repr(CIPHER)


def test_a_private_blob_needs_its_own_key() -> None:
    blocks, manifest = put([b"secret"], CODE, CIPHER)
    _, public = put([b"public"], CODE)
    for whose, key in ((manifest, None), (public, KEY)):
        with pytest.raises(DataError) as refused:
            BlobDecoder(whose, key)
        assert refusal(refused) is DataReason.WRONG_KEY
    with pytest.raises(DataError) as refused:
        get(blocks, manifest, bytes(32))
    assert refusal(refused) is DataReason.WRONG_KEY
    for key in (b"", bytes(31)):
        with pytest.raises(DataError) as refused:
            BlobDecoder(manifest, key)
        assert refusal(refused) is DataReason.BAD_KEY


def test_closed_blocks_cannot_change_places() -> None:
    closed = CIPHER.close(0, b"first")
    assert CIPHER.open(0, closed) == b"first"
    for number, cipher, data in (
        (1, CIPHER, closed),
        (0, BlockCipher(KEY, PREFIX[::-1]), closed),
        (0, CIPHER, closed[:-1] + bytes((closed[-1] ^ 1,))),
        (0, CIPHER, b""),
    ):
        with pytest.raises(DataError) as refused:
            cipher.open(number, data)
        assert refusal(refused) is DataReason.WRONG_KEY


def test_right_bytes_under_a_wrong_root_are_read_and_not_held() -> None:
    """Whoever held them would fail every challenge, by the doing of the manifest's author."""
    encoder = BlobEncoder(Code(2, 3))
    encoder.feed(b"data")
    (block,), manifest = encoder.finish()
    entry = replace(manifest.blocks[0], roots=(bytes(32),) * 3)
    false = replace(manifest, blocks=(entry,))
    assert check_shard(manifest, 0, 0, block.shards[0]) is Verdict.TAKEN
    assert check_shard(false, 0, 0, block.shards[0]) is Verdict.WRONG_ROOT
    assert not Verdict.WRONG_ROOT.is_sender_wrong
    decoder = BlobDecoder(false)
    pieces = [decoder.feed(0, shard, block.shards[shard]).pieces for shard in range(2)]
    assert pieces == [(), (b"data",)]
