from __future__ import annotations

import random
from dataclasses import dataclass, replace
from hashlib import sha256, shake_256
from itertools import pairwise
from math import ceil, log, log2

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from koii_p2p.limits import Limits
from koii_p2p.records.cbor import decode, encode
from koii_p2p.rounds.item_set import (
    EMPTY_FINGERPRINT,
    END,
    FIRST,
    ITEM_BYTES,
    ItemSet,
    id_of,
    item_of,
)
from koii_p2p.rounds.range_messages import LEAST_MESSAGE_BYTES, Mode, ReconcileError, parse
from koii_p2p.rounds.reconcile import BUCKETS, LISTED, Reconciler

LIMITS = Limits()
SMALL = replace(LIMITS, reconcile_message_bytes=LEAST_MESSAGE_BYTES, reconcile_round_trips=100_000)


@dataclass(frozen=True)
class Exchange:
    have: list[bytes]
    need: list[bytes]
    messages: list[bytes]  # question, answer, question, ...

    @property
    def trips(self) -> int:
        return len(self.messages) // 2

    @property
    def size(self) -> int:
        return sum(map(len, self.messages))

    @property
    def largest(self) -> int:
        return max(map(len, self.messages))


def reconcile(ours: list[bytes], theirs: list[bytes], limits: Limits = LIMITS) -> Exchange:
    initiator, responder_items = Reconciler(ours, limits), ItemSet(theirs)
    have: list[bytes] = []
    need: list[bytes] = []
    messages: list[bytes] = []
    question: bytes | None = initiator.initiate()
    while question is not None:
        answer = Reconciler(responder_items, limits).respond(question)  # a new one: it remembers nothing
        messages += question, answer
        question, found, lacking = initiator.receive(answer)
        have += found
        need += lacking
    return Exchange(have, need, messages)


def assert_exact(exchange: Exchange, ours: list[bytes], theirs: list[bytes], limits: Limits = LIMITS) -> None:
    assert sorted(exchange.have) == sorted(id_of(item) for item in set(theirs) - set(ours))
    assert sorted(exchange.need) == sorted(id_of(item) for item in set(ours) - set(theirs))
    assert exchange.largest <= limits.reconcile_message_bytes


def random_items(count: int, seed: int) -> list[bytes]:
    source = random.Random(seed)
    return [item_of(source.randint(1, 9), source.randbytes(32), source.randbytes(32)) for _ in range(count)]


def close_items(count: int, seed: int) -> list[bytes]:
    """Items of one kind and one author whose ids differ at the end only: the longest bounds there are."""
    numbers = random.Random(seed).sample(range(2**24), count)
    return [item_of(2, b"\x07" * 32, b"\x09" * 29 + number.to_bytes(3, "big")) for number in numbers]


# Bytes at both ends of their range, and long common prefixes, are what bounds may get wrong.
tails = st.binary(min_size=2, max_size=2) | st.sampled_from([b"\x00\x00", b"\xff\xff", b"\x00\xff"])
fillers = st.sampled_from([b"\x00", b"\x55", b"\xff"])
small_items = st.builds(
    lambda kind, author, filler, tail: item_of(kind, author * 32, (filler * 30 + tail)[:32]),
    st.sampled_from([0, 1, 2, 255]),
    fillers,
    fillers,
    tails,
)


def without_shared_ids(items: list[bytes]) -> list[bytes]:
    return list({id_of(item): item for item in items}.values())


small_pools = st.lists(small_items, max_size=120).map(without_shared_ids)


@given(small_pools, st.randoms(use_true_random=False), st.sampled_from([LIMITS, SMALL]))
@settings(max_examples=120)
def test_any_two_small_sets(pool: list[bytes], source: random.Random, limits: Limits) -> None:
    sides = [source.randrange(3) for _ in pool]
    ours = [item for item, side in zip(pool, sides, strict=True) if side != 1]
    theirs = [item for item, side in zip(pool, sides, strict=True) if side != 2]
    assert_exact(reconcile(ours, theirs, limits), ours, theirs, limits)
    assert_exact(reconcile(theirs, ours, limits), theirs, ours, limits)


@given(
    st.integers(0, 1500),
    st.integers(0, 400),
    st.integers(0, 400),
    st.integers(0, 2**32),
    st.booleans(),
    st.sampled_from([512, 700, 4096, 256 * 1024]),
)
@settings(max_examples=60)
def test_any_two_larger_sets(
    common: int, ours_only: int, theirs_only: int, seed: int, close: bool, max_bytes: int
) -> None:
    pool = (close_items if close else random_items)(common + ours_only + theirs_only, seed)
    ours = pool[: common + ours_only]
    theirs = pool[:common] + pool[common + ours_only :]
    limits = replace(SMALL, reconcile_message_bytes=max_bytes)
    exchange = reconcile(ours, theirs, limits)
    assert_exact(exchange, ours, theirs, limits)


NAMED = random_items(3001, seed=1)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ([], []),
        ([], NAMED),
        (NAMED, []),
        (NAMED, NAMED),
        (NAMED[:1500], NAMED[1500:]),
        (NAMED[::2], NAMED),
        (NAMED, NAMED[::2]),
        (NAMED[1:], NAMED),
        (NAMED, NAMED[1:]),
        (sorted(NAMED)[:-1], NAMED),
        (sorted(NAMED)[1:], NAMED),
        (NAMED[1:], NAMED[:-1]),
        ([bytes(ITEM_BYTES)], [b"\xff" * ITEM_BYTES]),
    ],
)
@pytest.mark.parametrize("limits", [LIMITS, SMALL])
def test_named_sets(ours: list[bytes], theirs: list[bytes], limits: Limits) -> None:
    assert_exact(reconcile(ours, theirs, limits), ours, theirs, limits)


def test_equal_sets_cost_one_round_trip_of_less_than_100_bytes() -> None:
    for items in ([], NAMED[:1], NAMED):
        exchange = reconcile(items, items[::-1])
        assert exchange.trips == 1
        assert exchange.size < 100


BYTES_PER_DIFFERENCE_AND_LEVEL = 75
"""c in: bytes of both directions <= c * (d + 1) * log2(n). One id takes 32, one fingerprint 23 of them."""


@pytest.mark.parametrize("differences", [0, 1, 2, 10, 100, 1000, 10_000])
def test_the_cost_grows_with_the_difference_and_the_logarithm_of_the_set(differences: int) -> None:
    count = 20_000
    pool = random_items(count, seed=differences)
    ours, theirs = pool[differences // 2 :], pool[: count - (differences + 1) // 2]
    exchange = reconcile(ours, theirs)
    assert_exact(exchange, ours, theirs)
    assert len(exchange.have) + len(exchange.need) == differences
    measured = exchange.size / ((differences + 1) * log2(count))
    assert measured <= BYTES_PER_DIFFERENCE_AND_LEVEL, (
        f"{differences} differences in {count} items: {exchange.size} bytes, c = {measured:.1f}"
    )


@pytest.mark.parametrize("count", [1, 33, 500, 5000, 20_000])
def test_the_number_of_round_trips_is_logarithmic(count: int) -> None:
    pool = random_items(count + 1, seed=count)
    levels = ceil(log(max(count / LISTED, 1), BUCKETS))  # splits until what differs may be listed
    for exchange in (reconcile(pool, pool[1:]), reconcile(pool[1:], pool), reconcile(pool[1:], pool[:-1])):
        # Both sides split, one level per message; the last trip wants a list and gets it.
        assert exchange.trips <= 2 + ceil(levels / 2), f"{count} items: {exchange.trips} round trips"


def test_who_has_nothing_learns_everything_at_once() -> None:
    assert reconcile([], NAMED).trips == reconcile(NAMED, []).trips == 1


def test_what_one_message_cannot_hold_comes_in_the_next_and_nothing_twice() -> None:
    limits = replace(SMALL, reconcile_message_bytes=4096)
    exchange = reconcile([], NAMED, limits)
    assert_exact(exchange, [], NAMED, limits)
    least = 32 * len(NAMED) / 4096
    assert least <= exchange.trips <= 1.1 * least + 1


def test_full_messages_are_the_only_reason_for_more_round_trips() -> None:
    ours, theirs = NAMED[:2000], NAMED[1000:]
    for max_bytes in (512, 2048, 16 * 1024):
        limits = replace(SMALL, reconcile_message_bytes=max_bytes)
        exchange = reconcile(ours, theirs, limits)
        assert exchange.trips <= 4 + 4 * exchange.size / max_bytes, f"{max_bytes}: {exchange.trips}"


def test_the_same_sets_make_the_same_bytes_in_whatever_order_they_are_given() -> None:
    ours, theirs = NAMED[:2900], NAMED[100:]
    shuffled = random.Random(2).sample(ours, len(ours)) + ours[:10]
    assert reconcile(ours, theirs).messages == reconcile(shuffled, theirs[::-1]).messages


def answer_in_another_way(items: ItemSet, question: bytes, ways: int, listed: int) -> bytes:
    """A responder made from the description alone: `ways` ranges of equal width in the key space, not in items."""
    answer: list[list[object]] = []
    for asked in parse(question, LIMITS.reconcile_message_bytes):
        start, stop = items.position(asked.lower), items.position(asked.upper)
        wire = b"" if asked.upper == END else asked.upper
        if asked.mode is Mode.SKIP or asked.payload == items.fingerprint(start, stop):
            if answer and answer[-1][1] == 0:
                answer.pop()
            answer.append([wire, 0])
            continue
        lower = int.from_bytes(asked.lower.ljust(66, b"\x00"), "big")
        width = int.from_bytes(asked.upper.ljust(66, b"\x00"), "big") - lower
        points = [
            (lower + width * way // ways).to_bytes(66, "big")[:65].rstrip(b"\x00") for way in range(1, ways)
        ]
        bounds = [
            asked.lower,
            *(p for p in sorted(set(points)) if asked.lower < p < asked.upper),
            asked.upper,
        ]
        if asked.mode is Mode.WANT or stop - start <= listed or len(bounds) == 2:
            answer.append([wire, 2, b"".join(items.ids(start, stop))])
            continue
        for left, right in pairwise(bounds):
            part = items.fingerprint(items.position(left), items.position(right))
            answer.append([b"" if right == END else right, 1, part])
    return encode(answer)


@pytest.mark.parametrize(("ways", "listed"), [(2, 0), (3, 100), (7, 1), (16, 10_000)])
def test_another_way_to_split_is_understood(ways: int, listed: int) -> None:
    ours, theirs = NAMED[:2000], NAMED[40:2100]
    initiator, items = Reconciler(ours, LIMITS), ItemSet(theirs)
    question: bytes | None = initiator.initiate()
    have: list[bytes] = []
    need: list[bytes] = []
    while question is not None:
        question, found, lacking = initiator.receive(answer_in_another_way(items, question, ways, listed))
        have += found
        need += lacking
    assert_exact(Exchange(have, need, [b""]), ours, theirs)


def test_a_new_exchange_forgets_the_one_under_way() -> None:
    initiator = Reconciler(NAMED[1:], LIMITS)
    responder = Reconciler(NAMED, LIMITS)
    first = initiator.initiate()
    initiator.receive(responder.respond(first))
    assert initiator.initiate() == first
    question, have = initiator.receive(responder.respond(first)).message, []
    while question is not None:
        question, found, _ = initiator.receive(responder.respond(question))
        have += found
    assert have == [id_of(NAMED[0])]


def test_a_responder_that_learns_during_the_exchange_is_no_error() -> None:
    initiator = Reconciler(NAMED[500:2500], LIMITS)
    question: bytes | None = initiator.initiate()
    have: set[bytes] = set()
    known = 2000
    while question is not None:
        question, found, _ = initiator.receive(Reconciler(NAMED[:known], LIMITS).respond(question))
        have |= set(found)
        known = min(known + 300, len(NAMED))
    assert {id_of(item) for item in NAMED[:500]} <= have <= {id_of(item) for item in NAMED}


# --- the set and its fingerprints ---


def test_fingerprints_are_as_described() -> None:
    items = ItemSet(NAMED[:50])
    total = sum(int.from_bytes(shake_256(item).digest(128), "big") for item in sorted(NAMED[:50])[7:31])
    expected = sha256((total % 2**1024).to_bytes(128, "big") + (24).to_bytes(8, "big")).digest()[:16]
    assert items.fingerprint(7, 31) == expected
    assert items.fingerprint(7, 7) == EMPTY_FINGERPRINT == sha256(bytes(136)).digest()[:16]
    assert items.fingerprint(7, 31) != items.fingerprint(7, 30)


def test_bounds_separate_neighbours_and_end_without_zero() -> None:
    for pool in (NAMED, close_items(500, seed=3)):
        items, ordered = ItemSet(pool), sorted(pool)
        for index in range(1, len(ordered)):
            bound = items.bound_before(index)
            assert ordered[index - 1] < bound <= ordered[index]
            assert bound[-1] != 0
            assert items.position(bound) == index
        assert items.position(FIRST) == 0
        assert items.position(END) == len(items) == len(ordered)


def test_items_have_a_form() -> None:
    with pytest.raises(ValueError, match="65 bytes"):
        ItemSet([b"short"])
    with pytest.raises(ValueError, match="one id"):
        ItemSet([item_of(1, bytes(32), bytes(32)), item_of(2, bytes(32), bytes(32))])
    for kind, author, id in ((256, bytes(32), bytes(32)), (1, bytes(31), bytes(32)), (1, bytes(32), b"")):
        with pytest.raises(ValueError, match="kind"):
            item_of(kind, author, id)
    with pytest.raises(ValueError, match="reconcile_message_bytes"):
        Reconciler([], replace(LIMITS, reconcile_message_bytes=LEAST_MESSAGE_BYTES - 1))


# --- hostile messages ---

FINGERPRINT = b"\x11" * 16


@pytest.mark.parametrize(
    "message",
    [
        b"",
        b"\x80\x80",  # two items
        b"\x9f\xff",  # indefinite length
        b"\x9b" + b"\xff" * 8,  # 2**64 - 1 ranges
        b"\x81\x83\x40\x02\x5b" + b"\xff" * 8,  # ids of 2**64 - 1 bytes
        encode({0: 1}),
        encode(7),
        encode([7]),
        encode([[]]),
        encode([[b""]]),
        encode([[b"", 0, b"", 0]]),
        encode([[[], 0]]),
        encode([["", 3]]),
        encode([[b"\x01", 4]]),
        encode([[b"\x01", -1]]),
        encode([[b"\x01", True, FINGERPRINT]]),
        encode([[b"\x01", 0, b""]]),
        encode([[b"\x01", 3, b""]]),
        encode([[b"\x01", 1]]),
        encode([[b"\x01", 1, b"\x11" * 15]]),
        encode([[b"\x01", 2, b"\x11" * 33]]),
        encode([[b"\x01", 2, 32]]),
        encode([[b"\x02", 3], [b"\x01", 3]]),  # out of order
        encode([[b"\x01", 3], [b"\x01", 3]]),  # an empty range
        encode([[b"\x01\x00", 3]]),  # another way to say b"\x01"
        encode([[b"\x01" * 66, 3]]),
        encode([[b"", 3], [b"\x01", 3]]),  # beyond the end
        encode([[b"", 3], [b"", 3]]),
        encode([[b"\x01", 0], [b"\x02", 0]]),
    ],
)
def test_bad_messages_are_refused_by_both_sides(message: bytes) -> None:
    reconciler = Reconciler(NAMED[:100], LIMITS)
    with pytest.raises(ReconcileError):
        reconciler.respond(message)
    reconciler.initiate()
    with pytest.raises(ReconcileError):
        reconciler.receive(message)
    with pytest.raises(RuntimeError):
        reconciler.receive(message)  # the exchange is over


def test_a_question_may_not_list_ids_and_no_message_is_longer_than_the_limit() -> None:
    with pytest.raises(ReconcileError, match="question lists"):
        Reconciler(NAMED, LIMITS).respond(encode([[b"", 2, bytes(32)]]))
    with pytest.raises(ReconcileError, match="at most 512"):
        Reconciler(NAMED, SMALL).respond(encode([[bytes((1, i)), 3] for i in range(1, 200)]))


UNKNOWN = b"\x22" * 32


@pytest.mark.parametrize(
    "answer",
    [
        [],  # no answer
        [[b"\x05", 0]],  # a part skipped
        [[b"\x05", 0], [b"", 1, FINGERPRINT]],
        [[b"\x05", 1, FINGERPRINT], [b"", 0]],
        [[b"", 3]],
        [[b"", 2, UNKNOWN + UNKNOWN]],
        [[b"\x05", 2, UNKNOWN], [b"", 2, UNKNOWN]],
        [[b"\x01\x01", 2, id_of(max(NAMED))], [b"", 2, b""]],  # ours, but elsewhere
    ],
)
def test_dishonest_answers_to_the_first_question(answer: list[list[object]]) -> None:
    initiator = Reconciler(NAMED, LIMITS)
    initiator.initiate()
    with pytest.raises(ReconcileError):
        initiator.receive(encode(answer))


@pytest.mark.parametrize(
    "answer",
    [
        [[b"\x02", 1, FINGERPRINT]],  # splits what must be listed
        [[b"\x02", 0]],  # skips what must be listed
        [[b"\x03", 2, UNKNOWN]],  # beyond the question
        [[b"\x01\x80", 2, UNKNOWN], [b"\x02", 0]],
        [[b"\x02", 2, UNKNOWN], [b"\x03", 0]],
        [[b"\x02", 2, UNKNOWN], [b"\x03", 2, b""]],
    ],
)
def test_dishonest_answers_to_a_want(answer: list[list[object]]) -> None:
    initiator = Reconciler([item_of(1, bytes(32), bytes(32))], LIMITS)
    initiator.initiate()
    step = initiator.receive(encode([[b"\x02", 1, FINGERPRINT], [b"", 1, EMPTY_FINGERPRINT]]))
    assert step.message == encode([[b"\x02", 3]])
    with pytest.raises(ReconcileError):
        initiator.receive(encode(answer))


def test_an_endless_answer_ends() -> None:
    limits = replace(LIMITS, reconcile_round_trips=20, round_records=30)
    initiator = Reconciler([], limits)
    initiator.initiate()
    answers = [encode([[b"\x01", 2, (1).to_bytes(32, "big")]])]
    answers += [
        encode([[bytes((trip - 1,)), 0], [bytes((trip,)), 2, trip.to_bytes(32, "big")]])
        for trip in range(2, 21)
    ]
    for answer in answers[:-1]:
        assert len(initiator.receive(answer).have) == 1
    with pytest.raises(ReconcileError, match="20 round trips"):
        initiator.receive(answers[-1])
    initiator.initiate()
    with pytest.raises(ReconcileError, match="More ids"):
        initiator.receive(encode([[b"", 2, b"".join(number.to_bytes(32, "big") for number in range(31))]]))


hostile_bounds = st.binary(max_size=4) | st.binary(max_size=66) | st.sampled_from([b"", *NAMED[:3]])
hostile_payloads = st.sampled_from([FINGERPRINT, EMPTY_FINGERPRINT, b"", UNKNOWN, id_of(NAMED[0])])
hostile_ranges = st.one_of(
    st.tuples(hostile_bounds, st.sampled_from([0, 3])).map(list),
    st.tuples(hostile_bounds, st.sampled_from([1, 2]), hostile_payloads).map(list),
    st.lists(st.integers(-1, 4) | hostile_bounds | st.none() | st.text(max_size=2), max_size=4),
)


def in_order(ranges: list[list[object]]) -> list[list[object]]:
    """Bounds that mostly ascend reach further than the parser."""
    chosen = {entry[0]: entry for entry in ranges if entry and isinstance(entry[0], bytes)}
    return [chosen[bound] for bound in sorted(chosen, key=lambda bound: bound or END)]


hostile_messages = st.one_of(
    st.binary(max_size=100),
    st.lists(hostile_ranges, max_size=8).map(encode),
    st.lists(hostile_ranges, max_size=12).map(in_order).map(encode),
)
VICTIM = ItemSet(NAMED)
OTHER = ItemSet(random_items(3020, seed=1)[10:])


@given(st.lists(hostile_messages, min_size=1, max_size=4), st.sampled_from([LIMITS, SMALL]))
@settings(max_examples=300)
def test_hostile_bytes_raise_one_error_and_get_bounded_answers(messages: list[bytes], limits: Limits) -> None:
    victim = Reconciler(VICTIM, limits)
    for message in messages:
        try:
            assert len(victim.respond(message)) <= limits.reconcile_message_bytes
        except ReconcileError:
            continue
    victim.initiate()
    try:
        for message in messages:
            step = victim.receive(message)
            assert set(step.have).isdisjoint(id_of(item) for item in NAMED)
            if step.message is None:
                break
            assert len(step.message) <= limits.reconcile_message_bytes
    except ReconcileError:
        with pytest.raises(RuntimeError):
            victim.receive(messages[0])


@given(st.data())
@settings(max_examples=150)
def test_honest_messages_that_were_tampered_with(data: st.DataObject) -> None:
    initiator, responder = Reconciler(VICTIM, LIMITS), Reconciler(OTHER, LIMITS)
    question = initiator.initiate()
    for _ in range(data.draw(st.integers(0, 1))):
        question = initiator.receive(responder.respond(question)).message or b""
    answer = responder.respond(question)
    for message, take in ((question, responder.respond), (answer, initiator.receive)):
        position = data.draw(st.integers(0, len(message) - 1))
        changed = bytearray(message)
        changed[position] ^= data.draw(st.integers(1, 255))
        assume(bytes(changed) != message)
        try:
            taken = take(bytes(changed))
        except ReconcileError:
            continue
        assert taken is not None


def test_the_most_expensive_questions_get_no_more_than_the_limit() -> None:
    whole = encode([[b"", 3]])
    every_byte = [bytes((kind, first)) for kind in range(1, 10) for first in range(1, 256)]
    for limits in (LIMITS, replace(LIMITS, reconcile_message_bytes=64 * 1024)):
        responder = Reconciler(VICTIM, limits)
        for question in (
            whole,
            encode([[b"", 1, FINGERPRINT]]),
            encode([[bound, 1, FINGERPRINT] for bound in every_byte]),
            encode([[bound, 3] for bound in every_byte]),
        ):
            answer = responder.respond(question)
            assert len(answer) <= limits.reconcile_message_bytes
            assert decode(answer, max_bytes=limits.reconcile_message_bytes, max_depth=2)


# --- the bytes, for other implementations ---


def test_a_transcript() -> None:
    low, high = item_of(1, b"\x01" * 32, b"\xaa" * 32), item_of(2, b"\x02" * 32, b"\xbb" * 32)
    exchange = reconcile([low], [low, high])
    fingerprint = ItemSet([low]).fingerprint(0, 1)
    assert exchange.messages == [
        bytes.fromhex("81834001" + "50") + fingerprint,
        bytes.fromhex("81834002" + "5840") + b"\xaa" * 32 + b"\xbb" * 32,
    ]
    assert fingerprint.hex() == sha256(shake_256(low).digest(128) + (1).to_bytes(8, "big")).hexdigest()[:32]
    assert (exchange.have, exchange.need) == ([b"\xbb" * 32], [])


def test_ranges_of_an_honest_answer_lie_side_by_side() -> None:
    answer = Reconciler(NAMED, LIMITS).respond(Reconciler(NAMED[1:], LIMITS).initiate())
    ranges = parse(answer, LIMITS.reconcile_message_bytes)
    assert [part.mode for part in ranges] == [Mode.FINGERPRINT] * BUCKETS
    assert ranges[0].lower == FIRST
    assert ranges[-1].upper == END
    assert all(left.upper == right.lower for left, right in pairwise(ranges))
