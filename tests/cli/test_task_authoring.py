"""`koii-p2p task new`, `task test` and `task logs`, in this process; the workers are real."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog

from koii_p2p.cli.main import run
from koii_p2p.cli.task_logs import is_of_task
from koii_p2p.tasks.config_task import load_config
from koii_p2p.tasks.new_task import TEMPLATES, make_task, template_names

EXAMPLE = Path(__file__).parents[2] / "examples" / "hello_world"
TASK = "8qbHbw2BbbTHBW1sbeqakYXVKRQM8Ne7pLK7m6CVfeR"
FEW = ("--rounds", "1", "--honest", "3", "--slow", "0", "--crashing", "0")

Found = Callable[..., tuple[int, dict[str, Any]]]


@pytest.fixture(autouse=True)
def own_logs() -> Iterator[None]:
    yield
    structlog.reset_defaults()
    logging.basicConfig(level=logging.WARNING, force=True)


@pytest.fixture
def found(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Found:
    def command(*words: str) -> tuple[int, dict[str, Any]]:
        code = run([*words, "--home", str(tmp_path / "home"), "--output", "json"])
        captured = capsys.readouterr()
        return code, json.loads(captured.out or captured.err)

    return command


def write_task(folder: Path, body: str) -> Path:
    path = folder / "task.py"
    path.write_text(f"import random\nfrom koii_p2p.tasks.sdk import Task\nclass Mine(Task):\n{body}")
    return path


WORK = "    async def submission(self, ctx, round): return f'work {round}'\n"
AUDIT = "    async def audit(self, ctx, submission, round, submitter): return submission == f'work {round}'\n"


@pytest.mark.parametrize("template", template_names())
def test_a_new_task_of_each_template_passes_its_rehearsal(
    template: str, found: Found, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code, made = found("task", "new", "counting", "--template", template)
    assert (code, made["next"]) == (0, "koii-p2p task test counting")
    assert {Path(path).name for path in made["made"]} == {"task.py", "config-task.yml", "README.md"}
    assert load_config(tmp_path / "counting").config.task_name == "counting"
    assert load_config(tmp_path / "counting").warnings == ()
    assert not [path for path in (tmp_path / "counting").iterdir() if "TASK_NAME" in path.read_text()]
    code, played = found("task", "test", "counting", *FEW)
    assert (code, played["findings"]) == (0, [])
    assert played["rounds"][0]["outcomes"]["wrong-1"] == "REJECTED"


def test_names_and_places_that_cannot_be(
    found: Found, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("", "../up", "1st", "a" * 25, "a b", "Ä"):
        code, error = found("task", "new", name)
        assert code == 3, name
        assert "begins with a letter" in error["error"]["why"]
    code, error = found("task", "new", "mine", "--template", "none")
    assert (code, "hello-world" in error["error"]["remedy"]) == (3, True)
    assert list(tmp_path.glob("*")) == []
    make_task("mine", "hello-world", tmp_path)
    (tmp_path / "mine" / "task.py").write_text("kept")
    code, error = found("task", "new", "mine")
    assert (code, "exists" in error["error"]["why"]) == (3, True)
    assert (tmp_path / "mine" / "task.py").read_text() == "kept"


def test_the_templates_are_part_of_the_package() -> None:
    text = (Path(__file__).parents[2] / "pyproject.toml").read_text()
    assert '"tasks/templates/*/*.template"' in text
    for name in template_names():
        assert {path.name for path in (TEMPLATES / name).iterdir()} == {
            "task.py.template", "config-task.yml.template", "README.md.template",
        }  # fmt: skip


def write_folder(folder: Path, body: str) -> Path:
    write_task(folder, body)
    (folder / "config-task.yml").write_text((EXAMPLE / "config-task.yml").read_text())
    return folder


def test_a_check_looks_at_the_code_beside_the_settings(
    found: Found, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, told = found("task", "check", str(EXAMPLE / "config-task.yml"))
    assert (code, told["valid"], told["code"]["findings"], told["code"]["class_name"]) == (
        0,
        True,
        [],
        "HelloWorld",
    )
    folder = write_folder(
        tmp_path,
        WORK + AUDIT + "    async def distribution(self, ctx, them, bounty, round):\n"
        "        return {one.public_key: random.randrange(10) for one in them}\n",
    )
    code, told = found("task", "check", str(folder))
    assert (code, told["valid"]) == (1, True)
    (finding,) = told["code"]["findings"]
    assert finding.startswith("distribution() is not the same everywhere")
    assert run(["task", "check", str(folder), "--home", str(tmp_path / "home")]) == 1
    shown = " ".join(capsys.readouterr().out.split())
    assert "found: distribution() is not the same everywhere" in shown
    assert "distribution own fits" in shown
    write_folder(tmp_path, WORK + "    def audit(self, ctx, submission): return True\n")
    code, told = found("task", "check", str(folder))
    assert (code, "audit(ctx, submission) does not fit" in told["code"]["findings"][0]) == (1, True)
    (folder / "task.py").write_text("import koii_no_such_module\n")
    code, told = found("task", "check", str(folder))
    assert (code, "koii_no_such_module" in told["error"]["why"]) == (3, True)
    (folder / "task.py").unlink()
    code, told = found("task", "check", str(folder))
    assert (code, told["valid"], told["code"]) == (0, True, None)


def test_three_rounds_with_all_kinds_of_copies(found: Found) -> None:
    code, played = found("task", "test", str(EXAMPLE))
    assert (code, played["findings"]) == (0, [])
    assert len(played["copies"]) == 7
    first, *later = played["rounds"]
    honest = {f"honest-{number}" for number in (1, 2, 3, 4)}
    assert first["outcomes"] == {**dict.fromkeys(honest | {"crashing-1"}, "APPROVED"), "wrong-1": "REJECTED"}
    assert first["amounts"]["wrong-1"] == -1_330_000_000
    assert {first["amounts"][name] for name in honest} == {200_000_000}
    assert first["amounts"]["slow-1"] == 0
    assert all(one["settled"] for one in played["rounds"])
    assert all(one["amounts"]["wrong-1"] == 0 for one in later), "one stake is slashed once"
    calls = played["calls"]
    assert {call["function"] for call in calls} == {"task", "submission", "audit", "distribution"}
    crashed = [
        call for call in calls if call["copy"] == "crashing-1" and "the worker ended" in call["answer"]
    ]
    assert {call["round"] for call in crashed} == {0, 1, 2}
    assert all(call["answer"].startswith("UNAVAILABLE") for call in crashed)
    assert all(call["milliseconds"] >= 0 for call in calls)


@pytest.mark.parametrize(
    ("body", "part"),
    [
        (
            WORK + "    async def audit(self, ctx, s, round, key): return True\n",
            "wrong-1 in round 0 was APPROVED",
        ),
        (
            WORK + "    async def audit(self, ctx, s, round, key): return False\n",
            "was REJECTED, not APPROVED",
        ),
        (
            WORK + "    async def audit(self, ctx, s, round, key): return random.random() < 0.5\n",
            "audit() is not deterministic",
        ),
        (WORK + "    async def audit(self, ctx, s, round, key): return 1 / 0\n", "ZeroDivisionError"),
        (
            WORK + AUDIT + "    async def distribution(self, ctx, them, bounty, round):\n"
            "        return {them[0].public_key: random.randrange(bounty)}\n",
            "distribution() is not deterministic",
        ),
        (
            WORK + AUDIT + "    async def distribution(self, ctx, them, bounty, round):\n"
            "        return {them[0].public_key: bounty / 2}\n",
            "whole Roe",
        ),
        (AUDIT + "    async def submission(self, ctx, round): return None\n", "submitted nothing in round 0"),
        (
            WORK + AUDIT + "    async def task(self, ctx, round): raise OSError('no license')\n",
            "task() failed in round 0: raised: OSError: no license",
        ),
    ],
)
def test_what_would_go_wrong_in_a_network_is_found(
    found: Found, tmp_path: Path, body: str, part: str
) -> None:
    code, played = found("task", "test", str(write_task(tmp_path, body)), *FEW)
    assert code == 1
    assert any(part in finding for finding in played["findings"]), played["findings"]


CHEAT = "    async def submission(self, ctx, round): return f'work {round + 1}'\n"


def test_a_cheater_of_ones_own_works_and_submits_and_audits_as_the_task_does(
    found: Found, tmp_path: Path
) -> None:
    path = write_task(tmp_path, WORK + AUDIT)
    cheater = tmp_path / "cheater.py"
    cheater.write_text(f"from koii_p2p.tasks.sdk import Task\nclass Cheater(Task):\n{CHEAT}")
    code, played = found("task", "test", str(path), *FEW, "--cheater", str(cheater))
    assert (code, played["findings"]) == (0, [])
    assert played["rounds"][0]["outcomes"]["wrong-1"] == "REJECTED"
    said = {
        call["answer"] for call in played["calls"] if (call["copy"], call["function"]) == ("wrong-1", "audit")
    }
    assert said == {"VALID"}, "its audits are the task's"
    handed_in = [
        call["answer"]
        for call in played["calls"]
        if (call["copy"], call["function"]) == ("wrong-1", "submission")
    ]
    assert handed_in == ["'work 1'"]
    code, error = found("task", "test", str(path), "--cheater", str(tmp_path / "absent.py"))
    assert (code, "nothing at this path" in error["error"]["why"]) == (3, True)
    assert run(["task", "test", str(path), "--wrong", "0", "--cheater", str(cheater)]) == 2


DATA = """
    async def task(self, ctx, round):
        kept = ctx.db.collection("kept", own_keys=True)
        await kept.put({"_id": ctx.submitter, "round": round})
        await ctx.db.collection("everywhere", full=True).put({"_id": ctx.submitter})
        await ctx.store.set(f"blob {round}", await ctx.data.put(f"{ctx.submitter} {round}".encode()))

    async def submission(self, ctx, round):
        return await ctx.store.get(f"blob {round}")

    async def audit(self, ctx, submission, round, submitter):
        kept = ctx.db.collection("kept", own_keys=True)
        await self.expect_refusal(kept.put({"_id": submitter, "round": -1}), "Its author may not write to")
        for gone in ("no reference", "bafkreia" + "a" * 51):
            await self.expect_refusal(ctx.data.get(gone), "The blob could not be had")
        if submission.startswith("not "):
            return False
        assert len(await kept.find()) >= 4
        assert len(await ctx.db.collection("everywhere", full=True).find()) >= 4
        assert (await kept.get(submitter))["round"] >= round
        return await ctx.data.get(submission) == f"{submitter} {round}".encode()

    async def expect_refusal(self, asked, why):
        try:
            await asked
        except Exception as error:
            assert why in str(error), str(error)
        else:
            raise AssertionError(why)
"""


def test_copies_share_blobs_and_documents(found: Found, tmp_path: Path) -> None:
    code, played = found("task", "test", str(write_task(tmp_path, DATA)), *FEW[2:], "--rounds", "2")
    assert (code, played["findings"]) == (0, [])
    assert {one["outcomes"]["wrong-1"] for one in played["rounds"]} == {"REJECTED"}


def test_a_task_that_cannot_be_imported_is_a_configuration_error(found: Found, tmp_path: Path) -> None:
    (tmp_path / "task.py").write_text("import koii_no_such_module\n")
    code, error = found("task", "test", str(tmp_path), *FEW)
    assert (code, "koii_no_such_module" in error["error"]["why"]) == (3, True)
    code, error = found("task", "test", str(tmp_path / "absent"))
    assert (code, "nothing at this path" in error["error"]["why"]) == (3, True)


def test_a_person_sees_every_call_and_what_each_copy_came_to(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("task", "test", str(EXAMPLE), *FEW, "--live", "--home", str(tmp_path))
    assert run(list(words)) == 0
    shown = capsys.readouterr()
    assert "audit of wrong-1" in shown.out
    assert "REJECTED, -1.33 KOII" in shown.out
    assert "nothing found" in shown.out
    assert "distribution" in shown.err


def test_logs_of_tasks_are_picked_from_the_nodes_log(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    home = tmp_path / "home"
    assert run(["task", "logs", "--home", str(home)]) == 3
    capsys.readouterr()
    (home / "log").mkdir(parents=True)
    events = [
        {"event": "task_output", "task": TASK, "line": "hello \u001b[2J", "level": "info"},
        {"event": "task_worker_ended", "task": "another", "reason": "it crashed", "level": "warning"},
        {"event": "submitted", "task": TASK, "level": "info"},
        {"event": "task_output", "level": "info"},
    ]
    (home / "log" / "node.log").write_text("".join(json.dumps(one) + "\n" for one in events) + "no json\n")
    assert run(["task", "logs", "--home", str(home)]) == 0
    both = capsys.readouterr().out
    assert both.splitlines()[0].endswith("line=hello \ufffd[2J")
    assert "it crashed" in both
    assert len(both.splitlines()) == 2
    assert run(["task", "logs", TASK, "--home", str(home)]) == 0
    assert "it crashed" not in capsys.readouterr().out
    assert run(["task", "logs", "not a key", "--home", str(home)]) == 2
    assert not is_of_task(b"[1]", None)
