"""The page on the exact engine says what the code says."""

from __future__ import annotations

import re
from pathlib import Path

from koii_p2p.lab.behaviours.catalogue import BEHAVIOURS

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "experiments-engine.md").read_text()


def test_the_table_of_behaviours_is_the_catalogue() -> None:
    rows = []
    for one in BEHAVIOURS.values():
        parameter = "" if one.parameter is None else f"`{one.parameter.name}` = {one.parameter.default}"
        rows.append(f"| `{one.name}` | {one.does} | {parameter} |")
    assert "\n".join(rows) in PAGE


def test_the_files_that_are_named_are_there() -> None:
    named = set(re.findall(r"`((?:rounds|lab|gossip|records)/[\w/]*(?:\.py)?)`", PAGE))
    assert len(named) > 10
    assert [name for name in sorted(named) if not (ROOT / "koii_p2p" / name).exists()] == []
    scripts = re.findall(r"`(scripts/[\w/]+\.py|tests/[\w/]+\.py)`", PAGE)
    assert scripts
    assert all((ROOT / name).exists() for name in scripts)
