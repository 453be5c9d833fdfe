from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog

from koii_p2p.cli.log_file import LINE_BYTES, OLDER_FILES, Follower, LogFile, last_lines, older
from koii_p2p.cli.main import run
from koii_p2p.cli.output import configure_logs
from koii_p2p.storage.home import Home

EVIL = "\x1b[2J\x1b]0;owned\x07\r\n\u202etxt"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Home]:
    for name in [name for name in os.environ if name.startswith("KOII_P2P_")]:
        monkeypatch.delenv(name)
    made = Home(tmp_path / "home")
    made.prepare()
    yield made
    structlog.reset_defaults()


def write(path: Path, *events: str, file_bytes: int = 1_000_000) -> None:
    log = LogFile(path, file_bytes=file_bytes)
    for event in events:
        given = {"event": event, "level": "info", "timestamp": "2026-01-01T00:00:00Z"}
        assert log(None, "info", given) is given
    log.close()


def events_of(lines: list[bytes]) -> list[str]:
    return [json.loads(line)["event"] for line in lines]


def test_what_is_logged_is_in_the_home_and_shown(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    configure_logs(0, "info", home.log)
    log = structlog.get_logger("test")
    log.debug("too_small")
    log.warning("peer_banned", peer_id="12D3", last=EVIL, seconds=120.0)
    assert "peer_banned" in capsys.readouterr().err
    assert home.log.stat().st_mode & 0o777 == 0o600
    assert run(["logs", "--home", str(home.path)]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    assert "[warning] peer_banned" in line
    assert "peer_id=12D3" in line
    assert "seconds=120.0" in line
    assert not any(letter in line for letter in "\x1b\x07\u202e")
    assert run(["logs", "--home", str(home.path), "--output", "json"]) == 0
    assert json.loads(capsys.readouterr().out)["last"] == EVIL


def test_the_last_lines_are_shown_the_oldest_first(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    write(home.log, *(f"event {number}" for number in range(100)))
    assert run(["logs", "--lines", "3", "--home", str(home.path)]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert [line.rpartition(" ")[2] for line in shown] == ["97", "98", "99"]


def test_a_home_without_a_log_says_so(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["logs", "--home", str(home.path)]) == 3
    assert "There is no log" in capsys.readouterr().err


def test_files_are_bounded_and_the_newest_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "node.log"
    write(path, *(f"event {number:04}" for number in range(1000)), file_bytes=2000)
    files = sorted(tmp_path.iterdir())
    assert files == [older(path, number) for number in range(OLDER_FILES + 1)]
    assert all(file.stat().st_size <= 2000 for file in files)
    kept = events_of(last_lines(path, 1000))
    assert kept == [f"event {number:04}" for number in range(1000 - len(kept), 1000)]
    assert 50 < len(kept) < 1000
    assert events_of(last_lines(path, 30)) == kept[-30:]


def test_a_long_line_is_cut(tmp_path: Path) -> None:
    path = tmp_path / "node.log"
    LogFile(path)(None, "info", {"event": "x" * 10, "level": "info", "blob": "y" * 100_000})
    (line,) = last_lines(path, 10)
    assert len(line) < LINE_BYTES
    assert json.loads(line)["cut"] > 100_000


def test_a_log_that_cannot_be_written_ends_nothing(tmp_path: Path) -> None:
    log = LogFile(tmp_path / "nowhere" / "node.log")
    assert log(None, "info", {"event": "a"}) == {"event": "a"}
    (tmp_path / "nowhere").mkdir()
    log(None, "info", {"event": "b"})
    assert events_of(last_lines(tmp_path / "nowhere" / "node.log", 9)) == ["b"]


def test_a_follower_misses_nothing_when_a_file_is_full(tmp_path: Path) -> None:
    path = tmp_path / "node.log"
    write(path, "before")
    follower = Follower(path)
    log = LogFile(path, file_bytes=400)
    seen: list[str] = []
    for number in range(40):
        log(None, "info", {"event": f"event {number}"})
        seen += events_of(list(follower.lines()))
    assert seen == [f"event {number}" for number in range(40)]
    with path.open("ab") as file:
        file.write(b'{"event": "ha')
    assert list(follower.lines()) == []
    with path.open("ab") as file:
        file.write(b'lf"}\n')
    assert events_of(list(follower.lines())) == ["half"]
    follower.close()
