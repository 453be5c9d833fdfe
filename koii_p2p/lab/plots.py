"""Plots of an experiment: every axis with what it is and its unit, theory beside what was measured, a caption for each.

Which plots there are follows from what the experiment has: arms that are compared, axes, frauds, records, behaviours.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

import numpy as np
import polars as pl
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator, PercentFormatter
from numpy.typing import NDArray

from koii_p2p.amounts import ROE_PER_KOII
from koii_p2p.lab.experiment import Arm, Axis, Experiment, Value, short, shown
from koii_p2p.lab.plots_drawing import COLOURS, MARKS, MOST_LINES, Plot, legend_above, new_figure, picture
from koii_p2p.lab.plots_gossip import GOSSIP_PLOTS
from koii_p2p.lab.result import Metric, mean_interval
from koii_p2p.lab.runs import Findings
from koii_p2p.lab.scenario import EngineKind
from koii_p2p.lab.words import SHARE, metric_title, scaled, setting_title, unit_of
from koii_p2p.rounds.assignment import SAMPLE
from koii_p2p.rounds.audit_rules import Profile

_MOST_BEHAVIOURS: Final = 12
_LOOKS_SHOWN: Final = 40
_ROUNDS_FOR_A_COURSE: Final = 8
_MOST_PROFIT_PLOTS: Final = 3
_PROFIT: Final = "profit."
_FAR_APART: Final = 30
_MOST_TICKS: Final = 10
_SECOND: Final = 1_000_000


Shares = NDArray[np.float64]


def plots_of(findings: Findings) -> list[Plot]:
    """All plots that the findings have something for."""
    of_rounds = (_detection_times, _looks, _profits, _courses, _spreading, _traffic)
    own = GOSSIP_PLOTS if findings.experiment.engine is EngineKind.GOSSIP else of_rounds
    makers: Sequence[Callable[[Findings], Iterable[Plot]]] = (_shares, _curves, *own)
    return [plot for make in makers for plot in make(findings)]


# --- metrics of arms


def headline(findings: Findings) -> list[str]:
    """The metrics that the experiment is about, by name or by what is before the dot; all if it names none."""
    known = findings.metrics["name"].unique(maintain_order=True).to_list()
    wanted = findings.experiment.metrics
    return [name for one in wanted for name in known if one in (name, name.partition(".")[0])] or known


def _shares(findings: Findings) -> Iterator[Plot]:
    """Shares of each arm as points with intervals, where there are few enough arms to tell them apart."""
    arms = findings.experiment.arms
    if findings.experiment.axes or len(arms) > MOST_LINES:
        return
    every = [(name, _of_arms(findings, name)) for name in headline(findings)]
    rows = [row for row in every if any(one.value is not None and one.unit == SHARE for _, one in row[1])]
    if not rows:
        return
    figure, axes = new_figure(0.9 + 0.22 * len(rows) * (len(arms) + 1.5))
    step = 0.7 / len(arms)
    for row, (_, found) in enumerate(rows):
        for number, (_, metric) in enumerate(found):
            if metric.value is None:
                continue
            y = row + (number - (len(arms) - 1) / 2) * step
            low, high = _bounds(metric)
            colour = COLOURS[number]
            axes.plot([low, high], [y, y], color=colour, linewidth=2, solid_capstyle="butt", zorder=2)
            axes.plot(metric.value, y, MARKS[number], color=colour, markersize=6, zorder=3, clip_on=False)
            if metric.closed_form is not None:
                axes.plot(
                    metric.closed_form, y, "|", color="black", markersize=13, markeredgewidth=2, zorder=4,
                    clip_on=False,
                )  # fmt: skip
        if row % 2:
            axes.axhspan(row - 0.5, row + 0.5, color="#f4f4f4", zorder=0)
    axes.set_yticks(range(len(rows)), [metric_title(name) for name, _ in rows])
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_xlim(-0.02, 1.02)
    axes.xaxis.set_major_formatter(PercentFormatter(1.0))
    axes.set_xlabel("share (%)")
    for number, arm in enumerate(arms):
        axes.plot([], [], MARKS[number], color=COLOURS[number], label=arm.name, linestyle="-")
    has_theory = any(one.closed_form is not None for _, found in rows for _, one in found)
    if has_theory:
        axes.plot([], [], "|", color="black", markersize=11, markeredgewidth=2, linestyle="", label="theory")
    legend_above(axes)
    theory = " A black tick is what the closed form says, where there is one." if has_theory else ""
    yield picture(
        "shares",
        "The shares that the experiment is about",
        f"Points are what was measured, over all seeds; lines are 95 % intervals.{theory} What each name means is in "
        "the table of results.",
        figure,
    )


def _curves(findings: Findings) -> Iterator[Plot]:
    """A metric along the first axis that has a scale; a line for each combination of everything else."""
    experiment = findings.experiment
    along = next((axis for axis in experiment.axes if axis.is_numeric and len(axis.values) > 1), None)
    if along is None:
        return
    lines: dict[str, list[tuple[float, Arm]]] = {}
    for arm in experiment.arms:
        said = dict(arm.settings)
        others = [
            f"{short(axis.setting)} {shown(said[axis.setting])}" for axis in experiment.axes if axis != along
        ]
        group = [arm.group] if len(experiment.groups) > 1 else []
        lines.setdefault(", ".join([*group, *others]), []).append((_number(said[along.setting]), arm))
    left_out = len(lines) - MOST_LINES
    chosen = list(lines.items())[:MOST_LINES]
    yield from _profit_curves(findings, along, lines)
    for name in headline(findings):
        if name.startswith(_PROFIT):
            continue
        metrics = dict(_of_arms(findings, name))
        values = {one.value for one in metrics.values()} - {None}
        if len(values) < 2 and not any(one.closed_form is not None for one in metrics.values()):
            continue  # the table says it
        figure, axes = new_figure(4.2)
        for number, (label, points) in enumerate(chosen):
            _curve(
                axes,
                number,
                label,
                [(x, metrics[arm.name]) for x, arm in sorted(points, key=lambda one: one[0])],
            )
        unit = next(iter(metrics.values())).unit
        axes.set_xlabel(setting_title(along.setting))
        axes.set_ylabel(f"{metric_title(name)} ({unit_of(unit)})")
        if unit == SHARE:
            axes.set_ylim(-0.03, 1.03)
            axes.yaxis.set_major_formatter(PercentFormatter(1.0))
        else:
            axes.set_ylim(bottom=min(0.0, axes.get_ylim()[0]))
        _scale(axes, [_number(value) for value in along.values])
        _mark(axes, findings.experiment, along.setting)
        has_theory = any(one.closed_form is not None for one in metrics.values())
        if has_theory:
            axes.plot([], [], "--", color="#555555", label="theory")
        if has_theory or len(chosen) > 1 or along.setting in experiment.marks:
            legend_above(axes)
        definition = next(iter(metrics.values())).definition
        more = f" {left_out} more lines are left out." if left_out > 0 else ""
        theory = " Dashed: the closed form." if has_theory else ""
        yield picture(
            f"curve-{name}",
            f"{metric_title(name)} by {short(along.setting)}",
            f"{_sentence(definition)} Bars are 95 % intervals.{theory}{more}",
            figure,
        )


def _profit_curves(
    findings: Findings, along: Axis, lines: Mapping[str, Sequence[tuple[float, Arm]]]
) -> Iterator[Plot]:
    """What each behaviour earns along an axis, together, since where they cross is what matters; by line."""
    behaviours = [name for name in headline(findings) if name.startswith(_PROFIT)]
    if len(behaviours) < 2:
        return
    for place, (label, points) in enumerate(list(lines.items())[:_MOST_PROFIT_PLOTS]):
        figure, axes = new_figure(4.2)
        ordered = sorted(points, key=lambda one: one[0])
        for number, name in enumerate(behaviours[:MOST_LINES]):
            found = [(x, findings.metrics_of(arm.name).get(name)) for x, arm in ordered]
            known = [(x, one) for x, one in found if one is not None]
            _curve(axes, number, name.removeprefix(_PROFIT), known)
        axes.axhline(0, color="black", linewidth=0.8)
        axes.set_xlabel(setting_title(along.setting))
        axes.set_ylabel("profit of a node in a round (KOII)")
        _scale(axes, [_number(value) for value in along.values])
        _mark(axes, findings.experiment, along.setting)
        legend_above(axes)
        yield picture(
            f"profits-{place}",
            f"What each behaviour earns{f': {label}' if label else ''}",
            "Rewards less slashes, costs of work and audits, and fees, of a node in a round; mean over nodes. Bars are "
            "95 % intervals.",
            figure,
        )


def _mark(axes: Axes, experiment: Experiment, setting: str) -> None:
    """A line where theory says that something changes."""
    if setting in experiment.marks:
        value = experiment.marks[setting]
        axes.axvline(value, color="black", linestyle=":", linewidth=1.4, label=f"theory: {value:g}")


def _number(value: Value) -> float:
    if not isinstance(value, int | float):
        raise TypeError(f"{value!r} cannot be put on a scale")
    return float(value)


def _scale(axes: Axes, values: Sequence[float]) -> None:
    """Ticks where there are values; a logarithmic scale for those that are far apart."""
    if min(values) > 0 and max(values) / min(values) >= _FAR_APART:
        axes.set_xscale("log")
        axes.minorticks_off()
    else:
        room = (max(values) - min(values)) * 0.05
        axes.set_xlim(min(values) - room, max(values) + room)
        if len(values) > _MOST_TICKS:
            return
    axes.set_xticks(values, [f"{value:g}" for value in values])


def _curve(axes: Axes, number: int, label: str, points: Sequence[tuple[float, Metric]]) -> None:
    colour, mark = COLOURS[number], MARKS[number]
    measured = [(x, one) for x, one in points if one.value is not None]
    xs = [x for x, _ in measured]
    ys = [scaled(one.value or 0.0, one.unit) for _, one in measured]
    low = [y - scaled(_bounds(one)[0], one.unit) for y, (_, one) in zip(ys, measured, strict=True)]
    high = [scaled(_bounds(one)[1], one.unit) - y for y, (_, one) in zip(ys, measured, strict=True)]
    spread = (np.maximum(low, 0.0), np.maximum(high, 0.0))
    # With theory as a line, what was measured is points beside it.
    line = "" if any(one.closed_form is not None for _, one in points) else "-"
    style: dict[str, Any] = {
        "color": colour,
        "marker": mark,
        "linestyle": line,
        "capsize": 3,
        "linewidth": 1.6,
    }
    axes.errorbar(xs, ys, spread, label=label or "measured", **style)
    closed = [(x, scaled(one.closed_form, one.unit)) for x, one in points if one.closed_form is not None]
    if closed:
        axes.plot(*zip(*closed, strict=True), "--", color=colour, linewidth=1.4, alpha=0.8)


# --- what happened to frauds


def _detection_times(findings: Findings) -> Iterator[Plot]:
    """How long a fraud stayed unnoticed, as the share that was noticed after so many seconds."""
    frauds = findings.submissions.filter(pl.col("fraud"))
    if frauds.is_empty() or findings.experiment.axes:
        return
    figure, axes = new_figure(3.8)
    longest = 0.0
    curves = []
    for number, arm in enumerate(findings.experiment.arms[:MOST_LINES]):
        own = frauds.filter(pl.col("arm") == arm.name)
        if own.is_empty():
            continue
        took = own.select((pl.col("found_us") - pl.col("made_us")).drop_nulls() / _SECOND).to_series().sort()
        longest = max([longest, *took.to_list()[-1:]])
        curves.append((number, arm.name, took.to_list(), len(own)))
    for number, name, times, whole in curves:
        xs = [0.0, *times, longest * 1.05]
        ys = [0.0, *(np.arange(1, len(times) + 1) / whole), len(times) / whole]
        label = f"{name} ({whole} wrong submissions)"
        axes.step(xs, ys, where="post", color=COLOURS[number], linewidth=1.8, label=label)
    axes.set_xlabel("time since the submission was published (s of virtual time)")
    axes.set_ylabel("share called out (%)")
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    axes.set_ylim(0, 1.03)
    axes.set_xlim(0, max(longest * 1.05, 1e-3))
    legend_above(axes)
    yield picture(
        "detection-times",
        "How soon wrong work is called out",
        "Share of all wrong submissions that an honest node had called INVALID, in a ballot or a challenge, so long "
        "after they were published. Where a line ends below 100 %, the rest was never called out.",
        figure,
    )


def _looks(findings: Findings) -> Iterator[Plot]:
    """How many honest looks a submission got, beside Binomial(h, k/n) where nodes choose by themselves."""
    if findings.submissions.is_empty() or findings.experiment.axes:
        return
    arms = findings.experiment.arms[:MOST_LINES]
    figure, axes = new_figure(3.8)
    counted = [
        (
            arm,
            findings.submissions.filter((pl.col("arm") == arm.name) & ~pl.col("canary"))["looks"].to_numpy(),
        )
        for arm in arms
    ]
    most = min(_LOOKS_SHOWN, max((int(looks.max()) for _, looks in counted if len(looks)), default=0))
    if not most:
        return
    width = 0.8 / len(counted)
    theory = False
    for number, (arm, looks) in enumerate(counted):
        if not len(looks):
            continue
        shares = np.bincount(np.minimum(looks, most), minlength=most + 1) / len(looks)
        xs = np.arange(most + 1) + (number - (len(counted) - 1) / 2) * width
        axes.bar(xs, shares, width, color=COLOURS[number], label=arm.name)
        expected = _looks_in_theory(findings, arm, most)
        if expected is not None:
            theory = True
            axes.plot(xs, expected, ".--", color="black", linewidth=1, markersize=4)
    if theory:
        axes.plot([], [], ".--", color="black", linewidth=1, label="theory: Binomial(h, 5/n)")
    or_more = "; the last bar: so many or more" if most == _LOOKS_SHOWN else ""
    axes.set_xlabel(f"honest looks at one submission (count{or_more})")
    axes.set_ylabel("share of submissions (%)")
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    axes.set_xlim(-0.6, most + 0.6)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    legend_above(axes)
    beside = (
        " The dashed line is what theory says of nodes that each choose five of n submissions by themselves: with h "
        "honest ones among them, looks are Binomial(h, 5/n)."
        if theory
        else ""
    )
    yield picture(
        "looks",
        "How often a submission is really looked at",
        "How many times an honest node ran the task's audit on a submission. A vote without a look is not counted; "
        f"bars at 0 are submissions that no honest node looked at.{beside}",
        figure,
    )


def _looks_in_theory(findings: Findings, arm: Arm, most: int) -> Shares | None:
    """Binomial(h, k/n) of each round, with those h honest and n submitting nodes that have a stake left in it."""
    if arm.scenario.protocol.audit.profile is not Profile.KOII:
        return None
    own = findings.submissions.filter((pl.col("arm") == arm.name) & ~pl.col("canary"))
    known = own.join(findings.nodes.select("arm", "seed", "node", "misbehaves"), on=["arm", "seed", "node"])
    expected, weights = np.zeros(most + 1), 0
    for (n, honest), rounds in _crews(known).items():
        chance = min(SAMPLE, n) / n
        for lookers, authors in ((honest - 1, honest), (honest, n - honest)):
            if authors:
                expected += rounds * authors * _binomial(lookers, chance, most)
        weights += rounds * n
    return expected / weights if weights else None


def _crews(known: pl.DataFrame) -> Counter[tuple[int, int]]:
    """How many rounds had so many submissions, and so many of honest nodes."""
    rounds = known.group_by("seed", "round").agg(pl.len(), (~pl.col("misbehaves")).sum().alias("honest"))
    return Counter(zip(rounds["len"].to_list(), rounds["honest"].to_list(), strict=True))


def _binomial(trials: int, chance: float, most: int) -> Shares:
    return np.array(
        [math.comb(trials, k) * chance**k * (1 - chance) ** max(0, trials - k) for k in range(most + 1)]
    )


# --- money, time and traffic


def _profits(findings: Findings) -> Iterator[Plot]:
    """What each behaviour earned in a round."""
    nodes = findings.nodes
    kinds = nodes["behaviour"].unique(maintain_order=True).to_list()
    if len(kinds) < 2 or findings.experiment.axes or len(kinds) > _MOST_BEHAVIOURS:
        return
    if nodes.select(pl.col("reward").sum() + pl.col("slash").sum()).item() == 0:
        return
    arms = findings.experiment.arms[:MOST_LINES]
    figure, axes = new_figure(0.9 + 0.22 * len(kinds) * (len(arms) + 1.5))
    step = 0.7 / len(arms)
    for row, kind in enumerate(kinds):
        for number, arm in enumerate(arms):
            own = nodes.filter((pl.col("arm") == arm.name) & (pl.col("behaviour") == kind))
            if own.is_empty():
                continue
            rounds = arm.scenario.rounds
            means = (
                own.group_by("seed").agg(pl.col("profit").mean()).sort("seed")["profit"]
                / rounds
                / ROE_PER_KOII
            )
            mean, low, high = mean_interval(means.to_list())
            y = row + (number - (len(arms) - 1) / 2) * step
            axes.barh(y, mean, step * 0.9, color=COLOURS[number])
            axes.plot([low, high], [y, y], color="black", linewidth=1)
    axes.axvline(0, color="black", linewidth=0.8)
    axes.set_yticks(range(len(kinds)), kinds)
    axes.set_ylim(len(kinds) - 0.5, -0.5)
    axes.set_xlabel("profit of a node in a round (KOII, mean)")
    for number, arm in enumerate(arms):
        axes.barh([0], [0], color=COLOURS[number], label=arm.name)
    legend_above(axes)
    yield picture(
        "profits",
        "What each behaviour earns",
        "Rewards less slashes, costs of work and audits, and fees, of a node in a round, by behaviour; mean over "
        "nodes. Black lines are 95 % intervals over seeds, where there are several. A slash is of the stake, so that "
        "it weighs more in a short run.",
        figure,
    )


def _courses(findings: Findings) -> Iterator[Plot]:
    """Shares round by round, where there are enough rounds to see something change."""
    arms = findings.experiment.arms
    if findings.experiment.axes or arms[0].scenario.rounds < _ROUNDS_FOR_A_COURSE:
        return
    figure, axes = new_figure(3.8)
    drawn = False
    for number, arm in enumerate(arms[:MOST_LINES]):
        own = (
            findings.rounds.filter(pl.col("arm") == arm.name)
            .group_by("round")
            .agg(pl.col("frauds").sum(), pl.col("rejected").sum(), pl.col("wrongly_slashed").sum())
            .sort("round")
        )
        if own["frauds"].sum():
            drawn = True
            shares = own.filter(pl.col("frauds") > 0)
            axes.plot(
                shares["round"], shares["rejected"] / shares["frauds"], color=COLOURS[number], linewidth=1.4,
                marker=MARKS[number], markersize=3, label=arm.name,
            )  # fmt: skip
    if not drawn:
        return
    axes.set_xlabel("round (number)")
    axes.set_ylabel("wrong submissions rejected (%)")
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    axes.set_ylim(-0.03, 1.03)
    legend_above(axes)
    yield picture(
        "course",
        "Round by round",
        "Share of the wrong submissions of a round that were rejected, over all seeds, where there were any.",
        figure,
    )


def _spreading(findings: Findings) -> Iterator[Plot]:
    """How long records take to half, and to 99 of 100, of the nodes."""
    messages = findings.messages.filter(pl.col("p50_us").is_not_null())
    if messages.is_empty() or findings.experiment.axes:
        return
    figure, axes = new_figure(3.8)
    longest, shortest = 0.0, math.inf
    for number, arm in enumerate(findings.experiment.arms[:MOST_LINES]):
        own = messages.filter(pl.col("arm") == arm.name)
        for column, style, what in (("p50_us", "-", "half of them"), ("p99_us", "--", "99 of 100")):
            times = np.sort(own[column].drop_nulls().to_numpy()) / 1000
            if not len(times):
                continue
            longest = max(longest, float(np.quantile(times, 0.995)))
            shortest = min(shortest, float(times[0]))
            shares = np.arange(1, len(times) + 1) / len(times)
            axes.plot(times, shares, style, color=COLOURS[number], linewidth=1.6, label=f"{arm.name}: {what}")
    axes.set_xlabel("time until so many nodes have a record (ms of virtual time, logarithmic)")
    axes.set_xscale("log")
    axes.set_ylabel("share of records (%)")
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    axes.set_ylim(0, 1.03)
    axes.set_xlim(max(shortest * 0.8, 0.1), max(longest * 1.05, 1.0))
    legend_above(axes)
    yield picture(
        "spreading",
        "How fast records spread",
        "For every record that was published: how long it took until half, and until 99 of 100, of the nodes that it "
        "reached had it. The slowest half percent is beyond the right edge.",
        figure,
    )


def _traffic(findings: Findings) -> Iterator[Plot]:
    """What a node sends in a round."""
    if findings.experiment.axes or not findings.nodes["sent_bytes"].sum():
        return
    arms = findings.experiment.arms[:MOST_LINES]
    figure, axes = new_figure(0.9 + 0.45 * len(arms) + 0.6)
    columns = []
    for arm in arms:
        own = findings.nodes.filter(pl.col("arm") == arm.name)
        columns.append(
            (own["sent_bytes"].to_numpy() + own["received_bytes"].to_numpy()) / 1024 / arm.scenario.rounds
        )
    boxes = axes.boxplot(columns, orientation="horizontal", widths=0.6, whis=(0, 100), patch_artist=True)
    for number, box in enumerate(boxes["boxes"]):
        box.set_facecolor(COLOURS[number])
        box.set_alpha(0.6)
    for line in boxes["medians"]:
        line.set_color("black")
    axes.set_yticks(range(1, len(arms) + 1), [arm.name for arm in arms])
    axes.invert_yaxis()
    axes.set_xlim(left=0)
    axes.set_xlabel("bytes that a node sends and receives in a round (KiB)")
    yield picture(
        "traffic",
        "What a node sends and receives",
        "Bytes of gossip, reconciliation and answers, per node and round. Boxes hold the middle half of the nodes, the "
        "black line is the median, whiskers reach to the least and the most.",
        figure,
    )


# --- drawing


def _of_arms(findings: Findings, name: str) -> list[tuple[str, Metric]]:
    """A metric of each arm that has it."""
    found = ((arm.name, findings.metrics_of(arm.name)) for arm in findings.experiment.arms)
    return [(arm, metrics[name]) for arm, metrics in found if name in metrics]


def _bounds(metric: Metric) -> tuple[float, float]:
    value = float(metric.value or 0.0)
    return value if metric.low is None else metric.low, value if metric.high is None else metric.high


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:] + ("" if text.endswith(".") or not text else ".")
