"""The benchmark of workers runs, and measures what it says."""

from __future__ import annotations

from scripts.bench.worker import CASES, measure, percentile, report


def test_the_benchmark_measures_every_case_in_every_way() -> None:
    found = measure(16)
    assert tuple(found) == CASES
    for figures in found.values():
        assert list(figures) == ["in_process", "workers_1", "workers_2"]
        assert all(0 < one.p50 <= one.p99 and one.per_second > 0 for one in figures.values())
    lines = report(found).splitlines()
    assert len(lines) == 1 + len(CASES) * 3 + 1
    assert lines[-1].startswith("two workers / one")


def test_percentiles() -> None:
    assert percentile([1.0, 2.0, 3.0, 4.0], 0.5) == 3.0
    assert percentile([1.0], 0.99) == 1.0
