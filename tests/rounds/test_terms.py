from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from koii_p2p.rounds.clock import RoundClock
from koii_p2p.rounds.terms import MAX_ROUND_TIME, MAX_STARTING_SLOT, U64_MAX, TermsError
from tests.rounds.net import TERMS


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
        {"auditors": 0},
        {"auditors": 256},
        {"quorum": 0},
        {"allowed_failed_distributions": -1},
        {"profile": 7},
    ],
)
def test_terms_that_cannot_work_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(TermsError):
        replace(TERMS, **change)
