"""A process named so that no other can be taken for it: its number and when the kernel started it."""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass
from pathlib import Path

_START_TIME_FIELD = 22 - 3
"""proc(5): `starttime` is field 22 of /proc/PID/stat; the first two go before the last closing bracket."""
_STATE_FIELD = 0


@dataclass(frozen=True, slots=True)
class ProcessMark:
    """`pid`, and `started` in the kernel's clock ticks since boot: numbers are used again, this pair is not."""

    pid: int
    started: int

    def alive(self) -> bool:
        """Whether this very process still runs; one that ended and was not yet reaped does not."""
        fields = _stat(self.pid)
        return (
            fields is not None
            and int(fields[_START_TIME_FIELD]) == self.started
            and fields[_STATE_FIELD] not in ("Z", "X")
        )

    def send(self, number: signal.Signals, *, group: bool = False) -> bool:
        """Send a signal to it (or its process group); False if it has ended. Never reaches another process."""
        try:
            handle = os.pidfd_open(self.pid)
        except (ProcessLookupError, OSError):
            return False
        try:
            # The handle pins whatever has the number now; if that is not ours, nothing is sent.
            if not self.alive():
                return False
            if group:
                os.killpg(self.pid, number)
            else:
                signal.pidfd_send_signal(handle, number)
        except (ProcessLookupError, PermissionError):
            return False
        finally:
            os.close(handle)
        return True


def mark_of(pid: int) -> ProcessMark | None:
    """The mark of a running process, or None if there is none."""
    fields = _stat(pid)
    return None if fields is None else ProcessMark(pid, int(fields[_START_TIME_FIELD]))


def _stat(pid: int) -> list[str] | None:
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except (OSError, UnicodeDecodeError):
        return None
    # The second field, the name in brackets, may hold spaces and brackets itself.
    return text.rpartition(")")[2].split()
