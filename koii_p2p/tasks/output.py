"""What a task prints and logs, on its way into the node's log: cut to lines, cleaned, bounded, counted."""

from __future__ import annotations

import logging

import structlog
import trio
from structlog.typing import FilteringBoundLogger

from koii_p2p.limits import Limits

_CHUNK_BYTES = 64 * 1024


def printable(text: str, most: int) -> str:
    """`text` on one line of at most `most` characters, without control characters (which move cursors)."""
    cut = text if len(text) <= most else text[: most - 1] + "…"
    return "".join(char if char.isprintable() else " " for char in cut)


class OutputLog:
    """Logs a task's lines within a budget per window; what exceeds it is read, counted and dropped."""

    def __init__(self, log: FilteringBoundLogger, limits: Limits) -> None:
        self._log = log
        self._limits = limits
        self._window_ends = float("-inf")
        self._left = 0
        self._told = False
        self.dropped_bytes = 0

    def line(self, text: str, *, stream: str, severity: int = logging.INFO) -> None:
        """Log one line, if the budget allows."""
        if self._budget() < len(text):
            self._drop(len(text))
            return
        self._left -= len(text)
        self._log.log(
            severity, "task_output", stream=stream, line=printable(text, self._limits.worker_line_bytes)
        )

    async def copy(self, source: trio.abc.ReceiveStream, stream: str) -> None:
        """Log what `source` gives until it ends.

        Never stops reading: a task must not block on a full pipe.
        """
        rest = b""
        try:
            async for chunk in source:
                if self._budget() <= 0:
                    self._drop(len(rest) + len(chunk))
                    rest = b""
                    continue
                *lines, rest = (rest + chunk).split(b"\n")
                if len(rest) > self._limits.worker_line_bytes:
                    lines.append(rest)
                    rest = b""
                for one in lines:
                    if one.strip():
                        self.line(one.decode("utf-8", "replace"), stream=stream)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass  # the worker is being killed; what it printed so far is logged
        if rest.strip():
            self.line(rest.decode("utf-8", "replace"), stream=stream)

    def _budget(self) -> int:
        now = trio.current_time()
        if now >= self._window_ends:
            self._window_ends = now + self._limits.worker_output_window_seconds
            self._left = self._limits.worker_output_bytes
            self._told = False
        return self._left

    def _drop(self, count: int) -> None:
        self._left = 0
        if not self._told:
            self._told = True
            self._log.warning(
                "task_output_dropped", reason="too much output", limit=self._limits.worker_output_bytes
            )
        self.dropped_bytes += count


def task_log(task_id: str) -> FilteringBoundLogger:
    """The logger of one task's output."""
    log: FilteringBoundLogger = structlog.get_logger("koii_p2p.task", task=task_id)
    return log
