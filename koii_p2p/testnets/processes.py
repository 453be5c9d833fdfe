"""Real processes of a testnet: started tied to this one, ready when they say so, ended together and for certain."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import trio

from koii_p2p.errors import ChainError, CheckFailed, ConfigurationError, NetworkError, OperatorError
from koii_p2p.storage.faults import os_fault
from koii_p2p.testnets.process_mark import ProcessMark, mark_of

READY_POLL_SECONDS: Final = 0.05
STOP_SECONDS: Final = 8.0
"""How long a process may take to end by itself before it is killed."""
_MOST_READY_BYTES: Final = 64 * 1024
_TAIL_BYTES: Final = 4096
_TAIL_LINES: Final = 3
_BY_EXIT_CODE: Final[dict[int, type[OperatorError]]] = {
    kind.exit_code: kind for kind in (CheckFailed, ConfigurationError, NetworkError, ChainError)
}

PYTHON: Final = (sys.executable, "-P")
KOII_P2P: Final = (*PYTHON, "-m", "koii_p2p.cli")
"""The command `koii-p2p` of this very installation, wherever its script is."""


class Child:
    """One process in a process group of its own. Its stdout and stderr go to files.

    The kernel kills it when the *thread* that started it ends (see `tether`): make children in the main thread.
    """

    def __init__(
        self, name: str, command: Sequence[str], logs: Path, environment: Mapping[str, str], niceness: int = 0
    ) -> None:
        """Start it, `niceness` steps behind this process. Raises `StorageError` if its log files cannot be written."""
        self.name = name
        self.log = logs / f"{name}.log"
        self._stdout = logs / f"{name}.out"
        self._offset = self._stdout.stat().st_size if self._stdout.exists() else 0
        tether = (*PYTHON, "-m", "koii_p2p.testnets.tether", str(os.getpid()))
        try:
            logs.mkdir(mode=0o700, parents=True, exist_ok=True)
            with self._stdout.open("ab") as stdout, self.log.open("ab") as stderr:
                self._process = subprocess.Popen(
                    [*tether, *command],
                    stdin=subprocess.DEVNULL,
                    stdout=stdout,
                    stderr=stderr,
                    env=dict(environment),
                    process_group=0,  # a Ctrl-C in the terminal is for us: we end the others in order
                )
        except OSError as error:
            raise os_fault(f"The process {name} cannot be started.", logs, error) from error
        os.setpriority(os.PRIO_PROCESS, self._process.pid, os.nice(0) + niceness)
        mark = mark_of(self._process.pid)
        assert mark is not None, "a child that was not reaped has an entry in /proc"
        self.mark: ProcessMark = mark

    @property
    def returncode(self) -> int | None:
        """Its exit code, negative for a signal; None while it runs."""
        return self._process.poll()

    def how_it_ended(self) -> str:
        """In words, such as "signal SIGKILL"."""
        code = self.returncode
        if code is None:
            return "still running"
        return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"

    async def ready(self, seconds: float) -> dict[str, Any]:
        """Wait for the line of JSON in which it says that it is ready, and return it.

        Raises the kind of `OperatorError` that its exit code names if it ends before, with its last words;
        `CheckFailed` if it takes longer than `seconds`.
        """
        with trio.move_on_after(seconds):
            while True:
                ended = self.returncode is not None
                line, complete, _ = self._written().partition(b"\n")
                if complete:
                    return self._parse(line)
                if ended:
                    raise self._died()
                await trio.sleep(READY_POLL_SECONDS)
        raise CheckFailed(
            f"{self.name} was not ready after {seconds:.0f} seconds.",
            f"Its last words: {self.last_words() or 'none'}",
            f"Look into {self.log}; this machine may be too busy for this many nodes.",
        )

    async def ended(self) -> None:
        """Wait until it has ended."""
        if self._process.poll() is None:
            handle = os.pidfd_open(self._process.pid)
            try:
                await trio.lowlevel.wait_readable(handle)
            finally:
                os.close(handle)
            self._process.poll()

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal; nothing happens if it has ended."""
        self._process.send_signal(number)

    def kill(self) -> None:
        """End it and all of its process group at once."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)

    async def stop(self, seconds: float = STOP_SECONDS) -> None:
        """Ask it to end, and kill it if it has not after `seconds`. Also kills it when this is cancelled."""
        try:
            self.signal(signal.SIGTERM)
            with trio.move_on_after(seconds):
                await self.ended()
        finally:
            if self.returncode is None:
                self.kill()
                self._process.wait()

    def last_words(self) -> str:
        """The end of its log."""
        try:
            with self.log.open("rb") as file:
                file.seek(max(0, self.log.stat().st_size - _TAIL_BYTES))
                text = file.read(_TAIL_BYTES).decode(errors="replace")
        except OSError:
            return ""
        return " ".join(line.strip() for line in text.splitlines()[-_TAIL_LINES:])

    def _written(self) -> bytes:
        with self._stdout.open("rb") as file:
            file.seek(self._offset)
            return file.read(_MOST_READY_BYTES)

    def _parse(self, line: bytes) -> dict[str, Any]:
        try:
            found = json.loads(line)
            if isinstance(found, dict):
                return found
        except ValueError:
            pass
        raise CheckFailed(
            f"{self.name} said something else than that it is ready.",
            f"It said: {line[:200].decode(errors='replace')}",
            f"Look into {self.log}.",
        )

    def _died(self) -> OperatorError:
        kind = _BY_EXIT_CODE.get(self.returncode or 0, CheckFailed)
        return kind(
            f"{self.name} ended before it was ready ({self.how_it_ended()}).",
            f"Its last words: {self.last_words() or 'none'}",
            f"Look into {self.log}.",
        )


async def stop_all(children: Iterable[Child], seconds: float = STOP_SECONDS) -> None:
    """End all at the same time; each is killed that has not ended after `seconds`."""
    async with trio.open_nursery() as nursery:
        for child in children:
            nursery.start_soon(child.stop, seconds)
