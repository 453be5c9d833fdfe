"""What can go wrong on disk, as failures that an operator can act on. Foreign errors become these here."""

from __future__ import annotations

import errno
from pathlib import Path

import plyvel

from koii_p2p.errors import ConfigurationError

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
_FULL_TEXTS = ("No space left on device", "Disk quota exceeded")  # LevelDB hands on strerror, not errno


class StorageError(ConfigurationError):
    """A file or folder of the node cannot be used as it is (exit code 3)."""


class StorageFull(StorageError):
    """The disk, or the quota on it, is full. What was acknowledged before is safe."""


class StorageCorrupt(StorageError):
    """Stored bytes are not what was written."""


class StorageLocked(StorageError):
    """Another process uses the folder."""


class LimitExceeded(StorageError):
    """Something is larger than its named limit in `Limits`; nothing was stored."""


def os_fault(what: str, path: Path, error: OSError) -> StorageError:
    """Return the failure for an operating system error at `path`; `what` is its first sentence."""
    if error.errno in _FULL:
        return _full(what, path)
    reason = error.strerror or str(error)
    return StorageError(what, f"The system says: {reason}.", f"Check the path {path} and its permissions.")


def database_fault(what: str, path: Path, error: plyvel.Error) -> StorageError:
    """Return the failure for a LevelDB error of the database at `path`; `what` is its first sentence."""
    text = str(error)
    if any(full in text for full in _FULL_TEXTS):
        return _full(what, path)
    if isinstance(error, plyvel.CorruptionError) or "orruption" in text:
        return corrupt(what, path, text)
    if "lock" in text:
        return StorageLocked(
            what,
            f"Another process holds the database {path}.",
            "Stop that process, or give this one another --home.",
        )
    return StorageError(what, f"LevelDB says: {text}.", f"Check the folder {path} and its permissions.")


def corrupt(what: str, path: Path, detail: str) -> StorageCorrupt:
    """Return the failure for stored bytes that cannot be right."""
    return StorageCorrupt(
        what,
        f"The database {path} is damaged: {detail}.",
        "Move the folder away and wait until the rounds in flight are settled before joining again: "
        "the journal of what this key has signed was in it.",
    )


def _full(what: str, path: Path) -> StorageFull:
    return StorageFull(
        what,
        f"The disk that holds {path} is full.",
        "Make room and start again; nothing stored before is lost.",
    )
