from __future__ import annotations

import hashlib
from dataclasses import replace

import cbor2
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pycose.headers import KID, Algorithm
from pycose.keys.curves import Ed25519
from pycose.keys.okp import OKPKey
from pycose.messages.sign1message import Sign1Message

from koii_p2p.records import cbor
from koii_p2p.records.envelope import (
    Envelope,
    Verified,
    decode_record,
    external_aad,
    sign,
    signing_bytes,
    verify,
)
from koii_p2p.records.reasons import RecordError, RecordReason
from koii_p2p.records.schema import (
    LIMITS,
    Ballot,
    BallotEntry,
    Equivocation,
    Kind,
    ListVote,
    Statement,
    Submission,
    Verdict,
)
from tests.records.statements import ALICE, BOB, GENESIS, statement, statements


def with_payload(record: Verified, payload: bytes) -> bytes:
    protected = bytes.fromhex("a20127045820") + record.author
    return cbor.encode([protected, {}, payload, record.envelope.signature], tag=18)


def refusal(raw: bytes, genesis: bytes = GENESIS) -> RecordReason:
    with pytest.raises(RecordError) as caught:
        verify(decode_record(raw), genesis)
    return caught.value.reason


@given(statements)
def test_what_is_signed_is_read_back(original: Statement) -> None:
    record = sign(original, GENESIS, ALICE)
    envelope = decode_record(record.raw)
    assert envelope.statement == original
    assert envelope.author == record.author == ALICE.public_key
    assert envelope.id == record.id == hashlib.sha256(record.raw).digest()
    assert verify(envelope, GENESIS) == record
    assert (record.kind, record.round) == (original.kind, original.round)
    assert sign(original, GENESIS, ALICE).raw == record.raw


@given(statements)
def test_pycose_verifies_our_records(original: Statement) -> None:
    record = sign(original, GENESIS, ALICE)
    # pycose 1.1 wants lists and dicts where cbor2 6 returns immutable ones, so we do what its `decode` does.
    tagged = cbor2.loads(record.raw)
    assert tagged.tag == Sign1Message.cbor_tag
    protected, unprotected, payload, signature = tagged.value
    message = Sign1Message.from_cose_obj([protected, dict(unprotected), payload, signature], True)
    assert message.phdr[KID] == ALICE.public_key
    assert message.phdr[Algorithm].fullname == "EDDSA"
    message.key = OKPKey(crv=Ed25519, x=message.phdr[KID])
    message.external_aad = external_aad(GENESIS, original.task, original.kind)  # type: ignore[misc]
    assert message.verify_signature()
    message.external_aad = external_aad(bytes(32), original.task, original.kind)  # type: ignore[misc]
    assert not message.verify_signature()


def test_the_signing_domain_is_as_published() -> None:
    original = statement(Submission("x"))
    aad = external_aad(GENESIS, original.task, original.kind)
    assert aad == b"koii-p2p/1" + GENESIS + b"t" * 32 + b"\x01"
    record = sign(original, GENESIS, ALICE)
    assert ALICE.sign(signing_bytes(original, GENESIS, ALICE.public_key)) == record.envelope.signature


def test_another_chain_task_or_kind_is_refused() -> None:
    record = sign(statement(ListVote(bytes(32), True, 0)), GENESIS, ALICE)
    assert refusal(record.raw, bytes(32)) is RecordReason.BAD_SIGNATURE
    payload = record.envelope.payload
    other_task = payload.replace(b"t" * 32, b"u" * 32)
    assert refusal(with_payload(record, other_task)) is RecordReason.BAD_SIGNATURE

    # The same payload under the same key, signed in the domain of another task or kind.
    for aad in (
        external_aad(GENESIS, b"u" * 32, Kind.LIST_VOTE),
        external_aad(GENESIS, b"t" * 32, Kind.BALLOT),
        external_aad(bytes(32), b"t" * 32, Kind.LIST_VOTE),
        b"",
    ):
        protected = bytes.fromhex("a20127045820") + ALICE.public_key
        signature = ALICE.sign(cbor.encode(["Signature1", protected, aad, payload]))
        raw = cbor.encode([protected, {}, payload, signature], tag=18)
        assert refusal(raw) is RecordReason.BAD_SIGNATURE


def test_another_author_is_refused() -> None:
    record = sign(statement(Submission("x")), GENESIS, ALICE)
    raw = record.raw.replace(ALICE.public_key, BOB.public_key)
    assert decode_record(raw).author == BOB.public_key
    assert refusal(raw) is RecordReason.BAD_SIGNATURE


@given(st.binary(max_size=300))
def test_arbitrary_bytes_only_ever_raise_record_errors(raw: bytes) -> None:
    with pytest.raises(RecordError):
        verify(decode_record(raw), GENESIS)


@given(statements, st.data())
def test_changed_records_only_ever_raise_record_errors(original: Statement, data: st.DataObject) -> None:
    raw = bytearray(sign(original, GENESIS, ALICE).raw)
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(raw) - 1))
        change = data.draw(st.sampled_from(["set", "cut", "insert"]))
        if change == "set":
            raw[at] ^= data.draw(st.integers(1, 255))
        elif change == "cut":
            del raw[at : at + data.draw(st.integers(1, 8))]
        else:
            raw[at:at] = data.draw(st.binary(min_size=1, max_size=8))
        if not raw:
            break
    try:
        record = verify(decode_record(bytes(raw)), GENESIS)
    except RecordError:
        return
    assert record.statement == original  # the changes cancelled each other out


@given(st.binary(max_size=200))
def test_any_signed_payload_only_ever_raises_record_errors(payload: bytes) -> None:
    record = sign(statement(Submission("x")), GENESIS, ALICE)
    with pytest.raises(RecordError):
        verify(decode_record(with_payload(record, payload)), GENESIS)


def test_size_limits() -> None:
    votes = tuple(BallotEntry(i.to_bytes(32, "big"), Verdict.VALID, bytes(32)) for i in range(1024))
    with pytest.raises(RecordError) as caught:
        sign(statement(Ballot(votes)), GENESIS, ALICE)
    assert caught.value.reason is RecordReason.TOO_LARGE
    largest = LIMITS.record_bytes
    pair = sign(statement(Equivocation(bytes(largest), bytes(largest))), GENESIS, ALICE)
    assert 2 * largest < len(pair.raw) <= LIMITS.equivocation_bytes
    assert refusal(bytes(LIMITS.equivocation_bytes + 1)) is RecordReason.TOO_LARGE
    assert refusal(b"\xd2" + b"\x81" * 100_000) is RecordReason.TOO_DEEP


def test_verified_is_not_made_by_accident() -> None:
    record = sign(statement(Submission("x")), GENESIS, ALICE)
    with pytest.raises(TypeError, match="Only verify"):
        Verified(object(), record.envelope)
    with pytest.raises(TypeError):
        Verified(record.envelope)  # type: ignore[call-arg]
    with pytest.raises((TypeError, ValueError)):
        replace(record, envelope=record.envelope)  # type: ignore[call-arg]
    with pytest.raises(AttributeError):
        record.envelope = record.envelope  # type: ignore[misc]
    assert Envelope not in type(record).__mro__


def test_a_signer_that_signs_with_another_key_is_noticed() -> None:
    class Confused:
        public_key = ALICE.public_key

        def sign(self, message: bytes) -> bytes:
            return BOB.sign(message)

    with pytest.raises(RecordError) as caught:
        sign(statement(Submission("x")), GENESIS, Confused())
    assert caught.value.reason is RecordReason.BAD_SIGNATURE


def test_a_genesis_hash_has_32_bytes() -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        sign(statement(Submission("x")), b"short", ALICE)
