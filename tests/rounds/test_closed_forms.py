"""The closed forms of the audit game have their published values, and the code that draws auditors obeys them.

Every simulation has fixed seeds, so that three sigma are a promise and not a gamble.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from fractions import Fraction
from functools import cache
from hashlib import sha256

import pytest

from koii_p2p.lab.closed_forms import (
    binomial_tail,
    caught_by_auditors,
    hypergeometric,
    hypergeometric_tail,
    looks,
    majority,
    seen_by_somebody,
    two_thirds,
)
from koii_p2p.records.schema import Verdict
from koii_p2p.rounds.assignment import COMMITTEE, SAMPLE, AuditAssignment
from koii_p2p.rounds.audit_rules import AuditRules, Weights
from koii_p2p.rounds.roster import Roster, RosterEntry
from koii_p2p.rounds.tally import Cast, Outcome, tally
from tests.rounds.net import KOII
from tests.sigma import within_three_sigma

THIRD = Fraction(1, 3)


@cache
def name(index: int) -> bytes:
    return sha256(b"staker %d" % index).digest()


@cache
def outsider(index: int) -> bytes:
    """An author who has no stake, so that all of the roster are others to it."""
    return sha256(b"author %d" % index).digest()


def seed(index: int) -> bytes:
    return sha256(b"beacon %d" % index).digest()


@cache
def equals(count: int, weights: Weights = Weights.STAKE) -> Roster:
    entries = (RosterEntry(name(index), 1000, 0, bytes(32)) for index in range(count))
    return Roster(0, tuple(sorted(entries, key=lambda entry: entry.key)), weights)


def drawn_by(auditors: int, others: int) -> AuditAssignment:
    return AuditAssignment(seed(auditors), equals(others), AuditRules(auditors=auditors))


# --- (1) self-sampling, as Koii's client does it


@pytest.mark.parametrize(
    ("submissions", "lookers", "seen", "thrice"),
    [(100, 99, 0.99377, 0.87755), (1000, 999, 0.99331, 0.87556)],
)
def test_published_values_of_self_sampling(
    submissions: int, lookers: int, seen: float, thrice: float
) -> None:
    assert round(float(seen_by_somebody(submissions, SAMPLE, lookers)), 5) == seen
    chance = Fraction(SAMPLE, submissions)
    assert round(float(binomial_tail(lookers, chance, 3)), 5) == thrice
    assert sum(looks(submissions, SAMPLE, lookers, count) for count in range(lookers + 1)) == 1


def test_published_values_if_not_everybody_looks() -> None:
    for share, seen in ((Fraction(1, 2), 0.918), (Fraction(1, 5), 0.632), (Fraction(1, 10), 0.393)):
        # With 1 - (1 - 5/n)^h, in the limit of many nodes.
        assert abs(float(seen_by_somebody(10_000, SAMPLE, int(10_000 * share))) - seen) < 0.001


def looks_at(nodes: int, lookers: int, rounds: int) -> list[int]:
    """How often each submission of each round was looked at by the code of profile koii.

    The first `lookers` stakers look, at the submissions of all others; each of those counts once.
    """
    members = equals(nodes, Weights.EQUAL)
    diligent = [name(index) for index in range(lookers)]
    watched = [name(index) for index in range(lookers, nodes)]
    counts: list[int] = []
    for number in range(rounds):
        assignment = AuditAssignment(seed(number), members, KOII.audit)
        seen = Counter(
            author for auditor in diligent for author in assignment.sample_of(auditor, members.keys)
        )
        counts += [seen[author] for author in watched]
    return counts


@pytest.mark.parametrize(("lookers", "rounds"), [(90, 80), (50, 40), (20, 40), (10, 40)])
def test_self_sampling_sees_what_its_closed_form_says(lookers: int, rounds: int) -> None:
    counts = looks_at(100, lookers, rounds)
    seen = sum(count > 0 for count in counts)
    assert within_three_sigma(seen, len(counts), seen_by_somebody(100, SAMPLE, lookers))
    thrice = sum(count >= 3 for count in counts)
    assert within_three_sigma(thrice, len(counts), binomial_tail(lookers, Fraction(SAMPLE, 100), 3))


def test_looks_per_submission_are_binomial() -> None:
    # 10 classes, 0 to 8 and more; 9 degrees of freedom: 27.9 is the 99.9 % quantile.
    counts = looks_at(100, 90, 80)
    expected = [len(counts) * looks(100, SAMPLE, 90, count) for count in range(9)]
    expected.append(len(counts) - sum(expected, Fraction(0)))
    found = Counter(min(count, 9) for count in counts)
    assert sum((found[index] - share) ** 2 / share for index, share in enumerate(expected)) < 27.9


def test_everybody_looking_leaves_some_with_fewer_than_three_looks_and_a_draw_does_not() -> None:
    """The tail of self-sampling that a drawn assignment does not have: its coverage is complete."""
    members = equals(100, Weights.EQUAL)
    assignment = AuditAssignment(seed(0), members, KOII.audit)
    seen = Counter(
        author for auditor in members.keys for author in assignment.sample_of(auditor, members.keys)
    )
    few = sum(seen[author] < 3 for author in members.keys)
    assert within_three_sigma(few, 100, 1 - binomial_tail(99, Fraction(SAMPLE, 100), 3))
    assert few > 0
    drawn = AuditAssignment(seed(0), members, AuditRules(auditors=SAMPLE, weights=Weights.EQUAL))
    assert {len(drawn.auditors_of(author)) for author in members.keys} == {SAMPLE}


def test_self_sampling_of_a_thousand() -> None:
    members = equals(1000, Weights.EQUAL)
    assignment = AuditAssignment(seed(1), members, KOII.audit)
    seen = Counter(
        author for auditor in members.keys for author in assignment.sample_of(auditor, members.keys)
    )
    hit = sum(seen[author] > 0 for author in members.keys)
    assert within_three_sigma(hit, 1000, seen_by_somebody(1000, SAMPLE, 999))
    thrice = sum(seen[author] >= 3 for author in members.keys)
    assert within_three_sigma(thrice, 1000, binomial_tail(999, Fraction(SAMPLE, 1000), 3))


# --- (2) drawn auditors, some of them diligent


@pytest.mark.parametrize("diligent", [5, 10, 25, 50, 90])
@pytest.mark.parametrize("auditors", [1, 5, 11])
def test_drawn_auditors_catch_what_the_closed_form_says(diligent: int, auditors: int) -> None:
    assignment, awake = drawn_by(auditors, 100), {name(index) for index in range(diligent)}
    authors = [outsider(index) for index in range(2500)]
    assert all(len(assignment.auditors_of(author)) == auditors for author in authors)  # coverage 1
    caught = sum(not awake.isdisjoint(assignment.auditors_of(author)) for author in authors)
    assert within_three_sigma(caught, len(authors), caught_by_auditors(100, diligent, auditors))


def test_with_a_confidence_as_many_auditors_catch_as_was_asked_for() -> None:
    rules = AuditRules(confidence=990_000, dishonest=3333)
    assignment = AuditAssignment(seed(99), equals(100), rules)
    honest, auditors = {name(index) for index in range(67)}, rules.auditors_among(100)
    chance = caught_by_auditors(100, 67, auditors)
    assert chance >= Fraction(99, 100)
    authors = [outsider(index) for index in range(4000)]
    caught = sum(not honest.isdisjoint(assignment.auditors_of(author)) for author in authors)
    assert within_three_sigma(caught, len(authors), chance)


# --- (3) captured committees


@pytest.mark.parametrize(
    ("others", "bad", "seats", "least", "published"),
    [
        (100, 33, 5, 5, 0.00315),
        (100, 33, 5, majority(5), 0.1998),
        (100, 33, 11, 11, 1.4e-6),
        (100, 33, 11, majority(11), 0.104),
        (100, 33, 31, 31, 8e-24),
        (100, 33, 31, majority(31), 0.0083),
        (1000, 333, 51, majority(51), 0.0056),
        (1000, 333, 111, majority(111), 5.5e-5),
        (1000, 333, 128, majority(128), 9.0e-6),
        (1000, 333, 111, two_thirds(111), 2.2e-14),
    ],
)
def test_published_values_of_captured_committees(
    others: int, bad: int, seats: int, least: int, published: float
) -> None:
    found = float(hypergeometric_tail(others, bad, seats, least))
    digits = len(f"{published:.10g}".split("e")[0].replace(".", "").strip("0"))
    assert float(f"{found:.{digits - 1}e}") == published


@pytest.mark.parametrize(
    ("seats", "least"), [(5, majority(5)), (5, 5), (11, majority(11)), (31, majority(31)), (31, 10)]
)
def test_drawn_committees_are_captured_as_often_as_the_closed_form_says(seats: int, least: int) -> None:
    assignment, bad = drawn_by(seats, 100), {name(index) for index in range(33)}
    authors = [outsider(index) for index in range(3000)]
    captured = sum(
        sum(auditor in bad for auditor in assignment.auditors_of(author)) >= least for author in authors
    )
    assert within_three_sigma(captured, len(authors), hypergeometric_tail(100, 33, seats, least))


def test_the_committees_of_full_audits_are_drawn_without_favour() -> None:
    """116 of 1000: their majority is never seen in a test, so every number of bad members is held to its chance."""
    assignment, bad = drawn_by(5, 1000), {name(index) for index in range(333)}
    seats, samples = 5 + COMMITTEE, 400
    hits = [
        sum(member in bad for member in assignment.committee_of(outsider(index))) for index in range(samples)
    ]
    for least in (34, 37, 39, 41, 44):
        captured = sum(count >= least for count in hits)
        assert within_three_sigma(captured, samples, hypergeometric_tail(1000, 333, seats, least))
    assert max(hits) < majority(seats)
    assert float(hypergeometric_tail(1000, 333, seats, majority(seats))) < 5.5e-5


def test_stakes_are_drawn_as_if_every_unit_were_equal() -> None:
    """A coalition's chance at the first seat is its share of the stake, however it is divided among keys."""
    whole = [RosterEntry(name(0), 30_000, 0, bytes(32))]
    split = [RosterEntry(name(100 + index), 300, 0, bytes(32)) for index in range(100)]
    rest = [RosterEntry(name(1000 + index), 700, 0, bytes(32)) for index in range(100)]
    for coalition in (whole, split):
        members = Roster(0, tuple(sorted((*coalition, *rest), key=lambda entry: entry.key)))
        ours = {entry.key for entry in coalition}
        assignment = AuditAssignment(seed(7), members, AuditRules(auditors=1))
        won = sum(assignment.auditors_of(outsider(index))[0] in ours for index in range(3000))
        assert within_three_sigma(won, 3000, Fraction(3, 10))


# --- (4) the check value that Ethereum's committee size was chosen by


def test_the_binomial_check_values_of_ethereum() -> None:
    of_111 = binomial_tail(111, THIRD, two_thirds(111))
    assert float(f"{float(of_111):.1e}") == 7.7e-13
    assert of_111 < Fraction(1, 2**40)
    assert all(
        binomial_tail(seats, THIRD, two_thirds(seats)) < Fraction(1, 2**40) for seats in range(111, 130)
    )
    assert binomial_tail(108, THIRD, two_thirds(108)) > Fraction(1, 2**40)
    assert float(f"{float(binomial_tail(128, THIRD, two_thirds(128))):.1e}") == 5.6e-15


def test_drawing_without_replacement_is_safer_than_the_check_value_and_comes_near_it_for_many() -> None:
    safer = [hypergeometric_tail(n, n // 3, 111, two_thirds(111)) for n in (300, 3000, 30_000)]
    assert safer == sorted(safer)
    limit = binomial_tail(111, THIRD, two_thirds(111))
    assert safer[-1] < limit < safer[-1] * 2
    assert sum(hypergeometric(300, 100, 111, count) for count in range(112)) == 1


# --- what follows from them for a round


def test_one_diligent_auditor_detects_and_a_majority_punishes() -> None:
    """A fraud is rejected exactly if one of those drawn looks: then the committee, which is honest, confirms it."""
    members, invalid = equals(100), Verdict.INVALID
    lazy = {name(index) for index in range(60)}
    assignment = drawn_by(5, 100)
    authors = [outsider(index) for index in range(600)]
    first = {
        author: {
            auditor: Verdict.VALID if auditor in lazy else invalid
            for auditor in assignment.auditors_of(author)
        }
        for author in authors
    }
    full = {
        author: dict.fromkeys(set(assignment.committee_of(author)) - first[author].keys(), invalid)
        for author in authors
    }
    outcomes = tally(authors, Cast(first, full), assignment).outcomes
    assert len(members) == 100
    rejected = sum(decided is Outcome.REJECTED for decided in outcomes.values())
    assert within_three_sigma(rejected, len(authors), caught_by_auditors(100, 40, 5))
    approved = [author for author, decided in outcomes.items() if decided is Outcome.APPROVED]
    assert len(approved) == len(authors) - rejected
    assert all(lazy.issuperset(assignment.auditors_of(author)) for author in approved)


def test_a_spot_check_at_a_rate_finds_in_proportion_to_it() -> None:
    rules = replace(AuditRules(auditors=5), audit_rate=2000)
    assignment = AuditAssignment(seed(3), equals(100), rules)
    awake = {name(index) for index in range(50)}
    caught = sum(not awake.isdisjoint(assignment.auditors_of(outsider(index))) for index in range(4000))
    assert within_three_sigma(caught, 4000, caught_by_auditors(100, 50, 5) * Fraction(1, 5))
