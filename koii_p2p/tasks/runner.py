"""Keeps one task running and answers for it: what a node asks of a task goes through `TaskRunner`.

A task may crash, hang or answer nonsense; its node then has no submission, or an audit is UNAVAILABLE, and
the task is started again. Only an explicit no of the task's audit function is ever INVALID (PROTOCOL section
2: verdicts).
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import base58
import structlog
import trio

from koii_p2p.errors import ConfigurationError
from koii_p2p.limits import Limits
from koii_p2p.records.schema import Verdict
from koii_p2p.rounds.distribution import Submitter
from koii_p2p.tasks import services as services_room
from koii_p2p.tasks.frames import Function, Request
from koii_p2p.tasks.output import OutputLog, printable, task_log
from koii_p2p.tasks.process import CallFailed, Failure, WorkerProcess
from koii_p2p.tasks.services import TaskServices

_log = structlog.get_logger(__name__)

_ATTEMPTS = 3
"""How often a call that changes nothing is made, when its worker may have died of other calls."""

_NO_VERDICT = 0


@dataclass(frozen=True, slots=True)
class TaskStatistics:
    """What a runner has seen since it was made; `failures` counts by `Failure` name."""

    class_name: str
    running: bool
    confined: bool
    starts: int
    calls: int
    failures: dict[str, int]
    last_failure: str
    dropped_output_bytes: int


class TaskRunner:
    """One task in a worker process of its own: started, restarted with growing waits, called with deadlines.

    `path` is the task's folder or file, `task_id` its 32 bytes on K2, `folder` the worker's working folder
    (made if missing, nothing else in it is ours). Calls may be made from any trio task once `run` has
    started.
    """

    def __init__(
        self,
        path: Path,
        task_id: bytes,
        folder: Path,
        services: TaskServices,
        limits: Limits,
        *,
        slash_basis_points: int = 7000,
    ) -> None:
        self._path = path.absolute()
        self._task_id = task_id
        self._folder = folder.absolute()
        self._services = services
        self._limits = limits
        self._slash_basis_points = slash_basis_points
        self._log = _log.bind(task=base58.b58encode(task_id).decode("ascii"))
        self._output = OutputLog(task_log(base58.b58encode(task_id).decode("ascii")), limits)
        self._now = (0, 0)
        self._worker: WorkerProcess | None = None
        self._worker_ready = trio.Event()
        self._why_not_running = "the task has not been started"
        self._audits = trio.CapacityLimiter(limits.worker_audits)
        self._gate = _Gate()
        self._class_name = ""
        self._confined = False
        self._starts = 0
        self._calls = 0
        self._failures: Counter[str] = Counter()
        self._last_failure = ""

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Keep a worker running until cancelled; started once the task was imported for the first time.

        Raises `ConfigurationError`, before it reports started, if the task cannot be imported or its folder
        made.
        """
        self._make_folder()
        loaded_once = False
        wait = self._limits.worker_restart_seconds
        while True:
            worker = self._new_worker()
            self._starts += 1
            began = trio.current_time()
            reason = ""
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._prepare, worker, None if loaded_once else task_status)
                reason = await worker.run()
                nursery.cancel_scope.cancel()
            if not loaded_once and not worker.loaded.is_set():
                raise worker.unusable or self._died_while_loading(reason)
            loaded_once = True
            if worker.unusable is not None:
                reason = str(worker.unusable)
            self._why_not_running = f"the worker ended ({reason})"
            lived = trio.current_time() - began
            if (
                worker.calls_completed > 1 or lived > self._limits.worker_stable_seconds
            ):  # setup() is one call
                wait = self._limits.worker_restart_seconds
            self._log.warning("task_worker_ended", reason=reason, lived=round(lived, 1), restart_in=wait)
            await trio.sleep(wait)
            wait = min(wait * 2, self._limits.worker_restart_seconds_most)

    def set_clock(self, slot: int, period: int) -> None:
        """Tell the task where the chain is: the slot seen last, and the task's period in it."""
        self._now = (slot, period)
        if self._worker is not None:
            self._worker.tell_clock(slot, period)

    async def task(self, round: int, *, deadline: float | None = None) -> bool:
        """Have the task work for `round`, at most `deadline` seconds; whether it returned."""
        seconds = self._limits.worker_task_seconds if deadline is None else deadline
        try:
            await self._call(Function.TASK, [round], seconds)
        except CallFailed as failure:
            self._failed(Function.TASK, round, failure)
            return False
        return True

    async def submission(self, round: int) -> str | bytes | None:
        """The task's proof for `round`; None if it has none, or none that can be submitted."""
        try:
            value = await self._call_again(Function.SUBMISSION, [round])
            return self._check_submission(value)
        except CallFailed as failure:
            self._failed(Function.SUBMISSION, round, failure)
            return None

    async def audit(self, value: str | bytes, round: int, submitter: bytes) -> tuple[Verdict, str]:
        """The task's verdict on another node's submission, and one line that explains an UNAVAILABLE.

        VALID and INVALID are the task's own words. Whatever else happens is UNAVAILABLE.
        """
        try:
            async with self._audits:
                verdict = await self._call_again(Function.AUDIT, [value, round, submitter])
            if type(verdict) is int and verdict == _NO_VERDICT:
                return Verdict.UNAVAILABLE, "audit() returned None"
            if type(verdict) is not int or verdict not in Verdict.__members__.values():
                raise CallFailed(Failure.BAD_ANSWER, "audit() gave something that is no verdict")
        except CallFailed as failure:
            self._failed(Function.AUDIT, round, failure)
            return Verdict.UNAVAILABLE, str(failure)
        return Verdict(verdict), ""

    async def distribution(
        self, submitters: Iterable[Submitter], bounty: int, round: int
    ) -> dict[bytes, int] | None:
        """The task's rewards (positive) and slashes (negative), Roe by key; None if it broke a rule.

        Held against the rules here: only submitters, whole numbers of 64 bits, rewards of at most `bounty`
        together.
        """
        seen = list(submitters)
        arguments = [[[one.key, int(one.outcome), one.stake] for one in seen], bounty, round]
        try:
            value = await self._call_again(Function.DISTRIBUTION, arguments)
            return _check_distribution(value, {one.key for one in seen}, bounty)
        except CallFailed as failure:
            self._failed(Function.DISTRIBUTION, round, failure)
            return None

    def statistics(self) -> TaskStatistics:
        """Counters and state, as of now."""
        return TaskStatistics(
            class_name=self._class_name,
            running=self._worker is not None,
            confined=self._confined,
            starts=self._starts,
            calls=self._calls,
            failures=dict(self._failures),
            last_failure=self._last_failure,
            dropped_output_bytes=self._output.dropped_bytes,
        )

    # -- the worker's life --

    def _new_worker(self) -> WorkerProcess:
        own = self._services

        def answer(what: Request, arguments: list[object]) -> object:
            return services_room.answer(own, self._task_id, what, arguments, self._limits)

        def going() -> None:
            if self._worker is not None:
                self._worker, self._worker_ready = None, trio.Event()

        return WorkerProcess(
            start_items=[
                os.fsencode(self._path),
                self._task_id,
                own.submitter,
                own.main_account,
                self._slash_basis_points,
            ],
            folder=self._folder,
            answer=answer,
            going=going,
            output=self._output,
            limits=self._limits,
        )

    async def _prepare(self, worker: WorkerProcess, task_status: trio.TaskStatus[None] | None) -> None:
        """Run setup() once the task is imported; then the worker may be called."""
        await worker.loaded.wait()
        self._class_name, self._confined = worker.class_name, worker.confined
        if task_status is not None:
            task_status.started()
            if not worker.confined:
                self._log.warning("task_not_confined", reason="this kernel offers no seccomp filter")
        try:
            await worker.call(Function.SETUP, [], now=self._now, deadline=self._limits.worker_start_seconds)
        except CallFailed as failure:
            self._count(failure)
            worker.kill(f"setup() failed: {failure}")
            return
        self._worker = worker
        self._worker_ready.set()

    def _make_folder(self) -> None:
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigurationError(
                f"The working folder {self._folder} of the task could not be made.",
                f"{error.strerror}.",
                "Free the path, or choose another home with --home.",
            ) from error

    def _died_while_loading(self, reason: str) -> ConfigurationError:
        return ConfigurationError(
            f"The task {self._path} could not be started.",
            f"Its worker process ended while importing it: {reason}.",
            "Look at what it printed (in the log above), and import it with `python` on its own.",
        )

    # -- calls --

    async def _call(self, function: Function, arguments: list[object], deadline: float) -> object:
        """One call, waiting for a worker within the same deadline. Raises `CallFailed`."""
        self._calls += 1
        began = trio.current_time()
        with trio.move_on_after(deadline):
            while self._worker is None:
                await self._worker_ready.wait()
        if self._worker is None:
            raise CallFailed(Failure.NOT_RUNNING, self._why_not_running)
        left = max(deadline - (trio.current_time() - began), 0.0)
        return await self._worker.call(function, arguments, now=self._now, deadline=left)

    async def _call_again(self, function: Function, arguments: list[object]) -> object:
        """A call that changes nothing: made again, alone, if its worker died of perhaps another call.

        Otherwise whoever finds a submission that crashes a task's audit could take the audits of all others
        with it.
        """
        deadline = self._limits.worker_call_seconds
        try:
            async with self._gate.together():
                return await self._call(function, arguments, deadline)
        except CallFailed as failure:
            if not failure.maybe_innocent:
                raise
        async with self._gate.alone():
            for attempt in range(2, _ATTEMPTS + 1):
                try:
                    return await self._call(function, arguments, deadline)
                except CallFailed as failure:
                    if attempt == _ATTEMPTS or not failure.maybe_innocent:
                        raise
        raise AssertionError("the loop returns or raises")

    def _check_submission(self, value: object) -> str | bytes | None:
        if value is None:
            return None
        if not isinstance(value, str | bytes):
            raise CallFailed(Failure.BAD_ANSWER, "submission() gave something else than str, bytes or None")
        size = len(value.encode()) if isinstance(value, str) else len(value)
        most = self._limits.submission_value_bytes
        if size > most:
            raise CallFailed(
                Failure.BAD_ANSWER,
                f"submission() returned {size} bytes where at most {most} are allowed; "
                "submit a hash or an address of the data instead",
            )
        return value

    def _failed(self, function: Function, round: int, failure: CallFailed) -> None:
        self._count(failure)
        self._log.warning("task_call_failed", call=function.name.lower(), round=round, failure=str(failure))

    def _count(self, failure: CallFailed) -> None:
        self._failures[failure.failure.name] += 1
        self._last_failure = printable(str(failure), self._limits.worker_detail_bytes)


class _Gate:
    """Lets calls through together, or one alone while no other is inside."""

    def __init__(self) -> None:
        self._entrance = trio.Lock()
        self._inside = 0
        self._empty = trio.Event()

    @asynccontextmanager
    async def together(self) -> AsyncIterator[None]:
        async with self._entrance:
            self._inside += 1
        try:
            yield
        finally:
            self._inside -= 1
            if self._inside == 0:
                self._empty.set()

    @asynccontextmanager
    async def alone(self) -> AsyncIterator[None]:
        async with self._entrance:
            while self._inside:
                self._empty = trio.Event()
                await self._empty.wait()
            yield


def _check_distribution(value: object, submitters: set[bytes], bounty: int) -> dict[bytes, int]:
    """The list of a worker as amounts by key. Raises `CallFailed` for anything that breaks a rule."""
    amounts: dict[bytes, int] = {}
    for item in value if isinstance(value, list) else [None]:
        match item:
            case [bytes(key), int(amount)] if type(amount) is int:
                amounts[key] = amount
            case _:
                raise CallFailed(
                    Failure.BAD_ANSWER, "distribution() gave something else than keys and amounts"
                )
        name = base58.b58encode(key[:64]).decode("ascii")
        if key not in submitters:
            raise CallFailed(Failure.BAD_ANSWER, f"distribution() names {name}, who did not submit")
        if not -(2**63) < amount < 2**63:
            raise CallFailed(Failure.BAD_ANSWER, f"distribution() gives {name} an amount beyond 64 bits")
    rewards = sum(amount for amount in amounts.values() if amount > 0)
    if rewards > bounty:
        raise CallFailed(Failure.BAD_ANSWER, f"distribution() pays {rewards} Roe of a bounty of {bounty}")
    return amounts
