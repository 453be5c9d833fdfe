from __future__ import annotations

import math
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from koii_p2p.records.schema import Verdict
from koii_p2p.tasks import audits
from koii_p2p.tasks.audits import AuditReason
from tests.tasks.conftest import Running


def test_recomputing() -> None:
    assert audits.recompute("a", lambda: "a") == audits.AS_EXPECTED
    assert bool(audits.recompute("a", lambda: "a"))
    found = audits.recompute("b", lambda: "a")
    assert (found.verdict, found.reason) == (Verdict.INVALID, AuditReason.DIFFERENT)
    assert not audits.recompute(1, lambda: True)  # equal to Python, but not what was computed


@pytest.mark.parametrize(
    ("submission", "reason"),
    [
        (10.4, AuditReason.AS_EXPECTED),
        ("9.5", AuditReason.AS_EXPECTED),
        ("10", AuditReason.AS_EXPECTED),
        (10.6, AuditReason.OUT_OF_TOLERANCE),
        ("nan", AuditReason.MALFORMED),
        (math.inf, AuditReason.MALFORMED),
        ("ten", AuditReason.MALFORMED),
        (True, AuditReason.MALFORMED),
        (b"10", AuditReason.MALFORMED),
        ("1" * 5000, AuditReason.MALFORMED),
        (None, AuditReason.MALFORMED),
    ],
)
def test_tolerance(submission: object, reason: AuditReason) -> None:
    found = audits.within(submission, 10, tolerance=0.5)
    assert found.reason is reason
    assert bool(found) is (reason is AuditReason.AS_EXPECTED)


def test_a_tolerance_that_means_nothing_is_an_error() -> None:
    for tolerance in (-1, math.nan, math.inf):
        with pytest.raises(ValueError, match="means nothing"):
            audits.within(1, 1, tolerance=tolerance)


@given(st.integers(0, 500), st.integers(0, 50), st.binary(max_size=40))
def test_a_sample_is_of_different_indices_and_the_same_everywhere(count: int, size: int, seed: bytes) -> None:
    drawn = audits.sample_indices(count, size, seed=seed)
    assert len(set(drawn)) == len(drawn) == min(count, size)
    assert list(drawn) == sorted(drawn)
    assert all(0 <= index < count for index in drawn)
    assert drawn == audits.sample_indices(count, size, seed=seed)


def test_a_sample_prefers_no_index() -> None:
    counts = Counter(
        index
        for number in range(4000)
        for index in audits.sample_indices(10, 3, seed=number.to_bytes(4, "big"))
    )
    # 4000 * 3/10 = 1200 each; standard deviation of a binomial sqrt(4000 * .3 * .7) = 29.
    assert all(abs(counts[index] - 1200) < 5 * 29 for index in range(10))


def test_items_of_a_list() -> None:
    items = [number * 2 for number in range(100)]

    def even(item: int) -> bool | None:
        return item % 2 == 0

    assert audits.sample_items(items, even, size=10, seed=b"s") == audits.AS_EXPECTED
    assert audits.sample_items(items, even, size=10, seed=b"s", at_least=101).reason is AuditReason.TOO_FEW
    bad = audits.sample_items([1] * 100, even, size=1, seed=b"s")
    assert (bad.verdict, bad.reason) == (Verdict.INVALID, AuditReason.WRONG_ITEM)
    unseen = audits.sample_items(items, lambda item: None, size=3, seed=b"s")
    assert (unseen.verdict, unseen.reason) == (Verdict.UNAVAILABLE, AuditReason.NOT_SERVED)
    mixed = audits.sample_items([0, 1], lambda item: None if item == 0 else False, size=2, seed=b"s")
    assert mixed.verdict is Verdict.INVALID  # what is proved wrong outweighs what could not be seen


@given(st.integers(1, 40), st.integers(0, 39), st.integers(0, 39))
def test_a_leaf_proves_its_own_place_only(count: int, index: int, other: int) -> None:
    index, other = index % count, other % count
    leaves = [number.to_bytes(2, "big") for number in range(count)]
    root = audits.merkle_root(leaves)

    def check(at: int, leaf: bytes) -> bool:
        return leaves[at] == leaf

    right = audits.spot_check(
        root, count, lambda at: audits.merkle_proof(leaves, at), check, size=count, seed=b"s"
    )
    assert right == audits.AS_EXPECTED
    moved = audits.spot_check(
        root,
        count,
        lambda at: audits.merkle_proof(leaves, other if at == index else at),
        check,
        size=count,
        seed=b"s",
    )
    assert bool(moved) is (other == index)


def test_spot_checks_of_what_is_missing_wrong_or_malformed() -> None:
    leaves = [b"a", b"b", b"c"]
    root = audits.merkle_root(leaves)

    def check(served: object, right: bool | None = True) -> audits.Audited:
        return audits.spot_check(root, 3, lambda at: served, lambda at, leaf: right, size=1, seed=b"1")  # type: ignore[arg-type, return-value]

    assert check(None).verdict is Verdict.UNAVAILABLE
    index = audits.sample_indices(3, 1, seed=b"1")[0]
    proof = audits.merkle_proof(leaves, index)
    assert check(proof).verdict is Verdict.VALID
    assert check(proof, right=False).reason is AuditReason.WRONG_ITEM
    assert check(proof, right=None).verdict is Verdict.UNAVAILABLE
    for bad in (
        {},
        {**proof, "leaf": "zz"},
        {**proof, "leaf": b"other".hex()},
        {**proof, "siblings": [1, 2]},
        {**proof, "siblings": []},
        {**proof, "directions": -1},
    ):
        assert check(bad).reason is AuditReason.WRONG_PROOF


def test_numbers_that_a_submitter_makes_up_do_not_stop_an_audit() -> None:
    assert audits.within(10**400, 1.5, tolerance=0.5).reason is AuditReason.OUT_OF_TOLERANCE
    nobody = lambda *_: None  # noqa: E731
    for count, reason in (
        (2**65, AuditReason.MALFORMED),
        (-1, AuditReason.MALFORMED),
        (0, AuditReason.TOO_FEW),
    ):
        found = audits.spot_check(bytes(32), count, nobody, nobody, size=2, seed=b"1")
        assert (found.verdict, found.reason) == (Verdict.INVALID, reason)
    with pytest.raises(ValueError, match="counts"):
        audits.sample_indices(2**65, 1, seed=b"1")


async def test_the_reason_reaches_the_node(running: Running, tmp_path: object) -> None:
    async with running("reasons.py") as runner:
        assert await runner.audit("42", 1, bytes(32)) == (Verdict.VALID, "as expected")
        verdict, detail = await runner.audit("41", 1, bytes(32))
        assert verdict is Verdict.INVALID
        assert detail.startswith("different from what was computed again: expected '42'")
        assert await runner.audit("gone", 1, bytes(32)) == (
            Verdict.UNAVAILABLE, "what was asked for could not be had: no such page",
        )  # fmt: skip
