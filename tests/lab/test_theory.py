from __future__ import annotations

import math
from itertools import combinations

import pytest

from koii_p2p.lab.closed_forms import caught_by_auditors, looks, seen_by_somebody
from koii_p2p.lab.comparison import difference
from koii_p2p.lab.experiment import experiment_of
from koii_p2p.lab.pooling import SEEDS_TO_TELL, student, widened
from koii_p2p.lab.result import Metric
from koii_p2p.lab.runs import findings_of
from koii_p2p.lab.scenario import Scenario
from koii_p2p.lab.scenario_file import scenario_of
from koii_p2p.lab.theory import Theory, all_miss, theory_of
from koii_p2p.lab.workers import ThisProcess


def theory(nodes: int, population: dict[str, object], **protocol: object) -> Theory:
    table = {"network": {"nodes": nodes}, "population": population, "protocol": protocol}
    return theory_of(scenario_of(table))


def test_nodes_that_choose_by_themselves() -> None:
    found = theory(100, {"fraudulent": 0.1}, profile="koii-today")
    assert found["detection"][0] == pytest.approx(float(seen_by_somebody(100, 5, 90)))
    expected = (90 * looks(100, 5, 89, 0) + 10 * looks(100, 5, 90, 0)) / 100
    assert found["unseen"][0] == pytest.approx(float(expected))
    assert found["looks"][0] == pytest.approx(0.05 * (90 * 89 + 10 * 90) / 100)


def test_auditors_that_are_drawn() -> None:
    found = theory(100, {"fraudulent": 0.1, "lazy": 0.4}, auditors=5)
    assert found["detection"][0] == pytest.approx(float(caught_by_auditors(99, 59, 5)))
    assert found["punishment"][0] == found["detection"][0]
    assert theory(100, {"fraudulent": 0.1, "lazy": 0.6}, auditors=5)["punishment"][0] == 0
    sometimes = {"fraudulent": 0.1, "lazy": {"share": 0.6, "diligence": 0.5}}
    assert "punishment" not in theory(100, sometimes, auditors=5)
    assert "punishment" not in theory(100, {"fraudulent": 0.1, "copier": 0.6}, auditors=5)


def test_work_that_is_audited_now_and_then() -> None:
    always = theory(50, {"fraudulent": 0.1}, auditors=3)["detection"][0]
    now_and_then = theory(50, {"fraudulent": 0.1}, auditors=3, profile="posp", audit_rate=0.25)["detection"][
        0
    ]
    assert now_and_then == pytest.approx(always / 4)


def test_colluders_of_one_ring_are_no_auditors_of_each_other() -> None:
    one = theory(40, {"colluder": 0.5}, auditors=3)["detection"][0]
    assert one == pytest.approx(float(caught_by_auditors(39, 20, 3)))
    assert theory(40, {"colluder": 0.6}, auditors=3)["punishment"][0] == 0
    two = theory(40, {"colluder": {"share": 0.5, "rings": 2}}, auditors=3)["detection"][0]
    assert two == pytest.approx(float(caught_by_auditors(39, 30, 3)))


def test_subtle_wrongs_are_found_by_some_looks() -> None:
    found = theory(40, {"subtle": {"share": 0.025, "catch": 0.5}}, auditors=3)["detection"][0]
    assert found == pytest.approx(1 - 0.5**3)


def test_all_miss_is_the_mean_over_all_sets() -> None:
    misses = (0.1, 0.9, 0.5, 1.0, 0.3, 0.0)
    for drawn in range(len(misses) + 1):
        sets = list(combinations(misses, drawn))
        assert all_miss(misses, drawn) == pytest.approx(sum(map(math.prod, sets)) / len(sets))
    sharp = (1.0,) * 30 + (0.0,) * 70
    assert all_miss(sharp, 5) == pytest.approx(1 - float(caught_by_auditors(100, 70, 5)))
    assert all_miss((0.5,), 3) == 0.5


@pytest.mark.parametrize(
    "changes",
    [
        {"population": {"fraudulent": 0.1, "eclipse": 0.1}},
        {"population": {"fraudulent": {"share": 0.1, "start_round": 2}}},
        {"population": {"fraudulent": 0.1}, "protocol": {"patrols": 1}},
        {"population": {"fraudulent": 0.1}, "protocol": {"reputation_floor": 0.5}},
        {"population": {"fraudulent": 0.1}, "network": {"churn": {"per_minute": 1}}},
        {"population": {"fraudulent": 0.1}, "network": {"partitions": [{"start": 1}]}},
    ],
)
def test_nothing_is_said_where_the_forms_do_not_hold(changes: dict[str, object]) -> None:
    assert theory_of(scenario_of(changes)) == {}


def test_a_net_without_frauds_has_nothing_to_find() -> None:
    assert set(theory_of(Scenario())) == {"transactions"}


@pytest.mark.parametrize("profile", ["koii-today", "hardened"])
def test_the_engine_plays_what_theory_says(profile: str) -> None:
    """Within three standard deviations; the seeds are fixed."""
    table = {
        "engine": "fast",
        "rounds": 10,
        "seeds": 3,
        "network": {"nodes": 60, "latency": 20},
        "protocol": {"profile": profile, "auditors": 2},
        "population": {"fraudulent": 0.1, "lazy": 0.35},
        "economy": {"slash": 0},
    }
    experiment = experiment_of(table)
    found = findings_of(experiment, ThisProcess().play(experiment, experiment.jobs)).metrics_of("all")[
        "detection"
    ]
    assert found.closed_form is not None
    assert found.value is not None
    deviation = math.sqrt(found.closed_form * (1 - found.closed_form) / found.count)
    assert found.count == 180
    assert abs(found.value - found.closed_form) < 3 * deviation


# --- intervals


def metric(
    value: float | None, low: float | None = None, high: float | None = None, unit: str = "s"
) -> Metric:
    return Metric("m", value, unit, "what it is", 10, low, high)


def test_seeds_that_differ_widen_an_interval() -> None:
    whole = (metric(2.0, 1.9, 2.1),)
    few = [(metric(float(value)),) for value in (0, 4)]
    assert widened(whole, few) == whole
    many = [(metric(float(value)),) for value in (0, 1, 2, 3, 4)]
    assert len(many) == SEEDS_TO_TELL
    half = 2.7764 * math.sqrt(2.5 / 5)
    (found,) = widened(whole, many)
    assert found.low == pytest.approx(2 - half, abs=1e-3)
    assert found.high == pytest.approx(2 + half, abs=1e-3)
    alike = [(metric(2.0),) for _ in range(9)]
    assert widened(whole, alike) == whole


def test_a_share_stays_from_0_to_1() -> None:
    whole = (metric(0.5, 0.4, 0.6, "share"),)
    (found,) = widened(whole, [(metric(value, unit="share"),) for value in (0.0, 1.0, 0.0, 1.0, 0.5)])
    assert (found.low, found.high) == (0.0, 1.0)


def test_student() -> None:
    assert student(1) == pytest.approx(12.706, abs=1e-3)
    assert student(30) == pytest.approx(2.042, abs=1e-3)
    with pytest.raises(ValueError, match="no spread"):
        student(0)


def test_differences_of_two_metrics() -> None:
    found, low, high, differs = difference(metric(0.5, 0.4, 0.6), metric(0.8, 0.7, 0.9))
    assert found == pytest.approx(0.3)
    assert low == pytest.approx(0.3 - math.hypot(0.1, 0.1))
    assert high == pytest.approx(0.3 + math.hypot(0.1, 0.1))
    assert differs
    assert not difference(metric(0.5, 0.4, 0.6), metric(0.55, 0.45, 0.65))[3]
    assert difference(metric(1.0), metric(2.0)) == (1.0, None, None, False)
    assert difference(metric(None), metric(2.0)) == (None, None, None, True)
