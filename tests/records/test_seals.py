from __future__ import annotations

from dataclasses import replace
from hashlib import sha256

import cbor2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from koii_p2p.records import cbor
from koii_p2p.records.payload import entry_arrays
from koii_p2p.records.reasons import RecordError, RecordReason
from koii_p2p.records.schema import LIMITS, BallotEntry, BallotReveal, Verdict
from koii_p2p.records.seals import decode_opening, encode_opening, opens, seal_of
from tests.records.statements import ALICE, BOB, TASK, digests, entries

VOTE = BallotEntry(bytes(32), Verdict.INVALID)
REVEAL = BallotReveal(b"s" * 32, (VOTE,))
SEAL = seal_of(REVEAL, TASK, 3, ALICE.public_key)

reveals = st.builds(BallotReveal, digests, entries)


def test_a_seal_is_what_the_schema_publishes() -> None:
    votes = cbor2.dumps([[bytes(32), 2, b""]], canonical=True)
    round_number = (3).to_bytes(8, "little")
    preimage = b"koii-p2p/1 seal" + TASK + round_number + ALICE.public_key + b"s" * 32 + votes
    assert sha256(preimage).digest() == SEAL
    assert opens(REVEAL, SEAL, TASK, 3, ALICE.public_key)


def test_everything_that_is_bound_reaches_the_seal() -> None:
    key = ALICE.public_key
    others = [
        seal_of(replace(REVEAL, salt=bytes(32)), TASK, 3, key),
        seal_of(replace(REVEAL, entries=()), TASK, 3, key),
        seal_of(replace(REVEAL, entries=(replace(VOTE, verdict=Verdict.VALID),)), TASK, 3, key),
        seal_of(replace(REVEAL, entries=(replace(VOTE, evidence=bytes(32)),)), TASK, 3, key),
        seal_of(REVEAL, bytes(32), 3, key),
        seal_of(REVEAL, TASK, 4, key),
        seal_of(REVEAL, TASK, 3, BOB.public_key),
    ]
    assert len({SEAL, *others}) == len(others) + 1
    assert not any(opens(REVEAL, other, TASK, 3, key) for other in others)


@given(reveals, reveals)
def test_a_seal_is_opened_by_one_reveal(one: BallotReveal, other: BallotReveal) -> None:
    seal = seal_of(one, TASK, 3, ALICE.public_key)
    assert opens(one, seal, TASK, 3, ALICE.public_key)
    assert opens(other, seal, TASK, 3, ALICE.public_key) == (one == other)


@given(reveals)
def test_an_opening_is_kept_as_it_was(reveal: BallotReveal) -> None:
    assert decode_opening(encode_opening(reveal)) == reveal


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ([], RecordReason.WRONG_TYPE),
        ([b"s" * 32], RecordReason.WRONG_TYPE),
        ([b"s" * 32, [], 0], RecordReason.WRONG_TYPE),
        (["s" * 32, []], RecordReason.WRONG_TYPE),
        ([b"s" * 31, []], RecordReason.WRONG_LENGTH),
        ([b"s" * 32, [[bytes(32), 4, b""]]], RecordReason.OUT_OF_RANGE),
        ([b"s" * 32, entry_arrays((VOTE, VOTE))], RecordReason.NOT_SORTED),
        ([b"s" * 32, [[bytes(32), 1, b""]] * (LIMITS.ballot_entries + 1)], RecordReason.TOO_MANY),
        ([b"s" * 32, [bytes(LIMITS.record_bytes)]], RecordReason.TOO_LARGE),
    ],
)
def test_what_is_no_opening_is_refused(value: object, reason: RecordReason) -> None:
    with pytest.raises(RecordError) as caught:
        decode_opening(cbor.encode(value))
    assert caught.value.reason is reason


def test_an_opening_that_was_cut_short_is_refused() -> None:
    opening = encode_opening(REVEAL)
    for length in range(len(opening)):
        with pytest.raises(RecordError):
            decode_opening(opening[:length])
