"""Metrics of an arm over all of its seeds: those of all its tables together, with intervals that seeds may widen.

Runs with different seeds are independent; observations within one are not always: who is caught in a round depends on
one draw. An interval over observations is too narrow then, so that it is widened to what seeds differ by (Student's t),
where there are enough of them to tell.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

import polars as pl
from scipy.special import stdtrit

from koii_p2p.lab.gossip_result import gossip_metrics
from koii_p2p.lab.metrics import metrics_of
from koii_p2p.lab.result import Metric
from koii_p2p.lab.scenario import EngineKind, Scenario
from koii_p2p.lab.theory import with_theory
from koii_p2p.lab.words import SHARE

SEEDS_TO_TELL: Final = 5
"""Fewer seeds say nothing of their spread: with two of them, t is 12.7."""
_TAIL: Final = 0.975


def metrics_of_frames(frames: Mapping[str, pl.DataFrame], scenario: Scenario) -> tuple[Metric, ...]:
    """All metrics of tables as frames, with what theory says of them."""
    tables: dict[str, Any] = {
        name: frame.drop("arm", "seed", strict=False).to_dict(as_series=False)
        for name, frame in frames.items()
    }
    if scenario.engine is EngineKind.GOSSIP:
        return gossip_metrics(tables)
    return with_theory(metrics_of(tables), scenario)


def widened(whole: Sequence[Metric], seeds: Sequence[Sequence[Metric]]) -> tuple[Metric, ...]:
    """Metrics of all runs together, with intervals that are at least as wide as those over seeds."""
    values: dict[str, list[float]] = {}
    for metrics in seeds:
        for one in metrics:
            if one.value is not None:
                values.setdefault(one.name, []).append(one.value)
    return tuple(_widened(metric, values.get(metric.name, [])) for metric in whole)


def _widened(metric: Metric, values: Sequence[float]) -> Metric:
    if metric.value is None or len(values) < SEEDS_TO_TELL:
        return metric
    mean = math.fsum(values) / len(values)
    variance = math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1)
    half = student(len(values) - 1) * math.sqrt(variance / len(values))
    low = min(metric.value - half, metric.value if metric.low is None else metric.low)
    high = max(metric.value + half, metric.value if metric.high is None else metric.high)
    if min(values) >= 0:
        low = max(0.0, low)
    if metric.unit == SHARE:
        high = min(1.0, high)
    return replace(metric, low=low, high=high)


def student(freedom: int) -> float:
    """Student's t of a two-sided interval of 95 %. Raises ValueError for no degree of freedom."""
    if freedom < 1:
        raise ValueError("one value has no spread")
    return float(stdtrit(freedom, _TAIL))
