"""How what experiments came to is shown on a terminal."""

from __future__ import annotations

from typing import Final

from rich.console import Group, RenderableType
from rich.text import Text

from koii_p2p.cli.output import table
from koii_p2p.lab.comparison import Comparison, Line
from koii_p2p.lab.plots import headline
from koii_p2p.lab.result import Metric
from koii_p2p.lab.runs import Findings
from koii_p2p.lab.words import interval, metric_title, number, unit_of

_MOST_ARMS: Final = 4
_MOST_ROWS: Final = 60
_MOST_METRICS: Final = 3


def findings_table(findings: Findings) -> RenderableType:
    """The metrics that an experiment is about: an arm a column, or a row where there are many."""
    names = headline(findings)
    arms = [arm.name for arm in findings.experiment.arms]
    by_arm = {arm: findings.metrics_of(arm) for arm in arms}
    first = next(iter(by_arm.values()))
    # Where theory says nothing, it has no column.
    width = 2 if any(one.closed_form is not None for own in by_arm.values() for one in own.values()) else 1
    if len(arms) <= _MOST_ARMS:
        columns = [column for arm in arms for column in (_headed(arm), "theory")[:width]]
        rows = [
            (
                _title(name, first.get(name)),
                *(cell for arm in arms for cell in _cells(by_arm[arm].get(name))[:width]),
            )
            for name in names
        ]
        return table(("", *columns), rows)
    chosen = names[:_MOST_METRICS]
    columns = [column for name in chosen for column in (_title(name, first.get(name)), "theory")[:width]]
    rows = [
        (arm, *(cell for name in chosen for cell in _cells(by_arm[arm].get(name))[:width]))
        for arm in arms[:_MOST_ROWS]
    ]
    shown = table(("", *columns), rows)
    left = len(arms) - _MOST_ROWS
    return Group(shown, Text(f"and {left} more, which are in the report")) if left > 0 else shown


def comparison_table(comparison: Comparison) -> RenderableType:
    """What differs between two run folders."""
    parts: list[RenderableType] = []
    if comparison.same_tables:
        parts.append(Text("Every table has the same bytes.", style="green"))
    if comparison.versions:
        parts += [table(("played with", "first", "second"), comparison.versions), Text()]
    if comparison.settings:
        parts += [table(("arm", "setting", "first", "second"), comparison.settings), Text()]
    if comparison.missing:
        parts += [Text(f"only in one of them: {', '.join(comparison.missing)}"), Text()]
    if comparison.lines and not comparison.same_tables:
        rows = [
            _line(line)
            for line in comparison.lines
            if line.first.value is not None or line.second.value is not None
        ]
        parts.append(table(("arm", "metric", "first", "second", "difference", "95 %", ""), rows))
    if not comparison.lines:
        parts.append(Text("They have no arm in common."))
    return Group(*parts)


def _line(line: Line) -> tuple[str, ...]:
    first, second = line.first, line.second
    arm = line.arms[0] if line.arms[0] == line.arms[1] else " | ".join(line.arms)
    return (
        arm,
        _title(first.name, first),
        number(first.value, first.unit),
        number(second.value, second.unit),
        number(line.difference, first.unit),
        interval(line.low, line.high, first.unit),
        "differs" if line.differs else "",
    )


def _cells(metric: Metric | None) -> tuple[str, str]:
    """What was measured, with its interval, and what theory says."""
    if metric is None or metric.value is None:
        return "-", ""
    bounds = interval(metric.low, metric.high, metric.unit)
    value = number(metric.value, metric.unit)
    theory = "" if metric.closed_form is None else number(metric.closed_form, metric.unit)
    return f"{value} ({bounds})" if bounds else value, theory


def _title(name: str, metric: Metric | None) -> str:
    return metric_title(name) + (f" ({unit_of(metric.unit)})" if metric is not None else "")


def _headed(arm: str) -> str:
    return "measured" if arm == "all" else arm
