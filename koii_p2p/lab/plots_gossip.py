"""Plots of gossip under attack: how long messages took, when that was, and who is in the meshes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

import numpy as np
import polars as pl
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator, PercentFormatter

from koii_p2p.lab.clockwork import MILLISECOND, SECOND
from koii_p2p.lab.gossip_result import DEADLINE
from koii_p2p.lab.plots_drawing import COLOURS, MARKS, MOST_LINES, Plot, legend_above, new_figure, picture
from koii_p2p.lab.runs import Findings

_MOST_POINTS: Final = 2000
_COURSE: Final = 5 * SECOND
"""Messages of so much time are a point of the course."""
_WORST: Final = 0.99


def _latencies(findings: Findings) -> Iterator[Plot]:
    """The share of all deliveries that were made after so long."""
    if findings.experiment.axes or findings.deliveries.is_empty():
        return
    figure, axes = new_figure(4.4)
    shortest = float("inf")
    for number, arm in enumerate(findings.experiment.arms[:MOST_LINES]):
        own = findings.deliveries.filter(pl.col("arm") == arm.name)["latency_us"].sort().to_numpy()
        due = findings.published.filter(pl.col("arm") == arm.name)["due"].sum()
        if not len(own) or not due:
            continue
        places = np.unique(np.linspace(0, len(own) - 1, _MOST_POINTS).astype(int))
        times, shares = own[places] / MILLISECOND, (places + 1) / due
        shortest = min(shortest, float(times[0]))
        axes.plot(times, shares, color=COLOURS[number], linewidth=1.8, label=arm.name)
    axes.axvline(DEADLINE / MILLISECOND, color="black", linestyle=":", linewidth=1.2, label="6 s")
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.set_xlim(left=max(1.0, shortest * 0.8))
    axes.set_xlabel("time since the message was published (ms of virtual time, logarithmic)")
    axes.set_ylabel("share of deliveries (%)")
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    axes.set_ylim(0, 1.03)
    legend_above(axes)
    yield picture(
        "latencies",
        "How long messages took",
        "Share of all deliveries that were due to honest nodes and had been made so long after the message was "
        "published, over all seeds. Further left is faster; where a line ends below 100 %, the rest was lost. Nodes "
        "tell each other once a second what they have: whoever no mesh brings a message to waits for that.",
        figure,
    )


def _course(findings: Findings) -> Iterator[Plot]:
    """How long the slow deliveries took, by when the message was published."""
    if findings.experiment.axes or findings.deliveries.is_empty():
        return
    figure, axes = new_figure(4.0)
    sent = findings.published.select("arm", "seed", "message", "sent_us")
    known = findings.deliveries.join(sent, on=["arm", "seed", "message"])
    for number, arm in enumerate(findings.experiment.arms[:MOST_LINES]):
        own = (
            known.filter(pl.col("arm") == arm.name)
            .group_by((pl.col("sent_us") // _COURSE).alias("when"))
            .agg(pl.col("latency_us").quantile(_WORST, "nearest"))
            .sort("when")
        )
        times = (own["when"].to_numpy() + 0.5) * _COURSE / SECOND
        axes.plot(
            times, own["latency_us"].to_numpy() / MILLISECOND, color=COLOURS[number], marker=MARKS[number],
            markersize=4, linewidth=1.6, label=arm.name,
        )  # fmt: skip
    attack = findings.experiment.arms[0].scenario.attack
    _begin(axes, max(attack.sybils_at_seconds, attack.attack_at_seconds))
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter("{x:,.0f}")
    axes.set_xlabel("when the message was published (s of virtual time since the start)")
    axes.set_ylabel("99th percentile (ms, logarithmic)")
    legend_above(axes)
    yield picture(
        "course",
        "Before, during and after",
        "What 99 of 100 deliveries took at most, of messages that were published in the same five seconds, over all "
        "seeds. The dotted line is when sybils begin to forward nothing; without one they do so from the start.",
        figure,
    )


def _begin(axes: Axes, seconds: float) -> None:
    if seconds:
        axes.axvline(seconds, color="black", linestyle=":", linewidth=1.4, label="the attack begins")


def _honest_peers(findings: Findings) -> Iterable[Plot]:
    """How many honest peers nodes have in their meshes at the end."""
    if findings.experiment.axes or findings.meshes.is_empty():
        return
    arms = findings.experiment.arms[:MOST_LINES]
    figure, axes = new_figure(3.8)
    counts = [findings.meshes.filter(pl.col("arm") == arm.name)["honest_mesh"].to_numpy() for arm in arms]
    most = max(int(own.max()) for own in counts)
    width = 0.8 / len(arms)
    for number, (arm, own) in enumerate(zip(arms, counts, strict=True)):
        places = np.arange(most + 1) + (number - (len(arms) - 1) / 2) * width
        axes.bar(
            places,
            np.bincount(own, minlength=most + 1) / len(own),
            width,
            color=COLOURS[number],
            label=arm.name,
        )
    axes.set_xlabel("honest peers in the mesh of a node at the end (count)")
    axes.set_ylabel("share of honest nodes (%)")
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    legend_above(axes)
    yield picture(
        "meshes",
        "Who is in the meshes at the end",
        "How many of the peers that an honest node exchanges messages with at once are honest, over all nodes and "
        "seeds. Bars at 0 are nodes that hear only from sybils, who forward nothing: they depend on what they are told "
        "once a second.",
        figure,
    )


GOSSIP_PLOTS: Final = (_latencies, _course, _honest_peers)
