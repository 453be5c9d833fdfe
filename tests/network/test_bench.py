"""The transport benchmark runs, and measures what it says."""

from __future__ import annotations

import pytest

from scripts.bench.transport import ARMS, CASES, measure_all, report


@pytest.mark.slow
def test_the_benchmark_measures_every_case_with_every_arm() -> None:
    found = measure_all(rounds=1, scale=0.01)
    assert list(found) == [case.name for case in CASES]
    for figures in found.values():
        assert list(figures) == list(ARMS)
        assert all(figure.cpu > 0 and figure.wall > 0 and figure.rate > 0 for figure in figures.values())
    text = report(found).splitlines()
    assert text[0].split()[:4] == ["case", "CPU:", "ours", "/"]
    assert len(text) == 1 + len(CASES) + 2 + len(CASES) * len(ARMS)
