from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace
from hashlib import sha256
from typing import ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from koii_p2p.rounds.assignment import COMMITTEE, SAMPLE, AuditAssignment
from koii_p2p.rounds.audit_rules import BASIS_POINTS, AuditRules, Profile, Weights
from koii_p2p.rounds.eligibility import DRAWN, FULL_AUDIT
from koii_p2p.rounds.roster import Roster, RosterEntry
from tests.rounds.net import KOII, key, roster

BEACON = sha256(b"beacon").digest()
HARDENED = AuditRules()
ALL = AuditRules(profile=Profile.ALL)


def fake_key(index: int) -> bytes:
    return sha256(b"key %d" % index).digest()


def members(stakes: list[int], weights: Weights = Weights.STAKE) -> Roster:
    """A roster whose members have had these stakes for two of four periods."""
    entries = [RosterEntry(fake_key(i), stake, 0, bytes(32), 2 * stake) for i, stake in enumerate(stakes)]
    return Roster(0, tuple(sorted(entries, key=lambda entry: entry.key)), weights)


def draw(group: Roster, auditors: int = 5, beacon: bytes = BEACON) -> AuditAssignment:
    return AuditAssignment(beacon, group, replace(HARDENED, auditors=auditors))


stakes = st.lists(st.integers(0, 2**64 - 1) | st.integers(0, 3), min_size=1, max_size=40)
beacons = st.binary(min_size=32, max_size=32)


@given(stakes, st.integers(1, 12), st.integers(0, 45), beacons, st.sampled_from(Weights))
def test_distinct_others_and_as_many_as_possible(
    amounts: list[int], auditors: int, author: int, beacon: bytes, weights: Weights
) -> None:
    group = members(amounts, weights)
    assignment = draw(group, auditors, beacon)
    chosen, committee = assignment.auditors_of(fake_key(author)), assignment.committee_of(fake_key(author))
    others = set(group.keys) - {fake_key(author)}
    assert len(chosen) == len(set(chosen)) == min(auditors, len(others))
    assert set(chosen) <= others == set(committee)
    assert chosen == draw(members(amounts, weights), auditors, beacon).auditors_of(fake_key(author))
    assert assignment.auditors_of(fake_key(author)) is chosen  # asked for again for every ballot entry


def test_the_order_of_the_roster_input_does_not_matter() -> None:
    entries = [RosterEntry(fake_key(i), 10 + i, 0, bytes(32)) for i in range(30)]
    shuffled = entries[:]
    random.Random(2).shuffle(shuffled)
    one, other = (
        draw(Roster(0, tuple(sorted(order, key=lambda entry: entry.key)))) for order in (entries, shuffled)
    )
    assert all(one.auditors_of(fake_key(i)) == other.auditors_of(fake_key(i)) for i in range(30))


def test_alone_nobody_audits() -> None:
    for group in (roster(1), Roster(0, ())):
        for rules in (HARDENED, ALL, replace(HARDENED, confidence=999_000)):
            assignment = AuditAssignment(BEACON, group, rules)
            assert assignment.auditors_of(key(0)) == assignment.committee_of(key(0)) == ()


def test_with_few_others_everybody_audits() -> None:
    assert set(draw(roster(4), 3).auditors_of(key(0))) == {key(1), key(2), key(3)}


def test_another_beacon_draws_others() -> None:
    group = members([1] * 200)
    draws = {draw(group, beacon=bytes([i]) * 32).auditors_of(fake_key(0)) for i in range(20)}
    assert len(draws) == 20


def test_another_stake_elsewhere_on_the_line_moves_the_draw_and_the_beacon_is_the_same_for_all() -> None:
    one, other = members([10] * 100), members([10] * 99 + [11])
    assert any(draw(one).auditors_of(a) != draw(other).auditors_of(a) for a in one.keys)


def test_the_draw_is_pinned() -> None:
    """As another implementation would compute it, from the docstring alone."""
    group = members([3, 1, 4, 1, 5, 9, 2, 6])
    author = fake_key(3)
    line = [key for entry in group.entries for key in [entry.key] * entry.stake]
    drawn: list[bytes] = []
    for number in range(3):
        left = [key for key in line if key != author and key not in drawn]
        seed = sha256(b"koii-p2p/1 auditor" + BEACON + author + number.to_bytes(4, "little")).digest()
        drawn.append(left[int.from_bytes(seed, "big") % len(left)])
    assert draw(group, 3).auditors_of(author) == tuple(drawn)


def chi_square(observed: dict[int, int], expected: dict[int, float]) -> float:
    return sum((observed.get(i, 0) - share) ** 2 / share for i, share in expected.items())


def test_the_first_draw_is_weighted_by_stake() -> None:
    # 8 classes: 7 degrees of freedom, 24.3 is the 99.9 % quantile. One fixed seed, so never flaky.
    weights = [1, 1, 2, 3, 5, 8, 13, 21]
    group = members(weights)
    names = {fake_key(i): i for i in range(8)}
    draws = 4000
    first = Counter(
        names[draw(group, 1, sha256(b"%d" % i).digest()).auditors_of(fake_key(99))[0]] for i in range(draws)
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
        one, two = draw(group, 2, sha256(b"x%d" % i).digest()).auditors_of(fake_key(3))
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
        for auditor in draw(group, 3, sha256(b"z%d" % i).digest()).auditors_of(fake_key(0))
    )
    assert set(drawn) == {fake_key(i) for i in range(1, 10)}
    assert (
        chi_square({i: drawn[fake_key(i)] for i in range(1, 10)}, dict.fromkeys(range(1, 10), 500 * 3 / 9))
        < 26.1
    )


def test_who_is_due_for_whom_says_the_same_from_both_sides() -> None:
    group = members([1] * 50)
    assignment = draw(group)
    for auditor in group.keys:
        due = assignment.authors_for(auditor, group.keys)
        assert due == tuple(a for a in group.keys if auditor in assignment.auditors_of(a))
        assert all(assignment.is_due(auditor, author) for author in due)


def test_what_a_place_in_the_draw_is_worth() -> None:
    """Key 1 has most of the stake, key 2 most of the stake times lock time; eight more have neither."""
    rows = [
        RosterEntry(fake_key(1), 90, 0, bytes(32), 10),
        RosterEntry(fake_key(2), 10, 0, bytes(32), 90),
        *(RosterEntry(fake_key(i), 0, 0, bytes(32), 0) for i in range(3, 11)),
    ]
    ordered = tuple(sorted(rows, key=lambda entry: entry.key))
    expected = {Weights.EQUAL: (100, 100), Weights.STAKE: (900, 100), Weights.STAKE_TIME: (100, 900)}
    for weights, shares in expected.items():
        first = Counter(
            draw(Roster(0, ordered, weights), 1, sha256(b"w%d" % i).digest()).auditors_of(fake_key(0))[0]
            for i in range(1000)
        )
        for index, share in zip((1, 2), shares, strict=True):
            assert abs(first[fake_key(index)] - share) <= 3 * (share * (1000 - share) / 1000) ** 0.5


# --- committees


def test_the_committee_of_a_full_audit_continues_the_draw() -> None:
    group = members([1 + i % 7 for i in range(400)])
    assignment = draw(group)
    for author in group.keys[:50]:
        committee = assignment.committee_of(author)
        assert committee[:5] == assignment.auditors_of(author)
        assert len(committee) == len(set(committee)) == 5 + COMMITTEE
        assert author not in committee


def test_a_committee_of_all_others_where_there_are_few() -> None:
    for nodes in (2, 6, COMMITTEE, COMMITTEE + 5, COMMITTEE + 6):
        group = members([1] * nodes)
        assignment = draw(group)
        assert set(assignment.committee_of(group.keys[0])) == set(group.keys[1:])
        assert set(assignment.auditors_of(group.keys[0])) <= set(group.keys[1:])
    one_too_many = members([1] * (COMMITTEE + 7))
    assert len(draw(one_too_many).committee_of(one_too_many.keys[0])) == COMMITTEE + 5


def test_as_many_auditors_as_a_confidence_takes() -> None:
    group = members([1] * 300)
    assignment = AuditAssignment(BEACON, group, AuditRules(confidence=999_000, dishonest=3333))
    assert {len(assignment.auditors_of(author)) for author in group.keys} == {7}
    assert {len(assignment.committee_of(author)) for author in group.keys[:5]} == {7 + COMMITTEE}


class Counting(AuditRules):
    """Rules that remember how often they were asked for a number of auditors, which can take long."""

    __slots__ = ()
    asked: ClassVar[list[int]] = []

    def auditors_among(self, others: int) -> int:
        self.asked.append(others)
        return super().auditors_among(others)


def test_the_number_of_auditors_is_worked_out_once_and_not_for_every_submission() -> None:
    group = members([1] * 300)
    assignment = AuditAssignment(BEACON, group, Counting(confidence=999_999, dishonest=9000))
    for author in (*group.keys, *(fake_key(1000 + i) for i in range(50))):
        assert len(assignment.auditors_of(author)) == 132
        assignment.is_due(group.keys[0], author)
    assert sorted(Counting.asked) == [299, 300]  # of authors in the roster, and of others


def test_where_all_audit_all_everybody_is_due_and_in_the_committee() -> None:
    group = members([1] * 200)
    assignment = AuditAssignment(BEACON, group, ALL)
    for author in group.keys[:5]:
        assert set(assignment.auditors_of(author)) == set(group.keys) - {author}
        assert assignment.committee_of(author) == assignment.auditors_of(author)
    assert assignment.authors_for(group.keys[0], group.keys) == group.keys[1:]


# --- audit rates


def audited(rate: int, authors: int = 4000) -> int:
    assignment = AuditAssignment(BEACON, members([1] * 3), AuditRules(profile=Profile.POSP, audit_rate=rate))
    return sum(assignment.is_audited(fake_key(i)) for i in range(authors))


@pytest.mark.parametrize("rate", [1, 500, 2500, 9000, 9999])
def test_a_submission_is_audited_as_often_as_the_rate_says(rate: int) -> None:
    chance = rate / BASIS_POINTS
    assert abs(audited(rate) - 4000 * chance) <= 3 * (4000 * chance * (1 - chance)) ** 0.5


def test_who_is_not_audited_has_no_auditors_and_still_a_committee() -> None:
    group = members([1] * 300)
    rules = AuditRules(profile=Profile.POSP, audit_rate=3000)
    assignment, always = AuditAssignment(BEACON, group, rules), draw(group)
    seen = Counter(assignment.is_audited(author) for author in group.keys)
    assert set(seen) == {True, False}
    for author in group.keys:
        expected = always.auditors_of(author) if assignment.is_audited(author) else ()
        assert assignment.auditors_of(author) == expected
    spared = next(author for author in group.keys if not assignment.is_audited(author))
    assert assignment.committee_of(spared) == always.committee_of(spared)


def test_a_rate_of_ones_own_counts_instead_of_that_of_the_rules() -> None:
    group = members([1] * 300)
    rules = AuditRules(profile=Profile.POSP, audit_rate=5000)
    plain = AuditAssignment(BEACON, group, rules)
    known, others = group.keys[:100], group.keys[100:]
    always = AuditAssignment(BEACON, group, rules, dict.fromkeys(known, BASIS_POINTS))
    never = AuditAssignment(BEACON, group, rules, dict.fromkeys(known, 0))
    assert all(always.is_audited(author) for author in known)
    assert not any(never.is_audited(author) for author in known)
    assert all(
        plain.is_audited(author) == always.is_audited(author) == never.is_audited(author) for author in others
    )


@given(st.integers(0, BASIS_POINTS), st.integers(0, BASIS_POINTS), st.integers(0, 1000))
def test_a_higher_rate_never_spares_whom_a_lower_one_audits(one: int, other: int, author: int) -> None:
    low, high = (
        AuditAssignment(BEACON, members([1] * 3), HARDENED, {fake_key(author): rate})
        for rate in sorted((one, other))
    )
    assert high.is_audited(fake_key(author)) or not low.is_audited(fake_key(author))


# --- profile koii, witnesses, and who may vote


def test_in_profile_koii_nobody_is_due_and_there_is_no_committee() -> None:
    group = members([1] * 30, Weights.EQUAL)
    assignment = AuditAssignment(BEACON, group, KOII.audit)
    for author in group.keys:
        assert assignment.auditors_of(author) == assignment.committee_of(author) == ()
    assert assignment.authors_for(group.keys[0], group.keys) == ()


def test_a_sample_is_five_of_all_less_its_own() -> None:
    group = members([1] * 40, Weights.EQUAL)
    assignment = AuditAssignment(BEACON, group, KOII.audit)
    for auditor in group.keys:
        sample = assignment.sample_of(auditor, group.keys)
        drawn_itself = len(sample) == SAMPLE - 1
        assert len(sample) in (SAMPLE, SAMPLE - 1)
        assert auditor not in sample
        assert sample == tuple(sorted(sample)) == assignment.sample_of(auditor, reversed(group.keys * 2))
        if not drawn_itself:
            assert sample == assignment.sample_of(auditor, set(group.keys) - {auditor})
    assert len({assignment.sample_of(auditor, group.keys) for auditor in group.keys}) == 40


def test_a_sample_of_few_is_all_of_them() -> None:
    assignment = AuditAssignment(BEACON, members([1] * 4, Weights.EQUAL), KOII.audit)
    authors = [fake_key(i) for i in range(4)]
    assert assignment.sample_of(authors[0], authors) == tuple(sorted(authors[1:]))
    assert assignment.sample_of(fake_key(9), authors) == tuple(sorted(authors))
    two = assignment.sample_of(fake_key(9), authors, 2)
    assert len(set(two)) == 2
    assert set(two) < set(authors)
    assert assignment.sample_of(fake_key(9), ()) == ()


def test_witnesses_are_seated_by_a_draw_if_there_are_too_many() -> None:
    keys = [fake_key(100 + i) for i in range(50)]
    rules = replace(HARDENED, witness_seats=7)
    seated = AuditAssignment(BEACON, members([1] * 9), rules).seated(keys)
    assert len(seated) == 7
    assert seated == tuple(sorted(seated))
    assert set(seated) <= set(keys)
    shuffled = keys[:]
    random.Random(5).shuffle(shuffled)
    assert AuditAssignment(BEACON, members([1] * 9), rules).seated(shuffled) == seated
    assert AuditAssignment(bytes(32), members([1] * 9), rules).seated(keys) != seated
    # Who leaves makes room; nobody loses a seat by it.
    fewer = AuditAssignment(BEACON, members([1] * 9), rules).seated(set(keys) - {seated[0]})
    assert set(seated) - {seated[0]} < set(fewer)
    assert AuditAssignment(BEACON, members([1] * 9), rules).seated(keys[:3]) == tuple(sorted(keys[:3]))
    assert AuditAssignment(BEACON, members([1] * 9), HARDENED).seated(keys) == ()


def test_who_may_vote_at_which_stage() -> None:
    group = members([1] * 300)
    assignment = draw(group)
    author, witness = group.keys[0], fake_key(999)
    for auditor in group.keys:
        assert assignment.may_vote(auditor, author, DRAWN) is (auditor in assignment.auditors_of(author))
        assert assignment.may_vote(auditor, author, FULL_AUDIT) is (
            auditor in assignment.committee_of(author)
        )
        assert assignment.is_due(auditor, author) is (auditor in assignment.auditors_of(author))
    assert not assignment.may_vote(author, author, DRAWN)
    # A key without stake chooses for itself, among the first ballots only.
    assert assignment.may_vote(witness, author, DRAWN)
    assert not assignment.may_vote(witness, author, FULL_AUDIT)
    assert not assignment.may_vote(witness, witness, DRAWN)


def test_who_may_vote_in_profile_koii() -> None:
    group = members([1] * 30, Weights.EQUAL)
    assignment = AuditAssignment(BEACON, group, KOII.audit)
    one, other = group.keys[:2]
    assert assignment.may_vote(one, other, DRAWN)  # whatever its sample is: `Math.random()` proves nothing
    assert not assignment.may_vote(one, one, DRAWN)
    assert not assignment.may_vote(one, other, FULL_AUDIT)
