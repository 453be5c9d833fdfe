"""How far a long command has come, and how fast: a bar on a terminal, a line now and then elsewhere. On stderr."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TextColumn,
    TransferSpeedColumn,
)
from rich.text import Text

from koii_p2p.cli.output import size

LINE_SECONDS: Final = 2.0
"""How often progress is said where there is no terminal."""


@contextmanager
def progress(what: str, total: int | None, unit: str | None = None) -> Iterator[Callable[[int], None]]:
    """Show how much has moved, of `total` if that is known: bytes, or so many of a `unit` such as "documents"."""
    if sys.stderr.isatty():
        columns: tuple[ProgressColumn, ...] = (DownloadColumn(), TransferSpeedColumn())
        if unit is not None:
            columns = (MofNCompleteColumn(), _Rate(), TextColumn(unit))
        with Progress(
            SpinnerColumn(),
            TextColumn(what),
            BarColumn(),
            *columns,
            console=Console(stderr=True),
            transient=True,
        ) as bar:
            name = bar.add_task(what, total=total)
            yield lambda count: bar.advance(name, count)
        return
    lines = _Lines(what, total, unit, time.monotonic())
    yield lines.moved
    lines.say()


class _Rate(ProgressColumn):
    """So many a second."""

    def render(self, task: Task) -> Text:
        """The rate, as soon as it is known."""
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:.0f}/s")


@dataclass(slots=True)
class _Lines:
    """Progress for a pipe."""

    what: str
    total: int | None
    unit: str | None
    began: float
    done: int = 0
    said: float = 0.0

    def moved(self, count: int) -> None:
        """So many more."""
        self.done += count
        if time.monotonic() - max(self.said, self.began) > LINE_SECONDS:
            self.say()

    def say(self) -> None:
        """One line."""
        self.said = time.monotonic()
        rate = int(self.done / max(self.said - self.began, 1e-6))
        of = "" if self.total is None else f" of {self._shown(self.total)}"
        print(
            f"{self.what}: {self._shown(self.done)}{of}, {self._shown(rate)}/s", file=sys.stderr, flush=True
        )

    def _shown(self, count: int) -> str:
        return size(count) if self.unit is None else f"{count} {self.unit}"
