"""Write the test vectors of the records: valid and malformed, with the expected verdict and reason.

    python scripts/make_vectors.py [--output tests/vectors]

Everything is derived from fixed seeds, so the same code writes the same bytes. The malformed ones are written
by hand and, where the signature is not the point, correctly signed: only the named fault can be the reason.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cbor2
from nacl.bindings import crypto_scalarmult_ed25519_base_noclamp

from koii_p2p.records.cid import cid_of
from koii_p2p.records.envelope import Verified, external_aad, sign
from koii_p2p.records.equivocation import equivocation_of
from koii_p2p.records.keys import SecretKey
from koii_p2p.records.payload import payload_bytes
from koii_p2p.records.reasons import RecordReason
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
    Statement,
    Submission,
    Verdict,
)
from koii_p2p.records.seals import seal_of


def digest(name: str) -> bytes:
    return hashlib.sha256(name.encode()).digest()


GENESIS = digest("genesis of the vectors")
TASK = digest("task of the vectors")
ALICE = SecretKey.from_seed(digest("alice"))
BOB = SecretKey.from_seed(digest("bob"))
CHAIN_SIGNATURE = digest("chain signature, first half") + digest("chain signature, second half")
GROUP_ORDER = 2**252 + 27742317777372353535851937790883648493
U64_MAX = 2**64 - 1


@dataclass(frozen=True, slots=True)
class Vector:
    """Bytes, and the reason why they are refused; None for a valid record."""

    name: str
    record: bytes
    reason: RecordReason | None = None


def statement(body: Body, seq: int = 0) -> Statement:
    return Statement(TASK, 7, 4242, seq, body)


def entries(count: int, evidence: bytes = b"") -> tuple[BallotEntry, ...]:
    ids = sorted(digest(f"submission {index}") for index in range(count))
    return tuple(BallotEntry(id_, Verdict(1 + index % 3), evidence) for index, id_ in enumerate(ids))


REVEAL = BallotReveal(digest("salt"), entries(1))
"""What opens the sealed ballot of the valid vectors: `records.cddl` says how its seal follows."""


def valid_bodies() -> dict[str, Body]:
    one = sign(statement(Submission("one")), GENESIS, BOB)
    other = sign(statement(Submission("other")), GENESIS, BOB)
    return {
        "submission of text": Submission("Hello, World!"),
        "submission of bytes": Submission(b"Hello, World!"),
        "submission of nothing": Submission(""),
        "submission of 512 bytes of text": Submission("é" * 256, cid_of(b"data")),
        "ballot of three": Ballot(entries(3)),
        "ballot with evidence": Ballot(entries(2, digest("evidence"))),
        "ballot of none": Ballot(()),
        "ballot of 1024": Ballot(entries(1024)),
        "sealed ballot": Ballot(seal=seal_of(REVEAL, TASK, 7, ALICE.public_key)),
        "ballot reveal": REVEAL,
        "challenge with a digest": Challenge(digest("submission 0"), digest("evidence")),
        "challenge with a cid": Challenge(digest("submission 0"), cid_of(b"evidence")),
        "commitment notice": CommitmentNotice(digest("commitment"), cid_of(b"bundle"), CHAIN_SIGNATURE),
        "list notice": ListNotice(digest("root"), cid_of(b"list"), U64_MAX, 0, CHAIN_SIGNATURE),
        "list vote that agrees": ListVote(digest("root"), True, 0),
        "list vote that objects": ListVote(digest("root"), False, 65535),
        "equivocation": equivocation_of(one, other),
        "presence": Presence(("/ip4/127.0.0.1/tcp/4001",), 3, "koii_p2p 0.1.0", 10**12),
        "presence of nothing": Presence((), 0, "", 0),
    }


def valid() -> Iterator[Vector]:
    for name, body in valid_bodies().items():
        yield Vector(name, sign(statement(body), GENESIS, ALICE).raw)
    yield Vector("ballot of a full audit", sign(statement(Ballot(entries(1)), seq=1), GENESIS, ALICE).raw)
    largest = Statement(TASK, U64_MAX, U64_MAX, U64_MAX, Submission("x"))
    yield Vector("largest numbers", sign(largest, GENESIS, ALICE).raw)


def head(major: int, argument: int) -> bytes:
    """Return the shortest head of a CBOR item."""
    if argument < 24:
        return bytes((major << 5 | argument,))
    width = next(width for width in (1, 2, 4, 8) if argument < 1 << 8 * width)
    return bytes((major << 5 | 24 + width.bit_length() - 1,)) + argument.to_bytes(width, "big")


def string(data: bytes) -> bytes:
    return head(2, len(data)) + data


def cose(payload: bytes, signature: bytes, protected: bytes | None = None) -> bytes:
    if protected is None:
        protected = cbor2.dumps({1: -8, 4: ALICE.public_key})
    return b"\xd2\x84" + string(protected) + b"\xa0" + string(payload) + string(signature)


def signed(payload: bytes, kind: int = Kind.SUBMISSION) -> bytes:
    """Return a record with this payload, whatever it is, and a correct signature."""
    protected = cbor2.dumps({1: -8, 4: ALICE.public_key})
    aad = external_aad(GENESIS, TASK, Kind.SUBMISSION)[:-1] + bytes((kind,))
    structure = cbor2.dumps(["Signature1", protected, aad, payload])
    return cose(payload, ALICE.sign(structure))


GOOD_PAYLOAD = payload_bytes(statement(Submission("Hello, World!")))
GOOD = sign(statement(Submission("Hello, World!")), GENESIS, ALICE).raw
GOOD_SIGNATURE = GOOD[-64:]
PLACE = {1: TASK, 2: 7, 3: 4242, 4: 0}


def payload(kind: int, **body: object) -> bytes:
    """Return the deterministic encoding of a payload; `f8=...` is field 8, and None leaves a field out."""
    fields = {0: kind, **PLACE} | {int(name[1:]): value for name, value in body.items()}
    return cbor2.dumps({key: value for key, value in sorted(fields.items()) if value is not None})


def malformed_encoding() -> Iterator[Vector]:
    reason = RecordReason
    yield Vector("nothing", b"", reason.NOT_COSE)
    yield Vector("one byte missing", GOOD[:-1], reason.TRUNCATED)
    yield Vector("one byte more", GOOD + b"\x00", reason.TRAILING_BYTES)
    yield Vector("no tag", GOOD[1:], reason.NOT_COSE)
    yield Vector("another tag", b"\xd1" + GOOD[1:], reason.NOT_COSE)
    yield Vector("the tag in two bytes", b"\xd8\x12" + GOOD[1:], reason.NOT_COSE)
    yield Vector("the tag twice", b"\xd2" + GOOD, reason.FORBIDDEN_TYPE)
    yield Vector("array of 2^64-1 items", b"\xd2\x9b" + b"\xff" * 8, reason.TRUNCATED)
    yield Vector("bytes of 2^63-1 bytes", b"\xd2\x84\x5b\x7f" + b"\xff" * 7, reason.TRUNCATED)
    yield Vector("map of 2^64-1 pairs", b"\xd2\xbb" + b"\xff" * 8, reason.TRUNCATED)
    yield Vector("nested 2000 deep", b"\xd2" + b"\x81" * 2000, reason.TOO_DEEP)
    yield Vector("nested 9 deep", b"\xd2" + b"\x81" * 9 + b"\x00", reason.TOO_DEEP)
    yield Vector("indefinite array", b"\xd2\x9f" + GOOD[2:] + b"\xff", reason.INDEFINITE_LENGTH)
    yield Vector("reserved head", b"\xd2\x9c" + GOOD[2:], reason.INDEFINITE_LENGTH)
    yield Vector("array length in two bytes", b"\xd2\x98\x04" + GOOD[2:], reason.NOT_CANONICAL)
    yield Vector("random bytes", b"".join(digest(f"random {index}") for index in range(4)), reason.NOT_COSE)

    fields = GOOD_PAYLOAD[1:]  # without the head of the map of 6 pairs
    changed = {
        "payload with trailing byte": (GOOD_PAYLOAD + b"\x00", reason.TRAILING_BYTES),
        "payload with long integer": (
            GOOD_PAYLOAD.replace(b"\x02\x07", b"\x02\x18\x07"),
            reason.NOT_CANONICAL,
        ),
        "payload with long key": (b"\xa6\x18\x00" + fields[1:], reason.BAD_KEY),
        "payload with key given twice": (b"\xa7\x00\x01" + fields, reason.NOT_CANONICAL),
        "payload with unsorted keys": (b"\xa6" + fields[2:] + fields[:2], reason.NOT_CANONICAL),
        "payload of indefinite length": (b"\xbf" + fields + b"\xff", reason.INDEFINITE_LENGTH),
        "payload with key 24": (b"\xa7" + fields + b"\x18\x18\x00", reason.BAD_KEY),
        "payload with negative key": (b"\xa7" + fields + b"\x20\x00", reason.BAD_KEY),
        "payload with text key": (b"\xa7" + fields + b"\x61a\x00", reason.BAD_KEY),
        "payload with a float": (payload(1, f8=1.5), reason.FORBIDDEN_TYPE),
        "payload with undefined": (payload(1, f8=cbor2.undefined), reason.FORBIDDEN_TYPE),
        "payload with simple value 0": (payload(1, f8=cbor2.CBORSimpleValue(0)), reason.FORBIDDEN_TYPE),
        "payload with a date tag": (payload(1, f8=cbor2.CBORTag(1, 0)), reason.FORBIDDEN_TYPE),
        "payload with a big number": (payload(1, f8="x", f2=U64_MAX + 1), reason.FORBIDDEN_TYPE),
        "payload with broken text": (GOOD_PAYLOAD.replace(b"Hello", b"He\xffl\xc3"), reason.BAD_TEXT),
        "payload with a surrogate": (GOOD_PAYLOAD.replace(b"Hello", b"\xed\xa0\x80lo"), reason.BAD_TEXT),
        "payload nested 9 deep": (b"\x81" * 9 + b"\x00", reason.TOO_DEEP),
    }
    for name, (data, why) in changed.items():
        yield Vector(name, signed(data), why)


def malformed_message() -> Iterator[Vector]:
    reason = RecordReason
    protected = string(cbor2.dumps({1: -8, 4: ALICE.public_key}))
    body, signature = string(GOOD_PAYLOAD), string(GOOD_SIGNATURE)
    yield Vector("three elements", b"\xd2\x83" + protected + b"\xa0" + body, reason.NOT_COSE)
    yield Vector(
        "five elements", b"\xd2\x85" + protected + b"\xa0" + body + signature + b"\x00", reason.NOT_COSE
    )
    yield Vector(
        "something unprotected",
        b"\xd2\x84" + protected + b"\xa1\x01\x27" + body + signature,
        reason.NOT_COSE,
    )
    yield Vector("detached payload", b"\xd2\x84" + protected + b"\xa0\xf6" + signature, reason.NOT_COSE)
    yield Vector("signature of 63 bytes", cose(GOOD_PAYLOAD, GOOD_SIGNATURE[:-1]), reason.NOT_COSE)
    yield Vector("signature of 65 bytes", cose(GOOD_PAYLOAD, GOOD_SIGNATURE + b"\x00"), reason.NOT_COSE)
    headers: dict[str, dict[int, object]] = {
        "no key": {1: -8},
        "no algorithm": {4: ALICE.public_key},
        "another algorithm": {1: -7, 4: ALICE.public_key},
        "key of 31 bytes": {1: -8, 4: ALICE.public_key[:-1]},
        "key of 33 bytes": {1: -8, 4: ALICE.public_key + b"\x00"},
        "content type": {1: -8, 3: 0, 4: ALICE.public_key},
    }
    for name, fields in headers.items():
        yield Vector(
            f"header: {name}", cose(GOOD_PAYLOAD, GOOD_SIGNATURE, cbor2.dumps(fields)), reason.BAD_HEADER
        )
    yield Vector("header: empty", cose(GOOD_PAYLOAD, GOOD_SIGNATURE, b""), reason.BAD_HEADER)


def malformed_statement() -> Iterator[Vector]:
    reason = RecordReason
    good_entry = [digest("submission 0"), 1, b""]
    other_entry = [digest("submission 1"), 1, b""]
    ascending = sorted((good_entry, other_entry), key=lambda entry: bytes(entry[0]))  # type: ignore[call-overload]
    root, cid, chain = digest("root"), cid_of(b"list"), CHAIN_SIGNATURE
    cases: list[tuple[str, int, bytes, RecordReason]] = [
        ("payload is an array", 1, cbor2.dumps([1]), reason.UNKNOWN_KIND),
        ("payload is an integer", 1, cbor2.dumps(1), reason.UNKNOWN_KIND),
        ("kind is missing", 1, cbor2.dumps(PLACE | {8: "x"}), reason.UNKNOWN_KIND),
        ("kind 0", 0, payload(0, f8="x"), reason.UNKNOWN_KIND),
        ("kind 10", 10, payload(10, f8="x"), reason.UNKNOWN_KIND),
        ("kind is true", 1, payload(True, f8="x"), reason.UNKNOWN_KIND),
        ("kind is negative", 1, payload(-1, f8="x"), reason.UNKNOWN_KIND),
        ("task is missing", 1, payload(1, f1=None, f8="x"), reason.MISSING_FIELD),
        ("task of 31 bytes", 1, payload(1, f1=TASK[:-1], f8="x"), reason.WRONG_LENGTH),
        ("task is text", 1, payload(1, f1="x" * 32, f8="x"), reason.WRONG_TYPE),
        ("round is negative", 1, payload(1, f2=-1, f8="x"), reason.OUT_OF_RANGE),
        ("round is false", 1, payload(1, f2=False, f8="x"), reason.WRONG_TYPE),
        ("slot is missing", 1, payload(1, f3=None, f8="x"), reason.MISSING_FIELD),
        ("slot is text", 1, payload(1, f3="1", f8="x"), reason.WRONG_TYPE),
        ("seq is negative", 1, payload(1, f4=-1, f8="x"), reason.OUT_OF_RANGE),
        ("unknown field 5", 1, payload(1, f5=0, f8="x"), reason.UNKNOWN_FIELD),
        ("unknown field 10", 1, payload(1, f8="x", f10=0), reason.UNKNOWN_FIELD),
        ("submission without a value", 1, payload(1), reason.MISSING_FIELD),
        ("submission of an integer", 1, payload(1, f8=1), reason.WRONG_TYPE),
        ("submission of 513 bytes", 1, payload(1, f8=bytes(513)), reason.WRONG_LENGTH),
        ("submission of 513 bytes of text", 1, payload(1, f8="é" * 256 + "e"), reason.WRONG_LENGTH),
        ("submission with a null cid", 1, b"\xa7" + GOOD_PAYLOAD[1:] + b"\x09\xf6", reason.WRONG_TYPE),
        ("submission with half a cid", 1, payload(1, f8="x", f9=cid[:-1]), reason.BAD_CID),
        ("submission with a dag cid", 1, payload(1, f8="x", f9=b"\x01\x70" + cid[2:]), reason.BAD_CID),
        ("ballot without entries", 2, payload(2), reason.MISSING_FIELD),
        ("ballot with a short seal", 2, payload(2, f9=digest("seal")[:-1]), reason.WRONG_LENGTH),
        ("ballot with a long seal", 2, payload(2, f9=digest("seal") + b"\x00"), reason.WRONG_LENGTH),
        ("ballot with a seal of text", 2, payload(2, f9="x" * 32), reason.WRONG_TYPE),
        ("ballot with a seal too", 2, payload(2, f8=[], f9=digest("seal")), reason.UNKNOWN_FIELD),
        ("ballot entries out of order", 2, payload(2, f8=ascending[::-1]), reason.NOT_SORTED),
        ("ballot votes twice", 2, payload(2, f8=[good_entry, good_entry]), reason.NOT_SORTED),
        ("ballot with verdict 0", 2, payload(2, f8=[[root, 0, b""]]), reason.OUT_OF_RANGE),
        ("ballot with verdict 4", 2, payload(2, f8=[[root, 4, b""]]), reason.OUT_OF_RANGE),
        ("ballot with verdict true", 2, payload(2, f8=[[root, True, b""]]), reason.WRONG_TYPE),
        ("ballot entry of two", 2, payload(2, f8=[[root, 1]]), reason.WRONG_TYPE),
        ("ballot entry of four", 2, payload(2, f8=[[root, 1, b"", b""]]), reason.WRONG_TYPE),
        ("ballot entry is a map", 2, payload(2, f8=[{0: root}]), reason.WRONG_TYPE),
        ("ballot with short id", 2, payload(2, f8=[[root[:-1], 1, b""]]), reason.WRONG_LENGTH),
        ("ballot with short evidence", 2, payload(2, f8=[[root, 1, b"x"]]), reason.WRONG_LENGTH),
        (
            "ballot of 1025",
            2,
            payload(2, f8=[[bytes(30) + index.to_bytes(2, "big"), 1, b""] for index in range(1025)]),
            reason.TOO_MANY,
        ),
        (
            "ballot of 1024 with evidence, over 64 KiB",
            2,
            payload(2, f8=[[bytes(30) + index.to_bytes(2, "big"), 1, root] for index in range(1024)]),
            reason.TOO_LARGE,
        ),
        ("reveal without votes", 3, payload(3, f8=root), reason.MISSING_FIELD),
        ("reveal that votes twice", 3, payload(3, f8=root, f9=[good_entry, good_entry]), reason.NOT_SORTED),
        ("reveal with short salt", 3, payload(3, f8=b"salt", f9=[]), reason.WRONG_LENGTH),
        ("challenge without evidence", 4, payload(4, f8=root), reason.MISSING_FIELD),
        ("challenge with empty evidence", 4, payload(4, f8=root, f9=b""), reason.BAD_CID),
        ("notice with short signature", 5, payload(5, f8=root, f9=cid, f10=chain[:63]), reason.WRONG_LENGTH),
        ("notice with text digest", 5, payload(5, f8="x", f9=cid, f10=chain), reason.WRONG_TYPE),
        (
            "list notice with negative total",
            6,
            payload(6, f8=root, f9=cid, f10=-1, f11=0, f12=chain),
            reason.OUT_OF_RANGE,
        ),
        (
            "list notice with a boolean total",
            6,
            payload(6, f8=root, f9=cid, f10=0, f11=True, f12=chain),
            reason.WRONG_TYPE,
        ),
        ("list vote with 1 for true", 7, payload(7, f8=root, f9=1, f10=0), reason.WRONG_TYPE),
        ("list vote with reason 65536", 7, payload(7, f8=root, f9=False, f10=65536), reason.OUT_OF_RANGE),
        ("equivocation with an empty record", 8, payload(8, f8=b"", f9=GOOD), reason.WRONG_LENGTH),
        ("presence with 17 addresses", 9, payload(9, f8=["/"] * 17, f9=0, f10="", f11=0), reason.TOO_MANY),
        (
            "presence with a long address",
            9,
            payload(9, f8=["/" * 257], f9=0, f10="", f11=0),
            reason.WRONG_LENGTH,
        ),
        ("presence with bytes for address", 9, payload(9, f8=[b"/"], f9=0, f10="", f11=0), reason.WRONG_TYPE),
        ("presence with 33 roles", 9, payload(9, f8=[], f9=2**32, f10="", f11=0), reason.OUT_OF_RANGE),
        ("presence with long software", 9, payload(9, f8=[], f9=0, f10="x" * 65, f11=0), reason.WRONG_LENGTH),
    ]
    for name, kind, data, why in cases:
        yield Vector(name, signed(data, kind), why)


def bad_signatures() -> Iterator[Vector]:
    reason = RecordReason.BAD_SIGNATURE
    other_chain = sign(statement(Submission("Hello, World!")), digest("another genesis"), ALICE)
    yield Vector("signed for another chain", other_chain.raw, reason)
    other_task = sign(
        Statement(digest("another task"), 7, 4242, 0, Submission("Hello, World!")), GENESIS, ALICE
    )
    yield Vector("signed for another task", cose(GOOD_PAYLOAD, other_task.raw[-64:]), reason)
    yield Vector("signed as another kind", signed(GOOD_PAYLOAD, Kind.BALLOT), reason)
    yield Vector("signed by another", cose(GOOD_PAYLOAD, BOB.sign(b"anything")), reason)
    protected = cbor2.dumps({1: -8, 4: BOB.public_key})
    yield Vector("said to be by another", cose(GOOD_PAYLOAD, GOOD_SIGNATURE, protected), reason)
    yield Vector("payload alone is signed", cose(GOOD_PAYLOAD, ALICE.sign(GOOD_PAYLOAD)), reason)
    yield Vector("signature of zeros", cose(GOOD_PAYLOAD, bytes(64)), reason)
    scalar = int.from_bytes(GOOD_SIGNATURE[32:], "little") + GROUP_ORDER
    malleable = GOOD_SIGNATURE[:32] + scalar.to_bytes(32, "little")
    yield Vector("signature with S + L", cose(GOOD_PAYLOAD, malleable), reason)
    # With the neutral element as key and as R, and S = 0, the equation of RFC 8032 holds for every message.
    neutral = b"\x01" + bytes(31)
    field_prime = 2**255 - 19
    for name, key in {
        "neutral key": neutral,
        "neutral key, not canonical": (field_prime + 1).to_bytes(32, "little"),
        "neutral key with sign bit": b"\x01" + bytes(30) + b"\x80",
        "key of order two": (field_prime - 1).to_bytes(32, "little"),
        "key of order four": bytes(32),
        "key that is no point": b"\x02" + bytes(31),
    }.items():
        protected = cbor2.dumps({1: -8, 4: key})
        yield Vector(name, cose(GOOD_PAYLOAD, neutral + bytes(32), protected), reason)


class OtherNonce:
    """Signs for Bob as RFC 8032 section 5.1.6 says, but with a nonce that does not follow from the message."""

    public_key = BOB.public_key

    def sign(self, message: bytes) -> bytes:
        """Another valid signature than the one that Bob's key makes."""
        nonce = 7
        clamped = int.from_bytes(hashlib.sha512(BOB.seed).digest()[:32], "little") & (1 << 254) - 8 | 1 << 254
        point = crypto_scalarmult_ed25519_base_noclamp(nonce.to_bytes(32, "little"))
        challenge = int.from_bytes(hashlib.sha512(point + self.public_key + message).digest(), "little")
        return point + ((nonce + challenge * clamped) % GROUP_ORDER).to_bytes(32, "little")


def equivocations() -> Iterator[Vector]:
    """Equivocations are checked in two steps: as records, then for the conflict that they claim."""
    one = sign(statement(Submission("one")), GENESIS, BOB)
    other = sign(statement(Submission("other")), GENESIS, BOB)
    by_alice = sign(statement(Submission("other")), GENESIS, ALICE)
    later = sign(Statement(TASK, 8, 4300, 0, Submission("other")), GENESIS, BOB)
    presences = [sign(statement(Presence((), 0, "", free), seq=free), GENESIS, BOB).raw for free in (1, 2)]
    attempts = [sign(statement(ListVote(digest("r"), True, 0), seq), GENESIS, BOB).raw for seq in (0, 1)]
    stages = [sign(statement(Ballot(entries(1)), seq), GENESIS, BOB).raw for seq in (0, 1)]
    accused = [Challenge(digest(f"submission {index}"), digest("evidence")) for index in (0, 1)]
    challenges = [sign(statement(body, seq), GENESIS, BOB).raw for seq, body in enumerate(accused)]
    sealed = sign(statement(Ballot(seal=digest("seal"))), GENESIS, BOB)
    reveal = sign(statement(REVEAL), GENESIS, BOB)
    broken = other.raw[:-1] + bytes((other.raw[-1] ^ 1,))
    cases: dict[str, tuple[bytes, bytes, RecordReason]] = {
        "one record twice": (one.raw, one.raw, RecordReason.NOT_A_CONFLICT),
        "two authors": (one.raw, by_alice.raw, RecordReason.NOT_A_CONFLICT),
        "two rounds": (one.raw, later.raw, RecordReason.NOT_A_CONFLICT),
        "two presences": (presences[0], presences[1], RecordReason.NOT_A_CONFLICT),
        "votes on two attempts": (attempts[0], attempts[1], RecordReason.NOT_A_CONFLICT),
        "ballots of two stages": (stages[0], stages[1], RecordReason.NOT_A_CONFLICT),
        "challenges of two numbers": (challenges[0], challenges[1], RecordReason.NOT_A_CONFLICT),
        "a sealed ballot and its reveal": (sealed.raw, reveal.raw, RecordReason.NOT_A_CONFLICT),
        "an inner signature broken": (one.raw, broken, RecordReason.BAD_SIGNATURE),
        "an inner record cut": (one.raw, other.raw[:-1], RecordReason.TRUNCATED),
    }
    for name, (first, second, reason) in cases.items():
        body = Equivocation(*sorted((first, second)))
        yield Vector(name, sign(statement(body), GENESIS, ALICE).raw, reason)
    body = Equivocation(*sorted((one.raw, other.raw), reverse=True))
    yield Vector(
        "in descending order", sign(statement(body), GENESIS, ALICE).raw, RecordReason.NOT_A_CONFLICT
    )
    salted = sign(statement(BallotReveal(digest("other salt"), REVEAL.entries), seq=1), GENESIS, BOB)
    true: dict[str, tuple[Verified, Verified]] = {
        "a true one": (one, other),
        "one payload, signed with two nonces": (
            one,
            sign(statement(Submission("one")), GENESIS, OtherNonce()),
        ),
        "two open ballots of one stage": (
            sign(statement(Ballot(entries(1)), seq=1), GENESIS, BOB),
            sign(statement(Ballot(entries(2)), seq=1), GENESIS, BOB),
        ),
        "a sealed ballot and an open one": (sealed, sign(statement(Ballot(entries(1))), GENESIS, BOB)),
        "two seals": (sealed, sign(statement(Ballot(seal=digest("other seal"))), GENESIS, BOB)),
        "two reveals, whatever their seq": (reveal, salted),
        "two challenges of one number": (
            sign(statement(accused[0]), GENESIS, BOB),
            sign(statement(accused[1]), GENESIS, BOB),
        ),
    }
    for name, (first_record, second_record) in true.items():
        evidence = equivocation_of(first_record, second_record)
        yield Vector(name, sign(statement(evidence), GENESIS, ALICE).raw)


FILES = {
    "valid": (valid, "Records of every kind that must be accepted."),
    "malformed-encoding": (malformed_encoding, "Bytes that are not deterministic CBOR."),
    "malformed-message": (malformed_message, "Deterministic CBOR that is not our COSE_Sign1."),
    "malformed-statement": (malformed_statement, "Good messages whose payload breaks the schema."),
    "bad-signature": (bad_signatures, "Good statements whose signature must be refused."),
    "equivocation": (
        equivocations,
        "Records to decode and verify, and then the conflict to check.",
    ),
}


def render(name: str) -> str:
    """Return the text of one vector file."""
    make, about = FILES[name]
    vectors: list[dict[str, str]] = []
    for vector in make():
        entry = {"name": vector.name, "verdict": "refused" if vector.reason else "valid"}
        if vector.reason:
            entry["reason"] = vector.reason.value
        else:
            entry["id"] = hashlib.sha256(vector.record).hexdigest()
        entry["record"] = vector.record.hex()
        vectors.append(entry)
    names = [entry["name"] for entry in vectors]
    if len(set(names)) != len(names):
        raise ValueError(f"Two vectors of {name} have one name.")
    document = {"about": about, "genesis": GENESIS.hex(), "vectors": vectors}
    return json.dumps(document, indent=1, ensure_ascii=True) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description="Write the test vectors.")
    default = Path(__file__).parent.parent / "tests" / "vectors"
    parser.add_argument("--output", type=Path, default=default, help="the folder of all vectors")
    folder: Path = parser.parse_args().output / "records"
    folder.mkdir(parents=True, exist_ok=True)
    for name in FILES:
        (folder / f"{name}.json").write_text(render(name), encoding="ascii")


if __name__ == "__main__":
    main()
