"""Vectors of reconciliation: fingerprints, refused messages, and whole exchanges with every message's bytes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from hashlib import sha256
from typing import Final

import cbor2

from koii_p2p.limits import Limits
from koii_p2p.rounds.item_set import ItemSet, id_of
from koii_p2p.rounds.reconcile import Reconciler
from round_vectors.world import Json, VectorFile, digest

RULE: Final = (
    "kind 1 + number % 3, author SHA-256('author ' + number % 50), id SHA-256('id ' + number), decimal"
)
Numbers = Sequence[Sequence[int]]
"""Half-open ranges of item numbers."""


def item(number: int) -> bytes:
    """The item with this number."""
    author = sha256(b"author %d" % (number % 50)).digest()
    return bytes((1 + number % 3,)) + author + sha256(b"id %d" % number).digest()


def numbers_of(ranges: Numbers) -> set[int]:
    """All numbers in some ranges."""
    return {number for first, last in ranges for number in range(first, last)}


def fingerprints() -> VectorFile:
    """Fingerprints of small sets."""
    file = VectorFile("SHA-256(sum of SHAKE-256(item, 128 bytes) modulo 2**1024 || number of items)[:16].")
    file.plain["items"] = RULE
    for name, why, ranges in (
        ("nothing", "The sum 0 of 0 items.", []),
        ("one item", "One hash.", [[0, 1]]),
        ("two items", "Their sum.", [[0, 2]]),
        ("the other two", "The sum of [0, 4) less that of [0, 2).", [[2, 4]]),
        ("a hundred", "The sum overflows 1024 bits.", [[0, 100]]),
    ):
        held = ItemSet(map(item, numbers_of(ranges)))
        value = held.fingerprint(0, len(held))
        file.case(name, why, numbers=ranges, expect={"fingerprint": value.hex()})
    return file


def exchanges() -> VectorFile:
    """Whole exchanges."""
    file = VectorFile(
        "Each message of an exchange in order: a question of A, an answer of B, and what A learns from it. Splits into "
        "16 ranges, lists up to 32 items. Another implementation may split otherwise; the difference must be the same."
    )
    file.plain["items"] = RULE
    usual = Limits().reconcile_message_bytes

    def case(name: str, why: str, a: Numbers, b: Numbers, limit: int = usual) -> None:
        limits = replace(Limits(), reconcile_message_bytes=limit)
        one, other = (Reconciler(map(item, numbers_of(side)), limits) for side in (a, b))
        trips: list[Json] = []
        question: bytes | None = one.initiate()
        while question is not None:
            answer = other.respond(question)
            step = one.receive(answer)
            trips.append(
                {
                    "question": question.hex(),
                    "answer": answer.hex(),
                    "have": [id_.hex() for id_ in step.have],
                    "need": [id_.hex() for id_ in step.need],
                }
            )
            question = step.message
        lacks, offers = numbers_of(b) - numbers_of(a), numbers_of(a) - numbers_of(b)

        def ids(side: set[int]) -> list[str]:
            return sorted(id_of(item(number)).hex() for number in side)

        expect = {"a_lacks": ids(lacks), "b_lacks": ids(offers)}
        file.case(name, why, a=a, b=b, message_bytes=limit, trips=trips, expect=expect)

    case("both empty", "One round trip of 25 bytes.", [], [])
    case("equal", "The same, whatever their size.", [[0, 100]], [[0, 100]])
    case("A is empty", "Its fingerprint says so, and B lists at once.", [], [[0, 5]])
    case("B is empty", "B lists nothing, and A knows what B lacks.", [[0, 5]], [])
    case("nothing in common", "Two small sets.", [[0, 4]], [[4, 7]])
    case("one of 32 missing", "Up to 32 items are listed instead of split.", [[0, 31]], [[0, 32]])
    case("one of 33 missing", "33 are split, one range differs, and is listed.", [[0, 32]], [[0, 33]])
    case("three of 600", "Two levels. Each side lacks something.", [[0, 599]], [[0, 300], [302, 600]])
    case(
        "a limit of 512 bytes",
        "Messages end where they are full; what was not answered is asked again.",
        [[0, 60]],
        [[20, 80]],
        512,
    )
    return file


def refused() -> VectorFile:
    """Messages that no honest peer sends."""
    file = VectorFile(
        "Messages that a responder refuses as a question (to_question: true), or an initiator as the answer to its "
        "first question, which was one fingerprint of the whole order. Both hold the items [0, 40)."
    )
    file.plain |= {"items": RULE, "numbers": [[0, 40]]}
    fingerprint, one_id = digest("f")[:16], digest("an id")
    whole = [b"", 1, fingerprint]
    cases: list[tuple[str, str, object, bool]] = [
        ("not a list", "A message is a list of ranges.", {}, True),
        ("a range is not a list", "It is a list of two or three.", [0], True),
        ("a range of one", "It is a list of two or three.", [[b""]], True),
        ("a range of four", "It is a list of two or three.", [[b"", 1, fingerprint, 0]], True),
        ("a bound of text", "It is a byte string.", [["", 0]], True),
        ("a bound of 66 bytes", "It is at most an item.", [[b"\x01" * 66, 0]], True),
        (
            "a bound that ends with zero",
            "It would say the same as the bound without it.",
            [[b"\x01\x00", 0]],
            True,
        ),
        ("mode 4", "There are four.", [[b"", 4]], True),
        ("mode true", "It is an integer.", [[b"", True, fingerprint]], True),
        ("a skip with a payload", "It has none.", [[b"", 0, b""]], True),
        ("a fingerprint without payload", "It has one.", [[b"", 1]], True),
        ("a fingerprint of 15 bytes", "It has 16.", [[b"", 1, fingerprint[:15]]], True),
        ("a fingerprint of text", "It is a byte string.", [[b"", 1, "x" * 16]], True),
        (
            "bounds that descend",
            "They ascend strictly.",
            [[b"\x02", 1, fingerprint], [b"\x01", 1, fingerprint]],
            True,
        ),
        ("one bound twice", "They ascend strictly.", [[b"\x02", 1, fingerprint], [b"\x02", 0]], True),
        ("a range behind the end", "The empty bound is the last.", [whole, [b"", 0]], True),
        ("two skips in a row", "They are one.", [[b"\x01", 0], [b"", 0]], True),
        ("a question that lists", "Only an answer does.", [[b"", 2, one_id]], True),
        ("ids of 33 bytes", "A multiple of 32.", [[b"", 2, one_id + b"x"]], False),
        ("one id twice", "Each once.", [[b"", 2, one_id * 2]], False),
        ("one id in two ranges", "Each once.", [[b"\x02", 2, one_id], [b"", 2, one_id]], False),
        (
            "an item where it is not",
            "Items of kind 1 are below the bound 02.",
            [[b"\x02", 2, b""], [b"", 2, id_of(item(0))]],
            False,
        ),
        ("an answer that wants", "Only a question does.", [[b"", 3]], False),
        ("nothing answered", "Something of the first range is answered in every message.", [], False),
        ("half of it skipped", "A range is equal from end to end, or not at all.", [[b"\x02", 0]], False),
        (
            "an answer behind a gap",
            "An answer begins where the question does.",
            [[b"\x02", 0], [b"", 2, b""]],
            False,
        ),
    ]
    for name, why, value, to_question in cases:
        message = cbor2.dumps(value, canonical=True).hex()
        file.case(name, why, message=message, to_question=to_question)
    file.case(
        "not deterministic", "A length in two bytes where one does.", message="980180", to_question=True
    )
    file.case("not CBOR", "An empty message.", message="", to_question=True)
    return file


FILES: Final[dict[str, Callable[[], VectorFile]]] = {
    "fingerprints": fingerprints,
    "exchanges": exchanges,
    "refused": refused,
}
