"""The log of a node on disk: lines of JSON in a few files of bounded size, beside what goes to stderr."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, MutableMapping
from pathlib import Path
from typing import Any, Final

FILE_BYTES: Final = 4 * 1024 * 1024
OLDER_FILES: Final = 3
LINE_BYTES: Final = 16 * 1024
READ_BYTES: Final = 256 * 1024


class LogFile:
    """Writes log events as a structlog processor; it hands them on unchanged.

    The newest are in `path`. When it is full it becomes `path`.1, and `path`.1 becomes `path`.2, up to `OLDER_FILES`.
    What cannot be written, on a full disk say, is left out: a log must not end a node, and stderr has it as well.
    """

    def __init__(self, path: Path, *, file_bytes: int = FILE_BYTES) -> None:
        self._path = path
        self._file_bytes = file_bytes
        self._descriptor: int | None = None
        self._size = 0

    def __call__(
        self, _logger: object, _method: str, event: MutableMapping[str, Any]
    ) -> MutableMapping[str, Any]:
        """Write one event."""
        line = json.dumps({str(name): value for name, value in event.items()}, default=str).encode()
        if len(line) > LINE_BYTES:
            short = {"timestamp": event.get("timestamp"), "level": event.get("level"), "cut": len(line)}
            line = json.dumps({**short, "event": str(event.get("event"))[:1024]}, default=str).encode()
        try:
            self._write(line + b"\n")
        except OSError:
            self.close()
        return event

    def _write(self, line: bytes) -> None:
        if self._descriptor is not None and self._size + len(line) > self._file_bytes:
            self.close()
            for number in range(OLDER_FILES, 0, -1):
                younger = older(self._path, number - 1)
                if younger.exists():
                    younger.replace(older(self._path, number))
        if self._descriptor is None:
            self._descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
            self._size = os.fstat(self._descriptor).st_size
        self._size += os.write(self._descriptor, line)

    def close(self) -> None:
        """Close the file; the next event opens it again."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def older(path: Path, number: int) -> Path:
    """The file that was full `number` files ago; 0 is the one being written."""
    return path.with_name(f"{path.name}.{number}") if number else path


def last_lines(path: Path, count: int) -> list[bytes]:
    """The last whole lines of a log, the oldest first, over as many of its files as are needed."""
    found: list[bytes] = []
    for number in range(OLDER_FILES + 1):
        file = older(path, number)
        if len(found) >= count or not file.exists():
            break
        found = [line for line in file.read_bytes().split(b"\n") if line][-(count - len(found)) :] + found
    return found


class Follower:
    """Reads what is added to a log, from its end on, also when its file is full and another begins."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = path.open("rb")
        self._file.seek(0, os.SEEK_END)
        self._rest = b""

    def lines(self) -> Iterator[bytes]:
        """Return the whole lines that were added since the last call."""
        yield from self._more()
        try:
            renamed = os.stat(self._path).st_ino != os.fstat(self._file.fileno()).st_ino
        except FileNotFoundError:
            return
        if renamed:
            yield from self._more()
            self._file.close()
            self._file = self._path.open("rb")
            self._rest = b""
            yield from self._more()

    def _more(self) -> Iterator[bytes]:
        while data := self._file.read(READ_BYTES):
            *whole, self._rest = (self._rest + data).split(b"\n")
            yield from filter(None, whole)

    def close(self) -> None:
        """Close the file."""
        self._file.close()
