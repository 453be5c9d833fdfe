"""How far an experiment is: a bar on a terminal, plain lines in a pipe; both with the time that is left."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Final

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    TaskID,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
)

from koii_p2p.cli.output import duration
from koii_p2p.lab.experiment import Experiment, Job

_EVERY_SECONDS: Final = 10.0
"""Time between two plain lines; the first and the last are always written."""


class LabProgress:
    """Told how far runs are, and of each that ends (`runs.Watch`). Use as a context manager. All goes to stderr."""

    def __init__(self, experiment: Experiment, *, terminal: bool | None = None) -> None:
        self._experiment = experiment
        self._began = time.monotonic()
        self._resumed: float | None = None
        self._ended = 0
        self._told = 0.0
        self._bar: Progress | None = None
        self._task: TaskID | None = None
        if sys.stderr.isatty() if terminal is None else terminal:
            self._bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                TextColumn("{task.fields[ended]}/{task.total:.0f} runs"),
                TaskProgressColumn(),
                TimeElapsedColumn(),
                TextColumn("{task.fields[left]}"),
                console=Console(stderr=True),
                transient=True,
            )

    def __enter__(self) -> LabProgress:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def __call__(self, done: float, whole: int, job: Job | None) -> None:
        """So many runs of all are played, `job` has ended just now."""
        now = time.monotonic()
        first = self._resumed is None
        if first:
            self._began, self._resumed = now, done
        if first or job is not None:
            self._ended = int(done)
        left = self._left(done, whole, now)
        if self._bar is not None:
            if self._task is None:
                self._task = self._bar.add_task(self._experiment.name, total=whole, left=left, ended=0)
            self._bar.update(self._task, completed=done, left=left, ended=self._ended)
        elif first or self._ended == whole or now - self._told >= _EVERY_SECONDS:
            self._told = now
            said = f"{self._ended} of {whole} runs have ended"
            if first:
                said += "; it goes on from there" if done else ""
            elif job is None:
                # Its tables are made when all of its time has passed.
                said += f"; {min(99, int(100 * done / whole))} % is played"
            else:
                said += f"; {self._experiment.arms[job.arm].name}, seed {job.seed}"
            said += f"; {left}" if left else ""
            print(f"{self._experiment.name}: {said}", file=sys.stderr, flush=True)

    def _left(self, done: float, whole: int, now: float) -> str:
        played = done - (self._resumed or 0.0)
        if played <= 0 or done >= whole:
            return ""
        return f"about {duration((now - self._began) / played * (whole - done))} left"
