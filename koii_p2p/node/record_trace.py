"""`koii-p2p join --trace FILE`: a line for each record of a round that a node signs, and each that it first hears.

It is for measuring how records spread; see `records.sightings` for the lines.
"""

from __future__ import annotations

import os
import stat
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Final

import structlog
import trio

from koii_p2p.errors import ConfigurationError
from koii_p2p.limits import Limits
from koii_p2p.records.envelope import Verified
from koii_p2p.records.schema import Kind
from koii_p2p.records.sightings import Sighting, Way, encode_sighting
from koii_p2p.storage.faults import os_fault

log = structlog.get_logger(__name__)

FLUSH_SECONDS: Final = 0.5
"""How long a line may wait before it is written with the others that came meanwhile."""


def untraced(_record: Verified, _way: Way | None) -> None:
    """What a node does with a record that is not traced: nothing."""


class RecordTrace:
    """Notes records; a context manager. `run` writes what was noted, the end of the block what is left.

    Without a path nothing is noted. What is there already stays, and counts against `Limits.trace_bytes`. A disk that
    fails or a file that is full ends the trace with one warning, and nothing else.
    """

    def __init__(self, path: Path | None, key: bytes, limits: Limits) -> None:
        """Open the file; `key` is the node's own. Raises `ConfigurationError` if it cannot be written."""
        self._path = path
        self._key = key
        self._waiting = bytearray()
        self._descriptor: int | None = None
        self._room = self._most = limits.trace_bytes
        self._ended = path is None
        if path is not None:
            self._descriptor, written = _opened(path)
            self._room -= written

    def __enter__(self) -> RecordTrace:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._written(self._write(self._taken()))
        self._ended = True
        self._close()

    def note(self, record: Verified, way: Way | None) -> None:
        """Note that this node publishes a record of its own now (`way` None), or that one was admitted just now.

        Presences are of no round, and what is heard of our own was signed before: neither is noted.
        """
        if self._ended or record.kind is Kind.PRESENCE or (way is not None and record.author == self._key):
            return
        us = time.time_ns() // 1000
        line = encode_sighting(Sighting(us, record.id, record.kind, record.round, len(record.raw), way))
        if len(line) > self._room:
            self._end(f"the file would be larger than {self._most} bytes")
            return
        self._room -= len(line)
        self._waiting += line

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Write what was noted, now and then and in a thread, until cancelled or the trace has ended."""
        task_status.started()
        while self._descriptor is not None:
            await trio.sleep(FLUSH_SECONDS)
            if self._waiting:
                self._written(await trio.to_thread.run_sync(self._write, self._taken()))

    def _taken(self) -> bytes:
        taken, self._waiting = bytes(self._waiting), bytearray()
        return taken

    def _write(self, lines: bytes) -> OSError | None:
        """Write whole lines, or none of those that do not fit."""
        if self._descriptor is None:
            return None
        done = 0
        try:
            begin = os.fstat(self._descriptor).st_size
            while done < len(lines):
                done += os.write(self._descriptor, lines[done:])
        except OSError as error:
            with suppress(OSError):
                os.ftruncate(self._descriptor, begin + lines.rfind(b"\n", 0, done) + 1)
            return error
        return None

    def _written(self, error: OSError | None) -> None:
        if error is not None:
            self._end(error.strerror or str(error))
            self._close()

    def _end(self, why: str) -> None:
        if not self._ended:
            log.warning("the trace of records has ended; the node goes on", file=str(self._path), why=why)
        self._ended = True

    def _close(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def _opened(path: Path) -> tuple[int, int]:
    """The descriptor of a file to append to, and how many bytes it has."""
    what = f"The trace of records {path} cannot be written."
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
    try:
        # Not to wait for whoever reads a named pipe.
        descriptor = os.open(path, flags | os.O_NONBLOCK, 0o600)
    except OSError as error:
        raise os_fault(what, path, error) from error
    found = os.fstat(descriptor)
    if not stat.S_ISREG(found.st_mode):
        os.close(descriptor)
        raise ConfigurationError(
            what, "It is no regular file.", "Name a file with --trace, or one to be made."
        )
    return descriptor, found.st_size
