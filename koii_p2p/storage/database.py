"""The node's one LevelDB database, through plyvel: errors mapped, the keyspace cut into tables."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import plyvel

from koii_p2p.storage.faults import StorageCorrupt, StorageError, corrupt, database_fault

Change = tuple[bytes, bytes | None]
"""A key of the whole database and its new value; None removes it."""


@dataclass(frozen=True, slots=True)
class DatabaseStatistics:
    """Counts since the database was opened."""

    writes: int
    synced_writes: int
    failures: int


class Table:
    """The keys of a database that start with a prefix, which its callers never see.

    A write that returns survives the end of the process (`kill -9`); with `sync=True`, also a power failure.
    Every method raises `StorageError`: `StorageFull`, `StorageCorrupt` and others.
    """

    def __init__(self, database: Database, prefix: bytes) -> None:
        self._database = database
        self._prefix = prefix

    @property
    def path(self) -> Path:
        """The folder of the database, for messages."""
        return self._database.path

    def get(self, key: bytes) -> bytes | None:
        """Return the value of a key, or None."""
        return self._database.get(self._prefix + key)

    def put(self, key: bytes, value: bytes, *, sync: bool = False) -> None:
        """Set the value of a key."""
        self._database.write([self.change(key, value)], sync=sync)

    def delete(self, key: bytes, *, sync: bool = False) -> None:
        """Remove a key, which need not exist."""
        self._database.write([self.change(key, None)], sync=sync)

    def change(self, key: bytes, value: bytes | None) -> Change:
        """Return a change of a key (None removes it) for `Database.write`, which makes many at once."""
        return self._prefix + key, value

    def scan(self, start: bytes = b"", *, values: bool = True) -> Iterator[tuple[bytes, bytes]]:
        """Yield keys that begin with `start` and their values, ascending, as they were at the first step.

        Without `values`, each value is empty.
        """
        for key, value in self._database.scan(self._prefix + start, values=values):
            yield key[len(self._prefix) :], value

    def between(self, start: bytes, stop: bytes, *, values: bool = True) -> Iterator[tuple[bytes, bytes]]:
        """Yield the keys from `start` to before `stop` and their values, as `scan` does."""
        for key, value in self._database.between(self._prefix + start, self._prefix + stop, values=values):
            yield key[len(self._prefix) :], value

    def first_from(self, key: bytes) -> bytes | None:
        """Return the smallest key that is not below `key`, or None."""
        found = self._database.first_from(self._prefix + key)
        return found[len(self._prefix) :] if found is not None and found.startswith(self._prefix) else None

    def corrupt(self, detail: str) -> StorageCorrupt:
        """Return the failure for a value that this table's owner cannot have written."""
        return corrupt("Stored data cannot be read.", self.path, detail)


class Database:
    """An open LevelDB database: one per node, for any thread. `prefixed` gives each owner its table."""

    def __init__(self, path: Path, handle: plyvel.DB) -> None:
        self.path = path
        self._handle = handle
        self._writes = self._synced = self._failures = 0
        self._broken: StorageError | None = None
        self._lock = threading.Lock()

    @classmethod
    def open(cls, path: Path, *, compressed: bool = True) -> Database:
        """Open the database in a folder, and make it if there is none.

        Unless `compressed`, values are written as they are: for those that have nothing left to compress.
        Raises `StorageLocked` if another process has it open, `StorageCorrupt`, `StorageFull` or another
        `StorageError`.
        """
        try:
            handle = plyvel.DB(
                str(path), create_if_missing=True, compression="snappy" if compressed else None
            )
        except plyvel.Error as error:
            raise database_fault(f"The database {path} cannot be opened.", path, error) from error
        return cls(path, handle)

    def __enter__(self) -> Database:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the database. Closing twice does nothing."""
        self._handle.close()

    def prefixed(self, prefix: bytes) -> Table:
        """Return the table of a prefix. No prefix in use may begin another: end them with a slash."""
        return Table(self, prefix)

    def get(self, key: bytes) -> bytes | None:
        """Return the value of a key, or None."""
        with self._mapped("A value cannot be read."):
            value: bytes | None = self._handle.get(key, verify_checksums=True)
        return value

    def write(self, changes: Iterable[Change], *, sync: bool = False) -> None:
        """Make all of these changes or none of them.

        After a write that failed, every further one raises the same error, until the database is opened anew.
        """
        batch = self._handle.write_batch(sync=sync)
        for key, value in changes:
            if value is None:
                batch.delete(key)
            else:
                batch.put(key, value)
        with self._lock:
            if self._broken is not None:
                raise self._broken
            try:
                with self._mapped("Data cannot be stored."):
                    batch.write()
            except StorageError as error:
                # A failed write may leave half an entry in LevelDB's log, and whatever follows it there is lost,
                # although acknowledged, when the log is read again. So nothing may follow.
                self._broken = error
                raise
            self._writes += 1
            self._synced += sync

    def scan(self, prefix: bytes, *, values: bool = True) -> Iterator[tuple[bytes, bytes]]:
        """Yield the keys with a prefix and their values (empty without `values`), in ascending order."""
        with (
            self._mapped("Data cannot be read."),
            self._handle.iterator(prefix=prefix, include_value=values, verify_checksums=True) as items,
        ):
            for item in items:
                yield item if values else (item, b"")

    def between(self, start: bytes, stop: bytes, *, values: bool = True) -> Iterator[tuple[bytes, bytes]]:
        """Yield the keys from `start` to before `stop` and their values (empty without `values`), ascending."""
        with (
            self._mapped("Data cannot be read."),
            self._handle.iterator(
                start=start, stop=stop, include_value=values, verify_checksums=True
            ) as items,
        ):
            for item in items:
                yield item if values else (item, b"")

    def first_from(self, key: bytes) -> bytes | None:
        """Return the smallest key that is not below `key`, or None."""
        with (
            self._mapped("Data cannot be read."),
            self._handle.iterator(start=key, include_value=False) as keys,
        ):
            found: bytes | None = next(keys, None)
        return found

    def statistics(self) -> DatabaseStatistics:
        """Return the counts since the database was opened."""
        return DatabaseStatistics(self._writes, self._synced, self._failures)

    @contextmanager
    def _mapped(self, what: str) -> Iterator[None]:
        try:
            yield
        except plyvel.Error as error:
            self._failures += 1
            raise database_fault(what, self.path, error) from error
