from __future__ import annotations

from collections import Counter
from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from koii_p2p.data.challenge import (
    LEAF_BYTES,
    MAX_ANSWER_BYTES,
    Answer,
    Finding,
    answer,
    challenged_leaf,
    decode_answer,
    encode_answer,
    judge,
    leaf_count,
    shard_root,
)
from koii_p2p.data.reasons import DataError, DataReason
from koii_p2p.rounds import merkle
from koii_p2p.rounds.merkle import Proof

AUDITOR, HOLDER, BEACON = b"a" * 32, b"h" * 32, b"b" * 32

shards = st.integers(1, 12 * LEAF_BYTES).map(
    lambda length: (sha256(length.to_bytes(4)).digest() * 400)[:length]
)


@given(shards, st.binary(min_size=32, max_size=32), st.integers(0, 9))
def test_a_holder_can_answer_every_challenge(shard: bytes, beacon: bytes, draw: int) -> None:
    root = shard_root(shard)
    leaf = challenged_leaf(beacon, AUDITOR, HOLDER, root, len(shard), draw)
    given_answer = answer(shard, leaf)
    assert given_answer.leaf == shard[leaf * LEAF_BYTES :][:LEAF_BYTES]
    assert judge(given_answer, root, len(shard), leaf) is Finding.HELD
    assert decode_answer(encode_answer(given_answer)) == given_answer


@given(shards)
def test_the_root_is_that_of_the_leaves_and_only_the_leaf_asked_for_will_do(shard: bytes) -> None:
    leaves = [shard[start : start + LEAF_BYTES] for start in range(0, len(shard), LEAF_BYTES)]
    root = shard_root(shard)
    assert (root, len(leaves)) == (merkle.root(leaves), leaf_count(len(shard)))
    for asked in range(len(leaves)):
        for shown in range(len(leaves)):
            finding = judge(answer(shard, shown), root, len(shard), asked)
            assert (finding is Finding.HELD) == (asked == shown)


@given(shards, st.data())
def test_a_damaged_leaf_or_path_is_found(shard: bytes, data: st.DataObject) -> None:
    root = shard_root(shard)
    leaf = data.draw(st.integers(0, leaf_count(len(shard)) - 1))
    right = answer(shard, leaf)
    place = data.draw(st.integers(0, len(right.leaf) - 1))
    damaged = right.leaf[:place] + bytes((right.leaf[place] ^ 1,)) + right.leaf[place + 1 :]
    assert judge(Answer(damaged, right.proof), root, len(shard), leaf) is Finding.WRONG_PATH
    assert judge(Answer(right.leaf[:-1], right.proof), root, len(shard), leaf) is Finding.WRONG_LEAF
    longer = Proof((*right.proof.siblings, bytes(32)), right.proof.directions)
    assert judge(Answer(right.leaf, longer), root, len(shard), leaf) is Finding.WRONG_LEAF
    if right.proof.siblings:
        other = Proof((bytes(32), *right.proof.siblings[1:]), right.proof.directions)
        assert judge(Answer(right.leaf, other), root, len(shard), leaf) is Finding.WRONG_PATH
        short = Proof((b"", *right.proof.siblings[1:]), right.proof.directions)
        assert judge(Answer(right.leaf, short), root, len(shard), leaf) is Finding.WRONG_PATH
    assert judge(right, sha256(root).digest(), len(shard), leaf) is Finding.WRONG_PATH


def test_the_draw_depends_on_everything_and_reaches_every_leaf_alike() -> None:
    root, length = bytes(32), 64 * LEAF_BYTES
    drawn = Counter(
        challenged_leaf(number.to_bytes(32, "big"), AUDITOR, HOLDER, root, length) for number in range(6400)
    )
    assert sorted(drawn) == list(range(64))
    assert sum((count - 100) ** 2 for count in drawn.values()) / 100 < 104, (
        "chi-squared, 63 degrees, 1 in 1000"
    )
    first = [challenged_leaf(BEACON, AUDITOR, HOLDER, root, length, draw) for draw in range(20)]
    for others in (
        [challenged_leaf(bytes(32), AUDITOR, HOLDER, root, length, draw) for draw in range(20)],
        [challenged_leaf(BEACON, HOLDER, HOLDER, root, length, draw) for draw in range(20)],
        [challenged_leaf(BEACON, AUDITOR, AUDITOR, root, length, draw) for draw in range(20)],
        [challenged_leaf(BEACON, AUDITOR, HOLDER, bytes((1,)) * 32, length, draw) for draw in range(20)],
    ):
        assert first != others
    assert len(set(first)) > 10


def test_one_who_threw_a_quarter_away_is_found_as_often_as_the_formula_says() -> None:
    root, length, draws, rounds = bytes(32), 64 * LEAF_BYTES, 4, 4000
    found = sum(
        any(
            challenged_leaf(number.to_bytes(32, "big"), AUDITOR, HOLDER, root, length, draw) < 16
            for draw in range(draws)
        )
        for number in range(rounds)
    )
    expected = 1 - 0.75**draws
    sigma = (expected * (1 - expected) / rounds) ** 0.5
    assert abs(found / rounds - expected) < 3 * sigma


@pytest.mark.parametrize("leaf", [-1, 2])
def test_a_leaf_that_is_not_there_is_the_auditors_mistake(leaf: int) -> None:
    shard = bytes(LEAF_BYTES + 1)
    with pytest.raises(IndexError):
        answer(shard, leaf)
    with pytest.raises(IndexError):
        judge(answer(shard, 0), shard_root(shard), len(shard), leaf)


def test_the_largest_answer_fits() -> None:
    largest = Answer(bytes(LEAF_BYTES), Proof((bytes(32),) * merkle.MAX_DEPTH, 2**64 - 1))
    data = encode_answer(largest)
    assert len(data) <= MAX_ANSWER_BYTES
    assert decode_answer(data) == largest


@given(st.one_of(st.binary(max_size=300), st.just(bytes(MAX_ANSWER_BYTES + 1)), st.just(b"\x83\x40\xf5\x80")))
def test_bytes_that_are_no_answer_are_refused(data: bytes) -> None:
    with pytest.raises(DataError) as refused:
        decode_answer(data)
    assert refused.value.reason is DataReason.BAD_ANSWER
