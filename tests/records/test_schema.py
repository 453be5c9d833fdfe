from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given

import koii_p2p.records
from koii_p2p.records.cid import cid_of
from koii_p2p.records.payload import decode_payload, payload_bytes
from koii_p2p.records.reasons import RecordError, RecordReason
from koii_p2p.records.schema import (
    LIMITS,
    Ballot,
    BallotEntry,
    BallotReveal,
    Equivocation,
    Kind,
    ListVote,
    Presence,
    Statement,
    Submission,
    Verdict,
)
from tests.records.statements import statement, statements

CDDL = (Path(koii_p2p.records.__file__).parent / "records.cddl").read_text()


@given(statements)
def test_every_statement_has_one_payload(original: Statement) -> None:
    payload = payload_bytes(original)
    assert decode_payload(payload) == original
    assert payload_bytes(decode_payload(payload)) == payload


def test_text_and_bytes_stay_apart() -> None:
    text, octets = statement(Submission("x")), statement(Submission(b"x"))
    assert payload_bytes(text) != payload_bytes(octets)
    assert decode_payload(payload_bytes(text)).body == Submission("x")
    assert decode_payload(payload_bytes(octets)).body == Submission(b"x")


def test_a_sealed_ballot_and_one_without_votes_stay_apart() -> None:
    sealed, empty = statement(Ballot(seal=bytes(32))), statement(Ballot())
    assert payload_bytes(sealed).endswith(b"\x09\x58\x20" + bytes(32))
    assert payload_bytes(empty).endswith(b"\x08\x80")
    assert decode_payload(payload_bytes(sealed)).body == Ballot(seal=bytes(32))
    assert decode_payload(payload_bytes(empty)).body == Ballot()


def test_the_wire_form_is_as_published() -> None:
    payload = payload_bytes(statement(Submission("hi"), task=bytes(32), round=1, slot=2, seq=3))
    assert payload.hex() == "a60001015820" + "00" * 32 + "020103020403" + "08626869"


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: Submission("é" * 257), RecordReason.WRONG_LENGTH),
        (lambda: Submission(bytes(513)), RecordReason.WRONG_LENGTH),
        (lambda: Submission("\ud800"), RecordReason.BAD_TEXT),
        (lambda: Submission("", b"x" * 36), RecordReason.BAD_CID),
        (lambda: BallotEntry(bytes(31), Verdict.VALID), RecordReason.WRONG_LENGTH),
        (lambda: BallotEntry(bytes(32), Verdict.VALID, b"x"), RecordReason.WRONG_LENGTH),
        (lambda: Ballot((BallotEntry(bytes(32), Verdict.VALID),) * 2), RecordReason.NOT_SORTED),
        (
            lambda: Ballot(
                tuple(BallotEntry(i.to_bytes(32, "big"), Verdict.VALID) for i in range(1025)),
            ),
            RecordReason.TOO_MANY,
        ),
        (lambda: Ballot(seal=bytes(31)), RecordReason.WRONG_LENGTH),
        (lambda: Ballot((BallotEntry(bytes(32), Verdict.VALID),), bytes(32)), RecordReason.TOO_MANY),
        (lambda: BallotReveal(bytes(31), ()), RecordReason.WRONG_LENGTH),
        (lambda: ListVote(bytes(32), True, -1), RecordReason.OUT_OF_RANGE),
        (lambda: Equivocation(b"", b"x"), RecordReason.WRONG_LENGTH),
        (lambda: Equivocation(b"x", bytes(LIMITS.record_bytes + 1)), RecordReason.WRONG_LENGTH),
        (lambda: Presence(("/",) * 17, 0, "", 0), RecordReason.TOO_MANY),
        (lambda: Presence(("/" * 257,), 0, "", 0), RecordReason.WRONG_LENGTH),
        (lambda: statement(Submission(""), round=-1), RecordReason.OUT_OF_RANGE),
        (lambda: statement(Submission(""), slot=2**64), RecordReason.OUT_OF_RANGE),
        (lambda: statement(Submission(""), task=b"short"), RecordReason.WRONG_LENGTH),
    ],
)
def test_a_wrong_statement_cannot_be_made(make: object, reason: RecordReason) -> None:
    with pytest.raises(RecordError) as caught:
        make()  # type: ignore[operator]
    assert caught.value.reason is reason


def test_every_reason_says_what_it_means() -> None:
    assert all(reason.__doc__ and reason.__doc__.endswith(".") for reason in RecordReason)
    assert all(RecordReason(reason.value) is reason for reason in RecordReason)
    assert str(RecordError(RecordReason.TOO_DEEP)) == RecordReason.TOO_DEEP.__doc__


def test_the_cddl_has_every_kind_and_limit() -> None:
    for kind in Kind:
        name = kind.name.lower().replace("_", "-")
        assert re.search(rf"^{name} = {{\n  0 => {kind.value},$", CDDL, re.MULTILINE), name
    for number in (
        LIMITS.record_bytes,
        LIMITS.equivocation_bytes,
        LIMITS.submission_value_bytes,
        LIMITS.ballot_entries,
        LIMITS.presence_addresses,
        LIMITS.address_bytes,
        LIMITS.software_bytes,
    ):
        assert re.search(rf"\b{number}\b", CDDL), number


def test_a_value_holds_a_real_cid() -> None:
    assert Submission("x", cid_of(b"data")).data_cid == cid_of(b"data")
