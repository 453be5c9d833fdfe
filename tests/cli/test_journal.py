from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import base58
import pytest

from koii_p2p.cli.main import run
from koii_p2p.records import Kind, ListVote, SecretKey, Statement, Submission
from koii_p2p.storage import Database, Home, SigningJournal, save_secret
from koii_p2p.storage.journal import BelowFloor, Owner
from koii_p2p.storage.journal_file import read_journal

TASK, GENESIS, OTHER_GENESIS, KEY = b"t" * 32, b"g" * 32, b"h" * 32, SecretKey.from_seed(b"k" * 32)
SUBMISSION = Statement(TASK, 3, 700, 0, Submission("42"))
VOTE = Statement(TASK, 2, 705, 1, ListVote(bytes(32), True, 0))


def text(key: bytes) -> str:
    return base58.b58encode(key).decode()


def with_key(path: Path, key: SecretKey = KEY) -> Home:
    """A home with an identity, in which no node has run."""
    home = Home(path)
    home.prepare()
    save_secret(home.staking_key, key)
    return home


def open_database(home: Home, genesis: bytes = GENESIS) -> Database:
    """The database of a chain, where the node has it."""
    return Database.open(home.database / genesis.hex()[:16])


def speak(home: Home, *statements: Statement, genesis: bytes = GENESIS) -> None:
    with open_database(home, genesis) as database:
        for statement in statements:
            SigningJournal(database).sign(statement, genesis, KEY)


@pytest.fixture(autouse=True)
def no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("KOII_P2P_")]:
        monkeypatch.delenv(name)


@pytest.fixture
def old(tmp_path: Path) -> Home:
    """A home whose node has spoken."""
    home = with_key(tmp_path / "old")
    speak(home, SUBMISSION, VOTE)
    return home


@pytest.fixture
def new(tmp_path: Path) -> Home:
    """A home that has the same identity and no past."""
    return with_key(tmp_path / "new")


@pytest.fixture
def k2() -> Iterator[str]:
    """The address of a K2 that says one thing: which chain it is."""

    class Answers(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
            assert asked["method"] == "getGenesisHash"
            body = json.dumps({"jsonrpc": "2.0", "id": asked["id"], "result": text(GENESIS)}).encode()
            self.send_response(200)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Answers)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


class Result:
    """What one command line did."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code = code
        self.out = out
        self.err = err

    @property
    def data(self) -> dict[str, Any]:
        assert self.code == 0, self.err
        found: dict[str, Any] = json.loads(self.out)
        return found


class Shell:
    """Runs `koii-p2p journal` in this process."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys

    def __call__(self, home: Home, *words: object, output: str = "json") -> Result:
        line = ["--home", str(home.path), "--output", output, "journal", *map(str, words)]
        self._capsys.readouterr()
        code = run(line)
        return Result(code, *self._capsys.readouterr())


@pytest.fixture
def journal(capsys: pytest.CaptureFixture[str]) -> Shell:
    return Shell(capsys)


def test_a_journal_is_taken_along(old: Home, new: Home, tmp_path: Path, journal: Shell) -> None:
    file = tmp_path / "moved.journal"
    assert journal(old, "export", file).data == {
        "file": str(file),
        "genesis": text(GENESIS),
        "staking": text(KEY.public_key),
        "statements": 2,
        "floors": {},
    }
    assert file.stat().st_mode & 0o777 == 0o600
    imported = journal(new, "import", file).data
    assert (imported["new"], imported["known"], imported["floors"]) == (2, 0, {text(TASK): 3})
    assert imported["genesis"] == text(GENESIS)
    again = journal(new, "import", file).data
    assert (again["new"], again["known"], again["floors"]) == (0, 2, {text(TASK): 3})
    with open_database(new) as database:
        held = SigningJournal(database)
        assert held.owner() == Owner(GENESIS, KEY.public_key)
        assert held.sign(SUBMISSION, GENESIS, KEY).statement == SUBMISSION
        with pytest.raises(BelowFloor):
            held.reserve(TASK, 3, Kind.BALLOT, b"new")
    assert journal(new, "export", tmp_path / "again").data["floors"] == {text(TASK): 3}
    assert read_journal(tmp_path / "again").entries == read_journal(file).entries


def test_tables_for_a_person(old: Home, new: Home, tmp_path: Path, journal: Shell) -> None:
    exported = journal(old, "export", tmp_path / "file", output="table")
    assert "none" in exported.out
    imported = journal(new, "import", tmp_path / "file", output="table")
    assert f"{text(TASK)}: nothing new up to round 3" in imported.out
    shown = journal(new, "show", output="table").out
    assert f"{text(TASK)}  nothing new up to round 3" in shown
    assert "list vote (attempt 1)" in shown
    assert "submission" in shown
    assert "nothing\n" in journal(old, "show", "--task", text(OTHER_GENESIS), output="table").out


def test_show_names_rounds_and_kinds(old: Home, journal: Shell) -> None:
    speak(old, Statement(b"u" * 32, 5, 1, 0, Submission("x")))
    shown = journal(old, "show").data
    assert shown["genesis"] == text(GENESIS)
    assert [view["task"] for view in shown["tasks"]] == [text(TASK), text(b"u" * 32)]
    assert shown["tasks"][0] == {
        "task": text(TASK),
        "floor": None,
        "rounds": [
            {"round": 2, "said": [{"kind": "LIST_VOTE", "attempt": 1}]},
            {"round": 3, "said": [{"kind": "SUBMISSION", "attempt": 0}]},
        ],
    }
    only = journal(old, "show", "--task", text(b"u" * 32)).data["tasks"]
    assert [view["task"] for view in only] == [text(b"u" * 32)]


def test_an_export_overwrites_nothing_and_may_be_of_the_newest_rounds(
    old: Home, tmp_path: Path, journal: Shell
) -> None:
    file = tmp_path / "file"
    assert journal(old, "export", file, "--rounds", 1).data["statements"] == 1
    before = file.read_bytes()
    refused = journal(old, "export", file)
    assert refused.code == 3
    assert "There is a file of this name" in refused.err
    assert file.read_bytes() == before
    assert journal(old, "export", tmp_path / "none", "--rounds", 0).code == 2


def test_nothing_is_done_while_the_node_runs(old: Home, tmp_path: Path, journal: Shell) -> None:
    assert journal(old, "export", tmp_path / "file").code == 0
    with old.locked():
        for words in (
            ("export", tmp_path / "other"),
            ("import", tmp_path / "file"),
            ("floor", "--task", text(TASK), "--round", 9, "--genesis", text(GENESIS)),
            ("show",),
        ):
            refused = journal(old, *words)
            assert refused.code == 3
            assert f"Process {os.getpid()} runs a node" in refused.err
    assert not (tmp_path / "other").exists()


def test_another_identitys_file_is_refused(old: Home, tmp_path: Path, journal: Shell) -> None:
    stranger = SecretKey.from_seed(b"s" * 32)
    other = with_key(tmp_path / "other", stranger)
    assert journal(old, "export", tmp_path / "file").code == 0
    refused = journal(other, "import", tmp_path / "file")
    assert refused.code == 3
    assert text(KEY.public_key) in refused.err
    assert text(stranger.public_key) in refused.err
    assert list(other.database.iterdir()) == []


def test_another_chains_file_is_refused_unless_it_is_meant(old: Home, tmp_path: Path, journal: Shell) -> None:
    other = with_key(tmp_path / "other")
    speak(other, VOTE, genesis=OTHER_GENESIS)
    assert journal(old, "export", tmp_path / "file").code == 0
    refused = journal(other, "import", tmp_path / "file")
    assert refused.code == 3
    assert f"--genesis {text(GENESIS)}" in refused.err
    refused = journal(other, "import", tmp_path / "file", "--genesis", text(OTHER_GENESIS))
    assert refused.code == 3
    assert "means nothing on another" in refused.err
    assert len(list(other.database.iterdir())) == 1
    assert journal(other, "import", tmp_path / "file", "--genesis", text(GENESIS)).data["new"] == 2
    for line in (("show",), ("export", tmp_path / "both")):
        unclear = journal(other, *line)
        assert unclear.code == 3
        assert text(GENESIS) in unclear.err
        assert text(OTHER_GENESIS) in unclear.err
    assert len(journal(other, "show", "--genesis", text(OTHER_GENESIS)).data["tasks"][0]["rounds"]) == 1
    assert len(journal(other, "show", "--genesis", text(GENESIS)).data["tasks"][0]["rounds"]) == 2


def test_a_contradiction_is_reported_and_nothing_is_imported(
    old: Home, new: Home, tmp_path: Path, journal: Shell
) -> None:
    speak(new, Statement(TASK, 3, 701, 0, Submission("43")))
    assert journal(old, "export", tmp_path / "file").code == 0
    refused = journal(new, "import", tmp_path / "file")
    assert refused.code == 1
    assert f"the submission of round 3 (task {text(TASK)})" in refused.err
    shown = journal(new, "show").data["tasks"]
    assert shown == [
        {
            "task": text(TASK),
            "floor": None,
            "rounds": [{"round": 3, "said": [{"kind": "SUBMISSION", "attempt": 0}]}],
        }
    ]


def test_a_bad_file_is_one_error(new: Home, tmp_path: Path, journal: Shell) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"\xff" * 100)
    file.chmod(0o600)
    refused = journal(new, "import", file)
    assert (refused.code, list(json.loads(refused.err)["error"])) == (
        3,
        ["what", "why", "remedy", "exit_code"],
    )
    assert list(new.database.iterdir()) == []


def test_a_key_without_a_past_is_given_a_floor(new: Home, tmp_path: Path, k2: str, journal: Shell) -> None:
    floor = ("floor", "--url", k2, "--task", text(TASK), "--round")
    assert journal(new, *floor, 10).data == {
        "genesis": text(GENESIS),
        "staking": text(KEY.public_key),
        "task": text(TASK),
        "floor": 10,
    }
    with open_database(new) as database:
        held = SigningJournal(database)
        with pytest.raises(BelowFloor):
            held.sign(Statement(TASK, 10, 1, 0, Submission("x")), GENESIS, KEY)
        held.sign(Statement(TASK, 11, 1, 0, Submission("x")), GENESIS, KEY)
    refused = journal(new, *floor, 9)
    assert refused.code == 1
    assert "--lower" in refused.err
    assert journal(new, "show").data["tasks"][0]["floor"] == 10
    assert journal(new, *floor, 9, "--lower").data["floor"] == 9
    assert journal(new, "export", tmp_path / "file").data["floors"] == {text(TASK): 9}
    with open_database(new) as database:
        assert SigningJournal(database).floors() == {TASK: 9}


def test_a_floor_needs_to_know_its_chain(old: Home, new: Home, journal: Shell) -> None:
    line = ("floor", "--url", "http://127.0.0.1:1", "--task", text(TASK), "--round", 5)
    refused = journal(old, *line)
    assert refused.code == 5
    assert f"--genesis: {text(GENESIS)}" in refused.err
    refused = journal(new, *line)
    assert refused.code == 5
    assert "koii-p2p status" in refused.err
    assert journal(new, *line, "--genesis", text(GENESIS)).data["floor"] == 5


def test_homes_without_a_journal_say_so(new: Home, tmp_path: Path, journal: Shell) -> None:
    for line in (("show",), ("export", tmp_path / "file")):
        refused = journal(new, *line)
        assert refused.code == 3
        assert "has no signing journal" in refused.err
        refused = journal(new, *line, "--genesis", text(GENESIS))
        assert refused.code == 3
        assert text(GENESIS) in refused.err
    assert list(new.database.iterdir()) == []
    with open_database(new):  # a node ran, and was never asked to say anything
        pass
    refused = journal(new, "export", tmp_path / "file")
    assert refused.code == 3
    assert "nothing was signed yet" in refused.err
    assert journal(new, "export", tmp_path / "file", "--genesis", text(GENESIS)).data["statements"] == 0
    refused = journal(Home(tmp_path / "nowhere"), "show")
    assert refused.code == 3
    assert "koii-p2p keys new" in refused.err
    assert not (tmp_path / "nowhere").exists()


def test_the_identity_is_that_of_the_home(old: Home, tmp_path: Path, journal: Shell) -> None:
    save_secret(tmp_path / "key.json", SecretKey.generate())
    refused = journal(old, "show", "--keypair", tmp_path / "key.json")
    assert refused.code == 3
    assert "keys import" in refused.err
    os.replace(tmp_path / "key.json", old.staking_key)
    for line in (("show",), ("export", tmp_path / "file")):
        refused = journal(old, *line)
        assert refused.code == 3
        assert "that of another key" in refused.err


@pytest.mark.parametrize(
    "words",
    [
        ("floor", "--task", "0OIl", "--round", "1"),
        ("floor", "--task", "abc", "--round", "1"),
        ("floor", "--task", text(TASK), "--round", "-1"),
        ("floor", "--task", text(TASK), "--round", str(2**64)),
        ("floor", "--task", text(TASK)),
        ("show", "--task", "é"),
        ("show", "--genesis", "abc"),
        ("export",),
    ],
)
def test_what_cannot_be_understood_is_a_usage_error(
    words: tuple[str, ...], old: Home, journal: Shell
) -> None:
    refused = journal(old, *words)
    assert refused.code == 2
    assert "--help`" in refused.err
