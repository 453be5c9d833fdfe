"""Who plays the runs of an experiment: this process, several of them, or the workers of a Dask cluster.

A worker gets a scenario as a table and a seed, and hands back the run as bytes (`frames.Part`): who played it makes no
difference to them, and a cluster needs no file system in common.
"""

from __future__ import annotations

import importlib
import json
import math
import multiprocessing
import time
from collections.abc import Callable, Iterator, Mapping, MutableSequence, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, Protocol

from koii_p2p.errors import CheckFailed, ConfigurationError, NetworkError
from koii_p2p.lab.engines import play
from koii_p2p.lab.experiment import Experiment, Job
from koii_p2p.lab.frames import Part, encode
from koii_p2p.lab.progress import EVERY_SECONDS, Told, nobody, now_and_then
from koii_p2p.lab.scenario_file import scenario_of, table_of
from koii_p2p.lab.versions import code_digest

MOST_PROCESSES: Final = 1024
_AHEAD: Final = 2
"""Runs that are handed out for each worker, so that none waits for its next and a long sweep fits into memory."""
_CONNECT_SECONDS: Final = 20

Played = tuple[Job, Part]


def play_part(table: Mapping[str, Any], seed: int, told: Told = nobody) -> Part:
    """Play one run. It is called by name in other processes, so that it stands at the top of a module."""
    began = time.perf_counter()
    result = play(scenario_of(table), seed, told)
    return encode(result, code_digest(), time.perf_counter() - began)


class Workers(Protocol):
    """Something that plays runs."""

    def play(self, experiment: Experiment, jobs: Sequence[Job], told: Told = nobody) -> Iterator[Played]:
        """Play these, and yield each when it has ended: in any order.

        Now and then `told` is told how far those under way are, in runs: 1.5 are three that are half over.
        """
        ...


@dataclass(frozen=True, slots=True)
class ThisProcess:
    """Plays one run after the other."""

    def play(self, experiment: Experiment, jobs: Sequence[Job], told: Told = nobody) -> Iterator[Played]:
        """Play these, in their order."""
        tables = _tables(experiment)
        for job in jobs:
            yield job, play_part(tables[job.arm], job.seed, now_and_then(told))


@dataclass(frozen=True, slots=True)
class Processes:
    """Plays as many runs at a time as there are processes."""

    count: int

    def play(self, experiment: Experiment, jobs: Sequence[Job], told: Told = nobody) -> Iterator[Played]:
        """Play these. Raises `CheckFailed` if a process ends before its run does."""
        # Polars has threads, and a fork of a process with threads may stand still for ever.
        context = multiprocessing.get_context("spawn")
        tables = _tables(experiment)
        places = {job: place for place, job in enumerate(jobs)}
        shares = context.RawArray("d", len(jobs) or 1)
        pool = ProcessPoolExecutor(
            min(self.count, len(jobs) or 1), mp_context=context, initializer=_write_into, initargs=(shares,)
        )

        def first_of(running: Sequence[Future[Part]]) -> set[Future[Part]]:
            ended = wait(running, EVERY_SECONDS, FIRST_COMPLETED).done
            told(math.fsum(shares))
            return ended

        try:
            for job, part in _handed_out(
                jobs,
                lambda job: pool.submit(_play_noting, play_part, tables[job.arm], job.seed, places[job]),
                first_of,
                self.count * _AHEAD,
            ):
                shares[places[job]] = 0.0
                yield job, part
        except BrokenProcessPool as error:
            raise CheckFailed(
                "A run was not played to its end.",
                "The process that played it was killed, perhaps for want of memory.",
                "Use fewer --processes, or a smaller scenario; what has ended is kept, and the same command goes on.",
            ) from error
        finally:
            # Whoever is interrupted does not wait for runs that nobody will read.
            for process in list((getattr(pool, "_processes", None) or {}).values()):
                process.terminate()
            pool.shutdown(cancel_futures=True)


@dataclass(frozen=True, slots=True)
class Cluster:
    """Plays runs on the workers of a Dask cluster, by the address of its scheduler (tcp://HOST:PORT)."""

    address: str

    def play(self, experiment: Experiment, jobs: Sequence[Job], told: Told = nobody) -> Iterator[Played]:
        """Play these; nobody is told how far they are.

        Raises `NetworkError` without a scheduler, `ConfigurationError` if a worker has other code.
        """
        # It has no types of its own.
        distributed: Any = importlib.import_module("distributed")
        what = f"The Dask cluster at {self.address} cannot be used."
        try:
            client = distributed.Client(self.address, timeout=_CONNECT_SECONDS)
        except (OSError, TimeoutError, ValueError) as error:
            raise NetworkError(
                what,
                f"{type(error).__name__}: {error}.",
                "Start it with `dask scheduler`, and name its tcp:// address.",
            ) from error
        with client:
            _check_workers(client, what)
            tables = _tables(experiment)
            yield from _handed_out(
                jobs,
                lambda job: client.submit(play_part, tables[job.arm], job.seed, pure=False),
                lambda running: set(distributed.wait(running, return_when="FIRST_COMPLETED").done),
                max(1, len(client.scheduler_info(n_workers=-1)["workers"])) * _AHEAD,
            )


_shares: list[MutableSequence[float]] = []
"""In a process that plays runs: where how far they are is written for the one that waits, by place of the run."""


def _write_into(shares: MutableSequence[float]) -> None:
    _shares[:] = [shares]


def _play_noting(
    play_one: Callable[[Mapping[str, Any], int, Told], Part], table: Mapping[str, Any], seed: int, place: int
) -> Part:
    return play_one(table, seed, partial(_shares[0].__setitem__, place))


def _check_workers(client: Any, what: str) -> None:
    found: Mapping[str, Any] = client.run(code_digest, on_error="return")
    if not found:
        raise NetworkError(what, "It has no workers.", "Start some with `dask worker ADDRESS`.")
    for worker, digest in sorted(found.items()):
        if digest != code_digest():
            why = (
                f"{digest}"
                if isinstance(digest, BaseException)
                else "its code is not the code of this process"
            )
            raise ConfigurationError(
                what,
                f"Worker {worker}: {why}.",
                "Install the same koii_p2p[lab] for all workers, and restart them.",
            )


def _handed_out(
    jobs: Sequence[Job],
    submit: Callable[[Job], Future[Part]],
    first_of: Callable[[Sequence[Future[Part]]], set[Future[Part]]],
    ahead: int,
) -> Iterator[Played]:
    """Hand out jobs, `ahead` at a time, and yield what has ended."""
    left = iter(jobs)
    running: dict[Future[Part], Job] = {}
    while True:
        while len(running) < ahead and (job := next(left, None)) is not None:
            running[submit(job)] = job
        if not running:
            return
        for done in first_of(list(running)):
            yield running.pop(done), done.result()


def _tables(experiment: Experiment) -> list[dict[str, Any]]:
    """The scenario of each arm as a table of JSON values, which every process reads to the same scenario."""
    return [json.loads(json.dumps(table_of(arm.scenario))) for arm in experiment.arms]
