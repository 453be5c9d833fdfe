"""The command line as a user runs it: processes, their output, and what they leave behind."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from urllib.parse import urlsplit

import psutil

COMMAND = (sys.executable, "-m", "koii_p2p.cli")
LONG = 240.0


def environment(**more: str) -> dict[str, str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("KOII_P2P_")}
    return {**clean, "PYTHONUNBUFFERED": "1", **more}


def koii_p2p(*arguments: str, seconds: float = 60, **more: str) -> subprocess.CompletedProcess[str]:
    """Run a command to its end."""
    return subprocess.run(
        [*COMMAND, *arguments], capture_output=True, text=True, timeout=seconds, env=environment(**more)
    )


class Running:
    """A command that runs, with what it wrote so far."""

    def __init__(self, arguments: Sequence[str], **more: str) -> None:
        self.process = subprocess.Popen(
            [*COMMAND, *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment(**more),
            process_group=0,
        )
        self.out: list[str] = []
        self.err: list[str] = []
        self._readers = [
            threading.Thread(target=self._read, args=(stream, lines), daemon=True)
            for stream, lines in ((self.process.stdout, self.out), (self.process.stderr, self.err))
        ]
        for reader in self._readers:
            reader.start()

    @staticmethod
    def _read(stream: object, lines: list[str]) -> None:
        for line in stream:  # type: ignore[attr-defined]
            lines.append(line.rstrip("\n"))

    def wait_for(self, words: str, seconds: float = 120) -> str:
        """The first line, of stdout or stderr, that contains `words`."""
        found: list[str] = []

        def seen() -> bool:
            found[:] = [line for line in (*self.out, *self.err) if words in line][:1]
            return bool(found) or self.process.poll() is not None

        wait_until(seen, seconds, f"{words!r} in the output")
        assert found, f"ended with {self.process.returncode} before {words!r}: {self.err[-5:]}"
        return found[0]

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def end(self, seconds: float = 60) -> int:
        """Wait for its end and return the exit code."""
        code = self.process.wait(seconds)
        for reader in self._readers:
            reader.join(5)
        return code

    def descendants(self) -> list[psutil.Process]:
        with contextlib.suppress(psutil.NoSuchProcess):
            return psutil.Process(self.process.pid).children(recursive=True)
        return []


@contextlib.contextmanager
def running(*arguments: str, **more: str) -> Iterator[Running]:
    """A command in the background, killed at the end if it is still there."""
    command = Running(arguments, **more)
    try:
        yield command
    finally:
        for process in (*command.descendants(), command.process):
            with contextlib.suppress(psutil.NoSuchProcess, ProcessLookupError):
                process.kill()
        command.end()


def wait_until(condition: Callable[[], bool], seconds: float, what: str) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited {seconds} s in vain for {what}"
        time.sleep(0.05)


def all_gone(processes: Sequence[psutil.Process]) -> bool:
    """Whether none of these very processes runs; psutil compares start times too."""
    return not any(one.is_running() and one.status() != psutil.STATUS_ZOMBIE for one in processes)


def is_open(url: str) -> bool:
    parts = urlsplit(url)
    with contextlib.suppress(OSError), socket.create_connection((parts.hostname or "", parts.port or 0), 1):
        return True
    return False


def write_private(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o600)
