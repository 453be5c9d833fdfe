from __future__ import annotations

import random
from collections import Counter
from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from koii_p2p.rounds.assignment import AuditAssignment
from koii_p2p.rounds.roster import Roster, RosterEntry
from tests.rounds.net import key, roster

BEACON = sha256(b"beacon").digest()


def fake_key(index: int) -> bytes:
    return sha256(b"key %d" % index).digest()


def members(stakes: list[int]) -> Roster:
    entries = [RosterEntry(fake_key(i), stake, 0, bytes(32)) for i, stake in enumerate(stakes)]
    return Roster(0, tuple(sorted(entries, key=lambda entry: entry.key)))


stakes = st.lists(st.integers(0, 2**64 - 1) | st.integers(0, 3), min_size=1, max_size=40)


@given(stakes, st.integers(1, 12), st.integers(0, 45), st.binary(min_size=32, max_size=32))
def test_distinct_others_and_as_many_as_possible(
    amounts: list[int], auditors: int, author: int, beacon: bytes
) -> None:
    group = members(amounts)
    chosen = AuditAssignment(beacon, group, auditors).auditors_of(fake_key(author))
    others = set(group.keys) - {fake_key(author)}
    assert len(chosen) == len(set(chosen)) == min(auditors, len(others))
    assert set(chosen) <= others
    assert chosen == AuditAssignment(beacon, members(amounts), auditors).auditors_of(fake_key(author))


def test_the_order_of_the_roster_input_does_not_matter() -> None:
    entries = [RosterEntry(fake_key(i), 10 + i, 0, bytes(32)) for i in range(30)]
    shuffled = entries[:]
    random.Random(2).shuffle(shuffled)
    one, other = (
        AuditAssignment(BEACON, Roster(0, tuple(sorted(order, key=lambda entry: entry.key))), 5)
        for order in (entries, shuffled)
    )
    assert all(one.auditors_of(fake_key(i)) == other.auditors_of(fake_key(i)) for i in range(30))


def test_alone_nobody_audits() -> None:
    assert AuditAssignment(BEACON, roster(1), 5).auditors_of(key(0)) == ()
    assert AuditAssignment(BEACON, Roster(0, ()), 5).auditors_of(key(0)) == ()


def test_with_few_others_everybody_audits() -> None:
    assignment = AuditAssignment(BEACON, roster(4), 3)
    assert set(assignment.auditors_of(key(0))) == {key(1), key(2), key(3)}


def test_another_beacon_draws_others() -> None:
    group = members([1] * 200)
    draws = {AuditAssignment(bytes([i]) * 32, group, 5).auditors_of(fake_key(0)) for i in range(20)}
    assert len(draws) == 20


def chi_square(observed: dict[int, int], expected: dict[int, float]) -> float:
    return sum((observed.get(i, 0) - share) ** 2 / share for i, share in expected.items())


def test_the_first_draw_is_weighted_by_stake() -> None:
    # 8 classes: 7 degrees of freedom, 24.3 is the 99.9 % quantile. One fixed seed, so never flaky.
    weights = [1, 1, 2, 3, 5, 8, 13, 21]
    group = members(weights)
    names = {fake_key(i): i for i in range(8)}
    draws = 4000
    first = Counter(
        names[AuditAssignment(sha256(b"%d" % i).digest(), group, 1).auditors_of(fake_key(99))[0]]
        for i in range(draws)
    )
    expected = {i: draws * weight / sum(weights) for i, weight in enumerate(weights)}
    assert chi_square(first, expected) < 24.3


def test_later_draws_are_weighted_among_those_that_remain() -> None:
    # Without replacement: P(i, then j) = w_i / W * w_j / (W - w_i). 5 degrees of freedom, 99.9 %: 20.5.
    weights = {0: 1, 1: 2, 2: 6}
    group = members([1, 2, 6, 50])
    names = {fake_key(i): i for i in range(4)}
    draws = 4000
    pairs: Counter[int] = Counter()
    for i in range(draws):
        # The author owns most of the line and must never be hit.
        one, two = AuditAssignment(sha256(b"x%d" % i).digest(), group, 2).auditors_of(fake_key(3))
        pairs[names[one] * 10 + names[two]] += 1
    expected = {
        i * 10 + j: draws * weights[i] / 9 * weights[j] / (9 - weights[i])
        for i in weights
        for j in weights
        if i != j
    }
    assert chi_square(pairs, expected) < 20.5


def test_without_any_stake_the_chances_are_equal() -> None:
    group = members([0] * 10)
    drawn = Counter(
        auditor
        for i in range(500)
        for auditor in AuditAssignment(sha256(b"z%d" % i).digest(), group, 3).auditors_of(fake_key(0))
    )
    assert set(drawn) == {fake_key(i) for i in range(1, 10)}
    assert (
        chi_square({i: drawn[fake_key(i)] for i in range(1, 10)}, dict.fromkeys(range(1, 10), 500 * 3 / 9))
        < 26.1
    )


def test_who_is_due_for_whom_says_the_same_from_both_sides() -> None:
    group = members([1] * 50)
    assignment = AuditAssignment(BEACON, group, 5)
    for auditor in group.keys:
        due = assignment.authors_for(auditor, group.keys)
        assert due == tuple(a for a in group.keys if auditor in assignment.auditors_of(a))
        assert all(assignment.is_due(auditor, author) for author in due)


def test_at_least_one_auditor() -> None:
    with pytest.raises(ValueError):
        AuditAssignment(BEACON, roster(3), 0)
