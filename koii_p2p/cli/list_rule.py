"""Running a task's own distribution again, for whoever checks lists: in a confined worker, as nodes do, offline.

The command line is the one place that knows testnets and tasks: it brings this function to the check, which knows only
that there is one.
"""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Annotated, Any, TypeVar

import trio
import typer

from koii_p2p.errors import CheckFailed, ConfigurationError, raise_operator_error
from koii_p2p.limits import Limits
from koii_p2p.records.keys import SecretKey
from koii_p2p.rounds.distribution import Submitter
from koii_p2p.rounds.terms import TaskTerms
from koii_p2p.rounds.verification import Distribute, NotRecomputed
from koii_p2p.tasks.process import CallFailed
from koii_p2p.tasks.runner import TaskRunner
from koii_p2p.tasks.services import TaskServices

_Found = TypeVar("_Found")

CodeOption = Annotated[
    Path | None,
    typer.Option(
        "--code",
        metavar="PATH",
        help="The task's folder or .py file: a distribution of its own is run again with it, confined and offline.",
    ),
]


@asynccontextmanager
async def rule_of(path: Path, terms: TaskTerms) -> AsyncIterator[Distribute | None]:
    """The rule of the lists of the task whose code is at `path`: None if it inherits its distribution.

    Otherwise the task's own, to be called from another thread while the block lasts; it raises `NotRecomputed` where
    the task gives no list. Raises `ConfigurationError` if the code cannot be imported.
    """
    limits = Limits(worker_processes=1)
    with tempfile.TemporaryDirectory(prefix="koii-p2p-") as folder:
        runner = TaskRunner(
            path,
            terms.task,
            Path(folder) / "work",
            _services(),
            limits,
            slash_basis_points=terms.slash_basis_points,
        )
        try:
            async with trio.open_nursery() as nursery:
                await nursery.start(runner.run)
                yield partial(_distribute, runner) if await _has_own(runner, path) else None
                nursery.cancel_scope.cancel()
        except BaseExceptionGroup as group:
            raise_operator_error(group)


async def with_rule(path: Path, terms: TaskTerms, work: Callable[[Distribute | None], _Found]) -> _Found:
    """Call `work` with the rule of the task at `path`, in a thread. Raises as `rule_of`."""
    async with rule_of(path, terms) as distribute:
        return await trio.to_thread.run_sync(work, distribute)


async def _has_own(runner: TaskRunner, path: Path) -> bool:
    try:
        return any(one.own for one in await runner.functions() if one.name == "distribution")
    except CallFailed as failure:
        raise CheckFailed(
            f"The task {path} does not say what it is like.",
            f"{failure}.",
            "Try it with `koii-p2p task check`.",
        ) from failure


def _distribute(
    runner: TaskRunner, submitters: Sequence[Submitter], bounty: int, number: int
) -> Mapping[bytes, int]:
    amounts = trio.from_thread.run(runner.distribution, submitters, bounty, number)
    if amounts is None:
        raise NotRecomputed(f"the task's distribution gave no list: {runner.statistics().last_failure}")
    return amounts


def _services() -> TaskServices:
    """Those of nobody's node: an identity of no stake, an empty store, and no word of what a node knows."""
    secret = SecretKey.generate()

    def nothing(*_: object) -> Any:
        return None

    return TaskServices(
        submitter=secret.public_key,
        main_account=secret.public_key,
        store_get=nothing,
        store_set=nothing,
        store_delete=nothing,
        sign=secret.sign,
        verify=lambda *_: False,
    )


def existing(path: Path) -> Path:
    """A path that was given with --code. Raises `ConfigurationError` if there is nothing."""
    if not path.exists():
        raise ConfigurationError(
            f"The code {path} cannot be used.",
            "There is nothing at this path.",
            "Name the task's folder with --code.",
        )
    return path
