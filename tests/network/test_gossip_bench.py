"""The gossip benchmarks run, and count what they say."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.interop.js_peer import js_libp2p_folder
from tests.interop.npm import NotInstalled

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts" / "bench"))

from gossip_cases import (
    ARMS,
    CASES,
    JS,
    OURS,
    QUICK,
    STOCK,
    Case,
    Figure,
    lines,
    links_of,
    publishers_of,
    summary,
)
from gossip_copies import measure as copies
from gossip_net import figure_of

BENCH = Path(__file__).resolve().parents[2] / "scripts" / "bench"


def run_quick(*more: str, seconds: int) -> dict[str, dict[str, dict[str, float]]]:
    done = subprocess.run(
        [sys.executable, str(BENCH / "gossip.py"), "--quick", "--json", *more],
        capture_output=True,
        text=True,
        timeout=seconds,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    said = json.loads(done.stdout)
    assert said["delivered"] == 1.0
    cases: dict[str, dict[str, dict[str, float]]] = said["cases"]
    return cases


def check_figures(case: Case, arms: dict[str, dict[str, float]]) -> None:
    for figure in arms.values():
        assert figure["delivered"] == 1.0
        assert 0 < figure["p50_ms"] <= figure["p99_ms"]
        assert figure["cpu_ms"] > 0
        assert case.size < figure["bytes"] < 4 * case.size  # each delivery is one message, and some go twice
        assert figure["memory_mb"] > 10 * case.processes


def test_a_small_net_of_ours_and_of_py_libp2p_delivers_everything() -> None:
    case = QUICK[0]
    found = run_quick("--cases", case.name, "--arms", f"{OURS},{STOCK}", seconds=120)
    assert list(found) == [case.name]
    assert list(found[case.name]) == [OURS, STOCK]
    check_figures(case, found[case.name])


@pytest.mark.slow
def test_every_arm_in_one_process_and_in_several() -> None:
    try:
        js_libp2p_folder()
    except NotInstalled as missing:
        pytest.skip(str(missing))
    found = run_quick(seconds=240)
    assert list(found) == [case.name for case in QUICK]
    for case in QUICK:
        assert tuple(found[case.name]) == ARMS
        check_figures(case, found[case.name])


def test_an_unknown_case_is_refused_with_those_there_are() -> None:
    done = subprocess.run(
        [sys.executable, str(BENCH / "gossip.py"), "--cases", "1000 nodes"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2
    assert CASES[0].name in done.stderr


@pytest.mark.parametrize("nodes", [3, 10, 30])
def test_the_graph_is_the_same_each_time_and_whole(nodes: int) -> None:
    links = links_of(nodes)
    assert links == links_of(nodes)
    assert len({frozenset(link) for link in links}) == len(links)
    reached = {0}
    for _ in range(nodes):
        reached |= {end for link in links if reached & set(link) for end in link}
    assert reached == set(range(nodes))


def test_the_cases_are_those_that_were_promised() -> None:
    assert len({case.name for case in CASES}) == len(CASES)
    assert {(case.nodes, case.processes) for case in CASES} == {(10, 1), (30, 1), (10, 10)}
    assert {case.size for case in CASES} == {512, 16 * 1024}
    for case in CASES:
        alike = [one for one in CASES if (one.nodes, one.processes) == (case.nodes, case.processes)]
        assert {bool(one.rate) for one in alike} == {True, False}
        publishers = publishers_of(case)
        assert len(publishers) == case.messages
        assert set(publishers) <= set(range(case.nodes))


def test_the_figures_of_several_processes_are_put_together() -> None:
    case = Case(3, 2, 512, processes=2)
    said = [
        {"latencies": [3.0, 1.0], "cpu": 0.004, "bytes": 3000, "memory_mb": 90.0},
        {"latencies": [2.0], "cpu": 0.002, "bytes": 600, "memory_mb": 80.0},
    ]
    assert figure_of(case, said) == Figure(0.75, 2.0, 3.0, 2.0, 1200.0, 170.0)
    nothing = [{"latencies": [], "cpu": 0.5, "bytes": 10, "memory_mb": 90.0}]
    assert figure_of(case, nothing) == Figure(0.0, 0.0, 0.0, 500.0, 10.0, 90.0)


def test_the_summary_is_the_median_ratio_and_the_least_share() -> None:
    def figure(cpu: float, delivered: float) -> Figure:
        return Figure(delivered, 1.0, 2.0, cpu, 1000.0, 100.0)

    found = {
        "a": {OURS: figure(1.0, 1.0), STOCK: figure(9.0, 0.1), JS: figure(2.0, 0.5)},
        "b": {OURS: figure(1.0, 0.9), STOCK: figure(5.0, 0.1), JS: figure(4.0, 1.0)},
        "c": {OURS: figure(3.0, 1.0), STOCK: figure(3.0, 0.1), JS: figure(3.0, 1.0)},
    }
    said = summary(found)
    assert (said["cpu_ratio_to_js"], said["delivered"]) == (0.5, 0.9)
    assert said["cpu_ratio_to_py_libp2p"] == 0.2
    assert [line.split()[1] for line in lines("b", found["b"])[1:]] == ["0.1000", "1.0000"]
    without = summary({"a": {OURS: figure(1.0, 1.0)}})
    assert (without["cpu_ratio_to_js"], without["delivered"]) == (None, 1.0)


def test_copies_are_counted_beside_a_trees_one() -> None:
    one = copies(10, 300, 20)
    assert one == copies(10, 300, 20)
    assert one.delivered == 1.0
    assert 1.0 < one.sends < one.mean_mesh + 2  # who publishes sends to all its neighbours
    assert one.bytes > one.sends * 300
    assert one.excess_bytes == pytest.approx((one.bytes - one.control_bytes) * (1 - 1 / one.sends))
    large = copies(10, 16 * 1024, 20)
    assert large.sends < one.sends  # by IDONTWANT
