"""Two run folders beside each other: what differs between their experiments, and between what they came to."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final

from koii_p2p.lab.experiment import Arm, dotted, shown
from koii_p2p.lab.result import Metric
from koii_p2p.lab.runs import Findings
from koii_p2p.lab.scenario_file import table_of

_Z: Final = 1.959964


@dataclass(frozen=True, slots=True)
class Line:
    """One metric of two folders. `arms` are the names of the arms that were compared, one of each folder.

    `difference` is the second value less the first, from `low` to `high` with 95 % confidence; None where that cannot
    be said. `differs`: chance alone would not explain it.
    """

    arms: tuple[str, str]
    first: Metric
    second: Metric
    difference: float | None
    low: float | None
    high: float | None
    differs: bool


@dataclass(frozen=True, slots=True)
class Comparison:
    """`settings` are what the experiments set differently: (arm, name, first, second); `missing` arms of only one.

    `same_tables`: every table has the same bytes.
    """

    names: tuple[str, str]
    settings: tuple[tuple[str, str, str, str], ...]
    missing: tuple[str, ...]
    versions: tuple[tuple[str, str, str], ...]
    lines: tuple[Line, ...]
    same_tables: bool

    @property
    def different(self) -> bool:
        """Whether some metric differs by more than chance would explain."""
        return any(line.differs for line in self.lines)


def compared(first: Findings, second: Findings) -> Comparison:
    """Compare arms of the same name; two experiments of one arm each are compared whatever these are called."""
    pairs = list(_pairs(first, second))
    ours = {one.name for one, _ in pairs}, {other.name for _, other in pairs}
    missing = [
        arm.name
        for findings, known in zip((first, second), ours, strict=True)
        for arm in findings.experiment.arms
        if arm.name not in known
    ]
    return Comparison(
        (first.experiment.name, second.experiment.name),
        tuple(setting for one, other in pairs for setting in _settings(one, other)),
        tuple(missing),
        tuple(_versions(first.versions, second.versions)),
        tuple(line for one, other in pairs for line in _lines(first, second, one, other)),
        first.digests == second.digests,
    )


def difference(first: Metric, second: Metric) -> tuple[float | None, float | None, float | None, bool]:
    """The second less the first, with 95 % bounds, and whether that is more than chance explains.

    By the square and add method (Newcombe, "Interval estimation for the difference between independent proportions",
    Statistics in Medicine 17, 1998), which takes the interval of each and needs no other assumption; for means it is
    the usual one. Without intervals nothing is said of chance.
    """
    if first.value is None or second.value is None:
        return None, None, None, (first.value is None) != (second.value is None)
    found = second.value - first.value
    if first.low is None or first.high is None or second.low is None or second.high is None:
        return found, None, None, False
    low = found - math.hypot(first.high - first.value, second.value - second.low)
    high = found + math.hypot(first.value - first.low, second.high - second.value)
    return found, low, high, not low <= 0 <= high


def comparison_json(comparison: Comparison) -> dict[str, Any]:
    """A comparison as JSON values."""
    return {**asdict(comparison), "different": comparison.different}


def _pairs(first: Findings, second: Findings) -> Iterator[tuple[Arm, Arm]]:
    ours, theirs = first.experiment.arms, {arm.name: arm for arm in second.experiment.arms}
    if len(ours) == len(theirs) == 1:
        yield ours[0], next(iter(theirs.values()))
        return
    for arm in ours:
        if arm.name in theirs:
            yield arm, theirs[arm.name]


def _settings(one: Arm, other: Arm) -> Iterator[tuple[str, str, str, str]]:
    first, second = dict(dotted(table_of(one.scenario))), dict(dotted(table_of(other.scenario)))
    for name in sorted(first.keys() | second.keys()):
        if first.get(name) != second.get(name) and name != "name":
            yield one.name, name, _said(first.get(name)), _said(second.get(name))


def _said(value: Any) -> str:
    return "-" if value is None else shown(value)


def _versions(first: Mapping[str, str], second: Mapping[str, str]) -> Iterator[tuple[str, str, str]]:
    for name in sorted(first.keys() | second.keys()):
        if first.get(name) != second.get(name):
            yield name, first.get(name, "-"), second.get(name, "-")


def _lines(first: Findings, second: Findings, one: Arm, other: Arm) -> Iterator[Line]:
    theirs = second.metrics_of(other.name)
    for name, metric in first.metrics_of(one.name).items():
        if name in theirs:
            yield Line((one.name, other.name), metric, theirs[name], *difference(metric, theirs[name]))
