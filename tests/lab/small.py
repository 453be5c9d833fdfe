"""Experiments that are played in a moment."""

from __future__ import annotations

from pathlib import Path

from koii_p2p.lab.experiment import Experiment, experiment_of, with_settings

TABLE = {
    "name": "small",
    "title": "A small experiment",
    "question": "Is wrong work found by <few> auditors?",
    "closed_form": "1 - C(N - d, m) / C(N, m)",
    "metrics": ["detection", "looks", "transactions"],
    "engine": "fast",
    "rounds": 2,
    "seeds": 2,
    "network": {"nodes": 12, "degree": 4, "latency": 20},
    "population": {"fraudulent": 0.25, "lazy": 0.25},
    "arms": [
        {"name": "koii-today", "about": "Koii's rules.", "protocol": {"profile": "koii-today"}},
        {"name": "hardened", "about": "The hardened rules.", "protocol": {"profile": "hardened"}},
    ],
}

FILE = """
title = "A small experiment"
question = "Is wrong work found?"
metrics = ["detection", "looks"]
engine = "fast"
rounds = 2
seeds = 2

[network]
nodes = 12
degree = 4
latency = 20

[population]
fraudulent = 0.25
lazy = 0.25
"""


def small(**settings: object) -> Experiment:
    """The small experiment, with other settings; a list is an axis."""
    given = [
        (name.replace("__", "."), value if isinstance(value, list) else [value])
        for name, value in settings.items()
    ]
    return experiment_of(with_settings(TABLE, given))  # type: ignore[arg-type]


def small_file(folder: Path) -> Path:
    """The small experiment without arms, as a file."""
    file = folder / "small.toml"
    file.write_text(FILE)
    return file
