"""The benchmark of a node's start runs, and measures what it says."""

from __future__ import annotations

import pytest
import trio

from scripts.bench.node_start import WAYS, Start, measure, median, report


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_real_node_starts_with_workers_and_without() -> None:
    found = trio.run(measure, [1], 1)
    assert list(found) == ["workers 1", "own process 1"]
    (ours,), (peer,) = found.values()
    assert (ours.processes, peer.processes) == (2, 1)
    assert ours.seconds > 0
    assert ours.mebibytes > peer.mebibytes > 10, "a worker is memory of its own"


def test_the_report_has_every_case_and_a_ratio() -> None:
    starts = {f"{way} {count}": [Start(2.0 * count, 50.0, count + 1)] for count in (1, 10) for way in WAYS}
    starts["own process 10"] = [Start(5.0, 25.0, 1)]
    lines = report(starts, [1, 10]).splitlines()
    assert len(lines) == 1 + 4 + 2 + 1
    assert "10 tasks, workers / own process: time 4.00, memory 2.00" in lines
    assert lines[-1] == "each more task with a worker: 2.00 s, 0.0 MiB"


def test_the_median_is_of_each_figure_by_itself() -> None:
    assert median([Start(1.0, 9.0, 2), Start(5.0, 8.0, 2), Start(2.0, 1.0, 2)]) == Start(2.0, 8.0, 2)
