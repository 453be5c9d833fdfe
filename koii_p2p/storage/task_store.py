"""The key-value store that a task's code reads and writes, each task in its own space."""

from __future__ import annotations

from dataclasses import dataclass

from koii_p2p.limits import Limits
from koii_p2p.storage.database import Database
from koii_p2p.storage.faults import LimitExceeded
from koii_p2p.storage.round_key import TASK_BYTES


@dataclass(frozen=True, slots=True)
class TaskStoreStatistics:
    """What a task's store holds, and what it refused since it was opened."""

    entries: int
    bytes: int
    refused: int


class TaskStore:
    """Keys and values (bytes) of one task. There is one object per task: it keeps count of the space in use.

    Methods raise `StorageError`, and `LimitExceeded` for what is larger than `Limits` allows a task.
    """

    def __init__(self, database: Database, task: bytes, limits: Limits) -> None:
        if len(task) != TASK_BYTES:
            raise ValueError(f"A task id has {TASK_BYTES} bytes, not {len(task)}.")
        self._table = database.prefixed(b"task/" + task)
        self._limits = limits
        self._refused = 0
        sizes = [len(key) + len(value) for key, value in self._table.scan()]
        self._entries, self._bytes = len(sizes), sum(sizes)

    def get(self, key: bytes) -> bytes | None:
        """Return the value of a key, or None."""
        self._check_key(key)
        return self._table.get(key)

    def set(self, key: bytes, value: bytes) -> None:
        """Set the value of a key. Raises `LimitExceeded`, and then the old value stays."""
        self._check_key(key)
        if len(value) > self._limits.task_value_bytes:
            raise self._refusal(
                f"The value has {len(value)} bytes, and {self._limits.task_value_bytes} are allowed.",
                "Store less under one key, or use task data.",
            )
        held = self._table.get(key)
        growth = len(value) - len(held) if held is not None else len(key) + len(value)
        if growth > 0 and self._bytes + growth > self._limits.task_store_bytes:
            raise self._refusal(
                f"The task would hold more than {self._limits.task_store_bytes} bytes.",
                "Delete what is no longer needed.",
            )
        self._table.put(key, value)
        self._bytes += growth
        self._entries += held is None

    def delete(self, key: bytes) -> None:
        """Remove a key, which need not exist."""
        self._check_key(key)
        held = self._table.get(key)
        if held is not None:
            self._table.delete(key)
            self._bytes -= len(key) + len(held)
            self._entries -= 1

    def keys(self, start: bytes = b"") -> list[bytes]:
        """Return the keys that begin with `start`, ascending."""
        return [key for key, _ in self._table.scan(start, values=False)]

    def statistics(self) -> TaskStoreStatistics:
        """Return what the store holds and how often it refused."""
        return TaskStoreStatistics(self._entries, self._bytes, self._refused)

    def _check_key(self, key: bytes) -> None:
        if not 0 < len(key) <= self._limits.task_key_bytes:
            raise self._refusal(
                f"The key has {len(key)} bytes, and 1 to {self._limits.task_key_bytes} are allowed.",
                "Use another key.",
            )

    def _refusal(self, why: str, remedy: str) -> LimitExceeded:
        self._refused += 1
        return LimitExceeded("The task's store refused a request.", why, remedy)
