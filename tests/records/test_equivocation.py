from __future__ import annotations

import hashlib

import pytest
from nacl.bindings import crypto_scalarmult_ed25519_base_noclamp

from koii_p2p.records.cid import cid_of
from koii_p2p.records.envelope import sign
from koii_p2p.records.equivocation import Place, check_equivocation, conflict, equivocation_of, place_of
from koii_p2p.records.reasons import RecordError, RecordReason
from koii_p2p.records.schema import (
    Ballot,
    BallotEntry,
    BallotReveal,
    Body,
    Challenge,
    CommitmentNotice,
    Equivocation,
    Kind,
    ListNotice,
    ListVote,
    Presence,
    Submission,
    Verdict,
)
from tests.records.statements import ALICE, BOB, GENESIS, TASK, statement

GROUP_ORDER = 2**252 + 27742317777372353535851937790883648493
YES = Ballot((BallotEntry(bytes(32), Verdict.VALID),))
NO = Ballot((BallotEntry(bytes(32), Verdict.INVALID),))


def test_two_ballots_are_evidence_that_anyone_can_check() -> None:
    yes, no = sign(statement(YES), GENESIS, ALICE), sign(statement(NO, slot=701), GENESIS, ALICE)
    evidence = equivocation_of(yes, no)
    assert evidence == equivocation_of(no, yes)
    assert set(check_equivocation(evidence, GENESIS)) == {yes, no}
    assert sign(statement(evidence), GENESIS, BOB).kind is Kind.EQUIVOCATION


CID = cid_of(b"data")
AGAIN_AND_AGAIN = (Presence((), 0, "", 0), Equivocation(b"1", b"2"))
ONCE = (Submission("x"), BallotReveal(bytes(32), YES.entries))
ONCE_PER_SEQ = (
    YES,
    Ballot(seal=bytes(32)),
    Challenge(bytes(32), bytes(32)),
    CommitmentNotice(bytes(32), CID, bytes(64)),
    ListNotice(bytes(32), CID, 0, 0, bytes(64)),
    ListVote(bytes(32), True, 0),
)


@pytest.mark.parametrize("body", AGAIN_AND_AGAIN)
def test_some_kinds_may_be_stated_again(body: Body) -> None:
    one, other = (sign(statement(body, slot=slot), GENESIS, ALICE) for slot in (700, 701))
    assert place_of(one.statement) is None
    assert not conflict(one, other)


@pytest.mark.parametrize("body", ONCE)
def test_some_kinds_are_stated_once_per_round(body: Body) -> None:
    one, other = (sign(statement(body, seq=seq), GENESIS, ALICE) for seq in (0, 1))
    assert place_of(one.statement) == Place(TASK, 3, body.kind, 0)
    assert conflict(one, other)
    assert not conflict(one, sign(statement(body, round=4), GENESIS, ALICE))


@pytest.mark.parametrize("body", ONCE_PER_SEQ)
def test_some_kinds_are_stated_once_per_stage_number_or_attempt(body: Body) -> None:
    """A ballot of each stage, a challenge of each number, a notice and a list vote of each attempt."""
    one, other = (sign(statement(body, slot=slot, seq=2), GENESIS, ALICE) for slot in (700, 701))
    assert place_of(one.statement) == Place(TASK, 3, body.kind, 2)
    assert conflict(one, other)
    assert not conflict(one, sign(statement(body, slot=701, seq=1), GENESIS, ALICE))


def test_every_kind_is_in_one_of_these() -> None:
    assert {body.kind for body in (*AGAIN_AND_AGAIN, *ONCE, *ONCE_PER_SEQ)} == set(Kind)


def test_a_sealed_ballot_and_an_open_one_stand_in_one_place() -> None:
    one, other = sign(statement(YES), GENESIS, ALICE), sign(statement(Ballot(seal=bytes(32))), GENESIS, ALICE)
    assert set(check_equivocation(equivocation_of(one, other), GENESIS)) == {one, other}
    reveal = sign(statement(BallotReveal(bytes(32), YES.entries)), GENESIS, ALICE)
    assert not conflict(other, reveal)


class OtherNonce:
    """Signs as RFC 8032 section 5.1.6 says, but with a nonce of its own choice."""

    public_key = ALICE.public_key

    def sign(self, message: bytes) -> bytes:
        digest = hashlib.sha512(ALICE.seed).digest()
        scalar = int.from_bytes(digest[:32], "little") & (1 << 254) - 8 | 1 << 254
        point = crypto_scalarmult_ed25519_base_noclamp((7).to_bytes(32, "little"))
        challenge = hashlib.sha512(point + self.public_key + message).digest()
        answer = (7 + int.from_bytes(challenge, "little") * scalar) % GROUP_ORDER
        return point + answer.to_bytes(32, "little")


def test_a_second_signature_under_one_payload_is_a_conflict() -> None:
    """There is one honest signature for a payload: who makes another splits the net as a second payload does."""
    one, two = sign(statement(YES), GENESIS, ALICE), sign(statement(YES), GENESIS, OtherNonce())
    assert one.statement == two.statement
    assert one.id != two.id
    assert set(check_equivocation(equivocation_of(one, two), GENESIS)) == {one, two}


def test_what_is_not_a_conflict() -> None:
    yes = sign(statement(YES), GENESIS, ALICE)
    for other in (
        yes,
        sign(statement(NO), GENESIS, BOB),
        sign(statement(NO, round=4), GENESIS, ALICE),
        sign(statement(NO, task=b"u" * 32), GENESIS, ALICE),
        sign(statement(Submission("x")), GENESIS, ALICE),
    ):
        assert not conflict(yes, other)
        with pytest.raises(RecordError) as caught:
            equivocation_of(yes, other)
        assert caught.value.reason is RecordReason.NOT_A_CONFLICT


def test_false_evidence_is_refused() -> None:
    yes, no = sign(statement(YES), GENESIS, ALICE), sign(statement(NO), GENESIS, ALICE)
    low, high = sorted((yes.raw, no.raw))
    for first, second, reason in (
        (high, low, RecordReason.NOT_A_CONFLICT),
        (low, low, RecordReason.NOT_A_CONFLICT),
        (low, high[:-1], RecordReason.TRUNCATED),
        (low, b"x", RecordReason.NOT_COSE),
    ):
        with pytest.raises(RecordError) as caught:
            check_equivocation(Equivocation(first, second), GENESIS)
        assert caught.value.reason is reason
    with pytest.raises(RecordError) as caught:
        check_equivocation(Equivocation(low, high), bytes(32))
    assert caught.value.reason is RecordReason.BAD_SIGNATURE
