"""A command at a terminal of its own: what it asks, what it is answered, and what the terminal shows."""

from __future__ import annotations

import contextlib
import os
import select
import subprocess
import time
from collections.abc import Sequence

from tests.e2e.shell import COMMAND, environment

PATIENCE = 60.0


def at_a_terminal(
    arguments: Sequence[str], answers: Sequence[tuple[str, str]] = (), **more: str
) -> tuple[int, str, str]:
    """Run `koii-p2p` with a pseudo-terminal as stdin and stderr: exit code, stdout, and what the terminal showed.

    Each answer is typed when its question has been seen, in their order.
    """
    master, slave = os.openpty()
    with subprocess.Popen(
        [*COMMAND, *arguments],
        stdin=slave,
        stdout=subprocess.PIPE,
        stderr=slave,
        env=environment(**more),
        start_new_session=True,  # without a /dev/tty, questions are asked on stdin and stderr
    ) as process:
        os.close(slave)
        try:
            shown, left = b"", list(answers)
            deadline = time.monotonic() + PATIENCE
            while True:
                assert time.monotonic() < deadline, shown
                if select.select([master], [], [], 0.1)[0]:
                    part = b""
                    with contextlib.suppress(OSError):  # Linux says EIO when the other end is closed
                        part = os.read(master, 4096)
                    if not part:
                        break
                    shown += part
                if left and left[0][0].encode() in shown:
                    question, answer = left.pop(0)
                    shown = shown.replace(question.encode(), b"[asked]", 1)
                    os.write(master, f"{answer}\n".encode())
            assert process.stdout is not None
            out = process.stdout.read().decode()
            code = process.wait(PATIENCE)
        finally:
            os.close(master)
            if process.poll() is None:
                process.kill()
    assert not left, f"{left[0][0]!r} was not asked: {shown!r}"
    return code, out, shown.decode().replace("\r\n", "\n")
