"""How plots are drawn: colours, marks, the empty picture, and the PNG that it becomes."""

from __future__ import annotations

from dataclasses import dataclass
from io import BytesIO
from typing import Final

from matplotlib.axes import Axes
from matplotlib.figure import Figure

COLOURS: Final = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#8c6d31")
"""Okabe and Ito's, which people who see few colours can tell apart; the last one is not theirs."""
MARKS: Final = ("o", "s", "^", "D", "v", "P", "X", "*")
MOST_LINES: Final = len(COLOURS)
_DPI: Final = 130
_WIDTH: Final = 7.6


@dataclass(frozen=True, slots=True)
class Plot:
    """One picture: a name for its file, a heading, what is to be seen on it, and the PNG."""

    name: str
    title: str
    caption: str
    png: bytes


def new_figure(height: float) -> tuple[Figure, Axes]:
    """An empty picture of so many inches, and its axes."""
    figure = Figure(figsize=(_WIDTH, max(2.2, height)), layout="constrained")
    axes = figure.add_subplot()
    axes.grid(axis="x", color="#dddddd", linewidth=0.6)
    axes.grid(axis="y", color="#eeeeee", linewidth=0.6)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    return figure, axes


def legend_above(axes: Axes) -> None:
    """Put what the lines are over the picture, where nothing is hidden by it."""
    axes.legend(
        loc="lower left", bbox_to_anchor=(0.0, 1.01), ncols=2, frameon=False, fontsize=8.5, borderaxespad=0.0
    )


def picture(name: str, title: str, caption: str, figure: Figure) -> Plot:
    """A picture that is ready."""
    stream = BytesIO()
    # Without the version of matplotlib, which says nothing about the run.
    figure.savefig(stream, format="png", dpi=_DPI, metadata={"Software": None})
    return Plot(name, title, caption, stream.getvalue())
