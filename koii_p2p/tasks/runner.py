"""Keeps one task running and answers for it: what a node asks of a task goes through `TaskRunner`.

A task may crash, hang or answer nonsense; its node then has no submission, or an audit is UNAVAILABLE, and
the task is started again. Only an explicit no of the task's audit function is ever INVALID (PROTOCOL section
2: verdicts).
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import base58
import structlog
import trio

from koii_p2p.errors import ConfigurationError, raise_operator_error
from koii_p2p.limits import Limits
from koii_p2p.records.schema import Verdict
from koii_p2p.rounds.distribution import Submitter
from koii_p2p.tasks import services as services_room
from koii_p2p.tasks.confinement import Protection
from koii_p2p.tasks.folder import folder_use
from koii_p2p.tasks.frames import Function, Request
from koii_p2p.tasks.inspection import FunctionFacts, facts_of
from koii_p2p.tasks.output import OutputLog, printable, task_log
from koii_p2p.tasks.process import Begun, CallFailed, Failure, Surroundings, WorkerProcess
from koii_p2p.tasks.routes import AskedRoute, BadReply, RouteReply, read_reply
from koii_p2p.tasks.services import TaskServices

_log = structlog.get_logger(__name__)

_ATTEMPTS = 3
"""How often a call that changes nothing is made, when its worker may have died of other calls."""

_NO_VERDICT = 0


@dataclass(frozen=True, slots=True)
class TaskStatistics:
    """What a runner has seen since it was made; `failures` counts by `Failure` name.

    `workers` are those that can be called now; `protections` are the values of `Protection` that hold.
    """

    class_name: str
    running: bool
    confined: bool
    starts: int
    calls: int
    failures: dict[str, int]
    last_failure: str
    dropped_output_bytes: int
    workers: int = 0
    protections: tuple[str, ...] = ()


@dataclass(slots=True, eq=False)
class _Seat:
    """A place for one worker, which is replaced when it ends. The first seat's does everything, the others' audit."""

    worker: WorkerProcess | None = None
    starting: WorkerProcess | None = None
    ready: trio.Event = field(default_factory=trio.Event)
    calls: int = 0


class TaskRunner:
    """One task in worker processes of its own: started, restarted with growing waits, called with deadlines.

    `path` is the task's folder or file, `task_id` its 32 bytes on K2, `folder` the workers' working folder
    (made if missing, nothing else in it is ours). There are `Limits.worker_processes` workers: the first does the
    task's work, and audits are shared among all. With `serves` a task that has routes gets one more for these alone, so
    that no stranger's request is in the way of a round. `network` lets them reach the internet. Calls may be made from
    any trio task once `run` has started.
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
        network: bool = False,
        surroundings: Surroundings | None = None,
        serves: bool = False,
    ) -> None:
        self._path = path.absolute()
        self._task_id = task_id
        self._folder = folder.absolute()
        self._services = services
        self._limits = limits
        self._slash_basis_points = slash_basis_points
        self._network = network
        self._surroundings = surroundings
        self._full = False
        self._log = _log.bind(task=base58.b58encode(task_id).decode("ascii"))
        self._output = OutputLog(task_log(base58.b58encode(task_id).decode("ascii")), limits)
        self._now = (0, 0)
        self._seats = [_Seat() for _ in range(max(limits.worker_processes, 1))]
        self._routes_seat = _Seat() if serves else None
        self._has_routes = False
        self._why_not_running = "the task has not been started"
        self._audits = trio.CapacityLimiter(limits.worker_audits)
        self._gate = _Gate()
        self._class_name = ""
        self._protections: tuple[Protection, ...] = ()
        self._starts = 0
        self._calls = 0
        self._failures: Counter[str] = Counter()
        self._last_failure = ""

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Keep workers running until cancelled; started once the task was imported for the first time.

        Raises `ConfigurationError`, before it reports started, if the task cannot be imported or its folder
        made.
        """
        self._make_folder()
        self._full = bool(await self._folder_over())
        try:
            async with trio.open_nursery() as nursery:
                await nursery.start(self._keep_seat, self._seats[0])
                task_status.started()
                for seat in self._seats[1:]:
                    nursery.start_soon(self._keep_seat, seat)
                if self._routes_seat is not None and self._has_routes:
                    nursery.start_soon(self._keep_seat, self._routes_seat)
                nursery.start_soon(self._watch_folder)
        except BaseExceptionGroup as group:
            raise_operator_error(group)

    async def _keep_seat(
        self, seat: _Seat, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        loaded_once = seat is not self._seats[0]  # the others start when the first has been imported
        wait = self._limits.worker_restart_seconds
        while True:
            worker = seat.starting = self._new_worker(seat)
            self._starts += 1
            began = trio.current_time()
            reason = ""
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._prepare, seat, worker, None if loaded_once else task_status)
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
        """Note where the chain is, for the task to ask: the slot seen last, and the task's period in it."""
        self._now = (slot, period)

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
        """The task's verdict on another node's submission, and one line that explains it: the task's own reason if it
        gave one, and always one for an UNAVAILABLE that is not the task's word.

        VALID and INVALID are the task's own words. Whatever else happens is UNAVAILABLE.
        """
        try:
            async with self._audits:
                found = await self._call_again(Function.AUDIT, [value, round, submitter])
            verdict, why = _verdict_and_reason(found, self._limits)
            if type(verdict) is int and verdict == _NO_VERDICT:
                return Verdict.UNAVAILABLE, "audit() returned None"
            if type(verdict) is not int or verdict not in Verdict.__members__.values():
                raise CallFailed(Failure.BAD_ANSWER, "audit() gave something that is no verdict")
        except CallFailed as failure:
            self._failed(Function.AUDIT, round, failure)
            return Verdict.UNAVAILABLE, str(failure)
        return Verdict(verdict), why

    async def distribution(
        self, submitters: Iterable[Submitter], bounty: int, round: int
    ) -> dict[bytes, int] | None:
        """The task's rewards (positive) and slashes (negative), Roe by key; None if it broke a rule.

        Held against the rules here: only submitters, whole numbers of 64 bits, rewards of at most `bounty`
        together, and slashes of at most the stake.
        """
        seen = list(submitters)
        arguments = [[[one.key, int(one.outcome), one.stake] for one in seen], bounty, round]
        try:
            value = await self._call_again(Function.DISTRIBUTION, arguments)
            return _check_distribution(value, {one.key: one.stake for one in seen}, bounty)
        except CallFailed as failure:
            self._failed(Function.DISTRIBUTION, round, failure)
            return None

    async def functions(self) -> tuple[FunctionFacts, ...]:
        """What the task's functions are like: which are its own, and whether they can be called.

        Raises `CallFailed` if no worker can say so.
        """
        found = await self._call_again(Function.DESCRIBE, [])
        try:
            return facts_of(found)
        except ValueError as error:
            raise CallFailed(Failure.BAD_ANSWER, str(error)) from error

    @property
    def has_routes(self) -> bool:
        """Whether the task has routes of its own, and this node serves them."""
        return self._has_routes and self._routes_seat is not None

    async def route(self, asked: AskedRoute, begun: Begun = lambda cancel: None) -> RouteReply:
        """What the task's routes answer to one request. Raises `CallFailed`; a request is never made again.

        `begun` is given what cancels it, for when whoever asked has gone away; see `WorkerProcess.call`.
        """
        limits = self._limits
        try:
            seconds = limits.task_route_seconds
            value = await self._call(Function.ROUTES, asked.arguments(), seconds, begun)
            return read_reply(
                value,
                most_bytes=limits.task_reply_bytes,
                most_headers=limits.task_reply_headers,
                header_bytes=limits.task_reply_header_bytes,
            )
        except (CallFailed, BadReply) as error:
            failure = error if isinstance(error, CallFailed) else CallFailed(Failure.BAD_ANSWER, str(error))
            self._count(failure)
            target = printable(asked.target.decode("ascii", "replace"), 200)
            self._log.warning("task_call_failed", call="routes", target=target, failure=str(failure))
            raise failure from None

    def end_workers(self, reason: str) -> None:
        """End the workers now, with what they are doing; new ones are started."""
        for seat in (*self._seats, self._routes_seat):
            if seat is not None and seat.starting is not None:
                seat.starting.kill(reason)

    def statistics(self) -> TaskStatistics:
        """Counters and state, as of now."""
        return TaskStatistics(
            class_name=self._class_name,
            running=self._seats[0].worker is not None,
            confined=Protection.NO_PROCESSES in self._protections,
            protections=tuple(one.value for one in self._protections),
            workers=sum(seat.worker is not None for seat in self._seats),
            starts=self._starts,
            calls=self._calls,
            failures=dict(self._failures),
            last_failure=self._last_failure,
            dropped_output_bytes=self._output.dropped_bytes,
        )

    # -- the worker's life --

    def _new_worker(self, seat: _Seat) -> WorkerProcess:
        own = self._services

        def answer(what: Request, arguments: list[object]) -> object:
            if what is Request.CLOCK and not arguments:
                return list(self._now)
            return services_room.answer(own, self._task_id, what, arguments, self._limits)

        def going() -> None:
            if seat.worker is not None:
                seat.worker, seat.ready = None, trio.Event()

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
            network=self._network,
            full=self._full,
            surroundings=self._surroundings,
        )

    async def _prepare(
        self, seat: _Seat, worker: WorkerProcess, task_status: trio.TaskStatus[None] | None
    ) -> None:
        """Run setup() once the task is imported; then the worker may be called."""
        await worker.loaded.wait()
        self._class_name, self._protections = worker.class_name, worker.protections
        self._has_routes = worker.has_routes
        if task_status is not None:
            task_status.started()
            missing = set(Protection) - set(worker.protections)
            if self._network:
                missing.discard(Protection.NO_NETWORK)
            if missing:
                reason = f"this kernel does not offer: {', '.join(sorted(missing))}"
                self._log.warning("task_not_confined", reason=reason)
        try:
            await worker.call(Function.SETUP, [], deadline=self._limits.worker_start_seconds)
        except CallFailed as failure:
            self._count(failure)
            worker.kill(f"setup() failed: {failure}")
            return
        seat.worker = worker
        seat.ready.set()

    async def _watch_folder(self) -> None:
        """End workers whose folder outgrows its quota, by files that were not written through `ctx.fs`.

        Those that follow may only remove, until there is room: or each life would add to what the last one left.
        """
        while True:
            await trio.sleep(self._limits.worker_folder_seconds)
            over = await self._folder_over()
            if over and not self._full:
                self._log.warning("task_folder_full", folder=str(self._folder), holds=over)
                self._full = True
                self.end_workers(f"its working folder holds {over}")
            elif self._full and not over:
                self._full = False
                self.end_workers("its working folder has room again")

    async def _folder_over(self) -> str:
        """What of the folder is beyond its quota; empty if nothing is."""
        most_bytes, most_files = self._limits.worker_folder_bytes, self._limits.worker_folder_files
        measure = partial(folder_use, self._folder, most_files=most_files)
        size, files = await trio.to_thread.run_sync(measure)
        if size > most_bytes:
            return f"{size} bytes of {most_bytes}"
        return f"more than {most_files} files" if files > most_files else ""

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

    async def _call(
        self,
        function: Function,
        arguments: list[object],
        deadline: float,
        begun: Begun = lambda cancel: None,
    ) -> object:
        """One call, waiting for a worker within the same deadline. Raises `CallFailed`."""
        self._calls += 1
        began = trio.current_time()
        seat = self._seat_for(function)
        with trio.move_on_after(deadline):
            while seat.worker is None:
                await seat.ready.wait()
                seat = self._seat_for(function)
        if seat.worker is None:
            raise CallFailed(Failure.NOT_RUNNING, self._why_not_running)
        left = max(deadline - (trio.current_time() - began), 0.0)
        seat.calls += 1
        try:
            return await seat.worker.call(function, arguments, deadline=left, begun=begun)
        finally:
            seat.calls -= 1

    def _seat_for(self, function: Function) -> _Seat:
        """The first seat, or that of the routes; for an audit, the one with the fewest calls of those with a worker."""
        if function is Function.ROUTES:
            assert self._routes_seat is not None, "a runner that does not serve is asked for no routes"
            return self._routes_seat
        ready = [seat for seat in self._seats if seat.worker is not None]
        if function is not Function.AUDIT or not ready:
            return self._seats[0]
        return min(ready, key=lambda seat: seat.calls)

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


def _verdict_and_reason(found: object, limits: Limits) -> tuple[object, str]:
    """What an audit answered: a verdict by itself, or with the reason that the task gave."""
    match found:
        case [int(verdict), str(reason)]:
            return verdict, printable(reason, limits.worker_detail_bytes)
        case _:
            return found, ""


def _check_distribution(value: object, stakes: Mapping[bytes, int], bounty: int) -> dict[bytes, int]:
    """The list of a worker as amounts by key; `stakes` are the submitters'. Raises `CallFailed` for a broken rule."""
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
        if key not in stakes:
            raise CallFailed(Failure.BAD_ANSWER, f"distribution() names {name}, who did not submit")
        if not -(2**63) < amount < 2**63:
            raise CallFailed(Failure.BAD_ANSWER, f"distribution() gives {name} an amount beyond 64 bits")
        if -amount > stakes[key]:
            raise CallFailed(
                Failure.BAD_ANSWER,
                f"distribution() takes {-amount} Roe from {name}, who staked {stakes[key]}",
            )
    rewards = sum(amount for amount in amounts.values() if amount > 0)
    if rewards > bounty:
        raise CallFailed(Failure.BAD_ANSWER, f"distribution() pays {rewards} Roe of a bounty of {bounty}")
    return amounts
