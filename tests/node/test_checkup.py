from __future__ import annotations

import socket
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

from koii_p2p.limits import Limits
from koii_p2p.node import checkup
from koii_p2p.node.checkup import Finding, Level
from koii_p2p.records.keys import SecretKey
from koii_p2p.storage.home import Home
from koii_p2p.storage.keyfile import save_secret
from koii_p2p.storage.locked_key import PASSPHRASE_FILE


def levels(findings: list[Finding]) -> dict[str, Level]:
    return {one.check: one.level for one in findings}


def test_this_python_and_its_packages_are_well() -> None:
    found = list(checkup.versions())
    assert [one.level for one in found] == [Level.OK] * 3
    assert "0.8.1" in found[2].what


def test_another_python_and_other_packages_are_errors_with_a_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    needed = [
        "trio>=99",
        "trio<1,>=0.30; python_version > '3'",
        "absent-package>=1",
        "psutil; extra == 'test'",
    ]
    monkeypatch.setattr(sys, "version_info", (3, 13, 1, "final", 0))
    monkeypatch.setattr(metadata, "requires", lambda _name: needed)
    found = list(checkup.versions())
    assert [one.level for one in found[:3]] == [Level.ERROR] * 3
    assert "3.11 or 3.12" in found[0].remedy
    assert f"trio is {metadata.version('trio')}, where >=99 is needed" in found[1].what
    assert "absent-package is not installed" in found[2].what
    assert all("constraints.txt" in one.remedy for one in found[1:3])


@pytest.mark.parametrize(
    ("installed", "bound", "holds"),
    [
        ("1.10", ">=1.9", True),
        ("1.9", ">=1.10", False),
        ("1.0", "==1.0.0", True),
        ("0.8.2", "==0.8.1", False),
        ("2.0rc1", "<2", False),
        ("0.18.3", "<0.19", True),
        ("3", "!=3", False),
        ("1.2", "~=1.1", True),
    ],
)
def test_versions_are_compared_number_by_number(installed: str, bound: str, holds: bool) -> None:
    assert checkup._holds(installed, bound) is holds


def test_a_home_is_said_to_be_missing_open_to_others_or_in_use(tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    [missing] = checkup.home_folder(home, False)
    assert (missing.level, missing.remedy) == (Level.ERROR, "Make it with `koii-p2p init`.")
    home.prepare()
    assert levels(list(checkup.home_folder(home, False))) == {"home": Level.OK, "node": Level.OK}
    home.path.chmod(0o750)
    shared, _node = checkup.home_folder(home, False)
    assert (shared.level, shared.remedy) == (Level.WARNING, f"Run: chmod 700 {home.path}")
    home.path.chmod(0o700)
    with home.locked():
        assert levels(list(checkup.home_folder(home, True))) == {"home": Level.OK, "node": Level.OK}
        _home, deaf = checkup.home_folder(home, False)
        assert deaf.level is Level.WARNING


def test_key_files_are_missing_open_locked_or_well(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(PASSPHRASE_FILE, raising=False)
    path = tmp_path / "staking.json"
    missing = checkup.key_file("staking", path)
    assert (missing.level, missing.check) == (Level.ERROR, "staking key")
    assert "koii-p2p keys new" in missing.remedy
    save_secret(path, SecretKey.generate())
    assert checkup.key_file("staking", path).level is Level.OK
    path.chmod(0o644)
    opened = checkup.key_file("staking", path)
    assert opened.level is Level.ERROR
    assert f"chmod 600 {path}" in opened.remedy
    locked = tmp_path / "locked.json"
    save_secret(locked, SecretKey.generate(), "a long passphrase")
    asks = checkup.key_file("staking", locked)
    assert asks.level is Level.WARNING
    assert PASSPHRASE_FILE in asks.remedy
    secret = tmp_path / "passphrase"
    secret.write_text("a long passphrase\n")
    secret.chmod(0o600)
    monkeypatch.setenv(PASSPHRASE_FILE, str(secret))
    assert checkup.key_file("staking", locked).level is Level.OK
    secret.chmod(0o644)
    assert checkup.key_file("staking", locked).level is Level.ERROR


@pytest.mark.parametrize(
    ("free", "level"), [(1 << 40, Level.OK), (1 << 30, Level.WARNING), (1 << 20, Level.ERROR)]
)
def test_room_on_the_disk(free: int, level: Level, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Usage:
        def __init__(self) -> None:
            self.free = free

    monkeypatch.setattr(checkup.shutil, "disk_usage", lambda _path: Usage())
    found = checkup.disk_space(tmp_path / "not" / "made" / "yet")
    assert found.level is level
    assert str(tmp_path) in found.what


def test_the_limit_on_open_files() -> None:
    assert checkup.open_files(65536, Limits()).level is Level.OK
    assert checkup.open_files(1024, Limits()).level is Level.WARNING
    assert checkup.open_files(65536, Limits(), 300).level is Level.OK
    full = checkup.open_files(65536, Limits(), 65000)
    assert full.level is Level.ERROR
    assert "LimitNOFILE" in full.remedy


def test_a_port_in_use_is_found_before_a_node_fails_on_it() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        [found] = checkup.free_ports((f"/ip4/127.0.0.1/tcp/{port}", "/ip4/0.0.0.0/tcp/0", "/dns4/x/tcp/1"))
    assert found.level is Level.ERROR
    assert f"/ip4/127.0.0.1/tcp/{port}" in found.what
    [found] = checkup.free_ports((f"/ip4/127.0.0.1/tcp/{port}",))
    assert found.level is Level.OK
    [found] = checkup.free_ports(("/ip4/127.0.0.1/tcp/70000",))
    assert found.level is Level.ERROR


def status(**changed: Any) -> dict[str, Any]:
    return {
        "slot": {"trusted": True, "slot": 5, "slot_seconds": 0.4, "age": 0.1},
        "network": {"peers": 2},
        "supervisor": {"restarts": {}, "last_errors": {}},
        "tasks": [],
        "closed_tasks": [],
    } | changed


def test_a_node_that_is_well_has_nothing_to_say() -> None:
    assert levels(list(checkup.running_node(status()))) == {"slot": Level.OK, "peers": Level.OK}


def test_what_a_node_says_is_wrong_is_found() -> None:
    worker = {"running": False, "last_failure": "no module"}
    found = list(
        checkup.running_node(
            status(
                slot={"trusted": False, "slot": 5, "slot_seconds": 0.4, "age": 90.0},
                network={"peers": 0},
                supervisor={"restarts": {"slots": 3}, "last_errors": {"slots": "away"}},
                tasks=[{"task": "T", "actions": {"last_failures": {"Anchor": "poor"}}, "worker": worker}],
                closed_tasks=[{"task": "C", "remedy": "Withdraw."}],
            )
        )
    )
    assert [(one.check, one.level) for one in found] == [
        ("slot", Level.ERROR),
        ("peers", Level.WARNING),
        ("services", Level.WARNING),
        ("task", Level.WARNING),
        ("task", Level.ERROR),
        ("task", Level.WARNING),
    ]
    assert all(one.remedy for one in found)
    text = " ".join(one.what for one in found)
    for words in ("90 s", "3 times, last with: away", "Anchor: poor", "no module", "C is closed"):
        assert words in text


def test_what_this_kernel_holds_tasks_to(monkeypatch: pytest.MonkeyPatch) -> None:
    found = checkup.confinement()
    assert found.level is Level.OK
    assert "Landlock version" in found.what
    monkeypatch.setattr("koii_p2p.tasks.landlock.version", lambda: 0)
    found = checkup.confinement()
    assert found.level is Level.WARNING
    assert "may read the files" in found.what
    assert found.remedy
