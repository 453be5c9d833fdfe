"""Metrics: their intervals, what they count, and theory beside the simulation."""

from __future__ import annotations

import math
from statistics import NormalDist
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from koii_p2p.lab.costs import SIGN_US, VERIFY_US, cpu_us
from koii_p2p.lab.exact import play
from koii_p2p.lab.metrics import metrics_of
from koii_p2p.lab.observer import Meter
from koii_p2p.lab.result import (
    TABLES,
    add_row,
    empty,
    mean_interval,
    proportion,
    quantile,
    rows_of,
    wilson,
)
from koii_p2p.lab.scenario_file import scenario_of


def test_wilson_as_published() -> None:
    # Newcombe, "Two-sided confidence intervals for the single proportion" (1998), method 3: 81/263 and 0/20.
    assert wilson(81, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert wilson(0, 20) == pytest.approx((0.0, 0.1611), abs=5e-5)
    assert wilson(0, 0) == (0.0, 1.0)


@given(st.integers(1, 10_000), st.floats(0, 1))
def test_wilson_holds_its_share(trials: int, share: float) -> None:
    successes = round(share * trials)
    low, high = wilson(successes, trials)
    assert 0 <= low <= successes / trials + 1e-12
    assert successes / trials - 1e-12 <= high <= 1
    # Solves (p - q)^2 = z^2 q (1 - q) / n at both ends.
    z = NormalDist().inv_cdf(0.975)
    for q in (low, high):
        if 0 < q < 1:
            deviation = (successes / trials - q) ** 2
            assert deviation == pytest.approx(z * z * q * (1 - q) / trials, rel=1e-4)


def test_means_and_quantiles() -> None:
    mean, low, high = mean_interval([1, 2, 3, 4])
    assert (mean, high - mean) == pytest.approx((2.5, 1.959964 * math.sqrt(5 / 3) / 2))
    assert mean - low == pytest.approx(high - mean)
    assert mean_interval([7]) == (7, 7, 7)
    assert [quantile([3, 1, 2], share) for share in (0, 0.34, 0.5, 1)] == [1, 2, 2, 3]
    for nothing in (mean_interval, lambda values: quantile(values, 0.5)):
        with pytest.raises(ValueError, match="nothing"):
            nothing([])
    assert proportion("x", 0, 0, "").value is None


def tables(**columns: Any) -> dict[str, Any]:
    """Empty tables but for rows of rounds; what is not given is 0."""
    found = {name: empty(columns) for name, columns in TABLES.items()}
    for number in range(len(next(iter(columns.values())))):
        row = dict.fromkeys(TABLES["rounds"], 0) | {name: values[number] for name, values in columns.items()}
        add_row(found["rounds"], {**row, "round": number})
    return found


def test_shares_are_over_all_rounds() -> None:
    found = {
        one.name: one
        for one in metrics_of(
            tables(
                submissions=[10, 10, 10],
                frauds=[2, 2, 0],
                found=[2, 1, 0],
                rejected=[1, 1, 0],
                votes_due=[5, 5, 0],
                votes_cast=[5, 4, 0],
                attempt=[0, 1, None],
                lists=[1, 2, 0],
            )
        )
    }
    assert (found["detection"].value, found["detection"].count) == (0.75, 4)
    assert (found["detection"].low, found["detection"].high) == wilson(3, 4)
    assert found["punishment"].value == 0.5
    assert found["vote_coverage"].value == 0.9
    assert found["settled"].value == pytest.approx(2 / 3)
    assert found["settled_at_once"].value == pytest.approx(1 / 3)
    assert found["splits"].value == pytest.approx(1 / 3)
    assert found["wrong_rejections"].count == 26
    assert found["looks"].value is None


def test_metrics_can_be_chosen_and_each_says_what_it_is() -> None:
    found = metrics_of(tables(frauds=[1]))
    assert all(one.definition and one.unit for one in found)
    assert len({one.name for one in found}) == len(found)
    assert [one.name for one in metrics_of(tables(frauds=[1]), ["fees", "detection"])] == [
        "detection",
        "fees",
    ]


def test_a_run_has_the_metrics_that_its_scenario_wants() -> None:
    scenario = scenario_of(
        {
            "rounds": 1,
            "network": {"nodes": 6},
            "population": {"fraudulent": 0.17},
            "protocol": {"presence_seconds": 0},
            "metrics": ["detection", "profit", "sent_bytes"],
        }
    )
    found = play(scenario, 1)
    assert {one.name for one in found.metrics} == {
        "detection",
        "profit.fraudulent",
        "profit.honest",
        "sent_bytes",
    }
    assert found.metric("sent_bytes").count == 6
    with pytest.raises(KeyError):
        found.metric("fees")


def test_looks_and_detection_follow_theory() -> None:
    """Lazy nodes are half: of m = 2 auditors drawn for each submission, at least one of the others looks."""
    nodes, auditors = 16, 2
    scenario = scenario_of(
        {
            "rounds": 8,
            "network": {"nodes": nodes},
            "protocol": {
                "auditors": auditors,
                "presence_seconds": 0,
                "weights": "equal",
                "transport": "direct",
            },
            "economy": {"minimum": 0.000001},
            "population": {"lazy": 0.25, "fraudulent+lazy": 0.25},
        }
    )
    found = play(scenario, 1)
    lazy_others = nodes // 2 - 1
    miss = math.comb(lazy_others, auditors) / math.comb(nodes - 1, auditors)
    detection = found.metric("detection")
    assert detection.count == 4 * 8
    assert detection.low is not None
    assert detection.high is not None
    assert detection.low <= 1 - miss <= detection.high
    # A full audit asks everybody who was not drawn: more looks, and none without an accusation.
    looks = [row["looks"] for row in rows_of(found.submissions) if row["fraud"] and not row["finders"]]
    assert set(looks) <= {0}


def test_processor_time_adds_up() -> None:
    assert cpu_us(Meter()) == 0
    assert cpu_us(Meter(verified=3, signed=2)) == 3 * VERIFY_US + 2 * SIGN_US
