from __future__ import annotations

import io
import json
import os
import shutil
from pathlib import Path

import pytest
from solders.pubkey import Pubkey

from koii_p2p.cli import task_trust
from koii_p2p.cli.main import EXIT_USAGE, run
from koii_p2p.node.node import NodeSettings
from koii_p2p.node.package_store import PackageStore
from koii_p2p.records.cid import cid_from_text, cid_of, cid_to_text
from koii_p2p.tasks.offer import Offer
from koii_p2p.tasks.package_folder import pack_folder
from tests.cli.spender import Spender
from tests.cli.test_join import NO_K2, TASK, refused, told  # noqa: F401 - a fixture
from tests.cli.test_tasks import k2, own_logs, spender  # noqa: F401 - fixtures

EXAMPLE = Path(__file__).parents[2] / "examples" / "hello_world"
CID = cid_to_text(cid_of(b"code"))
OTHER = str(Pubkey(b"\3" * 32))


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in [name for name in os.environ if name.startswith("KOII_P2P_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("KOII_P2P_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def printed(capsys: pytest.CaptureFixture[str], *words: str) -> object:
    assert run([*words, "--output", "json"]) == 0
    found: object = json.loads(capsys.readouterr().out)
    return found


@pytest.mark.usefixtures("home")
def test_a_package_is_shown_and_nothing_is_written(
    home: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    folder = tmp_path / "task"
    shutil.copytree(EXAMPLE, folder, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / ".env").write_text("SECRET=1")
    found = printed(capsys, "task", "pack", str(folder))
    assert isinstance(found, dict)
    package = pack_folder(EXAMPLE).package
    assert (found["cid"], found["bytes"]) == (package.name, len(package.data))
    assert found["files"] == {path: len(content) for path, content in package.files.items()}
    assert (found["left_out"], found["asks_for"]) == ([".env"], ["CPU 1-core", "RAM 1 GB"])
    assert run(["task", "pack", str(folder)]) == 0
    assert package.name in capsys.readouterr().out
    assert not home.exists()


@pytest.mark.usefixtures("home")
def test_a_folder_that_is_no_task_is_refused_in_one_sentence(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def why(*words: str) -> str:
        assert run([*words, "--output", "json"]) == 3
        error = json.loads(capsys.readouterr().err)["error"]
        assert error["remedy"]
        return str(error["why"])

    assert "config-task.yml is missing" in why("task", "pack", str(tmp_path))
    folder = tmp_path / "task"
    shutil.copytree(EXAMPLE, folder, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "link").symlink_to("/etc/passwd")
    assert "link is a link" in why("task", "pack", str(folder))
    (folder / "link").unlink()
    (folder / "config-task.yml").write_text("task_name: x\n")
    assert "fields are wrong" in why("task", "pack", str(folder))


def test_the_list_of_what_is_trusted(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert printed(capsys, "task", "trust", "list") == {"trusted": []}
    for entry in (TASK, CID, CID):
        printed(capsys, "task", "trust", "add", entry)
    assert printed(capsys, "task", "trust", "list") == {"trusted": [TASK, CID]}
    assert printed(capsys, "task", "trust", "remove", TASK) == {"entry": TASK, "was": True}
    assert printed(capsys, "task", "trust", "remove", TASK) == {"entry": TASK, "was": False}
    assert (home / "trust.txt").read_text().splitlines()[1:] == [CID]
    assert run(["task", "trust", "add", "everybody"]) == 3
    assert "'everybody' cannot be trusted" in capsys.readouterr().err


def test_a_task_is_joined_by_its_id_alone(told: list[NodeSettings]) -> None:  # noqa: F811
    flags = ("--task", TASK, "--task", f"{OTHER}=task.py", "--trust", CID, "--trust", OTHER)
    assert run(["join", *NO_K2, *flags]) == 0
    (settings,) = told
    assert settings.by_package == (bytes(Pubkey.from_string(TASK)),)
    assert [spec.path.name for spec in settings.tasks] == ["task.py"]
    assert settings.consent.named == (CID, OTHER)
    assert settings.consent.ask is None, "there is no terminal here"


@pytest.mark.usefixtures("told")
def test_what_names_no_task_or_nobody_to_trust_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert "not the id of a task" in refused(capsys, *NO_K2, "--task", "hello")["why"]
    assert "not said where its code is" in refused(capsys, *NO_K2, "--task", f"{TASK}=")["why"]
    assert "cannot be trusted" in refused(capsys, *NO_K2, "--task", TASK, "--trust", "all")["what"]


@pytest.mark.parametrize(
    ("answer", "agreed"),
    [("y\n", True), ("YES\n", True), ("\n", False), ("n\n", False), ("", False), ("of course\n", False)],
)
def test_only_a_yes_is_one_and_the_question_shows_everything(
    answer: str,
    agreed: bool,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    offer = Offer(
        bytes(Pubkey.from_string(TASK)), b"\3" * 32, cid_from_text(CID), "na\x1bme", "Zoe", 2048, 7,
        ("ADDON REQUIRE_INTERNET", "RAM 4GB"), ("round_time is 1 in its config-task.yml and 2 on K2, which counts.",),
    )  # fmt: skip
    monkeypatch.setattr("sys.stdin", io.StringIO(answer))
    assert task_trust.asked(offer, tmp_path) is agreed
    shown = capsys.readouterr().err
    for words in (
        TASK,
        OTHER,
        "Zoe",
        CID,
        "2.0 KiB in 7 files",
        str(tmp_path),
        "ADDON REQUIRE_INTERNET",
        "RAM 4GB",
        "round_time is 1",
    ):
        assert words in shown
    assert "\x1b" not in shown


def test_a_published_task_has_its_cid_on_k2_and_its_package_in_the_home(
    spender: Spender,  # noqa: F811
    tmp_path: Path,
) -> None:
    made = spender.found("task", "create", str(EXAMPLE), "--publish", "--yes")
    shown = spender.found("task", "show", made["task"])
    package = pack_folder(EXAMPLE).package
    assert shown["program"] == package.name
    assert len(package.name) <= 64
    store = PackageStore(spender.home.packages)
    assert store.whole(package.cid) == package
    assert spender.found("task", "trust", "list") == {"trusted": [package.name]}


@pytest.mark.usefixtures("home")
@pytest.mark.parametrize(
    ("words", "why"),
    [
        ((), "give the FOLDER"),
        ((str(EXAMPLE / "config-task.yml"),), "give the FOLDER"),
        ((str(EXAMPLE), "--program", "main"), "leave out --program"),
    ],
)
def test_only_a_folder_is_published_and_under_no_other_name(
    words: tuple[str, ...], why: str, capsys: pytest.CaptureFixture[str], home: Path
) -> None:
    assert run(["task", "create", *words, "--publish", "--output", "json"]) == EXIT_USAGE
    assert why in json.loads(capsys.readouterr().err)["error"]["why"]
    assert not home.exists()
