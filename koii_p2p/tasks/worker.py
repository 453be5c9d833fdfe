"""The process that a task runs in: `python -m koii_p2p.tasks.worker`, which `process.py` starts.

It knows two pipes to its node and nothing else: no keys, no environment, no folder but its own. It imports
little, so that it starts fast, and uses asyncio, which task authors know, to have several calls in flight.
"""

from __future__ import annotations

import asyncio
import inspect
import itertools
import json
import logging
import os
import sys
import threading
import traceback
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import base58

from koii_p2p.errors import ConfigurationError
from koii_p2p.limits import Limits
from koii_p2p.tasks import confinement, landlock, loader
from koii_p2p.tasks.confinement import Protection
from koii_p2p.tasks.frames import (
    HEADER_BYTES,
    Frame,
    FrameError,
    Function,
    Request,
    body_length,
    decode_body,
    encode_frame,
)
from koii_p2p.tasks.sdk import Audited, Context, RequestRefused, Submitter, Task, Verdict

NO_VERDICT = 0
"""On the wire, an audit that returned None."""


class Pipes:
    """The two pipes to the node. Frames may be sent from any thread; requests only from the event loop."""

    def __init__(self, reading: int, writing: int, limits: Limits) -> None:
        self._reading = reading
        self._writing = writing
        self._limits = limits
        self._sending = threading.Lock()
        self._reader: asyncio.StreamReader | None = None
        self._numbers = itertools.count()
        self._waiting: dict[int, asyncio.Future[object]] = {}
        self._open_requests = asyncio.Semaphore(limits.worker_open_requests)

    def send(self, frame: Frame, *items: object) -> None:
        """Write one frame; blocks while the pipe is full. Raises `FrameError` if it is too large."""
        data = memoryview(encode_frame(frame, *items, max_bytes=self._limits.worker_frame_bytes))
        with self._sending:
            while data:
                data = data[os.write(self._writing, data) :]

    async def receive(self) -> tuple[Frame, list[Any]]:
        """Read one frame. Raises `asyncio.IncompleteReadError` when the node is gone."""
        if self._reader is None:
            self._reader = asyncio.StreamReader()
            protocol = asyncio.StreamReaderProtocol(self._reader)
            await asyncio.get_running_loop().connect_read_pipe(
                lambda: protocol, os.fdopen(self._reading, "rb", 0)
            )
        most = self._limits.worker_frame_bytes
        length = body_length(await self._reader.readexactly(HEADER_BYTES), max_bytes=most)
        return decode_body(await self._reader.readexactly(length), max_bytes=most)

    async def request(self, what: Request, *arguments: object) -> object:
        """Ask the node; see `koii_p2p.tasks.sdk.Node`."""
        async with self._open_requests:
            number = next(self._numbers)
            answer: asyncio.Future[object] = asyncio.get_running_loop().create_future()
            self._waiting[number] = answer
            try:
                self.send(Frame.REQUEST, number, int(what), list(arguments))
                return await answer
            finally:
                self._waiting.pop(number, None)

    def answered(self, number: int, granted: bool, value: object) -> None:
        """Hand the node's answer to whoever asked; nobody may be waiting any more."""
        answer = self._waiting.get(number)
        if answer is None or answer.done():
            return
        if granted:
            answer.set_result(value)
        else:
            answer.set_exception(RequestRefused(str(value)))


class LogToNode(logging.Handler):
    """Sends what a task logs to its node, with its severity."""

    def __init__(self, pipes: Pipes, limits: Limits) -> None:
        super().__init__()
        self._pipes = pipes
        self._most = limits.worker_line_bytes

    def emit(self, record: logging.LogRecord) -> None:
        """Send one record, cut to the length that the node would keep."""
        text = self.format(record)[: self._most]
        severity = min(max(record.levelno, logging.DEBUG), logging.CRITICAL)
        self._pipes.send(Frame.LOG, severity, text.encode("utf-8", "replace").decode())


class Calls:
    """Runs the task's functions as the node calls them, several at once."""

    def __init__(self, task: Task, context: Context, pipes: Pipes, limits: Limits) -> None:
        self._task = task
        self._context = context
        self._pipes = pipes
        self._limits = limits
        self._running: dict[int, asyncio.Task[None]] = {}
        self._application: Any = None

    def start(self, number: int, function: Function, arguments: list[Any]) -> None:
        """Run one call beside the others; its answer is sent when it ends."""
        running = asyncio.get_running_loop().create_task(self._run(number, function, arguments))
        self._running[number] = running
        running.add_done_callback(partial(self._ended, number))

    def _ended(self, number: int, running: asyncio.Task[None]) -> None:
        del self._running[number]
        if running.cancelled():  # before its first step, so that `_run` had no turn to say so
            self._pipes.send(Frame.RAISED, number, "CancelledError", "")

    def cancel(self, number: int, function: Function) -> None:
        """End a call whose time is up.

        One that runs in a thread cannot be ended: the node will kill this process.
        """
        running = self._running.get(number)
        if running is None:
            return
        if function is Function.ROUTES or inspect.iscoroutinefunction(self._method(function)):
            running.cancel()

    async def _run(self, number: int, function: Function, arguments: list[Any]) -> None:
        try:
            value = await self._invoke(function, arguments)
            self._pipes.send(Frame.RESULT, number, wire_result(function, value))
        except BaseException as error:  # noqa: BLE001
            # Reported to the node. A task's SystemExit must not end the worker.
            if not isinstance(error, asyncio.CancelledError):
                print_for_author(error)
            text = describe(error)[: self._limits.worker_detail_bytes]
            self._pipes.send(Frame.RAISED, number, type(error).__name__, text)

    async def _invoke(self, function: Function, arguments: list[Any]) -> object:
        if function is Function.DESCRIBE:
            from koii_p2p.tasks import inspection

            return inspection.described(self._task)
        if function is Function.ROUTES:
            return await self._answer(arguments)
        method = self._method(function)
        ready = task_arguments(function, arguments)
        if inspect.iscoroutinefunction(method):
            return await method(self._context, *ready)
        value = await asyncio.to_thread(method, self._context, *ready)
        return await value if inspect.isawaitable(value) else value

    async def _answer(self, arguments: list[Any]) -> object:
        """One HTTP request; the task says its routes when the first one comes."""
        from koii_p2p.tasks import routes

        if self._application is None:
            self._application = routes.application(self._task.routes(self._context))
        asked = routes.AskedRoute.from_arguments(arguments)
        return await routes.answer(
            self._application, asked, self._context.task_id, self._limits.task_reply_bytes
        )

    def _method(self, function: Function) -> Any:
        return getattr(self._task, function.name.lower())


def task_arguments(function: Function, arguments: list[Any]) -> list[Any]:
    """The arguments of a call as a task sees them: keys in base58, submitters as `Submitter`."""
    if function is Function.AUDIT:
        submission, round, submitter = arguments
        return [submission, round, base58.b58encode(submitter).decode("ascii")]
    if function is Function.DISTRIBUTION:
        from koii_p2p.rounds.tally import Outcome

        submitters, bounty, round = arguments
        seen = [
            Submitter(base58.b58encode(key).decode("ascii"), Outcome(outcome), stake)
            for key, outcome, stake in submitters
        ]
        return [seen, bounty, round]
    return arguments


def wire_result(function: Function, value: object) -> object:
    """A function's return value as the node reads it.

    Raises `TypeError` that tells the author what is wrong.
    """
    if function is Function.SUBMISSION:
        if value is None or type(value) in (str, bytes):
            return value
        raise TypeError(f"submission() returned {type(value).__name__}; it must return str, bytes or None")
    if function is Function.AUDIT:
        if value is None:
            return NO_VERDICT
        if isinstance(value, Audited):
            return [int(value.verdict), describe_part(value.line())]
        if isinstance(value, Verdict):
            return int(value)
        if isinstance(value, bool):
            return int(Verdict.VALID if value else Verdict.INVALID)
        raise TypeError(
            f"audit() returned {type(value).__name__}; it must return True, False, None, a Verdict or an Audited"
        )
    if function is Function.DISTRIBUTION:
        return _wire_distribution(value)
    return value if function in (Function.DESCRIBE, Function.ROUTES) else None


def _wire_distribution(value: object) -> list[list[object]]:
    if not isinstance(value, dict):
        raise TypeError(
            f"distribution() returned {type(value).__name__}; it must return a dict of key: amount"
        )
    amounts: list[list[object]] = []
    for key, amount in value.items():
        if type(key) is not str:
            raise TypeError(f"distribution() has a key of type {type(key).__name__}; keys are base58 text")
        if type(amount) is not int:
            raise TypeError(
                f"distribution() gives {key} the {type(amount).__name__} {amount!r}; "
                "amounts are whole Roe (int), use // and not /"
            )
        amounts.append([base58.b58decode(key), amount])
    return amounts


def print_for_author(error: BaseException) -> None:
    """Print a traceback that starts at the first line of the author's code."""
    start = error.__traceback__
    while start is not None and start.tb_frame.f_code.co_filename == __file__:
        start = start.tb_next
    traceback.print_exception(type(error), error, start)


def describe(error: BaseException) -> str:
    """The text of an exception; its class may do anything in `__str__`."""
    try:
        return str(error).encode("utf-8", "replace").decode()
    except BaseException:  # noqa: BLE001
        return "(this exception has no text)"


async def serve(pipes: Pipes, limits: Limits, protections: tuple[Protection, ...], full: bool) -> None:
    """Load the task that the node names, then answer its calls until it is gone. `full`: its folder may not grow."""
    frame, items = await pipes.receive()
    if frame is not Frame.START:
        raise FrameError(f"the first frame is {frame.name}, not START")
    path, task_id, submitter, main_account, slash_basis_points = items
    logger = logging.getLogger("task")
    logger.setLevel(logging.DEBUG)
    logger.propagate = False
    logger.addHandler(LogToNode(pipes, limits))
    try:
        file = Path(os.fsdecode(path))  # a path may hold bytes that are no text
        if landlock.restrict(landlock.needed_by(file, Path.cwd()), Path.cwd(), full=full):
            protections = (*protections, Protection.OWN_FILES)
        task_class = loader.load_task_class(file)
        task = instantiate(task_class, file)
    except ConfigurationError as error:
        most = limits.worker_detail_bytes
        pipes.send(
            Frame.UNUSABLE, *(describe_part(part)[:most] for part in (error.what, error.why, error.remedy))
        )
        return
    context = Context(
        pipes,
        task_id=task_id,
        submitter=submitter,
        main_account=main_account,
        slash_basis_points=slash_basis_points,
        logger=logger,
        limits=limits,
    )
    calls = Calls(task, context, pipes, limits)
    has_routes = task_class.routes is not Task.routes
    pipes.send(Frame.LOADED, task_class.__name__, [one.value for one in protections], has_routes)
    while True:
        frame, items = await pipes.receive()
        if frame is Frame.CALL:
            number, function, arguments = items
            calls.start(number, Function(function), arguments)
        elif frame is Frame.CANCEL:
            calls.cancel(items[0], Function(items[1]))
        elif frame is Frame.ANSWER:
            pipes.answered(items[0], items[1], items[2])
        else:
            raise FrameError(f"a node never sends {frame.name}")


def instantiate(task_class: type[Task], path: Path) -> Task:
    """Make the task. Raises `ConfigurationError` if its constructor does not work without arguments."""
    try:
        return task_class()
    except BaseException as error:
        raise ConfigurationError(
            f"The task {path} cannot be used.",
            f"{task_class.__name__}() raised {type(error).__name__}: {describe(error)}.",
            "Give it a constructor without arguments, and move work that can fail into setup().",
        ) from error


def describe_part(text: str) -> str:
    """Text that can be sent: file names may hold bytes that are no text."""
    return text.encode("utf-8", "replace").decode()


def main() -> NoReturn:
    """Read the settings that the node put on the command line (no secrets), give up rights, serve."""
    settings = json.loads(sys.argv[1])
    confinement.die_with_parent(settings["parent"])
    limits = Limits(**settings["limits"])
    confinement.step_behind(limits.worker_niceness)
    confinement.limit_resources(
        memory=limits.worker_memory_bytes,
        cpu_seconds=limits.worker_cpu_seconds,
        file_bytes=0 if settings["full"] else limits.worker_file_bytes,
        open_files=limits.worker_open_files,
    )
    protections = confinement.forbid(network=settings["network"])
    if settings["clock_ahead"]:
        from koii_p2p.tasks import other_clock

        other_clock.shift(settings["clock_ahead"])
    del sys.argv[1:]
    code = 0
    try:
        pipes = Pipes(settings["reading"], settings["writing"], limits)
        asyncio.run(serve(pipes, limits, protections, settings["full"]))
    except (asyncio.IncompleteReadError, BrokenPipeError):
        pass  # the node closed the pipes: it is stopping
    except BaseException:  # noqa: BLE001 - printed, and the exit code says it
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # threads of the task, if any, do not hold it up


if __name__ == "__main__":
    main()
