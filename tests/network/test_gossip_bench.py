"""The gossip benchmark runs, and counts what it says."""

from __future__ import annotations

import pytest
import trio

from scripts.bench import gossip
from scripts.bench.gossip import CASES, Case, Figure, links_of, measure, publishers_of, summary


@pytest.mark.parametrize("rate", [0.0, 50.0])
def test_a_small_net_delivers_everything(monkeypatch: pytest.MonkeyPatch, rate: float) -> None:
    monkeypatch.setattr(gossip, "SETTLE_SECONDS", 1.5)
    figure = trio.run(measure, Case(3, 20, 2000, rate))
    assert figure.delivered == 1.0
    assert 0 < figure.p50_ms <= figure.p99_ms
    assert figure.cpu_ms > 0
    assert 2000 < figure.bytes < 3 * 2000  # each delivery is one message, and some go twice
    assert figure.memory_mb > 10


@pytest.mark.parametrize("nodes", [3, 10, 30])
def test_the_graph_is_the_same_each_time_and_whole(nodes: int) -> None:
    links = links_of(nodes)
    assert links == links_of(nodes)
    assert len({frozenset(link) for link in links}) == len(links)
    reached = {0}
    for _ in range(nodes):
        reached |= {end for link in links if reached & set(link) for end in link}
    assert reached == set(range(nodes))


def test_the_summary_is_the_median_ratio_and_the_least_share() -> None:
    def figure(cpu: float, delivered: float) -> Figure:
        return Figure(delivered, 1.0, 2.0, cpu, 1000.0, 100.0)

    found = {
        "a": {"ours": figure(1.0, 1.0), "js": figure(2.0, 0.5)},
        "b": {"ours": figure(1.0, 0.9), "js": figure(4.0, 1.0)},
        "c": {"ours": figure(3.0, 1.0), "js": figure(3.0, 1.0)},
    }
    said = summary(found)
    assert (said["cpu_ratio_to_js"], said["delivered"]) == (0.5, 0.9)
    assert len({case.name for case in CASES}) == len(CASES)
    assert all(len(publishers_of(case)) == case.messages for case in CASES)
