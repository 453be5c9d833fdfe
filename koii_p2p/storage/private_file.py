"""Files that only their owner may read: written whole or not at all, refused when others may read them."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from pathlib import Path

from koii_p2p.storage.faults import StorageError, os_fault


@dataclass(frozen=True, slots=True)
class PrivateFile:
    """One such file of bounded size, read and replaced as a whole."""

    path: Path
    max_bytes: int

    def read(self) -> bytes | None:
        """Return its content; None if there is none. Raises `StorageError`."""
        return read_private(self.path, max_bytes=self.max_bytes) if self.path.exists() else None

    def write(self, data: bytes) -> None:
        """Replace it durably. Raises `StorageError`, and then the old content is still there."""
        replace_private(self.path, data)


def read_private(path: Path, *, max_bytes: int) -> bytes:
    """Return the content of a file of mode 0600 or stricter. Raises `StorageError` with the remedy."""
    what = f"The file {path} cannot be used."
    try:
        # Without O_NONBLOCK, opening a named pipe would wait for a writer.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except OSError as error:
        raise os_fault(what, path, error) from error
    try:
        status = os.fstat(descriptor)  # of the open file: the path may name another by now
        if not stat.S_ISREG(status.st_mode):
            raise StorageError(what, "It is not a regular file.", "Name the file itself.")
        if status.st_mode & 0o077:
            mode = stat.S_IMODE(status.st_mode)
            raise StorageError(
                what, f"Others than its owner may use it (mode {mode:04o}).", f"Run: chmod 600 {path}"
            )
        with open(descriptor, "rb", closefd=False) as file:
            data = file.read(max_bytes + 1)
    except OSError as error:
        raise os_fault(what, path, error) from error
    finally:
        os.close(descriptor)
    if len(data) > max_bytes:
        raise StorageError(what, f"It has more than {max_bytes} bytes.", "Name the right file.")
    return data


def create_private(path: Path, data: bytes) -> None:
    """Write a new file of mode 0600, durably. Whoever looks sees all of it or nothing.

    Raises `StorageError` if there is a file already (it is left alone) or it cannot be written, `StorageFull`
    if the disk is full.
    """
    what = f"The file {path} was not written."
    try:
        temporary = _write_beside(path, data)
        try:
            os.link(temporary, path)  # unlike a rename, never replaces a file
        finally:
            temporary.unlink()
        _sync_folder(path.parent)
    except FileExistsError as error:
        raise StorageError(
            what, "There is a file of this name.", "Name another, or move it away if it is not needed."
        ) from error
    except OSError as error:
        raise os_fault(what, path, error) from error


def replace_private(path: Path, data: bytes) -> None:
    """Write a file of mode 0600, durably, over one that may be there: readers see the old or the new whole.

    Raises `StorageError`, or `StorageFull` if the disk is full; then the old file is unchanged.
    """
    try:
        temporary = _write_beside(path, data)
        try:
            temporary.replace(path)
        except OSError:
            temporary.unlink()
            raise
        _sync_folder(path.parent)
    except OSError as error:
        raise os_fault(f"The file {path} was not written.", path, error) from error


def _write_beside(path: Path, data: bytes) -> Path:
    """Write and sync a temporary file in the folder of `path`; leave none behind on failure."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{os.urandom(4).hex()}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with open(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(descriptor)
    except OSError:
        temporary.unlink()
        raise
    return temporary


def _sync_folder(folder: Path) -> None:
    """Make the names in a folder durable, as fsync(2) of the file alone does not."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
