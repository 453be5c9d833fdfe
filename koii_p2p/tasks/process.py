"""One worker process as its node sees it: started, called, watched, and in the end killed with all it has.

Whatever a worker does (print, crash, hang, answer nonsense) ends in a `CallFailed` for the calls in flight
and a sentence for the log. Nothing it does raises out of `WorkerProcess.run`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from enum import Enum
from functools import partial
from pathlib import Path

import structlog
import trio

from koii_p2p.errors import ConfigurationError
from koii_p2p.limits import Limits
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
from koii_p2p.tasks.output import OutputLog, printable
from koii_p2p.tasks.services import Refused

_log = structlog.get_logger(__name__)

_DRAIN_SECONDS = 1.0
"""How long the last output of a dead worker is waited for, and the end of one that closed its pipe."""

_REAP_SECONDS = 5.0
"""How long a killed process may take to end. It is left behind if the kernel is stuck."""


Begun = Callable[[Callable[[], None]], None]
"""Is told that a call was sent to a worker, with what cancels it there."""


class Failure(Enum):
    """Why a call of a task's function gave nothing."""

    RAISED = "raised"
    """The task's function raised an exception."""

    TIMED_OUT = "timed out"
    """It did not return within its deadline."""

    CRASHED = "crashed"
    """The worker process ended while the call was in flight."""

    BAD_ANSWER = "bad answer"
    """It returned something that the function may not return."""

    NOT_RUNNING = "not running"
    """There was no worker to call: the task does not start, or waits before it is started again."""


class CallFailed(Exception):
    """A call of a task's function gave nothing; `detail` is one line for people.

    `maybe_innocent` says that other calls were in flight when the worker ended, so that one of them may be
    the cause.
    """

    def __init__(self, failure: Failure, detail: str, *, maybe_innocent: bool = False) -> None:
        super().__init__(f"{failure.value}: {detail}")
        self.failure = failure
        self.detail = detail
        self.maybe_innocent = maybe_innocent


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What is chosen around a worker, to see that a task answers the same: the order of Python's sets (a hash seed,
    1 to 2^32-1), a wall clock so many seconds ahead, and a time zone (POSIX `TZ`). Left to chance and the machine
    where none are given.
    """

    hash_seed: int
    clock_ahead: int
    time_zone: str


@dataclass(slots=True, eq=False)
class _Pending:
    """A call in flight."""

    function: Function
    done: trio.Event = field(default_factory=trio.Event)
    value: object = None
    error: CallFailed | None = None


class WorkerProcess:
    """One run of `koii_p2p.tasks.worker`, from start to death.

    `answer` grants the task's requests, at once or by an awaitable, or raises `Refused`; `going` is told, before
    anything else, that no more calls should be made: the process has ended or is being killed. With `network` it may
    reach the internet; in a folder that is `full` it makes and writes nothing, and may remove.
    """

    def __init__(
        self,
        *,
        start_items: list[object],
        folder: Path,
        answer: Callable[[Request, list[object]], object],
        going: Callable[[], None],
        output: OutputLog,
        limits: Limits,
        network: bool = False,
        full: bool = False,
        surroundings: Surroundings | None = None,
    ) -> None:
        self._start_items = start_items
        self._folder = folder
        self._answer = answer
        self._going = going
        self._output = output
        self._limits = limits
        self._network = network
        self._full = full
        self._surroundings = surroundings
        self._outbox, self._to_write = trio.open_memory_channel[bytes](limits.worker_queued_frames)
        self._next_number = 1
        self._pending: dict[int, _Pending] = {}
        self._process: subprocess.Popen[bytes] | None = None
        self._killed_because: str | None = None
        self._hung = False
        self._nursery: trio.Nursery | None = None
        self._slow_answers = 0
        self._exited = trio.Event()
        self._ended = False
        self.loaded = trio.Event()
        self.class_name = ""
        self.has_routes = False
        self.protections: tuple[Protection, ...] = ()
        self.unusable: ConfigurationError | None = None
        self.calls_completed = 0

    async def run(self) -> str:
        """Start the process, serve it until it ends, and return why it ended. Cancelling kills it."""
        try:
            streams = self._spawn()
        except OSError as error:
            self._ended = True
            return f"The worker process could not be started: {error.strerror}"
        assert self._process is not None
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                nursery.start_soon(self._load_in_time)
                nursery.start_soon(self._write, streams.to_worker)
                nursery.start_soon(self._wait_and_drain, nursery, streams)
        finally:
            self._kill_group()
            with trio.CancelScope(deadline=trio.current_time() + _REAP_SECONDS, shield=True):
                await self._wait_for_exit(self._process.pid)
            reason = self._reason(self._process.poll())
            self._end(reason)
            with trio.CancelScope(shield=True):
                await streams.close()
        return reason

    async def call(
        self,
        function: Function,
        arguments: list[object],
        *,
        deadline: float,
        begun: Begun = lambda cancel: None,
    ) -> object:
        """Call a function of the task; its value. Raises `CallFailed` after at most `deadline` seconds.

        A call that is overdue is cancelled in the worker; if it does not end then, the worker is killed. `begun` is
        given what cancels it there before, for when nobody wants its value any more: this returns once it has ended.
        """
        pending = _Pending(function)
        number = self._next_number
        self._next_number += 1
        self._pending[number] = pending
        try:
            self._send(Frame.CALL, number, int(function), arguments)
            begun(partial(self._cancel, number, function))
            with trio.move_on_after(deadline):
                await pending.done.wait()
            if not pending.done.is_set():
                await self._cancel_overdue(number, pending, deadline)
        except trio.Cancelled:
            self._cancel(number, function)
            raise
        finally:
            del self._pending[number]
        if pending.error is not None:
            raise pending.error
        self.calls_completed += 1
        return pending.value

    def _cancel(self, number: int, function: Function) -> None:
        if number in self._pending:
            with contextlib.suppress(CallFailed):
                self._send(Frame.CANCEL, number, int(function))

    async def _cancel_overdue(self, number: int, pending: _Pending, deadline: float) -> None:
        name = pending.function.name.lower()
        others = len(self._pending) > 1
        self._send(Frame.CANCEL, number, int(pending.function))
        with trio.move_on_after(self._limits.worker_cancel_seconds):
            await pending.done.wait()
        if pending.error is not None and pending.error.failure is Failure.CRASHED:
            raise pending.error
        # A worker that does not even cancel is stuck as a whole: any of its calls may have done that.
        stuck = not pending.done.is_set()
        if stuck:
            self._hung = True
            self.kill(f"{name}() did not return and could not be cancelled")
        raise CallFailed(
            Failure.TIMED_OUT, f"{name}() took longer than {deadline:.1f} s", maybe_innocent=stuck and others
        )

    def kill(self, reason: str) -> None:
        """End the process now; the first reason given is the one reported."""
        if self._killed_because is None:
            self._killed_because = reason
        self._going()
        self._kill_group()

    # -- the process --

    def _spawn(self) -> _Streams:
        """Start the worker, in this thread: the kernel ties its life to the thread that started it."""
        with contextlib.ExitStack() as undo:
            to_child, to_worker = self._pipe(undo)
            from_worker, from_child = self._pipe(undo)
            settings = {
                "parent": os.getpid(),
                "reading": to_child,
                "writing": from_child,
                "limits": dataclasses.asdict(self._limits),
                "network": self._network,
                "full": self._full,
                "clock_ahead": 0 if self._surroundings is None else self._surroundings.clock_ahead,
            }
            home = str(self._folder)
            isolated, chosen = ["-I"], {}
            if (around := self._surroundings) is not None:
                # -I without -E, which would pass over the seed: no other variable of Python's is in the environment.
                isolated = ["-P", "-s"]
                chosen = {"PYTHONHASHSEED": str(around.hash_seed), "TZ": around.time_zone}
            self._process = subprocess.Popen(
                # -I: no module from the current folder, PYTHONPATH or the user's packages in place of ours. The
                # last are below HOME, which is the task's own folder: Python would run what a task left there
                # before the worker gives up its rights. -B: no files beside the task's; -u: what was printed
                # before a crash is seen.
                [sys.executable, *isolated, "-B", "-u", "-m", "koii_p2p.tasks.worker", json.dumps(settings)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                pass_fds=(to_child, from_child),
                cwd=home,
                env={
                    "PATH": "/usr/local/bin:/usr/bin:/bin",
                    "LANG": "C.UTF-8",
                    "HOME": home,
                    "TMPDIR": home,
                    # Address space is limited: one heap per thread and per core would use it up.
                    "MALLOC_ARENA_MAX": "2",
                    "OMP_NUM_THREADS": "1",
                    "OPENBLAS_NUM_THREADS": "1",
                    **chosen,
                },
                start_new_session=True,
            )
            undo.pop_all()
        os.close(to_child)
        os.close(from_child)
        assert self._process.stdout is not None
        assert self._process.stderr is not None
        # The streams own descriptors of their own; the file objects of Popen go.
        stdout, stderr = os.dup(self._process.stdout.fileno()), os.dup(self._process.stderr.fileno())
        self._process.stdout.close()
        self._process.stderr.close()
        stream = trio.lowlevel.FdStream
        return _Streams(stream(to_worker), stream(from_worker), stream(stdout), stream(stderr))

    @staticmethod
    def _pipe(undo: contextlib.ExitStack) -> tuple[int, int]:
        reading, writing = os.pipe()
        undo.callback(os.close, reading)
        undo.callback(os.close, writing)
        return reading, writing

    async def _wait_and_drain(self, nursery: trio.Nursery, streams: _Streams) -> None:
        """Read what the worker says until it has ended, and a moment longer; then end the nursery."""
        assert self._process is not None
        async with trio.open_nursery() as readers:
            readers.start_soon(self._output.copy, streams.stdout, "stdout")
            readers.start_soon(self._output.copy, streams.stderr, "stderr")
            readers.start_soon(self._read, streams.from_worker)
            await self._wait_for_exit(self._process.pid)
            self._going()
            self._exited.set()
            self._kill_group()  # whatever it started would hold the pipes open
            readers.cancel_scope.deadline = trio.current_time() + _DRAIN_SECONDS
        nursery.cancel_scope.cancel()

    @staticmethod
    async def _wait_for_exit(process: int) -> None:
        """Return when the process has ended, without reaping it: its number stays taken until then."""
        handle = os.pidfd_open(process)
        try:
            await trio.lowlevel.wait_readable(handle)
        finally:
            os.close(handle)

    def _kill_group(self) -> None:
        if self._process is None or self._process.returncode is not None:
            return
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)

    async def _load_in_time(self) -> None:
        self._send(Frame.START, *self._start_items)
        with trio.move_on_after(self._limits.worker_start_seconds):
            await self.loaded.wait()
        if not self.loaded.is_set():
            self.kill(f"the task was not imported within {self._limits.worker_start_seconds:g} s")

    def _reason(self, code: int | None) -> str:
        if self._killed_because is not None:
            return self._killed_because
        if code == -signal.SIGXCPU:
            return f"it used up its {self._limits.worker_cpu_seconds} s of CPU time"
        if code == -signal.SIGKILL:
            return "it was killed from outside, perhaps by the kernel for want of memory"
        if code is not None and code < 0:
            return f"it crashed with signal {signal.Signals(-code).name}"
        return f"it ended by itself with exit code {code}"

    def _end(self, reason: str) -> None:
        """Fail the calls in flight.

        If one hung, that is the cause and it was told so; else any of several may be.
        """
        self._ended = True
        self._going()
        waiting = [pending for pending in self._pending.values() if not pending.done.is_set()]
        for pending in waiting:
            innocent = self._hung or len(waiting) > 1
            pending.error = CallFailed(
                Failure.CRASHED, f"the worker ended: {reason}", maybe_innocent=innocent
            )
            pending.done.set()

    # -- frames --

    def _send(self, frame: Frame, *items: object) -> None:
        if self._ended:
            raise CallFailed(Failure.NOT_RUNNING, "the worker has ended")
        data = encode_frame(frame, *items, max_bytes=self._limits.worker_frame_bytes)
        try:
            self._outbox.send_nowait(data)
        except (trio.WouldBlock, trio.BrokenResourceError):
            self.kill("it did not read what the node sent it")
            raise CallFailed(Failure.CRASHED, "the worker did not read its calls") from None

    async def _write(self, stream: trio.lowlevel.FdStream) -> None:
        try:
            async for data in self._to_write:
                await stream.send_all(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass  # it closed its end, or is gone: the reader and the wait notice

    async def _read(self, stream: trio.lowlevel.FdStream) -> None:
        most = self._limits.worker_frame_bytes
        buffer = bytearray()
        try:
            while True:
                await _fill(stream, buffer, HEADER_BYTES)
                length = body_length(bytes(buffer[:HEADER_BYTES]), max_bytes=most)
                await _fill(stream, buffer, HEADER_BYTES + length)
                body = bytes(buffer[HEADER_BYTES : HEADER_BYTES + length])
                del buffer[: HEADER_BYTES + length]
                self._handle(*decode_body(body, max_bytes=most))
                await (
                    trio.lowlevel.checkpoint()
                )  # a flood of frames that are all here already is no reason to stall
        except FrameError as error:
            self.kill(f"it broke the protocol with its node: {printable(str(error), 200)}")
        except CallFailed:
            pass  # an answer could not be queued: _send has killed the worker
        except (EOFError, trio.BrokenResourceError, trio.ClosedResourceError):
            with trio.move_on_after(_DRAIN_SECONDS):
                await self._exited.wait()
            if not self._exited.is_set():
                self.kill("it closed the pipe to its node")

    def _handle(self, frame: Frame, items: list[object]) -> None:
        """One frame of the worker. Raises `FrameError` for anything that our worker would not send."""
        match frame, items:
            case Frame.RESULT, [int(number), value]:
                self._finish(number, value, None)
            case Frame.RAISED, [int(number), str(kind), str(text)]:
                most = self._limits.worker_detail_bytes
                self._finish(number, None, CallFailed(Failure.RAISED, printable(f"{kind}: {text}", most)))
            case Frame.REQUEST, [int(number), int(what), list(arguments)]:
                self._grant(number, what, arguments)
            case Frame.LOG, [int(severity), str(text)] if 10 <= severity <= 50:
                self._output.line(text, stream="log", severity=severity // 10 * 10)
            case Frame.LOADED, [str(name), list(held_to), bool(has_routes)] if not self.loaded.is_set():
                self.class_name, self.has_routes = printable(name, 100), has_routes
                self.protections = tuple(one for one in Protection if one.value in held_to)
                self.loaded.set()
            case Frame.UNUSABLE, [str(what), str(why), str(remedy)] if not self.loaded.is_set():
                most = self._limits.worker_detail_bytes
                self.unusable = ConfigurationError(*(printable(part, most) for part in (what, why, remedy)))
            case _:
                raise FrameError(f"an unexpected {frame.name}")

    def _finish(self, number: int, value: object, error: CallFailed | None) -> None:
        if not 0 < number < self._next_number:
            raise FrameError("an answer to a call that was never made")
        pending = self._pending.get(number)
        if pending is None or pending.done.is_set():
            return  # the caller has given up on it
        pending.value, pending.error = value, error
        pending.done.set()

    def _grant(self, number: int, what: int, arguments: list[object]) -> None:
        try:
            request = Request(what)
        except ValueError:
            raise FrameError(f"{what} is not a request") from None
        try:
            found = self._answer(request, arguments)
        except Refused as refusal:
            self._refuse(number, str(refusal))
            return
        if not isinstance(found, Awaitable):
            self._send(Frame.ANSWER, number, True, found)
        elif self._nursery is None or self._slow_answers >= self._limits.worker_open_requests:
            self._refuse(number, "Too many requests are open that take time; wait for some of them.")
        else:
            self._slow_answers += 1
            self._nursery.start_soon(self._grant_later, number, found)

    async def _grant_later(self, number: int, answer: Awaitable[object]) -> None:
        try:
            found = await answer
        except Exception as error:  # noqa: BLE001
            # Whatever fails in the node on a task's behalf costs the task its answer, and not the node its worker.
            if not isinstance(error, Refused):
                _log.error("a task's request failed in the node", exc_info=True)
            why = str(error) if isinstance(error, Refused) else "The node could not do it: see its log."
            with contextlib.suppress(CallFailed):  # the worker may have ended meanwhile
                self._refuse(number, why)
        else:
            with contextlib.suppress(CallFailed):
                try:
                    self._send(Frame.ANSWER, number, True, found)
                except FrameError as error:
                    self._refuse(number, f"The answer cannot be handed out: {error}.")
        finally:
            self._slow_answers -= 1

    def _refuse(self, number: int, why: str) -> None:
        self._send(Frame.ANSWER, number, False, printable(why, self._limits.worker_detail_bytes))


@dataclass(frozen=True, slots=True)
class _Streams:
    to_worker: trio.lowlevel.FdStream
    from_worker: trio.lowlevel.FdStream
    stdout: trio.lowlevel.FdStream
    stderr: trio.lowlevel.FdStream

    async def close(self) -> None:
        for stream in (self.to_worker, self.from_worker, self.stdout, self.stderr):
            await stream.aclose()


async def _fill(stream: trio.lowlevel.FdStream, buffer: bytearray, size: int) -> None:
    """Read until `buffer` holds `size` bytes. Raises `EOFError` if the stream ends before."""
    while len(buffer) < size:
        data = await stream.receive_some(max(size - len(buffer), 64 * 1024))
        if not data:
            raise EOFError
        buffer += data
