from __future__ import annotations

from dataclasses import replace

import cbor2
import pytest
from hypothesis import given
from hypothesis import strategies as st
from nacl import bindings

from koii_p2p.data.encryption import BlockCipher
from koii_p2p.data.erasure import Code
from koii_p2p.data.manifest import (
    BLOCK_BYTES,
    LEAST_BLOCK_BYTES,
    MAX_BLOB_BYTES,
    MAX_MANIFEST_BYTES,
    BlockEntry,
    Manifest,
    Reference,
    decode_manifest,
    largest_blob,
)
from koii_p2p.data.reasons import DataError, DataReason
from koii_p2p.records.cid import cid_of, cid_to_text
from koii_p2p.rounds import merkle
from tests.data.streams import CIPHER, KEY, PREFIX, put

_, PUBLIC = put([bytes(range(256)) * 9], Code(2, 3))
_, PRIVATE = put([b"private" * 300], Code(2, 3), CIPHER)
NAME = PUBLIC.cid

codes = st.integers(1, 256).flatmap(lambda n: st.builds(Code, st.integers(1, n), st.just(n)))


def map_of(manifest: Manifest) -> dict[int, object]:
    value = cbor2.loads(manifest.encode())
    assert isinstance(value, dict)
    return value


def refusal(data: bytes) -> DataReason:
    with pytest.raises(DataError) as refused:
        decode_manifest(data)
    return refused.value.reason


@given(st.binary(max_size=5000), st.sampled_from([None, CIPHER]), codes)
def test_a_manifest_is_read_as_it_was_written(blob: bytes, cipher: BlockCipher | None, code: Code) -> None:
    _, manifest = put([blob], code, cipher)
    data = manifest.encode()
    assert decode_manifest(data) == manifest
    assert decode_manifest(data, cid_of(data)) == manifest
    assert manifest.cid == cid_of(data)
    assert manifest.root == merkle.root([root for entry in manifest.blocks for root in entry.roots])


def test_another_manifest_than_the_one_asked_for_is_refused_unread() -> None:
    with pytest.raises(DataError) as refused:
        decode_manifest(b"not even CBOR", NAME)
    assert refused.value.reason is DataReason.WRONG_MANIFEST
    with pytest.raises(DataError) as refused:
        decode_manifest(PRIVATE.encode(), NAME)
    assert refused.value.reason is DataReason.WRONG_MANIFEST


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({0: 2}, DataReason.BAD_MANIFEST),
        ({0: True}, DataReason.BAD_MANIFEST),
        ({1: 1024}, DataReason.BAD_MANIFEST),
        ({1: -1}, DataReason.BAD_MANIFEST),
        ({1: -1, 6: []}, DataReason.BAD_MANIFEST),
        ({1: 2**63}, DataReason.BAD_MANIFEST),
        ({1: "2304"}, DataReason.BAD_MANIFEST),
        ({2: 0}, DataReason.BAD_BLOCK_SIZE),
        ({2: BLOCK_BYTES + 1}, DataReason.BAD_BLOCK_SIZE),
        ({3: 0}, DataReason.BAD_CODE),
        ({3: 4}, DataReason.BAD_CODE),
        ({4: 257}, DataReason.BAD_CODE),
        ({4: 4}, DataReason.BAD_MANIFEST),
        ({5: bytes(31)}, DataReason.BAD_MANIFEST),
        ({5: None}, DataReason.BAD_MANIFEST),
        ({6: []}, DataReason.BAD_MANIFEST),
        ({6: {}}, DataReason.BAD_MANIFEST),
        ({6: [[bytes(32), bytes(96)]] * 3}, DataReason.BAD_MANIFEST),
        ({6: [[bytes(32), bytes(96), bytes(95)]] * 3}, DataReason.BAD_MANIFEST),
        ({6: [[bytes(31), bytes(96), bytes(96)]] * 3}, DataReason.BAD_MANIFEST),
        ({6: [[1, 2, 3]] * 3}, DataReason.BAD_MANIFEST),
        ({7: bytes(15)}, DataReason.BAD_MANIFEST),
        ({7: None}, DataReason.BAD_MANIFEST),
        ({8: 1}, DataReason.BAD_MANIFEST),
    ],
)
def test_manifests_with_a_wrong_field_are_refused(change: dict[int, object], reason: DataReason) -> None:
    assert decode_manifest(cbor2.dumps(map_of(PUBLIC), canonical=True)) == PUBLIC
    assert refusal(cbor2.dumps(map_of(PUBLIC) | change, canonical=True)) is reason


def test_manifests_that_are_no_such_map_are_refused() -> None:
    lacking = map_of(PUBLIC)
    del lacking[5]
    for data in (
        b"",
        b"\x80",
        PUBLIC.encode() + b"\0",
        PUBLIC.encode()[:-1],
        cbor2.dumps(lacking, canonical=True),
        bytes(MAX_MANIFEST_BYTES + 1),
    ):
        assert refusal(data) is DataReason.BAD_MANIFEST


def test_a_private_block_has_room_for_what_closing_adds() -> None:
    assert PRIVATE.is_private
    short = replace(PUBLIC, size=2 * LEAST_BLOCK_BYTES + 16)
    with pytest.raises(DataError, match="no room"):
        replace(short, prefix=PREFIX)
    assert replace(PUBLIC, size=2 * LEAST_BLOCK_BYTES + 17, prefix=PREFIX).plain_size == 2 * 1008 + 1


@given(st.binary(max_size=300))
def test_no_bytes_do_anything_but_be_refused(data: bytes) -> None:
    with pytest.raises(DataError):
        decode_manifest(data)


@given(st.data())
def test_damaged_manifests_are_refused_or_are_others(data: st.DataObject) -> None:
    good = PRIVATE.encode()
    place = data.draw(st.integers(0, len(good) - 1))
    bad = good[:place] + bytes((data.draw(st.integers(0, 255)),)) + good[place + 1 :]
    try:
        found = decode_manifest(bad)
    except DataError:
        return
    assert found.encode() == bad, "one manifest has one encoding"


@given(codes, st.integers(LEAST_BLOCK_BYTES, BLOCK_BYTES))
def test_the_largest_blob_of_any_code_has_a_manifest_that_is_small_enough(
    code: Code, block_bytes: int
) -> None:
    largest = largest_blob(code, block_bytes)
    assert largest == MAX_BLOB_BYTES or largest % block_bytes == 0
    blocks = -(-largest // block_bytes)
    entry = cbor2.dumps([bytes(32), bytes(32 * code.shards), bytes(32 * code.shards)])
    fixed = {0: 1, 1: largest, 2: block_bytes, 3: code.needed, 4: code.shards, 5: bytes(32), 7: bytes(16)}
    head = len(cbor2.dumps(fixed)) + 1 + 5  # and the key and head of the list of blocks
    assert head + blocks * len(entry) <= MAX_MANIFEST_BYTES


def test_a_manifest_at_its_limit_is_read_again() -> None:
    code = Code(255, 256)
    largest = largest_blob(code, LEAST_BLOCK_BYTES)
    entry = BlockEntry(bytes(32), (bytes(32),) * 256, (bytes(32),) * 256)
    count = largest // LEAST_BLOCK_BYTES
    manifest = Manifest(largest, LEAST_BLOCK_BYTES, code, bytes(32), (entry,) * count, PREFIX)
    data = manifest.encode()
    assert MAX_MANIFEST_BYTES - 32 * 1024 < len(data) <= MAX_MANIFEST_BYTES
    assert decode_manifest(data) == manifest
    with pytest.raises(DataError, match="too large"):
        replace(manifest, size=largest + 1, blocks=(entry,) * (count + 1))


def test_lengths_follow_from_sizes() -> None:
    assert (PUBLIC.size, len(PUBLIC.blocks)) == (2304, 3)
    assert [PUBLIC.length_of(block) for block in range(3)] == [1024, 1024, 256]
    assert [PUBLIC.shard_length(block) for block in range(3)] == [512, 512, 128]
    for block in (-1, 3):
        with pytest.raises(IndexError):
            PUBLIC.length_of(block)


def test_references_are_read_as_they_were_written() -> None:
    assert Reference.from_text(Reference(NAME).to_text()) == Reference(NAME)
    private = Reference(NAME, KEY)
    assert Reference.from_text(private.to_text()) == private
    assert private.to_text() == f"{cid_to_text(NAME)}.{KEY.hex()}"
    assert KEY.hex() not in repr(private)
    assert repr(KEY) not in repr(private)


@pytest.mark.parametrize(
    "text",
    [
        "",
        ".",
        "unknown",
        cid_to_text(NAME) + ".",
        cid_to_text(NAME) + "." + "0" * 63,
        cid_to_text(NAME) + "." + "A" * 64,
        cid_to_text(NAME) + "." + "0" * 64 + ".",
        cid_to_text(NAME).upper(),
        "." + KEY.hex(),
        "ä" * 59,
    ],
)
def test_texts_that_are_no_reference_are_refused(text: str) -> None:
    with pytest.raises(DataError) as refused:
        Reference.from_text(text)
    assert refused.value.reason is DataReason.BAD_REFERENCE


def test_a_reference_holds_a_cid_and_a_whole_key() -> None:
    with pytest.raises(DataError) as refused:
        Reference(b"no CID")
    assert refused.value.reason is DataReason.BAD_REFERENCE
    with pytest.raises(DataError) as refused:
        Reference(NAME, bytes(31))
    assert refused.value.reason is DataReason.BAD_KEY


def test_the_cipher_is_that_of_the_draft() -> None:
    # draft-irtf-cfrg-xchacha-03, appendix A.3.1.
    plain = (
        b"Ladies and Gentlemen of the class of '99: If I could offer you only one tip for the future, "
        b"sunscreen would be it."
    )
    closed = bindings.crypto_aead_xchacha20poly1305_ietf_encrypt(
        plain,
        bytes.fromhex("50515253c0c1c2c3c4c5c6c7"),
        bytes(range(0x40, 0x58)),
        bytes(range(0x80, 0xA0)),
    )
    assert closed.hex().startswith("bd6d179d3e83d43b9576579493c0e939")
    assert closed.hex().endswith("c0875924c1c7987947deafd8780acf49")
