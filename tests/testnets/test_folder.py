from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from koii_p2p.errors import ConfigurationError
from koii_p2p.testnets.folder import NetFolder, State
from koii_p2p.testnets.identity import HONEST, NodeIdentity
from koii_p2p.testnets.process_mark import ProcessMark, mark_of

NODE = NodeIdentity("node-00", "key", "wallet", HONEST, 19, 7)


def own_mark() -> ProcessMark:
    mark = mark_of(os.getpid())
    assert mark is not None
    return mark


@pytest.fixture
def folder(tmp_path: Path) -> NetFolder:
    return NetFolder(tmp_path / "net")


def test_one_testnet_at_a_time(folder: NetFolder) -> None:
    assert not folder.is_held()
    with folder.held():
        assert folder.is_held()
        assert folder.holder() == str(os.getpid())
        with pytest.raises(ConfigurationError, match="running") as caught, NetFolder(folder.path).held():
            raise AssertionError
        assert str(os.getpid()) in caught.value.why
    assert not folder.is_held()


def test_the_lock_goes_with_its_process(folder: NetFolder) -> None:
    code = (
        "import sys, pathlib, time\n"
        "from koii_p2p.testnets.folder import NetFolder\n"
        "with NetFolder(pathlib.Path(sys.argv[1])).held():\n"
        "    print('held', flush=True)\n"
        "    time.sleep(60)\n"
    )
    holder = subprocess.Popen([sys.executable, "-c", code, str(folder.path)], stdout=subprocess.PIPE)
    assert holder.stdout is not None
    try:
        assert holder.stdout.readline() == b"held\n"
        assert folder.is_held()
    finally:
        holder.kill()
        holder.wait()
        holder.stdout.close()
    with folder.held():
        assert folder.holder() == str(os.getpid())


def test_the_state_survives_the_disk(folder: NetFolder) -> None:
    state = State(own_mark(), {"k2": ProcessMark(12, 34)}, "http://127.0.0.1:1", "task", 3, 1, (NODE,))
    with folder.held():
        assert folder.read() is None
        folder.write(state)
    assert folder.read() == state
    assert (folder.path / "testnet.json").stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"supervisor": {"pid": 1}}'])
def test_a_state_that_is_damaged(folder: NetFolder, text: str) -> None:
    with folder.held():
        (folder.path / "testnet.json").write_text(text)
        (folder.path / "testnet.json").chmod(0o600)
    with pytest.raises(ConfigurationError, match="cannot be used"):
        folder.read()


def test_an_earlier_testnet_is_removed_and_nothing_else(folder: NetFolder) -> None:
    with folder.held():
        assert folder.clear() is False
        folder.write(State(own_mark()))
        (folder.home("node-00").path).mkdir()
        (folder.home("node-00").path / "staking.json").write_text("[]")
        folder.logs.mkdir()
        assert folder.clear() is True
        assert [entry.name for entry in folder.path.iterdir()] == ["lock"]


@pytest.mark.parametrize("name", ["thesis.txt", ".git", "logs", "k2"])
def test_a_folder_of_somebody_else_is_left_alone(folder: NetFolder, name: str) -> None:
    with folder.held():
        (folder.path / name).mkdir()
        with pytest.raises(ConfigurationError, match="not a testnet's"):
            folder.clear()
        assert (folder.path / name).exists()
        if name not in ("logs", "k2"):
            folder.write(State(own_mark()))
            with pytest.raises(ConfigurationError, match="not a testnet's"):
                folder.clear()


# --- process marks


def test_a_process_is_told_from_a_later_one_with_its_number() -> None:
    mark = own_mark()
    assert mark.alive()
    later = ProcessMark(mark.pid, mark.started + 1)
    assert not later.alive()
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], process_group=0)
    try:
        child_mark = mark_of(child.pid)
        assert child_mark is not None
        assert not ProcessMark(child.pid, child_mark.started + 1).send(signal.SIGKILL)
        assert not ProcessMark(child.pid, child_mark.started + 1).send(signal.SIGKILL, group=True)
        assert child.poll() is None
        assert child_mark.send(signal.SIGKILL, group=True)
        assert child.wait(10) == -signal.SIGKILL
    finally:
        child.kill()
        child.wait()
    assert not child_mark.alive()
    assert not child_mark.send(signal.SIGTERM)


def test_a_process_that_ended_and_was_not_reaped_does_not_run() -> None:
    child = subprocess.Popen([sys.executable, "-c", ""])
    mark = mark_of(child.pid)
    assert mark is not None
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert not mark.alive()
    child.wait()
    assert mark_of(child.pid) is None
