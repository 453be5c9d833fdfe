"""Documents: what is one, who may write where, which version wins, and what hostile bytes come to."""

from __future__ import annotations

import base58
import pytest
from hypothesis import given
from hypothesis import strategies as st

from koii_p2p.data.collections.definition import Definition, decode_definition
from koii_p2p.data.collections.document import (
    LIMITS,
    VerifiedDocument,
    body_of,
    decode_document,
    judge,
    sign_document,
    stored_value,
    verify_document,
)
from koii_p2p.data.collections.reasons import DocumentError, DocumentReason
from koii_p2p.data.collections.sharding import replicas_of, shard_of
from koii_p2p.data.collections.store import author_of
from koii_p2p.records import cbor, cose
from koii_p2p.records.keys import SecretKey

GENESIS, TASK = b"g" * 32, b"t" * 32
AUTHOR = SecretKey.from_seed(b"a" * 32)
LINKS = Definition("links")


def document(
    key: str = "k", value: object = None, *, slot: int = 5, seq: int = 1, definition: Definition = LINKS
) -> VerifiedDocument:
    body = None if value is None else body_of(value)  # type: ignore[arg-type]
    return sign_document(
        definition.id, key, body, slot=slot, seq=seq, genesis=GENESIS, task=TASK, signer=AUTHOR
    )


def refused(raw: bytes) -> DocumentReason:
    with pytest.raises(DocumentError) as caught:
        verify_document(decode_document(raw), GENESIS, TASK)
    return caught.value.reason


def verdict(found: VerifiedDocument, definition: Definition = LINKS, **changed: int) -> DocumentReason | None:
    numbers = {"is_staker": True, "now": 5, "early": 32, "kept": 100} | changed
    return judge(found, definition, **numbers)  # type: ignore[arg-type]


def signed(payload: dict[int, object] | bytes, *, task: bytes = TASK, kind: int = 32) -> bytes:
    data = payload if isinstance(payload, bytes) else cbor.encode(payload)
    return cose.put_together(data, cose.domain_of(GENESIS, task, kind), AUTHOR)


def test_a_document_comes_back_as_it_was_written() -> None:
    value = {"_id": "k", "name": "Zoë", "n": 2**63 - 1, "x": -1.5, "deep": {"list": [1, None, True, "a"]}}
    found = document("k", value)
    assert found.value() == stored_value(found.raw) == value
    assert author_of(found.raw) == found.author == AUTHOR.public_key
    assert decode_document(found.raw) == found.document


def test_a_tombstone_has_no_value() -> None:
    gone = document("k")
    assert gone.deleted
    assert stored_value(gone.raw) is None
    with pytest.raises(ValueError, match="tombstone"):
        gone.value()


def test_a_signature_is_good_for_one_chain_task_kind_and_text() -> None:
    found = document("k", {"a": 1})
    with pytest.raises(DocumentError):
        verify_document(found.document, bytes(32), TASK)
    with pytest.raises(DocumentError):
        verify_document(found.document, GENESIS, bytes(32))
    payload = {0: LINKS.id, 1: "k", 2: 5, 3: 1, 4: b'{"a":1}'}
    assert decode_document(signed(payload)).key == "k"
    assert refused(signed(payload, kind=9)) is DocumentReason.BAD_RECORD
    assert refused(found.raw[:-1] + bytes((found.raw[-1] ^ 1,))) is DocumentReason.BAD_RECORD


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({0: b"short"}, DocumentReason.BAD_RECORD),
        ({1: ""}, DocumentReason.BAD_KEY),
        ({1: "k" * 257}, DocumentReason.BAD_KEY),
        ({1: b"k"}, DocumentReason.BAD_KEY),
        ({2: -1}, DocumentReason.BAD_RECORD),
        ({2: 2**63}, DocumentReason.BAD_RECORD),
        ({3: True}, DocumentReason.BAD_RECORD),
        ({5: 0}, DocumentReason.BAD_RECORD),
        ({4: "text"}, DocumentReason.BAD_RECORD),
        ({4: b"[]"}, DocumentReason.BAD_BODY),
        ({4: b"{"}, DocumentReason.BAD_BODY),
        ({4: b'{"a":1,"a":2}'}, DocumentReason.BAD_BODY),
        ({4: b'{"a":NaN}'}, DocumentReason.BAD_BODY),
        ({4: b'{"a":1e999}'}, DocumentReason.BAD_BODY),
        ({4: b'{"a":' + b"9" * 30 + b"}"}, DocumentReason.BAD_BODY),
        ({4: b'{"_id":"x"}'}, DocumentReason.BAD_BODY),
        ({4: b'{"$set":1}'}, DocumentReason.BAD_BODY),
        ({4: b'{"a.b":1}'}, DocumentReason.BAD_BODY),
        ({4: b'{"a":' + b"[" * 20 + b"]" * 20 + b"}"}, DocumentReason.BAD_BODY),
        ({4: b'{"a":' + b"[" * 15_000 + b"]" * 15_000 + b"}"}, DocumentReason.BAD_BODY),
        ({4: b'{"a":"' + b"x" * 32_768 + b'"}'}, DocumentReason.BAD_BODY),
        ({4: b'{"a":"\xff"}'}, DocumentReason.BAD_BODY),
        ({4: b'{"a":"\\ud800"}'}, DocumentReason.BAD_BODY),
    ],
)
def test_what_is_no_document_is_refused_with_its_reason(
    change: dict[int, object], reason: DocumentReason
) -> None:
    assert refused(signed({0: LINKS.id, 1: "k", 2: 5, 3: 1, 4: b"{}"} | change)) is reason


@given(st.binary(max_size=300))
def test_any_bytes_are_a_document_or_a_document_error(raw: bytes) -> None:
    with pytest.raises(DocumentError):
        decode_document(raw)
    with pytest.raises(DocumentError):
        decode_document(signed(raw))
    with pytest.raises(DocumentError):
        decode_definition(raw)


def test_a_document_is_bounded() -> None:
    most = {"a": "x" * (LIMITS.document_bytes - 8)}
    assert len(document("k" * 256, most).raw) <= LIMITS.document_record_bytes
    with pytest.raises(DocumentError) as caught:
        body_of({"a": "x" * (LIMITS.document_bytes - 7)})
    assert caught.value.reason is DocumentReason.BAD_BODY


def test_the_newest_version_is_of_the_latest_slot_then_sequence_then_id() -> None:
    by_slot = [document("k", {"n": n}, slot=slot, seq=9 - slot).version for n, slot in ((1, 4), (2, 5))]
    by_seq = [document("k", {"n": n}, slot=5, seq=seq).version for n, seq in ((1, 4), (2, 5))]
    assert by_slot[0] < by_slot[1]
    assert by_seq[0] < by_seq[1]
    ties = [document("k", {"n": n}).version for n in range(5)]
    assert len(set(ties)) == 5


def test_a_clock_in_the_future_wins_nothing_before_its_time() -> None:
    early = document("k", {"a": 1}, slot=38)
    assert verdict(early, now=5) is DocumentReason.TOO_EARLY
    assert verdict(early, now=6) is None
    assert verdict(document("k", {"a": 1}, slot=2**63 - 1)) is DocumentReason.TOO_EARLY


def test_a_tombstone_is_admitted_while_it_is_kept() -> None:
    assert verdict(document("k", slot=5), now=105) is None
    assert verdict(document("k", slot=5), now=106) is DocumentReason.EXPIRED
    assert verdict(document("k", {"a": 1}, slot=5), now=10_000) is None


def test_only_authors_write_and_with_own_keys_only_to_their_own() -> None:
    assert verdict(document("k", {}), is_staker=False) is DocumentReason.NOT_AN_AUTHOR
    listed = Definition("links", authors=(AUTHOR.public_key,))
    assert verdict(document("k", {}, definition=listed), listed, is_staker=False) is None
    others = Definition("links", authors=(bytes(32),))
    assert verdict(document("k", {}, definition=others), others) is DocumentReason.NOT_AN_AUTHOR
    assert verdict(document("k", {}, definition=others), LINKS) is DocumentReason.WRONG_COLLECTION
    own = Definition("links", own_keys=True)
    name = base58.b58encode(AUTHOR.public_key).decode()
    assert verdict(document(name, {}, definition=own), own) is None
    assert verdict(document(f"{name}/profile", {}, definition=own), own) is None
    for key in ("k", f"{name}x", name[:-1]):
        assert verdict(document(key, {}, definition=own), own) is DocumentReason.NOT_AN_AUTHOR


def test_a_definition_is_its_id_and_cannot_be_wrong() -> None:
    one = Definition("links", 16, 2, True, True, (bytes(32),), ("a.b", "n"))
    assert decode_definition(one.encoded) == one
    assert len({one.id, LINKS.id, Definition("links", shards=65).id, Definition("link").id}) == 4
    for wrong in (
        {"name": ""},
        {"name": "x" * 65},
        {"name": "a\nb"},
        {"shards": 0},
        {"shards": 257},
        {"replicas": 17},
        {"authors": (b"short",)},
        {"authors": (b"b" * 32, b"a" * 32)},
        {"indexes": ("b", "a")},
        {"indexes": ("_id",)},
        {"indexes": ("a..b",)},
        {"indexes": tuple("abcdefghijklmnopq")},
    ):
        with pytest.raises(DocumentError) as caught:
            Definition(**{"name": "links"} | wrong)  # type: ignore[arg-type]
        assert caught.value.reason is DocumentReason.BAD_DEFINITION


def test_shards_are_held_evenly_and_a_leaver_moves_its_own_only() -> None:
    keys = [SecretKey.from_seed(bytes((number,)) * 32).public_key for number in range(12)]
    before = [replicas_of(LINKS, shard, keys) for shard in range(64)]
    held = {key: sum(key in replicas for replicas in before) for key in keys}
    assert sum(held.values()) == 64 * 3
    assert max(held.values()) <= 2 * 16
    assert min(held.values()) >= 16 // 2
    after = [replicas_of(LINKS, shard, keys[1:]) for shard in range(64)]
    for old, new in zip(before, after, strict=True):
        kept = [one for one, two in zip(old, new, strict=True) if one == two]
        assert len(kept) >= 2
        if keys[0] not in old:
            assert old == new
    assert replicas_of(LINKS, 0, []) == ()
    assert len(replicas_of(LINKS, 0, keys[:2])) == 2
    assert set(replicas_of(Definition("x", full=True), 3, keys)) == set(keys)
    assert {shard_of(LINKS, bytes((n,)) * 32) for n in range(256)} == set(range(64))
