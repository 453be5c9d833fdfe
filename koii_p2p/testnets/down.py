"""Ending a testnet from another process: exactly its own processes, whatever state they are in."""

from __future__ import annotations

import signal
import time
from typing import Final

from koii_p2p.errors import CheckFailed
from koii_p2p.testnets.folder import NetFolder
from koii_p2p.testnets.process_mark import ProcessMark

ORDERLY_SECONDS: Final = 20.0
"""How long `testnet up` may take to end its processes by itself."""
KILLED_SECONDS: Final = 5.0
_POLL_SECONDS: Final = 0.05


def take_down(folder: NetFolder) -> list[str]:
    """End the testnet of a folder and return the names of what ended, "testnet up" among them; empty if none ran.

    Asks `testnet up` first, which ends its processes in order, then kills what is left. Raises `CheckFailed` if
    something survives even that, `ConfigurationError` if the folder's `testnet.json` is damaged.
    """
    state = folder.read()
    if state is None:
        return []
    marks = {"testnet up": state.supervisor, **state.processes}
    running = {name: mark for name, mark in marks.items() if mark.alive()}
    if state.supervisor.send(signal.SIGTERM):
        _wait([*running.values()], ORDERLY_SECONDS)
        # It may have started more before it heard us.
        state = folder.read() or state
        running |= {name: mark for name, mark in state.processes.items() if mark.alive()}
    for name, mark in running.items():
        mark.send(signal.SIGKILL, group=name in state.processes)
    left = _wait([*running.values()], KILLED_SECONDS)
    if left:
        raise CheckFailed(
            f"The processes {', '.join(str(mark.pid) for mark in left)} could not be ended.",
            "They were killed and are still there; they may belong to another user.",
            "Look at them with `ps`.",
        )
    return sorted(running)


def _wait(marks: list[ProcessMark], seconds: float) -> list[ProcessMark]:
    """Wait until all have ended; return those that have not in time."""
    deadline = time.monotonic() + seconds
    while (alive := [mark for mark in marks if mark.alive()]) and time.monotonic() < deadline:
        time.sleep(_POLL_SECONDS)
    return alive
