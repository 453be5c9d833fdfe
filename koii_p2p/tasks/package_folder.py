"""Packages and folders: what of a folder goes into a package, and a package written as a folder."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from koii_p2p.tasks.package import (
    MOST_BYTES,
    MOST_FILES,
    MOST_PARTS,
    Package,
    PackageError,
    PackageReason,
    check_path,
    is_left_out,
    pack,
)

_MOST_ENTRIES: Final = 20_000
"""Files and folders that are looked at: whoever names a whole disk is told so soon."""


@dataclass(frozen=True, slots=True)
class Packed:
    """The package of a folder, and what of it was left out: hidden files and caches, by their paths."""

    package: Package
    left_out: tuple[str, ...]


def pack_folder(folder: Path) -> Packed:
    """The package of a task's folder: its files, without hidden ones and caches. Raises `PackageError`.

    Neither times, owners nor modes are in it, and no empty folders. Links are refused: what they mean is elsewhere.
    """
    reading = _Reading()
    reading.folder(folder.resolve(), "", 1)
    return Packed(pack(reading.files), tuple(sorted(reading.left_out)))


def write_folder(package: Package, folder: Path) -> None:
    """Write the files of a package into a new folder, durably and for the owner only. Raises OSError.

    The folder itself is made here, so that nothing can be in it before.
    """
    folder.mkdir(mode=0o700)
    folders = {folder}
    for path, content in package.files.items():
        file = folder / path
        for parent in reversed(file.relative_to(folder).parents[:-1]):
            made = folder / parent
            if made not in folders:
                made.mkdir(mode=0o700)
                folders.add(made)
        write_new(file, content)
    for one in folders:
        sync_folder(one)


def write_new(file: Path, content: bytes) -> None:
    """Write a file that is not there yet, durably and for the owner only. Raises OSError."""
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    with open(descriptor, "wb") as opened:
        opened.write(content)
        opened.flush()
        os.fsync(descriptor)


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable, as fsync(2) of its files alone does not. Raises OSError."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class _Reading:
    """The files of a folder as far as they were read."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.left_out: list[str] = []
        self._entries = 0
        self._bytes = 0

    def folder(self, folder: Path, inside: str, depth: int) -> None:
        try:
            with os.scandir(folder) as entries:
                found = sorted(entries, key=lambda entry: entry.name)
        except OSError as error:
            raise _unreadable(inside or str(folder), error) from error
        for entry in found:
            path = f"{inside}{entry.name}"
            self._entries += 1
            if self._entries > _MOST_ENTRIES:
                raise PackageError(PackageReason.TOO_MANY_FILES, f"{folder} and what is in it")
            if is_left_out(entry.name):
                self.left_out.append(path)
            elif entry.is_dir(follow_symlinks=False):
                if depth == MOST_PARTS:
                    raise PackageError(PackageReason.BAD_PATH, path)
                self.folder(Path(entry.path), f"{path}/", depth + 1)
            else:
                self._file(Path(entry.path), path)

    def _file(self, file: Path, path: str) -> None:
        check_path(path)
        if len(self.files) == MOST_FILES:
            raise PackageError(PackageReason.TOO_MANY_FILES, path)
        try:
            # Without O_NONBLOCK, opening a named pipe would wait for a writer.
            descriptor = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        except OSError as error:
            if file.is_symlink():
                raise PackageError(PackageReason.NOT_A_FILE, f"{path} is a link") from error
            raise _unreadable(path, error) from error
        with open(descriptor, "rb") as opened:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise PackageError(PackageReason.NOT_A_FILE, path)
            try:
                content = opened.read(MOST_BYTES - self._bytes + 1)
            except OSError as error:
                raise _unreadable(path, error) from error
        self._bytes += len(content)
        if self._bytes > MOST_BYTES:
            raise PackageError(PackageReason.TOO_LARGE, f"The folder with {path}")
        self.files[path] = content


def _unreadable(path: str, error: OSError) -> PackageError:
    return PackageError(PackageReason.UNREADABLE, f"{path} ({error.strerror})")
