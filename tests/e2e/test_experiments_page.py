"""Every command that docs/experiments.md shows is run here, and its example."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from collections import Counter
from importlib.util import find_spec
from pathlib import Path

import pytest

from koii_p2p import lab
from koii_p2p.lab.scenario import Network
from koii_p2p.lab.traces import read_trace
from koii_p2p.records.sightings import Way
from tests.e2e.shell import LONG, environment, koii_p2p
from tests.e2e.test_documents import ROOT, shown_commands

PAGE = ROOT / "docs" / "experiments.md"
EXAMPLE = ROOT / "examples" / "experiments" / "how_many_auditors.py"
INSTALL = "pip install -e '.[lab]'"
CALIBRATE = "koii-p2p lab calibrate"
GOSSIP_PAGE = ROOT / "docs" / "experiments-gossip.md"
TINY_ATTACK = {"honest": 12, "sybils": 24, "links": 3, "sybil_links": 4, "warm_seconds": 5, "run_seconds": 4}
SMALLER = ("--rounds", "1", "--seeds", "1", "--set", "network.nodes=10")
TINY_NET = "nodes = 3\nrounds = 1\nround_time = 110\nsubmission_window = 36\naudit_window = 44\n"


def indented_after(heading: str, text: str) -> str:
    """The first indented block after some words of the page."""
    block = re.search(r"\n\n((?:    .*\n|\n)+)", text[text.index(heading) :])
    assert block is not None
    return "\n".join(line[4:] for line in block[1].splitlines()) + "\n"


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_from_a_question_to_a_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    left = shown_commands([PAGE])
    left.remove(INSTALL)  # .ci/run
    assert all(find_spec(name) for name in ("numpy", "scipy", "polars", "matplotlib", "dask"))
    (tmp_path / "mine.toml").write_text(indented_after("`mine.toml`:", PAGE.read_text()))

    def run(command: str, *more: str, code: int = 0) -> str:
        left.remove(command)
        result = koii_p2p(*shlex.split(command)[1:], *more, seconds=LONG)
        assert result.returncode == code, (command, result.stderr, result.stdout[-2000:])
        return result.stdout

    assert "koii-today-vs-hardened" in run("koii-p2p lab list")
    assert "Theory: Under Koii's rules" in run("koii-p2p lab show koii-today-vs-hardened")
    assert "Honest nodes slashed" in run("koii-p2p lab run koii-today-vs-hardened", *SMALLER)
    assert "Wrong work found" in run("koii-p2p lab run mine.toml", *SMALLER)
    diligent = "koii-p2p lab run mine.toml --set population.lazy=0.2 --seeds 10 --out lab-runs/diligent"
    run(diligent, "--rounds", "1", "--set", "network.nodes=10")
    assert "population.lazy.share" in run("koii-p2p lab compare lab-runs/mine lab-runs/diligent", code=1)
    swept = run(
        "koii-p2p lab sweep mine.toml --set protocol.auditors=1,2,3,5 --set population.lazy=0.3,0.45",
        *SMALLER,
        "--out",
        "swept",
    )
    assert "auditors 5, lazy 0.45" in swept
    assert (tmp_path / "swept" / "plots" / "curve-detection.png").exists()
    assert "lab-runs/mine/report.html" in run("koii-p2p lab report lab-runs/mine")
    assert left == [CALIBRATE]  # by the test below


@pytest.mark.slow
def test_attacks_on_gossip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    smaller = [word for name, value in TINY_ATTACK.items() for word in ("--set", f"attack.{name}={value}")]
    commands = shown_commands([GOSSIP_PAGE])
    assert len(commands) == 4
    for number, command in enumerate(commands):
        out = ("--out", str(number))
        done = koii_p2p(*shlex.split(command)[1:], *smaller, "--seeds", "1", *out, seconds=LONG)
        assert done.returncode == 0, (command, done.stderr)
        assert "Latency (99th percentile) (ms)" in done.stdout
        assert (tmp_path / str(number) / "plots" / "latencies.png").exists()


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_testnet_beside_the_simulator(tmp_path: Path) -> None:
    (tmp_path / "tiny.toml").write_text(TINY_NET)
    command = [*shlex.split(CALIBRATE)[1:], "--file", str(tmp_path / "tiny.toml")]
    done = koii_p2p(*command, "--out", str(tmp_path / "both"), "--output", "json", seconds=LONG)
    assert done.returncode == 0, done.stderr
    found = {one["name"]: one for one in json.loads(done.stdout)["metrics"]}
    assert found["punishment"]["real"] == found["punishment"]["simulated"] == 1.0
    assert found["wrong_rejections"]["real"] == found["wrong_rejections"]["simulated"] == 0.0
    assert found["transactions"]["real"] == found["transactions"]["simulated"] == 2.0
    assert found["vote_coverage"]["overlap"]
    # Every record reaches both others, and the times are those of processes on one machine.
    assert found["delivery"]["real"] == found["delivery"]["simulated"] == 1.0
    times = [found[f"propagation_{name}"]["real"] for name in ("p50", "p99", "last")]
    assert 0 < times[0] <= times[1] <= times[2]
    traces = [tmp_path / "both" / "net" / f"node-{number:02d}" / "trace.jsonl" for number in range(3)]
    ways = Counter(sighting.way for file in traces for sighting in read_trace(file))
    assert ways[None] > 0
    assert ways[Way.GOSSIP] > 0
    assert (tmp_path / "both" / "simulated" / "report.html").exists()


def test_the_scenario_of_the_page_is_the_one_that_is_meant() -> None:
    text = PAGE.read_text()
    shown = indented_after("Two *arms* play", text)
    bundled = lab.read("koii-today-vs-hardened")
    for line in (
        "fraudulent = 0.1",
        "lazy = 0.3",
        "late-accuser = 0.05",
        "latency = [20, 120]",
        "nodes = 30",
    ):
        assert line in shown
    assert [arm.name for arm in bundled.arms] == re.findall(r'name = "(.*)"', shown)
    assert bundled.arms[0].scenario.network.nodes == 30
    for name in ("degree", "jitter", "loss", "bandwidth_kib", "clock_skew_ms", "churn", "partitions"):
        assert hasattr(Network(), name)
        assert f"`{name}`" in text


def test_the_python_of_the_page_runs() -> None:
    code = indented_after("## In Python", PAGE.read_text())
    smaller = code.replace("50", "12")
    assert smaller != code
    done = subprocess.run(
        [sys.executable, "-c", smaller + "print(late.height)"],
        capture_output=True,
        text=True,
        timeout=120,
        env=environment(),
    )
    assert done.returncode == 0, done.stderr
    assert "closed_form" in done.stdout


def test_the_worked_example_runs(tmp_path: Path) -> None:
    command = [sys.executable, str(EXAMPLE), "--nodes", "20", "--rounds", "2", "--seeds", "1"]
    done = subprocess.run(
        [*command, "--out", str(tmp_path)], capture_output=True, text=True, timeout=120, env=environment()
    )
    assert done.returncode == 0, done.stderr
    assert "auditors 8, lazy 0.45" in done.stdout
    assert "m = 5: " in done.stdout
    assert (tmp_path / "report.html").exists()
