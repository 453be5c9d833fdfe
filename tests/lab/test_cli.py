"""`koii-p2p lab`, in this process and as people run it."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import structlog

from koii_p2p.cli import lab as lab_command
from koii_p2p.cli.lab_progress import LabProgress
from koii_p2p.cli.main import run
from koii_p2p.errors import ConfigurationError
from koii_p2p.lab.experiment import Job, bundled, experiment_of, with_settings
from koii_p2p.lab.runs import run_into
from koii_p2p.lab.scenario_file import read_table
from koii_p2p.lab.workers import ThisProcess
from tests.cli.terminal import at_a_terminal
from tests.e2e.shell import koii_p2p
from tests.lab.small import small, small_file

Lab = Callable[..., tuple[int, str, str]]


@pytest.fixture
def lab(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Lab]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KOII_P2P_HOME", str(tmp_path / "home"))

    def call(*arguments: str) -> tuple[int, str, str]:
        code = run(["lab", *arguments])
        told = capsys.readouterr()
        return code, told.out, told.err

    yield call
    structlog.reset_defaults()
    logging.basicConfig(level=logging.WARNING, force=True)


def test_scenarios_are_listed(lab: Lab) -> None:
    code, out, _ = lab("list")
    assert code == 0
    for name in bundled():
        assert name in out
    data = json.loads(lab("list", "--output", "json")[1])
    assert {one["name"] for one in data} == set(bundled())
    assert all(one["question"] for one in data)


def test_a_scenario_is_shown(lab: Lab) -> None:
    code, out, _ = lab("show", "koii-today-vs-hardened")
    assert code == 0
    assert "Question: The same nodes play under two sets of audit rules" in out
    assert "[[arms]]" in out
    assert "koii-today-vs-hardened.toml" in out
    data = json.loads(lab("show", "detection", "--output", "json")[1])
    assert data["axes"]["protocol.auditors"] == [1, 2, 3, 5, 8]


def test_a_run_goes_into_a_folder_and_is_told_of(lab: Lab, tmp_path: Path) -> None:
    file = str(small_file(tmp_path))
    code, out, err = lab("run", file, "--processes", "1", "--output", "json")
    assert code == 0
    assert "small: 0 of 2 runs have ended\n" in err
    assert "small: 2 of 2 runs have ended; all, seed 2\n" in err
    data = json.loads(out)
    assert data["folder"] == "lab-runs/small"
    assert Path(data["report"]).read_text().startswith("<!DOCTYPE html>")
    metrics = {one["name"]: one for one in data["metrics"]}
    assert metrics["detection"]["closed_form"] > 0.5
    code, out, _ = lab("run", file, "--processes", "1")
    assert code == 0
    assert "Wrong work found (%)" in out
    assert "theory" in out
    assert "report: lab-runs/small/report.html" in out


def test_a_sweep_has_a_row_for_each_combination(lab: Lab, tmp_path: Path) -> None:
    file = str(small_file(tmp_path))
    line = ("sweep", file, "--set", "protocol.auditors=1,2,3", "--set", "population.lazy=0.25,0.5")
    code, out, _ = lab(*line, "--seeds", "1", "--rounds", "1", "-p", "1", "--out", "swept")
    assert code == 0
    for row in ("auditors 1, lazy 0.25", "auditors 3, lazy 0.5"):
        assert row in out
    assert (tmp_path / "swept" / "plots" / "curve-detection.png").exists()


def test_a_report_is_written_again(lab: Lab, tmp_path: Path) -> None:
    lab("run", str(small_file(tmp_path)), "--seeds", "1", "-p", "1")
    page = tmp_path / "lab-runs" / "small" / "report.html"
    first = page.read_text()
    page.unlink()
    code, out, _ = lab("report", "lab-runs/small")
    assert (code, out.strip()) == (0, "lab-runs/small/report.html")
    assert page.read_text() == first


def test_two_folders_are_compared(lab: Lab, tmp_path: Path) -> None:
    table = read_table(small_file(tmp_path))
    for folder, settings in (("one", []), ("same", []), ("other", [("population.fraudulent", [0.6])])):
        experiment = experiment_of(with_settings(table, settings))
        run_into(tmp_path / folder, experiment, ThisProcess(), lambda _done, _whole, _job: None)
    code, out, _ = lab("compare", "one", "same")
    assert (code, out.strip()) == (0, "Every table has the same bytes.")
    code, out, _ = lab("compare", "one", "other")
    assert code == 1
    assert "population.fraudulent.share" in out
    assert "differs" in out


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (("run", "no-such-scenario"), "There is no scenario"),
        (("run", "FILE", "--set", "protocol.auditors=1,2"), "lab sweep"),
        (("run", "FILE", "--set", "protocol.auditor=1"), "auditors"),
        (("run", "FILE", "--set", "protocol.auditors"), "is no setting"),
        (("run", "FILE", "--set", "engine=slow"), "exact"),
        (("run", "FILE", "-p", "1", "--set", "network.churn.per_minute=1"), "fast engine plays no churn"),
        (("sweep", "FILE"), "nothing to sweep over"),
        (("report", "nothing-here"), "holds no experiment"),
        (("compare", "nothing-here", "nor-here"), "holds no experiment"),
    ],
)
def test_what_cannot_be_done_is_said(lab: Lab, tmp_path: Path, arguments: tuple[str, ...], why: str) -> None:
    file = str(small_file(tmp_path))
    code, out, err = lab(*(file if word == "FILE" else word for word in arguments))
    assert (code, out) == (ConfigurationError.exit_code, "")
    assert why in err
    assert "Traceback" not in err


def test_a_cluster_has_processes_of_its_own(lab: Lab, tmp_path: Path) -> None:
    line = ("run", str(small_file(tmp_path)), "--scheduler", "tcp://127.0.0.1:9", "--processes", "2")
    code, _, err = lab(*line)
    assert code == 2
    assert "own workers" in err


def test_without_the_packages_of_the_lab(lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lab_command, "find_spec", lambda name: None if name == "polars" else object())
    code, _, err = lab("run", str(small_file(tmp_path)))
    assert code == ConfigurationError.exit_code
    assert "packages that are not there: polars" in err
    assert "pip install 'koii_p2p[lab]'" in err
    assert not (tmp_path / "lab-runs").exists()


BLOCKED = """
import sys
for name in ("numpy", "scipy", "polars", "matplotlib", "dask", "distributed"):
    sys.modules[name] = None
from koii_p2p.cli.main import run
for arguments in ("--help", "lab --help", "lab list", "lab show detection"):
    print("===", arguments)
    print("code", run(arguments.split()))
"""


def test_everything_else_works_without_them() -> None:
    done = subprocess.run([sys.executable, "-c", BLOCKED], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    parts = done.stdout.split("===")[1:]
    assert [part.rstrip().endswith("code 0") for part in parts] == [True] * 4, done.stderr
    for part, said in zip(parts, ("testnet", "calibrate", "lazy-and-canaries", "[axes]"), strict=True):
        assert said in part


def test_progress_in_a_pipe_says_what_is_left(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = iter([0.0, 100.0, 160.0, 161.0, 280.0])
    monkeypatch.setattr("koii_p2p.cli.lab_progress.time.monotonic", lambda: next(now))
    progress = LabProgress(small(), terminal=False)
    progress(1, 4, None)
    progress(2, 4, Job(0, 1))
    progress(3, 4, Job(1, 1))  # a second later: not told
    progress(4, 4, Job(1, 2))
    assert capsys.readouterr().err.splitlines() == [
        "small: 1 of 4 runs have ended; it goes on from there",
        "small: 2 of 4 runs have ended; koii-today, seed 1; about 2 min 0 s left",
        "small: 4 of 4 runs have ended; hardened, seed 2",
    ]


def test_progress_on_a_terminal_is_a_bar(tmp_path: Path) -> None:
    line = ["lab", "run", str(small_file(tmp_path)), "--out", str(tmp_path / "out"), "-p", "1"]
    code, out, shown = at_a_terminal(line)
    assert code == 0
    assert "/2" in shown
    assert "runs have ended" not in shown
    assert "report:" in out


def test_the_command_as_people_run_it(tmp_path: Path) -> None:
    done = koii_p2p("lab", "run", str(small_file(tmp_path)), "--out", str(tmp_path / "out"), "--seeds", "3")
    assert done.returncode == 0, done.stderr
    assert "3 of 3 runs have ended" in done.stderr
    assert "Wrong work found" in done.stdout
