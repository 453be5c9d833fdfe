from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import polars as pl
import pytest

from koii_p2p.errors import CheckFailed, ConfigurationError
from koii_p2p.lab import frames
from koii_p2p.lab.engines import play
from koii_p2p.lab.experiment import Experiment, Job, experiment_of, to_json, with_settings
from koii_p2p.lab.progress import Told, nobody
from koii_p2p.lab.result import TABLES
from koii_p2p.lab.runs import Findings, findings_of, load, run_into
from koii_p2p.lab.scenario_file import read_table
from koii_p2p.lab.workers import Played, ThisProcess
from tests.e2e.shell import Running, koii_p2p, wait_until
from tests.lab.small import small, small_file

PARQUET = ("rounds", "submissions", "nodes", "votes", "messages", "seeds", "metrics")


def silent(_done: float, _whole: int, _job: Job | None) -> None:
    """Nobody watches."""


def hashes(folder: Path) -> dict[str, str]:
    return {name: hashlib.sha256((folder / f"{name}.parquet").read_bytes()).hexdigest() for name in PARQUET}


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Findings]:
    folder = tmp_path_factory.mktemp("runs") / "small"
    return folder, run_into(folder, small(), ThisProcess(), silent)


@dataclass
class Some:
    """Plays so many runs and is interrupted then; keeps what was asked of it."""

    count: int
    asked: list[Job] = field(default_factory=list)

    def play(self, experiment: Experiment, jobs: Sequence[Job], told: Told = nobody) -> Iterator[Played]:
        self.asked += jobs
        yield from ThisProcess().play(experiment, jobs[: self.count], told)
        if self.count < len(jobs):
            raise KeyboardInterrupt


def test_a_folder_holds_everything_of_a_run(played: tuple[Path, Findings]) -> None:
    folder, found = played
    assert json.loads((folder / "run.json").read_text())["digests"] == hashes(folder) == found.digests
    assert (folder / "experiment.json").read_text() == to_json(small())
    assert not (folder / "parts").exists()
    for name, columns in TABLES.items():
        frame = pl.read_parquet(folder / f"{name}.parquet")
        assert frame.columns == ["arm", "seed", *columns]
        assert frame.equals(found.frames[name])
    assert found.rounds.height == 2 * 2 * 2
    assert found.rounds["arm"].unique(maintain_order=True).to_list() == ["koii-today", "hardened"]
    assert found.nodes.height == 2 * 2 * 12
    assert found.versions["code"]


def test_frames_are_the_tables_of_the_engine(played: tuple[Path, Findings]) -> None:
    _, found = played
    result = play(small().arms[1].scenario, 2)
    for name in TABLES:
        own = found.frames[name].filter(pl.col("arm") == "hardened", pl.col("seed") == 2)
        assert own.drop("arm", "seed").to_dict(as_series=False) == result.frames[name]


def test_a_folder_is_read_as_it_was_written(played: tuple[Path, Findings]) -> None:
    folder, found = played
    again = load(folder)
    assert again.experiment == found.experiment
    assert again.metrics.equals(found.metrics)
    assert again.digests == found.digests


def test_metrics_of_an_arm_are_over_all_its_seeds(played: tuple[Path, Findings]) -> None:
    _, found = played
    for arm in ("koii-today", "hardened"):
        metric = found.metrics_of(arm)["detection"]
        rounds = found.rounds.filter(pl.col("arm") == arm)
        assert metric.count == rounds["frauds"].sum() > 0
        assert metric.value == rounds["found"].sum() / rounds["frauds"].sum()
        assert metric.low is not None
        assert metric.high is not None
        assert metric.low <= metric.value <= metric.high
        assert metric.closed_form is not None
    assert found.metrics_of("another") == {}


def test_the_same_experiment_comes_to_the_same_bytes(played: tuple[Path, Findings], tmp_path: Path) -> None:
    run_into(tmp_path / "again", small(), ThisProcess(), silent)
    assert hashes(tmp_path / "again") == hashes(played[0])
    run_into(tmp_path / "other", small(seed=7), ThisProcess(), silent)
    assert hashes(tmp_path / "other")["submissions"] != hashes(played[0])["submissions"]


def test_the_order_in_which_runs_end_makes_no_difference(played: tuple[Path, Findings]) -> None:
    experiment = small()
    backwards = list(ThisProcess().play(experiment, experiment.jobs[::-1]))
    assert findings_of(experiment, backwards).digests == played[1].digests


def test_a_run_that_was_interrupted_goes_on(played: tuple[Path, Findings], tmp_path: Path) -> None:
    folder, told = tmp_path / "run", []
    with pytest.raises(KeyboardInterrupt):
        run_into(folder, small(), Some(3), silent)
    with pytest.raises(ConfigurationError, match="not all ended"):
        load(folder)
    rest = Some(9)
    run_into(folder, small(), rest, lambda done, whole, job: told.append((done, whole, job)))
    assert rest.asked == [Job(1, 2)]
    assert [told[0], *(one for one in told[1:] if one[2])] == [(3, 4, None), (4, 4, Job(1, 2))]
    assert hashes(folder) == hashes(played[0])
    assert run_into(folder, small(), Some(0), silent).digests == played[1].digests


def test_a_run_that_was_killed_while_it_wrote_goes_on(played: tuple[Path, Findings], tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        run_into(folder, small(), Some(3), silent)
    half = folder / "parts" / "0001-2.making"
    shutil.copytree(folder / "parts" / "0000-1", half)
    (half / "rounds.parquet").write_bytes(b"half")
    (folder / "rounds.parquet").write_bytes(b"half")  # and the metrics, which are written last, are not there
    run_into(folder, small(), ThisProcess(), silent)
    assert hashes(folder) == hashes(played[0])


def test_kill_dash_nine_loses_nothing_that_has_ended(tmp_path: Path) -> None:
    file = small_file(tmp_path)
    command = ("lab", "run", str(file), "--seeds", "12", "--processes", "1", "--out")
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    running = Running([*command, str(killed)])
    wait_until(lambda: len(list((killed / "parts").glob("*/part.json"))) >= 2, 60, "two runs that have ended")
    os.kill(running.process.pid, signal.SIGKILL)
    assert running.end() == -signal.SIGKILL
    kept = len(list((killed / "parts").glob("*/part.json")))
    assert 2 <= kept < 12
    again = koii_p2p(*command, str(killed))
    assert again.returncode == 0, again.stderr
    assert f"{kept} of 12 runs have ended; it goes on from there" in again.stderr
    experiment = experiment_of(with_settings(read_table(file), [("seeds", [12])]))
    run_into(whole, experiment, ThisProcess(), silent)
    assert hashes(killed) == hashes(whole)


def test_a_folder_that_holds_something_else_is_left_alone(
    played: tuple[Path, Findings], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "letter.txt").write_text("dear")
    with pytest.raises(ConfigurationError, match="holds something else"):
        run_into(tmp_path, small(), ThisProcess(), silent)
    assert os.listdir(tmp_path) == ["letter.txt"]
    with pytest.raises(ConfigurationError, match="its seeds, are not those"):
        run_into(played[0], small(seeds=3), ThisProcess(), silent)
    run = json.loads((played[0] / "run.json").read_text())
    folder = tmp_path / "other-code"
    shutil.copytree(played[0], folder)
    run["versions"]["code"] = "0" * 64
    (folder / "run.json").write_text(json.dumps(run))
    with pytest.raises(ConfigurationError, match="code was 000"):
        run_into(folder, small(), ThisProcess(), silent)


def test_code_that_changes_meanwhile_is_noticed(tmp_path: Path) -> None:
    class Changed:
        def play(self, experiment: Experiment, jobs: Sequence[Job], told: Told = nobody) -> Iterator[Played]:
            for job, part in ThisProcess().play(experiment, jobs):
                yield job, replace(part, code="another")

    with pytest.raises(CheckFailed, match="source files changed"):
        run_into(tmp_path / "run", small(seeds=1), Changed(), silent)
    assert not list((tmp_path / "run").glob("parts/*"))


def test_two_commands_do_not_play_into_one_folder(tmp_path: Path) -> None:
    class Second:
        def play(self, experiment: Experiment, jobs: Sequence[Job], told: Told = nobody) -> Iterator[Played]:
            with pytest.raises(ConfigurationError, match="in use"):
                run_into(tmp_path, experiment, ThisProcess(), silent)
            yield from ThisProcess().play(experiment, jobs)

    assert run_into(tmp_path, small(seeds=1), Second(), silent).rounds.height == 4


def test_folders_that_are_none_or_are_damaged(played: tuple[Path, Findings], tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="holds no experiment"):
        load(tmp_path)
    folder = tmp_path / "damaged"
    shutil.copytree(played[0], folder)
    (folder / "votes.parquet").write_bytes(b"PAR1nonsense")
    with pytest.raises(ConfigurationError, match="cannot be used"):
        load(folder)


def test_every_column_has_a_type() -> None:
    for table, columns in TABLES.items():
        assert list(frames.SCHEMAS[table]) == list(columns)
    assert frames.SCHEMAS["rounds"]["round"] == pl.Int64()
    assert frames.SCHEMAS["submissions"]["fraud"] == pl.Boolean()
