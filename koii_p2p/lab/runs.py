"""Run folders: an experiment, what it was played with, every table as Parquet, plots, and one HTML report.

experiment.json  run.json  lock  parts/
a .parquet for each table  seeds.parquet  metrics.parquet  plots/  report.html

While an experiment is played, each run that has ended has a folder in `parts/`, which appears whole or not at all. A
run folder that was left at any moment, by kill -9 too, goes on from there; in the end its tables are the same, byte
for byte.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import polars as pl
from polars.exceptions import PolarsError

from koii_p2p.errors import CheckFailed, ConfigurationError
from koii_p2p.lab.experiment import Experiment, Job, experiment_of, to_json
from koii_p2p.lab.frames import (
    Part,
    digest,
    metric_frame,
    metrics_read,
    parquet,
    tables_of_engine,
    together,
)
from koii_p2p.lab.pooling import metrics_of_frames, widened
from koii_p2p.lab.result import Metric
from koii_p2p.lab.versions import code_digest, versions
from koii_p2p.lab.workers import Played, Workers

_EXPERIMENT: Final = "experiment.json"
_RUN: Final = "run.json"
_PARTS: Final = "parts"
_PART: Final = "part.json"
_PART_METRICS: Final = "metrics.json"
SEEDS: Final = "seeds"
METRICS: Final = "metrics"
REPORT: Final = "report.html"
PLOTS: Final = "plots"
_MOST_JSON_BYTES: Final = 16 * 1024 * 1024
_MOST_PARQUET_BYTES: Final = 8 * 1024**3

Watch = Callable[[float, int, Job | None], None]
"""Told (runs that are played, runs in all, the run that has just ended or None).

At the beginning first; then now and then with a fraction, for what runs under way have of their virtual time behind
them; and at the end of each run.
"""


@dataclass(frozen=True, slots=True)
class Findings:
    """What an experiment came to. `frames` are the tables of its engine, with `arm` and `seed` as first columns: those
    of `result.TABLES`, or of `gossip_result.GOSSIP_TABLES` for gossip alone. A table that it has not raises KeyError.

    `metrics` has each metric of each arm over all seeds, `seeds` each of every run. `versions` say what it was played
    with, `seconds` how long all runs took together (on as many processors as there were), `events` how many they had.
    """

    experiment: Experiment
    versions: Mapping[str, str]
    frames: Mapping[str, pl.DataFrame]
    seeds: pl.DataFrame
    metrics: pl.DataFrame
    seconds: float
    events: int

    @property
    def rounds(self) -> pl.DataFrame:
        """A row for each round."""
        return self.frames["rounds"]

    @property
    def submissions(self) -> pl.DataFrame:
        """A row for each submission."""
        return self.frames["submissions"]

    @property
    def nodes(self) -> pl.DataFrame:
        """A row for each node."""
        return self.frames["nodes"]

    @property
    def votes(self) -> pl.DataFrame:
        """A row for each vote."""
        return self.frames["votes"]

    @property
    def messages(self) -> pl.DataFrame:
        """A row for each record that was published."""
        return self.frames["messages"]

    @property
    def published(self) -> pl.DataFrame:
        """Gossip alone: a row for each message that was published."""
        return self.frames["published"]

    @property
    def deliveries(self) -> pl.DataFrame:
        """Gossip alone: a row for each message that an honest node got."""
        return self.frames["deliveries"]

    @property
    def meshes(self) -> pl.DataFrame:
        """Gossip alone: a row for each honest node at the end."""
        return self.frames["meshes"]

    def metrics_of(self, arm: str) -> dict[str, Metric]:
        """The metrics of an arm by name, over all seeds; none for an arm that there is not."""
        own = self.metrics.filter(pl.col("arm") == arm).drop("arm")
        return {row["name"]: Metric(**row) for row in own.iter_rows(named=True)}

    @property
    def digests(self) -> dict[str, str]:
        """SHA-256 (hexadecimal) of the Parquet bytes of each table: equal for equal (code, experiment)."""
        return {name: digest(data) for name, data in files_of(self)}


def findings_of(experiment: Experiment, played: Iterable[Played]) -> Findings:
    """Put runs together, whatever the order in which they ended."""
    ordered = sorted(played, key=lambda one: (one[0].arm, one[0].seed))
    names = [arm.name for arm in experiment.arms]
    found = [(names[job.arm], job.seed, part) for job, part in ordered]
    frames = {
        table: together(
            table, ((arm, seed, pl.read_parquet(part.tables[table])) for arm, seed, part in found)
        )
        for table in tables_of_engine(experiment.engine)
    }
    by_seed = [(arm, seed, metrics_read(part.metrics)) for arm, seed, part in found]
    over_seeds = [
        ({"arm": arm.name}, metric)
        for arm in experiment.arms
        for metric in widened(
            metrics_of_frames(
                {name: frame.filter(pl.col("arm") == arm.name) for name, frame in frames.items()},
                arm.scenario,
            ),
            [metrics for name, _, metrics in by_seed if name == arm.name],
        )
    ]
    rows = [({"arm": arm, "seed": seed}, metric) for arm, seed, metrics in by_seed for metric in metrics]
    return Findings(
        experiment,
        versions(),
        frames,
        metric_frame(rows, {"arm": pl.String(), "seed": pl.Int64()}),
        metric_frame(over_seeds, {"arm": pl.String()}),
        sum(part.seconds for _, _, part in found),
        sum(part.events for _, _, part in found),
    )


def files_of(findings: Findings) -> Iterator[tuple[str, bytes]]:
    """Name and Parquet bytes of each frame."""
    for name in (*findings.frames, SEEDS, METRICS):
        yield name, parquet(_frame(findings, name))


def _frame(findings: Findings, name: str) -> pl.DataFrame:
    return findings.seeds if name == SEEDS else findings.metrics if name == METRICS else findings.frames[name]


# --- folders


def run_into(folder: Path, experiment: Experiment, workers: Workers, watch: Watch) -> Findings:
    """Play what is not played yet of an experiment in its folder, and return all of it; the tables are written then.

    A folder that does not exist is made. Raises `ConfigurationError` for one that holds something else, or was begun
    with other code, `CheckFailed` if the code changes meanwhile, and what the engines and workers raise; what has been
    played is kept then.
    """
    _prepare(folder)
    with _alone(folder):
        _begin(folder, experiment)
        if (folder / f"{METRICS}.parquet").exists():
            return load(folder)
        jobs = experiment.jobs
        left = [job for job in jobs if not (_place(folder, job) / _PART).exists()]
        done = len(jobs) - len(left)
        watch(done, len(jobs), None)

        def told(under_way: float) -> None:
            watch(done + under_way, len(jobs), None)

        for job, part in workers.play(experiment, left, told):
            if part.code != code_digest():
                raise CheckFailed(
                    "A run was played by other code than this process has.",
                    "The source files changed while it was played.",
                    "Remove the folder, and give the command again.",
                )
            _keep(folder, job, part)
            done += 1
            watch(done, len(jobs), job)
        names = tables_of_engine(experiment.engine)
        findings = findings_of(experiment, ((job, _kept(folder, job, names)) for job in jobs))
        _finish(folder, findings)
        return findings


def load(folder: Path) -> Findings:
    """Read a run folder whose runs have all ended. Raises `ConfigurationError` for anything else."""
    what = f"The run folder {folder} cannot be used."
    if not (folder / _EXPERIMENT).exists():
        raise ConfigurationError(
            what, "It holds no experiment.", "Name a folder that `koii-p2p lab run` wrote."
        )
    if not (folder / f"{METRICS}.parquet").exists():
        raise ConfigurationError(
            what,
            "Its runs have not all ended.",
            "Give the command that began it again: it goes on where it was.",
        )
    try:
        experiment = experiment_of(_json(folder / _EXPERIMENT))
        run = _json(folder / _RUN)
        tables = tables_of_engine(experiment.engine)
        frames = {name: _parquet(folder / f"{name}.parquet") for name in (*tables, SEEDS, METRICS)}
        return Findings(
            experiment,
            {str(name): str(value) for name, value in run["versions"].items()},
            {name: frames[name] for name in tables},
            frames[SEEDS],
            frames[METRICS],
            float(run["seconds"]),
            int(run["events"]),
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError, PolarsError) as error:
        raise ConfigurationError(
            what, f"{type(error).__name__}: {error}.", "Play the experiment again, into another folder."
        ) from error


def _prepare(folder: Path) -> None:
    what = f"The folder {folder} cannot be used."
    try:
        folder.mkdir(parents=True, exist_ok=True)
        strange = [name for name in os.listdir(folder) if name != "lock"]
    except OSError as error:
        raise ConfigurationError(what, f"{error.strerror}.", "Name another one with --out.") from error
    if strange and not (folder / _EXPERIMENT).exists():
        raise ConfigurationError(
            what, f"It holds something else: {strange[0]}.", "Name a new folder, or an empty one, with --out."
        )


def _begin(folder: Path, experiment: Experiment) -> None:
    """Write what is to be played, or check that it is what the folder was begun with."""
    known, now = folder / _EXPERIMENT, versions()
    if not known.exists():
        _write(folder / _RUN, json.dumps({"versions": now, "began": int(time.time())}, indent=1).encode())
        _write(known, to_json(experiment).encode())
        return
    what = f"The folder {folder} was begun with something else."
    remedy = "Name another folder with --out, or remove this one."
    if known.read_text() != to_json(experiment):
        raise ConfigurationError(what, "Its experiment, or its seeds, are not those of this command.", remedy)
    was = _json(folder / _RUN)["versions"]
    # Presenting runs is no part of playing them, and a commit may change nothing of it.
    different = [
        name
        for name in was
        if name not in ("commit", "koii_p2p", "matplotlib", "dask") and was[name] != now.get(name)
    ]
    if different:
        name = different[0]
        raise ConfigurationError(what, f"{name} was {was[name]}, and is {now.get(name)}.", remedy)


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    with (folder / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise ConfigurationError(
                f"The folder {folder} is in use.",
                "Another command plays into it.",
                "Wait for it, or use --out.",
            ) from error
        yield


def _place(folder: Path, job: Job) -> Path:
    return folder / _PARTS / f"{job.arm:04d}-{job.seed}"


def _keep(folder: Path, job: Job, part: Part) -> None:
    """Write a run that has ended: into a folder that gets its name when all is in it."""
    place = _place(folder, job)
    making = place.with_name(f"{place.name}.making")
    shutil.rmtree(making, ignore_errors=True)
    making.mkdir(parents=True)
    for name, data in part.tables.items():
        _write(making / f"{name}.parquet", data)
    _write(making / _PART_METRICS, part.metrics)
    said = {"digest": part.digest, "code": part.code, "seconds": part.seconds, "events": part.events}
    _write(making / _PART, json.dumps(said).encode())
    making.rename(place)


def _kept(folder: Path, job: Job, names: Iterable[str]) -> Part:
    place = _place(folder, job)
    said = _json(place / _PART)
    tables = {name: (place / f"{name}.parquet").read_bytes() for name in names}
    metrics = (place / _PART_METRICS).read_bytes()
    return Part(tables, metrics, said["digest"], said["code"], said["seconds"], said["events"])


def _finish(folder: Path, findings: Findings) -> None:
    """Write the tables of all runs, those of metrics last: a folder that has them is finished."""
    run = _json(folder / _RUN)
    files = dict(files_of(findings))
    run |= {
        "seconds": round(findings.seconds, 1),
        "events": findings.events,
        "digests": {name: digest(data) for name, data in files.items()},
    }
    _write(folder / _RUN, json.dumps(run, indent=1).encode())
    for name, data in files.items():
        _write(folder / f"{name}.parquet", data)
    shutil.rmtree(folder / _PARTS, ignore_errors=True)


def _write(file: Path, data: bytes) -> None:
    """Write a file whole, or not at all."""
    making = file.with_name(f"{file.name}.making")
    try:
        with making.open("wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        making.replace(file)
    except OSError as error:
        raise ConfigurationError(
            f"{file} cannot be written.",
            f"{error.strerror}.",
            "Make room, or name another folder with --out.",
        ) from error


def _json(file: Path) -> dict[str, Any]:
    with file.open("rb") as stream:
        data = stream.read(_MOST_JSON_BYTES + 1)
    if len(data) > _MOST_JSON_BYTES:
        raise ValueError(f"{file.name} has more than {_MOST_JSON_BYTES} bytes")
    found = json.loads(data)
    if not isinstance(found, dict):
        raise ValueError(f"{file.name} is no table")
    return found


def _parquet(file: Path) -> pl.DataFrame:
    if file.stat().st_size > _MOST_PARQUET_BYTES:
        raise ValueError(f"{file.name} has more than {_MOST_PARQUET_BYTES} bytes")
    return pl.read_parquet(file)
