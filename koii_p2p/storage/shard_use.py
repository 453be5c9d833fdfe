"""What a node's task data takes up, and whether more may come: of the node, of a task, of one who brings data."""

from __future__ import annotations

from collections import Counter
from typing import Final

from koii_p2p.limits import Limits
from koii_p2p.storage.faults import LimitExceeded

BLOB_ENTRIES: Final = 4
"""As how many shards a blob counts against `Limits.data_entries`: it takes so many times their memory."""
OURS: Final = b""
"""Who brought what the node itself puts or pins: it has no share, but all of the task's quota."""


class ShareFull(LimitExceeded):
    """Who brings data has no room left on this node, though the task has."""


class Use:
    """Bytes, shards and blobs that are stored. Changed by one thread at a time; its numbers may be read by any."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._tasks: Counter[bytes] = Counter()
        self._shares: dict[tuple[bytes, bytes], tuple[int, int]] = {}
        self.total = 0
        """Bytes of all tasks."""
        self.most = 0
        """Bytes of the task that has most of them."""
        self.shards = 0
        self.blobs = 0

    def of(self, task: bytes) -> int:
        """Bytes of a task."""
        return self._tasks[task]

    def share(self, task: bytes, bringer: bytes) -> tuple[int, int]:
        """Bytes of a task that one has brought, and entries."""
        return self._shares.get((task, bringer), (0, 0))

    def count(self, task: bytes, bringer: bytes, more: int, *, shards: int = 0, blobs: int = 0) -> None:
        """Note that so much was added, or with negative numbers removed."""
        self.total += more
        self.shards += shards
        self.blobs += blobs
        self._tasks[task] += more
        if not self._tasks[task]:
            del self._tasks[task]
        self.most = max(self._tasks.values(), default=0)
        used, entries = self.share(task, bringer)
        used, entries = used + more, entries + shards + BLOB_ENTRIES * blobs
        if used or entries:
            self._shares[task, bringer] = used, entries
        else:
            self._shares.pop((task, bringer), None)

    def require(self, task: bytes, bringer: bytes, more: int, entries: int) -> None:
        """Raise `LimitExceeded` unless so much more may come, and `ShareFull` if only others could bring it."""
        limits = self._limits
        for used, most, whose in (
            (self.total, limits.data_bytes, "this node's quota for task data"),
            (self._tasks[task], limits.data_task_bytes, "the task's quota on this node"),
        ):
            if used + more > most:
                raise LimitExceeded(
                    "The data was not stored.",
                    f"It needs {more} bytes, and of {most}, {whose}, {most - used} are free.",
                    "Unpin or wait for what is no longer needed, or start the node with a larger --data-quota.",
                )
        if self.shards + BLOB_ENTRIES * self.blobs + entries > limits.data_entries:
            raise LimitExceeded(
                "The data was not stored.",
                f"This node would keep more than {limits.data_entries} shards; a blob counts as {BLOB_ENTRIES}.",
                "Store fewer and larger blobs.",
            )
        if bringer == OURS:
            return
        used, held = self.share(task, bringer)
        most_bytes = limits.data_task_bytes // limits.data_author_part
        most_entries = limits.data_entries // limits.data_author_part
        if used + more > most_bytes or held + entries > most_entries:
            raise ShareFull(
                "The data was not stored.",
                f"One who brings data has {most_bytes} bytes and {most_entries} shards of a task's quota on this node; "
                f"of its own, {max(most_bytes - used, 0)} bytes and {max(most_entries - held, 0)} shards are free.",
                "Wait until the terms of earlier blobs are over.",
            )
