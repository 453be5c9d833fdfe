from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from koii_p2p.storage import Home, StorageError, StorageLocked

HOLDER = """
import sys, time
from pathlib import Path
from koii_p2p.storage import Home
with Home(Path(sys.argv[1])).locked():
    print("locked", flush=True)
    time.sleep(600)
"""


def test_a_home_is_for_its_owner_only(tmp_path: Path) -> None:
    home = Home(tmp_path / "deep" / "home")
    assert not home.path.exists()
    with home.locked():
        for folder in (home.path, home.database, home.logs, home.tasks):
            assert folder.stat().st_mode & 0o777 == 0o700
    names = [path.name for path in (home.staking_key, home.wallet_key, home.config, home.api, home.database)]
    assert names == ["staking.json", "wallet.json", "config.toml", "api.json", "db"]
    home.prepare()


def test_a_second_process_is_refused_and_told_which_is_the_first(tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(home.path)], stdout=subprocess.PIPE, text=True
    ) as holder:
        try:
            assert holder.stdout is not None
            assert holder.stdout.readline() == "locked\n"
            with pytest.raises(StorageLocked) as caught, home.locked():
                pytest.fail("two processes hold one home")
            assert f"Process {holder.pid} " in caught.value.why
            assert str(home.path) in caught.value.what
            assert home.holder() == holder.pid
            assert caught.value.exit_code == 3
        finally:
            holder.send_signal(signal.SIGKILL)
    assert home.holder() is None
    with home.locked():
        assert (home.path / "lock").exists()


def test_a_home_is_locked_within_a_process_too_and_freed_after_a_failure(tmp_path: Path) -> None:
    home = Home(tmp_path)
    with home.locked(), pytest.raises(StorageLocked), home.locked():
        pytest.fail("locked twice")
    with pytest.raises(ZeroDivisionError), home.locked():
        _ = 1 // 0
    with home.locked():
        assert (home.path / "lock").exists()


def test_a_home_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for path in (tmp_path / "file", tmp_path / "file" / "home"):
        with pytest.raises(StorageError) as caught, Home(path).locked():
            pytest.fail("a file is a home")
        assert str(path) in caught.value.what
    (tmp_path / "home" / "lock").mkdir(parents=True)
    with pytest.raises(StorageError), Home(tmp_path / "home").locked():
        pytest.fail("a folder is a lock")
