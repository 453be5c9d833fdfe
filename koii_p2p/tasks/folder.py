"""`ctx.fs`: files in a task's own working folder, within its quota. Runs in the worker process.

The quota is checked here first, so that an author gets a clear error; the node looks at the folder from outside as
well, and ends a worker that went round this (`TaskRunner`).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final


class OutsideFolder(PermissionError):
    """A path that leads out of the task's folder: absolute, upwards, or through a link."""


class QuotaExceeded(OSError):
    """The task's folder would hold more than the node allows."""


def folder_use(folder: Path, *, most_files: int) -> tuple[int, int]:
    """Bytes of the files in a folder, however deep, and number of files and folders.

    Stops counting beyond `most_files` of them. Links are not followed. What vanishes meanwhile is passed over.
    """
    size = count = 0
    for entry in _entries(folder):
        count += 1
        if count > most_files:
            break
        try:
            if not entry.is_dir(follow_symlinks=False):
                size += entry.stat(follow_symlinks=False).st_size
        except OSError:
            continue
    return size, count


def _entries(folder: Path) -> Iterator[os.DirEntry[str]]:
    folders = [str(folder)]
    while folders:
        try:
            with os.scandir(folders.pop()) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        folders.append(entry.path)
                    yield entry
        except OSError:
            continue


class TaskFolder:
    """The working folder of a task: relative paths in, nothing outside of it. It survives restarts.

    Every method raises `OutsideFolder` for a path that leaves the folder, and `OSError` as Python's own do.
    """

    def __init__(self, root: Path, *, most_bytes: int, most_files: int) -> None:
        self.root: Final = root.resolve()
        self._most_bytes = most_bytes
        self._most_files = most_files

    def path(self, name: str | os.PathLike[str]) -> Path:
        """Where a file of this name is, for libraries that want a path."""
        found = (self.root / name).resolve()
        if found != self.root and self.root not in found.parents:
            raise OutsideFolder(f"{os.fspath(name)!r} is not in the task's folder")
        return found

    async def read_bytes(self, name: str) -> bytes:
        """All of a file."""
        return self.path(name).read_bytes()

    async def read_text(self, name: str) -> str:
        """All of a file in UTF-8."""
        return self.path(name).read_text("utf-8")

    async def write_bytes(self, name: str, data: bytes) -> None:
        """Write a file, in place of what it held; folders on the way are made. Raises `QuotaExceeded`."""
        self._write(name, data, append=False)

    async def write_text(self, name: str, text: str) -> None:
        """As `write_bytes`, in UTF-8."""
        self._write(name, text.encode(), append=False)

    async def append_bytes(self, name: str, data: bytes) -> None:
        """Write at the end of a file. Raises `QuotaExceeded`."""
        self._write(name, data, append=True)

    async def exists(self, name: str) -> bool:
        """Whether there is a file or folder of this name."""
        return self.path(name).exists()

    async def list(self, name: str = ".") -> list[str]:
        """The names in a folder, sorted."""
        return sorted(entry.name for entry in self.path(name).iterdir())

    async def make_folder(self, name: str) -> None:
        """Make a folder and those above it; nothing happens if it is there."""
        self.path(name).mkdir(parents=True, exist_ok=True)

    async def remove(self, name: str) -> None:
        """Remove a file, or an empty folder."""
        path = self.path(name)
        if path.is_dir():
            path.rmdir()
        else:
            path.unlink()

    async def rename(self, old: str, new: str) -> None:
        """Give a file another name, in place of what had it."""
        self.path(old).replace(self.path(new))

    async def used(self) -> tuple[int, int]:
        """Bytes and files that the folder holds now."""
        return folder_use(self.root, most_files=self._most_files)

    def _write(self, name: str, data: bytes, *, append: bool) -> None:
        path = self.path(name)
        size, count = folder_use(self.root, most_files=self._most_files)
        old = path.stat().st_size if path.exists() and not append else 0
        if size - old + len(data) > self._most_bytes:
            raise QuotaExceeded(
                f"{name} would bring the task's folder to {size - old + len(data)} bytes, "
                f"and {self._most_bytes} are allowed"
            )
        if not path.exists() and count >= self._most_files:
            raise QuotaExceeded(f"the task's folder has {count} files, and {self._most_files} are allowed")
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab" if append else "wb") as file:
            file.write(data)
