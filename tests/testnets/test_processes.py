from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import trio

from koii_p2p.errors import ChainError, CheckFailed, NetworkError, OperatorError
from koii_p2p.testnets.down import take_down
from koii_p2p.testnets.folder import NetFolder, State
from koii_p2p.testnets.process_mark import ProcessMark, mark_of
from koii_p2p.testnets.processes import PYTHON, Child, stop_all

READY = 'print(\'{"ready": true, "n": 7}\', flush=True)'
SLEEP = "import time; time.sleep(60)"
STUBBORN = f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); {READY}; {SLEEP}"


def child(tmp_path: Path, code: str, name: str = "one") -> Child:
    return Child(name, [*PYTHON, "-c", code], tmp_path / "logs", dict(os.environ))


async def test_a_child_is_ready_when_it_says_so_and_ends_when_asked(tmp_path: Path) -> None:
    one = child(tmp_path, f"{READY}; {SLEEP}")
    try:
        assert await one.ready(30) == {"ready": True, "n": 7}
        assert one.mark.alive()
        await one.stop()
        assert one.returncode == -signal.SIGTERM
        assert one.how_it_ended() == "signal SIGTERM"
        assert not one.mark.alive()
        await one.stop()  # twice is allowed
    finally:
        one.kill()


async def test_one_that_does_not_listen_is_killed_with_its_own_children(tmp_path: Path) -> None:
    code = (
        f"import pathlib, subprocess, sys; p = subprocess.Popen([sys.executable, '-c', {SLEEP!r}]); "
        f"pathlib.Path({str(tmp_path / 'pid')!r}).write_text(str(p.pid)); {STUBBORN}"
    )
    one = child(tmp_path, code)
    await one.ready(30)
    grandchild = mark_of(int((tmp_path / "pid").read_text()))
    assert grandchild is not None
    await stop_all([one], seconds=0.2)
    assert one.returncode == -signal.SIGKILL
    with trio.fail_after(10):
        while grandchild.alive():
            await trio.sleep(0.02)


async def test_cancelling_a_stop_kills(tmp_path: Path) -> None:
    one = child(tmp_path, STUBBORN)
    await one.ready(30)
    with trio.move_on_after(0.1):
        await one.stop()
    assert one.returncode == -signal.SIGKILL


@pytest.mark.parametrize(
    ("code", "kind"), [(4, NetworkError), (5, ChainError), (1, CheckFailed), (70, CheckFailed)]
)
async def test_one_that_ends_too_early_says_why(tmp_path: Path, code: int, kind: type[OperatorError]) -> None:
    one = child(tmp_path, f"import sys; print('no port', file=sys.stderr); sys.exit({code})")
    with pytest.raises(kind, match="no port") as caught:
        await one.ready(30)
    assert f"exit code {code}" in caught.value.what


async def test_one_that_says_something_else_or_nothing(tmp_path: Path) -> None:
    one = child(tmp_path, f"print('hello', flush=True); {SLEEP}")
    silent = child(tmp_path, SLEEP, "two")
    try:
        with pytest.raises(CheckFailed, match="something else"):
            await one.ready(30)
        with pytest.raises(CheckFailed, match="was not ready after"):
            await silent.ready(0.2)
    finally:
        await stop_all([one, silent])


def test_killing_the_parent_ends_the_child(tmp_path: Path) -> None:
    """kill -9 runs no handler and no `finally`: the kernel alone ends what the parent started."""
    code = (
        "import sys, os, pathlib, time\n"
        "from koii_p2p.testnets.processes import Child, PYTHON\n"
        f"one = Child('one', [*PYTHON, '-c', {SLEEP!r}], pathlib.Path(sys.argv[1]), dict(os.environ))\n"
        "print(one.mark.pid, one.mark.started, flush=True)\n"
        "time.sleep(60)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    mark = ProcessMark(*map(int, parent.stdout.readline().split()))
    assert mark.alive()
    parent.kill()
    parent.wait()
    parent.stdout.close()
    _wait_until_gone(mark)


def test_down_ends_exactly_what_the_state_names(tmp_path: Path) -> None:
    folder = NetFolder(tmp_path / "net")
    assert take_down(folder) == []
    mine = [subprocess.Popen([sys.executable, "-c", SLEEP], process_group=0) for _ in range(2)]
    other = subprocess.Popen([sys.executable, "-c", SLEEP], process_group=0)
    try:
        marks = [mark_of(process.pid) for process in (*mine, other)]
        assert all(marks)
        up, k2, stranger = (mark for mark in marks if mark is not None)
        with folder.held():
            # A number that was given to another process since then.
            reused = ProcessMark(stranger.pid, stranger.started - 1)
            folder.write(State(up, {"k2": k2, "node-00": reused}))
        assert take_down(folder) == ["k2", "testnet up"]
        assert other.poll() is None
        for process in mine:
            assert process.wait(10) < 0
        assert take_down(folder) == []
    finally:
        for process in (*mine, other):
            process.kill()
            process.wait()


def _wait_until_gone(mark: ProcessMark) -> None:
    deadline = time.monotonic() + 10
    while mark.alive():
        assert time.monotonic() < deadline, "the child outlived its parent"
        time.sleep(0.02)
