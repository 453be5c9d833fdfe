"""The report of an experiment: one HTML page with everything in it, for somebody who has never heard of it before."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any, Final

from koii_p2p.lab.behaviours.catalogue import BEHAVIOURS, HONEST, JOINED
from koii_p2p.lab.experiment import Arm, Experiment, dotted, short, shown
from koii_p2p.lab.plots import headline, plots_of
from koii_p2p.lab.plots_drawing import Plot
from koii_p2p.lab.pooling import SEEDS_TO_TELL
from koii_p2p.lab.report_gossip import attackers
from koii_p2p.lab.report_style import CSS
from koii_p2p.lab.result import Metric
from koii_p2p.lab.runs import PLOTS, REPORT, Findings
from koii_p2p.lab.scenario import EngineKind, Group, Scenario
from koii_p2p.lab.scenario_file import table_of
from koii_p2p.lab.words import PARTS, SHARE, interval, metric_title, number, part_of, with_unit

_MOST_COLUMNS: Final = 6
"""Arms that stand beside each other; more of them are rows."""
_MOST_ROWS: Final = 400
_AXES_METRICS: Final = 6

_ABOUT_ROUNDS: Final = """
In a round, every node does the task's work and signs a <em>submission</em>. Other nodes <em>audit</em> it: they run the
task's check on it, and vote. At the end of the round the signed votes are put together into one <em>commitment</em> on
the chain (K2), and a <em>distribution list</em> says whom the round pays, and whose stake is <em>slashed</em>. Nodes
talk to each other by gossip: each hands on what it hears to a few others.
"""
_ABOUT_INTERVALS: Final = f"""
A range such as <span class="bounds">91 to 97</span> below a number is its 95 % confidence interval: for shares
Wilson's, for means the normal one over observations; from {SEEDS_TO_TELL} seeds on it is at least as wide as the one
over seeds. Where theory has a formula for a number, its value stands below: in <span class="agrees">green</span> if it
is in the interval, in <span class="differs">orange</span> if it is not. One in twenty may be outside by chance.
"""
_ABOUT_GOSSIP: Final = """
Every node is linked to a number of others, and exchanges whole messages at once with a few of them: its <em>mesh</em>.
Once a second (a <em>heartbeat</em>) it tells some of its other links which messages it has, and whoever lacks one asks
for it: that is slower, but no mesh is needed for it. A <em>sybil</em> is one of many nodes that somebody runs to do
harm, and costs next to nothing. It asks everybody that it is linked to for a place in the mesh (it <em>grafts</em>),
and then forwards nothing. A node puts peers out of a mesh that is too full (it <em>prunes</em> them); with
<em>scores</em>, which say what a peer brought first and what it broke, it knows whom to keep.
"""
_ABOUT_PUBLISHED: Final = """
What others published of the same attack stands below what was measured, where there is something: it was of another
net (in full size, on other machines), so that it is to be like it and not the same.
"""
_ENGINES: Final[Mapping[EngineKind, str]] = {
    EngineKind.EXACT: "the exact engine: every simulated node runs the round engine and the gossip router that real "
    "nodes run, with real signed records; only links, clocks and the chain are simulated, in virtual time",
    EngineKind.FAST: "the fast engine: the real rules (draw of auditors, tally, distribution list) are applied to "
    "arrays of what all nodes do and hear; when records arrive follows from shortest paths over a gossip mesh",
    EngineKind.GOSSIP: "the engine gossip: every honest node runs the gossip router that real nodes run, with its wire "
    "format, and nothing else; links are simulated, in virtual time",
}


def write_report(findings: Findings, folder: Path) -> Path:
    """Write `plots/*.png` and `report.html` into a run folder, over older ones; returns the page's path."""
    plots = plots_of(findings)
    place = folder / PLOTS
    place.mkdir(exist_ok=True)
    for old in place.glob("*.png"):
        old.unlink()
    for plot in plots:
        (place / f"{plot.name}.png").write_bytes(plot.png)
    page = folder / REPORT
    page.write_text(html_of(findings, plots), encoding="utf-8")
    return page


def html_of(findings: Findings, plots: Sequence[Plot]) -> str:
    """The page; it needs no other file and no network."""
    experiment = findings.experiment
    sections = (
        ("method", "What was played", _method(findings)),
        ("results", "Results", _results(findings)),
        ("plots", "Plots", _figures(plots)),
        ("settings", "Settings", _settings(experiment)),
        ("again", "Play it again", _again(findings)),
    )
    links = "".join(f'<a href="#{name}">{title}</a>' for name, title, _ in sections)
    body = "".join(f'<h2 id="{name}">{title}</h2>{content}' for name, title, content in sections)
    theory = (
        f"<p><strong>What theory says.</strong> {escape(experiment.closed_form)}</p>"
        if experiment.closed_form
        else ""
    )
    return (
        "<!DOCTYPE html>\n"
        f'<html lang="en"><head><meta charset="utf-8"><title>{escape(experiment.title)}</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<style>{CSS}</style></head><body><main>"
        f"<h1>{escape(experiment.title)}</h1>"
        f'<p class="lead">{escape(experiment.question)}</p>{theory}'
        f"<nav>{links}</nav>{_first(findings)}{body}</main></body></html>\n"
    )


# --- results


def _first(findings: Findings) -> str:
    """The few numbers that the experiment is about, before everything else."""
    experiment = findings.experiment
    names = headline(findings)[:_AXES_METRICS]
    if not experiment.metrics or experiment.axes or len(experiment.arms) > _MOST_COLUMNS:
        return ""
    return f'<div class="first"><h3>In short</h3>{_table(findings, names, definitions=False)}</div>'


def _results(findings: Findings) -> str:
    experiment = findings.experiment
    known = findings.metrics["name"].unique(maintain_order=True).to_list()
    published = _ABOUT_PUBLISHED if any(arm.published for arm in experiment.arms) else ""
    intro = f"<p>{_ABOUT_INTERVALS}{published}</p>"
    if len(experiment.arms) <= _MOST_COLUMNS:
        return intro + _table(findings, known, definitions=True)
    return intro + _long_table(findings, headline(findings)[:_AXES_METRICS])


def _table(findings: Findings, names: Sequence[str], *, definitions: bool) -> str:
    """A metric a row, an arm a column."""
    arms = [arm.name for arm in findings.experiment.arms]
    published = {arm.name: arm.published for arm in findings.experiment.arms}
    by_arm = _by_arm(findings)
    head = "".join(f"<th>{escape(_headed(name))}</th>" for name in arms)
    rows: list[str] = []
    parts = {name: part_of(name) for name in names}
    for part in dict.fromkeys((*PARTS, *parts.values())):
        own = [name for name in names if parts[name] == part]
        if definitions and own:
            rows.append(f'<tr class="part"><th colspan="{len(arms) + 1}">{escape(part)}</th></tr>')
        for name in own:
            found = [by_arm[arm].get(name) for arm in arms]
            known = [(arm, one) for arm, one in zip(arms, found, strict=True) if one is not None]
            said = f'<div class="definition">{escape(_defined(known))}</div>' if definitions else ""
            cells = "".join(
                f"<td>{_cell(one, published[arm].get(name))}</td>"
                for arm, one in zip(arms, found, strict=True)
            )
            rows.append(f"<tr><th>{escape(metric_title(name))}{said}</th>{cells}</tr>")
    return _framed(head, "".join(rows))


def _long_table(findings: Findings, names: Sequence[str]) -> str:
    """An arm a row, a metric a column: for sweeps."""
    by_arm = _by_arm(findings)
    head = "".join(f"<th>{escape(metric_title(name))}</th>" for name in names)
    arms = findings.experiment.arms
    rows = "".join(
        f"<tr><th>{escape(arm.name)}</th>"
        + "".join(f"<td>{_cell(by_arm[arm.name].get(name), arm.published.get(name))}</td>" for name in names)
        + "</tr>"
        for arm in arms[:_MOST_ROWS]
    )
    known = {name: [(arm, own[name]) for arm, own in by_arm.items() if name in own] for name in names}
    said = "".join(
        f"<dt>{escape(metric_title(name))}</dt><dd>{escape(_defined(found))}</dd>"
        for name, found in known.items()
    )
    more = f"<p>{len(arms) - _MOST_ROWS} more are in metrics.parquet.</p>" if len(arms) > _MOST_ROWS else ""
    return (
        f"<dl>{said}</dl><p>Every other metric is in <code>metrics.parquet</code>.</p>"
        f"{_framed(head, rows, 'sweep')}{more}"
    )


def _framed(head: str, rows: str, kind: str = "arms") -> str:
    table = f"<thead><tr><th></th>{head}</tr></thead><tbody>{rows}</tbody>"
    return f'<div class="wide"><table class="{kind}">{table}</table></div>'


def _cell(metric: Metric | None, published: float | None) -> str:
    if metric is None:
        return "-"
    if metric.value is None:
        return '<span class="soft" title="there was nothing to measure">-</span>'
    parts = [f'<span class="value">{escape(with_unit(metric.value, metric.unit))}</span>']
    if bounds := interval(metric.low, metric.high, metric.unit):
        parts.append(f'<span class="bounds">{escape(bounds)}</span>')
    if metric.closed_form is not None:
        kind = "agrees" if agrees(metric) else "differs"
        value = escape(number(metric.closed_form, metric.unit))
        parts.append(f'<span class="theory {kind}" title="{escape(metric.formula)}">theory: {value}</span>')
    if published is not None:
        parts.append(f'<span class="bounds">published: {escape(number(published, metric.unit))}</span>')
    return "".join(parts)


def agrees(metric: Metric) -> bool:
    """Whether what theory says is in the interval of what was measured. Raises ValueError without either."""
    if metric.closed_form is None or metric.value is None:
        raise ValueError(f"{metric.name} has nothing to compare")
    low = metric.value if metric.low is None else metric.low
    high = metric.value if metric.high is None else metric.high
    # The bounds are sums of floats.
    room = 1e-9 * max(1.0, abs(metric.value))
    return low - room <= metric.closed_form <= high + room


def _defined(known: Sequence[tuple[str, Metric]]) -> str:
    """What a metric is, and the formulas of those arms that have one."""
    first = known[0][1].definition
    text = f"{first[:1].upper()}{first[1:]}."
    formulas: dict[str, list[str]] = {}
    for arm, metric in known:
        if metric.formula:
            formulas.setdefault(metric.formula, []).append(arm)
    for formula, arms in formulas.items():
        only = f" ({', '.join(arms)})" if len(formulas) > 1 and len(arms) <= _MOST_COLUMNS else ""
        text += f" Theory{only}: {formula}."
    return text


def _by_arm(findings: Findings) -> dict[str, dict[str, Metric]]:
    return {arm.name: findings.metrics_of(arm.name) for arm in findings.experiment.arms}


def _headed(arm: str) -> str:
    return "measured" if arm == "all" else arm


# --- plots


def _figures(plots: Iterable[Plot]) -> str:
    return "".join(
        f"<figure><h3>{escape(plot.title)}</h3>"
        f'<img alt="{escape(plot.title)}. {escape(plot.caption)}" src="data:image/png;base64,'
        f'{base64.b64encode(plot.png).decode()}"><figcaption>{escape(plot.caption)}</figcaption></figure>'
        for plot in plots
    )


# --- method


def _method(findings: Findings) -> str:
    experiment = findings.experiment
    first = experiment.arms[0].scenario
    engines = {arm.scenario.engine for arm in experiment.arms}
    played = "; ".join(_ENGINES[engine] for engine in sorted(engines))
    seeds = (
        f"{first.seeds} seeds ({first.seed} to {first.seed + first.seeds - 1})"
        if first.seeds > 1
        else f"seed {first.seed}"
    )
    each = "each arm" if len(experiment.arms) > 1 else "the scenario"
    parts = [
        f"<p><strong>Gossip.</strong> {_ABOUT_GOSSIP}</p>"
        if experiment.engine is EngineKind.GOSSIP
        else f"<p><strong>A round.</strong> {_ABOUT_ROUNDS}</p>",
        f"<p><strong>How it was played.</strong> By {escape(played)}. "
        f"{each.capitalize()} was played with {escape(seeds)}; everything random follows from the "
        "seed, so that arms with the same seed have the same links and latencies, and the same scenario gives the "
        "same bytes again.</p>",
        _arms(experiment),
        attackers(experiment) if experiment.engine is EngineKind.GOSSIP else _population(experiment),
    ]
    return "".join(parts)


def _arms(experiment: Experiment) -> str:
    if len(experiment.arms) == 1:
        return ""
    said = {arm.group: arm for arm in reversed(experiment.arms)}
    rows = "".join(
        f"<dt>{escape(_headed(group))}</dt>"
        f"<dd>{escape(said[group].about)} {_own_settings(experiment, said[group])}</dd>"
        for group in experiment.groups
        if len(experiment.groups) > 1
    )
    axes = "".join(
        f"<dt>{escape(short(axis.setting))}</dt><dd>{escape(', '.join(map(shown, axis.values)))} "
        f"(<code>{escape(axis.setting)}</code>)</dd>"
        for axis in experiment.axes
    )
    return (f"<h3>What is compared</h3><dl>{rows}</dl>" if rows else "") + (
        f"<h3>What is varied</h3><dl>{axes}</dl>" if axes else ""
    )


def _own_settings(experiment: Experiment, arm: Arm) -> str:
    varied = {axis.setting for axis in experiment.axes}
    own = [f"{name} = {shown(value)}" for name, value in arm.settings if name not in varied]
    return f"<code>{escape(', '.join(own))}</code>" if own else ""


def _population(experiment: Experiment) -> str:
    """Who there is: the shares that arms have of each behaviour, what it does, and its parameter."""
    groups: dict[str, list[Group]] = {}
    for arm in experiment.arms:
        for group in arm.scenario.population:
            groups.setdefault(group.behaviour, []).append(group)
    if not any(group.share for found in groups.values() for group in found):
        return "<p>All nodes are honest.</p>"
    rows = []
    for behaviour, found in groups.items():
        low, high = min(group.share for group in found), max(group.share for group in found)
        low = 0.0 if len(found) < len(experiment.arms) else low
        share = with_unit(high, SHARE) if low == high else f"{number(low, SHARE)} to {with_unit(high, SHARE)}"
        does = "; ".join(
            f"{BEHAVIOURS[name].does}{_parameters(name, found)}" for name in behaviour.split(JOINED)
        )
        rows.append(f"<dt>{escape(behaviour)}</dt><dd>{share} of the nodes: {escape(does)}</dd>")
    rows.append(f"<dt>{HONEST}</dt><dd>all others: {escape(BEHAVIOURS[HONEST].does)}</dd>")
    return f"<h3>Who takes part</h3><dl>{''.join(rows)}</dl>"


def _parameters(name: str, groups: Sequence[Group]) -> str:
    described = BEHAVIOURS[name].parameter
    if described is None:
        return ""
    values = dict.fromkeys(shown(group.parameter(name)) for group in groups)
    return f" ({described.name}: {', '.join(values)})"


# --- settings


def _settings(experiment: Experiment) -> str:
    """All settings of the first arm; those that differ between arms stand above."""
    plain = dict(dotted(table_of(experiment.arms[0].scenario)))
    alone = experiment.engine is EngineKind.GOSSIP
    usual = dict(dotted(table_of(Scenario(engine=EngineKind.GOSSIP if alone else EngineKind.EXACT))))
    changed = {name: value for name, value in plain.items() if usual.get(name) != value and name != "name"}
    varied = {name for arm in experiment.arms for name, _ in arm.settings}
    rows = "".join(
        f"<dt>{escape(name)}</dt><dd>{escape(_said(value))}{' (first arm)' if name in varied else ''}</dd>"
        for name, value in changed.items()
    )
    rest = "".join(
        f"<dt>{escape(name)}</dt><dd>{escape(_said(value))}</dd>"
        for name, value in plain.items()
        if name not in changed and name != "name"
    )
    return (
        f"<p>What is not as it is by default:</p><dl>{rows}</dl>"
        f"<details><summary>Everything else</summary><dl>{rest}</dl></details>"
    )


def _said(value: Any) -> str:
    text = shown(value) if isinstance(value, int | float | str) else json.dumps(value)
    return text if len(text) <= 200 else f"{text[:200]}... ({len(text)} characters)"


# --- again


def _again(findings: Findings) -> str:
    experiment = findings.experiment
    rows = "".join(
        f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in findings.versions.items()
    )
    digests = "".join(
        f"<dt>{escape(name)}.parquet</dt><dd><code>{digest}</code></dd>"
        for name, digest in findings.digests.items()
    )
    events = f" and {findings.events:,} events" if findings.events else ""
    alone = experiment.engine is EngineKind.GOSSIP
    what = f"{findings.published.height:,} messages" if alone else f"{findings.rounds.height:,} rounds"
    played = f"{len(experiment.jobs)} runs with {what}{events}"
    return (
        f"<p>{played} took {findings.seconds:.0f} s of one processor. "
        "With the same code they come to the same bytes again, whoever plays them:</p>"
        "<pre>koii-p2p lab run FOLDER/experiment.json --out OTHER</pre>"
        "<details><summary>experiment.json: the whole experiment</summary>"
        f"<pre>{escape(json.dumps(experiment.table, indent=1))}</pre></details>"
        f"<h3>Played with</h3><dl>{rows}</dl><h3>Tables, and their SHA-256</h3><dl>{digests}</dl>"
    )
