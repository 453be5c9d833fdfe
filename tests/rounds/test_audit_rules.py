from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from koii_p2p.rounds.audit_rules import (
    BASIS_POINTS,
    MAX_AUDITORS,
    MAX_WITNESS_SEATS,
    MILLIONTHS,
    AuditRules,
    Profile,
    RulesError,
    Weights,
)

HARDENED = AuditRules()
KOII = AuditRules(profile=Profile.KOII, weights=Weights.EQUAL)
ALL = AuditRules(profile=Profile.ALL)
POSP = AuditRules(profile=Profile.POSP, audit_rate=2500)


def test_the_numbers_are_those_that_the_chain_keeps() -> None:
    assert [(profile.name, profile.value) for profile in Profile] == [
        ("KOII", 0),
        ("HARDENED", 1),
        ("ALL", 2),
        ("POSP", 3),
    ]
    assert [(weights.name, weights.value) for weights in Weights] == [
        ("EQUAL", 0),
        ("STAKE", 1),
        ("STAKE_TIME", 2),
    ]


def test_the_largest_rules_are_allowed() -> None:
    assert replace(
        HARDENED,
        auditors=MAX_AUDITORS,
        confidence=MILLIONTHS - 1,
        dishonest=BASIS_POINTS - 1,
        quorum=MAX_AUDITORS,
        sealed=True,
        canary_rate=BASIS_POINTS,
        reputation_floor=BASIS_POINTS,
        finders_share=BASIS_POINTS,
        witness_seats=MAX_WITNESS_SEATS,
    )


@pytest.mark.parametrize(
    ("rules", "change", "why"),
    [
        (HARDENED, {"profile": 1}, "profile"),
        (HARDENED, {"profile": 7}, "profile"),
        (HARDENED, {"weights": 1}, "weights"),
        (HARDENED, {"sealed": 1}, "sealed"),
        (HARDENED, {"auditors": 0}, "auditors"),
        (HARDENED, {"auditors": 256}, "auditors"),
        (HARDENED, {"auditors": True}, "auditors"),
        (HARDENED, {"auditors": 5.0}, "auditors"),
        (HARDENED, {"confidence": -1}, "confidence"),
        (HARDENED, {"confidence": MILLIONTHS}, "confidence"),
        (HARDENED, {"dishonest": -1}, "dishonest"),
        (HARDENED, {"dishonest": BASIS_POINTS}, "dishonest"),
        (HARDENED, {"quorum": 0}, "quorum"),
        (HARDENED, {"quorum": 256}, "quorum"),
        (HARDENED, {"audit_rate": 0}, "audit_rate"),
        (HARDENED, {"audit_rate": BASIS_POINTS + 1}, "audit_rate"),
        (HARDENED, {"canary_rate": BASIS_POINTS + 1, "sealed": True}, "canary_rate"),
        (HARDENED, {"canary_rate": 1}, "sealed ballots"),
        (HARDENED, {"reputation_floor": -1}, "reputation_floor"),
        (HARDENED, {"finders_share": BASIS_POINTS + 1}, "finders_share"),
        (HARDENED, {"witness_seats": MAX_WITNESS_SEATS + 1}, "witness_seats"),
        (POSP, {"audit_rate": BASIS_POINTS}, "below 10000"),
        (ALL, {"audit_rate": 9999}, "all audits everything alike"),
        (ALL, {"reputation_floor": 1}, "all audits everything alike"),
        (KOII, {"audit_rate": 9999}, "koii audits everything alike"),
        (KOII, {"reputation_floor": 1}, "koii audits everything alike"),
        (KOII, {"weights": Weights.STAKE}, "koii has no weights"),
        (KOII, {"sealed": True}, "koii has no sealed"),
        (KOII, {"finders_share": 1}, "koii has no finders_share"),
        (KOII, {"witness_seats": 1}, "koii has no witness_seats"),
    ],
)
def test_rules_that_contradict_themselves_are_refused(
    rules: AuditRules, change: dict[str, Any], why: str
) -> None:
    with pytest.raises(RulesError, match=why):
        replace(rules, **change)


def test_what_goes_with_what() -> None:
    assert replace(ALL, sealed=True, canary_rate=100, finders_share=1000, witness_seats=3)
    assert replace(POSP, sealed=True, canary_rate=100, reputation_floor=100)
    assert replace(HARDENED, audit_rate=2500)  # posp by another name


# --- how many auditors


def test_a_number_of_auditors_but_no_more_than_there_are() -> None:
    assert [HARDENED.auditors_among(others) for others in (0, 1, 4, 5, 6, 20_000)] == [0, 1, 4, 5, 5, 5]
    assert [POSP.auditors_among(others) for others in (0, 4, 6)] == [0, 4, 5]


def test_where_everybody_audits_all_others_are_due() -> None:
    assert [ALL.auditors_among(others) for others in (0, 1, 20_000)] == [0, 1, 20_000]
    assert replace(ALL, confidence=999_000).auditors_among(100) == 100


@pytest.mark.parametrize(
    ("confidence", "dishonest", "expected"),
    [
        (990_000, 3333, 5),  # a third to the fifth: 0.41 %
        (999_000, 3333, 7),
        (999_999, 3333, 13),
        (999_000, 5000, 10),
        (500_000, 5000, 1),  # exactly the bound
        (500_001, 5000, 2),
        (999_999, 0, 1),
        (1, 9999, 1),
        (990_000, 9000, 44),
        (999_999, 9999, MAX_AUDITORS),  # 138 149 would be needed; a record of that many votes is not allowed
    ],
)
def test_as_many_auditors_as_a_confidence_takes(confidence: int, dishonest: int, expected: int) -> None:
    rules = AuditRules(confidence=confidence, dishonest=dishonest)
    assert rules.auditors_among(1000) == expected
    assert rules.auditors_among(expected) == expected
    assert rules.auditors_among(expected - 1) == expected - 1


@given(st.integers(1, MILLIONTHS - 1), st.integers(0, BASIS_POINTS - 1), st.integers(0, 400))
def test_the_least_number_that_is_enough(confidence: int, dishonest: int, others: int) -> None:
    wanted = AuditRules(confidence=confidence, dishonest=dishonest).auditors_among(others)
    share, miss = Fraction(dishonest, BASIS_POINTS), 1 - Fraction(confidence, MILLIONTHS)
    if wanted < min(others, MAX_AUDITORS):
        assert share**wanted <= miss
    if wanted > 1:
        assert share ** (wanted - 1) > miss
    assert wanted <= min(others, MAX_AUDITORS)
    assert wanted > 0 or others == 0
