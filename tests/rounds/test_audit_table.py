"""Audit rules as people write them."""

from __future__ import annotations

from decimal import Decimal

import pytest

from koii_p2p.rounds.audit_rules import AuditRules, Profile, RulesError, Weights
from koii_p2p.rounds.audit_table import FRACTIONS, PROFILES, WEIGHTS, rules_in, written


def test_names_are_those_that_the_chain_numbers() -> None:
    assert list(PROFILES) == ["koii", "hardened", "all", "posp"]
    assert list(WEIGHTS) == ["equal", "stake", "stake-time"]
    assert all(PROFILES[written(member)] is member for member in Profile)


def test_fractions_are_exact() -> None:
    rules = rules_in({"confidence": Decimal("0.999999"), "dishonest": Decimal("0.3333"), "auditors": 9})
    assert rules == AuditRules(confidence=999_999, dishonest=3333, auditors=9)
    assert rules_in({"dishonest": 0.3333}) == AuditRules(dishonest=3333)
    assert rules_in({}) == AuditRules()


@pytest.mark.parametrize("name", FRACTIONS)
def test_whole_and_none_are_fractions_too(name: str) -> None:
    assert getattr(rules_in({name: Decimal("0.01"), "sealed": True}), name) == FRACTIONS[name] // 100


def test_koiis_client_knows_no_weights() -> None:
    assert rules_in({"profile": "koii"}) == AuditRules(profile=Profile.KOII, weights=Weights.EQUAL)
    renamed = {"koii-today": Profile.KOII}
    assert rules_in({"profile": "koii-today"}, renamed).profile is Profile.KOII


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ({"profile": "koi"}, "profile = 'koi' does not exist; there are: koii, hardened, all, posp"),
        ({"profile": 1}, "profile = 1 does not exist"),
        ({"weights": ["equal"]}, "stake-time"),
        ({"auditor": 5}, "the setting `auditor` does not exist; there are: profile"),
        ({"profile": "posp"}, "audit_rate = 0.5"),
        ({"finders_share": Decimal("1.5")}, "not from 0 to 1"),
        ({"finders_share": float("nan")}, "not from 0 to 1"),
        ({"finders_share": True}, "not a number"),
        ({"finders_share": "0.5"}, "not a number"),
        ({"finders_share": Decimal("0.00001")}, "finer than 1/10000"),
        ({"canary_rate": Decimal("0.5")}, "needs sealed ballots"),
        ({"profile": "koii", "weights": "stake"}, "koii has no weights"),
    ],
)
def test_what_is_no_rule_is_said(table: dict[str, object], words: str) -> None:
    with pytest.raises(RulesError) as caught:
        rules_in(table)
    assert words in str(caught.value)
