"""The benchmark of whole rounds counts what it says, and runs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path

import pytest

from koii_p2p.testnets.meter import (
    NodeUse,
    PhaseUse,
    Traffic,
    cpu_seconds,
    forget_peak,
    peak_mb,
    sockets_in,
    windows_of,
)
from koii_p2p.testnets.run import outcome_from
from koii_p2p.testnets.timing import round_lengths
from koii_p2p.testnets.topology import Topology
from tests.testnets.played import played

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts" / "bench"))

from round import Coverage, Floor, as_json, coverage_of, floor_of, report, topology_of
from round import Result as Measured

BENCH = Path(__file__).resolve().parents[2] / "scripts" / "bench"


def result(share: int) -> Measured:
    phases = [
        PhaseUse("submission", 5.0, 1.5, 1000, 2000, 90.0),
        PhaseUse("audit", 4.0, 0.5, 3000, 4000, 95.0),
    ]
    uses = (NodeUse("node-00", 2.0, phases, {"received": 50, "duplicates": 30, "forwarded": 40}),)
    lengths = round_lengths(Topology(nodes=5))
    return Measured(
        5,
        lengths,
        share == 8,
        (),
        Coverage(8, share, 8, 8),
        (),
        Floor(13, 0.00052, 4000.0),
        uses,
        60.0,
        9.0,
        0,
    )


def test_coverage_and_floor_are_counted_from_the_rounds_as_they_were_played() -> None:
    outcome = outcome_from(played())
    covered = coverage_of(outcome)
    # Four honest nodes of five in four rounds, and each was due to look at something in each of them.
    assert (covered.submissions_due, covered.submissions) == (16, 16)
    assert covered.ballots_due == covered.ballots > 0
    assert covered.share == 1.0
    first = outcome.report.rounds[0]
    assert first.played is not None
    records = [one for section in first.played.records.sections.values() for one in section.values()]
    floor = floor_of(first)
    assert floor.records == len(records) > 5
    assert floor.cpu_seconds == pytest.approx(len(records) * 40e-6)
    assert floor.bytes == sum(len(one.raw) for one in records)


def test_the_windows_of_a_period_follow_each_other() -> None:
    outcome = outcome_from(played())
    assert outcome.report.state is not None
    clock = outcome.report.state.terms.clock
    windows = windows_of(clock, 2)
    assert [name for name, _ in windows] == ["submission", "audit", "settlement"]
    assert windows[0][1].opens == clock.work(3).opens
    assert windows[-1][1].closes == clock.work(3).closes
    for (_, one), (_, following) in pairwise(windows):
        assert one.closes == following.opens


def test_bytes_are_those_of_connections_between_nodes() -> None:
    lines = (
        '0 0 127.0.0.1:4001 127.0.0.1:35862 users:(("python",pid=11,fd=14)) ino:101 sk:14 <-> ts sack'
        " bytes_sent:500 bytes_acked:490 bytes_received:300 segs_out:2",
        '0 0 127.0.0.1:35862 127.0.0.1:4001 users:(("python",pid=12,fd=9)) ino:102 sk:15 <-> bytes_received:490',
        '0 0 [::1]:9000 [::1]:9001 users:(("python",pid=12,fd=8)) ino:103 sk:16 <-> bytes_acked:7',
        "0 0 127.0.0.1:4001 127.0.0.1:5 ino:104 sk:17",
        "nonsense",
    )
    assert sockets_in(lines, {4001}) == {"101": (11, Traffic(490, 300)), "102": (12, Traffic(0, 490))}


def test_cpu_and_peak_memory_of_a_process_are_read_from_outside() -> None:
    child = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "x = b'1' * 60_000_000; del x; print(sum(range(3_000_000)), flush=True); input()",
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    try:
        assert child.stdout is not None
        child.stdout.readline()
        used, peak = cpu_seconds(child.pid), peak_mb(child.pid)
        assert used > 0
        assert peak > 60
        assert cpu_seconds(os.getpid()) > used  # with the child
        forget_peak(child.pid)
        assert peak_mb(child.pid) < peak - 30
    finally:
        child.kill()
        child.communicate()
    assert (cpu_seconds(child.pid), peak_mb(child.pid)) == (0.0, 0.0)


def test_the_table_and_the_json_say_the_same() -> None:
    good = result(8)
    assert good.uses[0].whole == PhaseUse("together", 9.0, 2.0, 4000, 6000, 95.0)
    text = report([good])
    assert "8 of 8 submissions and 8 of 8 ballots" in text
    assert "received 50, duplicates 30, forwarded 40" in text
    assert "FAILED" not in text
    bad = json.loads(json.dumps(as_json([good, result(4)])))
    assert (bad["ok"], bad["coverage"], bad["honest_slashed"]) == (False, 0.75, 0)
    assert bad["nets"][0]["uses"][0]["phases"][1]["sent"] == 3000
    assert bad["nets"][0]["lengths"] == asdict(round_lengths(Topology(nodes=5)))
    assert "FAILED" in report([result(4)])


def test_rounds_are_as_long_as_their_nodes_need() -> None:
    usual, longer = round_lengths(topology_of(30)), round_lengths(topology_of(30, 2))
    assert usual == round_lengths(Topology(nodes=30))
    assert (longer.round_time, longer.slot_ms) == (usual.round_time, 2 * usual.slot_ms)
    assert topology_of(3, quick=True).rounds == 1


@pytest.mark.slow
def test_a_real_net_of_three_is_measured() -> None:
    done = subprocess.run(
        [sys.executable, str(BENCH / "round.py"), "--quick", "--json"],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    said = json.loads(done.stdout)
    assert (said["ok"], said["coverage"], said["honest_slashed"]) == (True, 1.0, 0)
    [net] = said["nets"]
    assert net["floor"]["records"] >= 3
    assert len(net["uses"]) == 3
    for use in net["uses"]:
        assert [phase["phase"] for phase in use["phases"]] == ["submission", "audit", "settlement"]
        assert use["start_cpu_seconds"] > 0
        assert use["gossip"]["received"] > 0
        for phase in use["phases"]:
            assert phase["cpu_seconds"] > 0
            assert phase["peak_mb"] > 30
        assert sum(phase["received"] for phase in use["phases"]) > 100
