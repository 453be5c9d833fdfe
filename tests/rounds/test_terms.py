from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from koii_p2p.rounds.audit_rules import AuditRules, Profile
from koii_p2p.rounds.clock import RoundClock
from koii_p2p.rounds.terms import (
    HARDENED,
    MAX_FAILED_DISTRIBUTIONS,
    MAX_ROUND_TIME,
    MAX_STARTING_SLOT,
    SHORTEST_AUDIT,
    U64_MAX,
    TermsError,
)
from tests.rounds.net import KOII, TERMS


def test_the_clock_follows_from_the_terms() -> None:
    assert TERMS.clock == RoundClock(1000, 100, 40, 40)


def test_the_largest_terms_are_allowed_and_their_windows_fit_the_chain() -> None:
    terms = replace(
        TERMS,
        starting_slot=MAX_STARTING_SLOT,
        round_time=MAX_ROUND_TIME,
        bounty_per_round=U64_MAX,
        minimum_stake=U64_MAX,
    )
    assert terms.clock.settles_at(2**30) <= U64_MAX


def test_the_rules_of_a_task_that_names_none() -> None:
    assert TERMS.audit is HARDENED
    assert (HARDENED.profile, HARDENED.auditors, HARDENED.quorum) == (Profile.HARDENED, 5, 3)


def test_where_audits_have_stages_each_has_a_slot() -> None:
    shortest = replace(TERMS, audit_window=SHORTEST_AUDIT).clock
    for window in (shortest.seals, shortest.openings, shortest.reveals, shortest.full_audit):
        assert window(3).opens < window(3).closes
    alone = replace(KOII, audit_window=1).clock.audit(3)  # profile koii has one stage
    assert alone.closes == alone.opens + 1
    for profile in set(Profile) - {Profile.KOII}:
        rate = 5000 if profile is Profile.POSP else 10_000
        rules = AuditRules(profile=profile, audit_rate=rate)
        assert replace(TERMS, audit=rules, audit_window=SHORTEST_AUDIT).audit is rules
        with pytest.raises(TermsError, match="stages"):
            replace(TERMS, audit=rules, audit_window=SHORTEST_AUDIT - 1)


def test_attempts_stay_on_the_chain_until_they_are_voted_on() -> None:
    """K2 keeps 16 rounds: the last attempt settles before another round takes its place."""
    assert replace(TERMS, allowed_failed_distributions=MAX_FAILED_DISTRIBUTIONS)
    clock = TERMS.clock
    assert clock.settles_at(3, MAX_FAILED_DISTRIBUTIONS) <= clock.commitment(3 + 16).opens


@pytest.mark.parametrize(
    "change",
    [
        {"task": b"short"},
        {"creator": bytes(33)},
        {"name": ""},
        {"name": "n" * 25},
        {"name": "\ud800"},
        {"program": "p" * 65},
        {"starting_slot": -1},
        {"starting_slot": 2**63},
        {"round_time": 0},
        {"round_time": 2**32},
        {"submission_window": 0},
        {"audit_window": 0},
        {"submission_window": 61},
        {"audit_window": 61},
        {"bounty_per_round": -1},
        {"bounty_per_round": 2**64},
        {"bounty_per_round": 1.5},
        {"minimum_stake": 0},
        {"minimum_stake": 2**64},
        {"minimum_stake": True},
        {"slash_basis_points": 10_001},
        {"slash_basis_points": -1},
        {"allowed_failed_distributions": -1},
        {"allowed_failed_distributions": MAX_FAILED_DISTRIBUTIONS + 1},
        {"allowed_failed_distributions": True},
        {"audit_window": SHORTEST_AUDIT - 1},
        {"starting_slot": 1.0},
        {"round_time": 79},
    ],
)
def test_terms_that_cannot_work_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(TermsError):
        replace(TERMS, **change)
