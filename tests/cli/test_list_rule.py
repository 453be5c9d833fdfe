"""Lists of tasks with a distribution of their own, checked on the command line; the workers are real."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import trio

from koii_p2p.cli.list_rule import with_rule
from koii_p2p.cli.main import run
from koii_p2p.cli.task_rehearsal import DEFAULT_TERMS
from koii_p2p.errors import ConfigurationError
from koii_p2p.rounds.distribution import Submitter
from koii_p2p.rounds.tally import Outcome
from koii_p2p.rounds.verification import Distribute, NotRecomputed
from koii_p2p.testnets.evidence import save_evidence
from tests.testnets.test_own_distribution import REWARD, own

EXAMPLES = Path(__file__).parents[2] / "examples"
HEAD = "from koii_p2p.tasks.sdk import Task\nclass Mine(Task):\n    def submission(self, ctx, round): return 'x'\n"
LESSON = f"""
    async def distribution(self, ctx, submitters, bounty, round):
        return {{one.public_key: {REWARD} if one.votes > 0 else one.stake * min(one.votes, 0) for one in submitters}}
"""
GROUP = [Submitter(b"a" * 32, Outcome.APPROVED, 10), Submitter(b"b" * 32, Outcome.REJECTED, 10)]


def written(folder: Path, distribution: str) -> Path:
    (folder / "task.py").write_text(HEAD + distribution)
    return folder


def amounts_of(path: Path) -> Mapping[bytes, int] | str | None:
    """What the rule of a task gives for `GROUP`: None if it is Koii's, and why not if it gives nothing."""

    def ask(distribute: Distribute | None) -> Mapping[bytes, int] | str | None:
        try:
            return None if distribute is None else distribute(GROUP, 100, 7)
        except NotRecomputed as why:
            return str(why)

    return trio.run(with_rule, path, DEFAULT_TERMS, ask)


def test_a_tasks_own_distribution_is_run_in_a_worker() -> None:
    assert amounts_of(EXAMPLES / "caesar_cipher") == {b"a" * 32: 100, b"b" * 32: -10}


def test_an_inherited_distribution_is_not_run_at_all(tmp_path: Path) -> None:
    assert amounts_of(written(tmp_path, "")) is None
    assert amounts_of(EXAMPLES / "google_doodle") is None, "nor one of Koii's classic classes"


def test_a_distribution_of_the_classic_classes_is_found(tmp_path: Path) -> None:
    (tmp_path / "task.py").write_text(
        "from koii_p2p.tasks.classic import Distribution, Submission\n"
        "class Mine(Distribution):\n"
        "    async def generateDistributionList(self, round):\n"
        "        return {}\n"
    )
    assert amounts_of(tmp_path) == {}


@pytest.mark.parametrize(
    ("body", "part"),
    [
        ("return {submitters[0].public_key: bounty / 3}", "whole Roe"),
        ("return {submitters[0].public_key: bounty + 1}", "pays 101 Roe of a bounty of 100"),
        ("return {submitters[1].public_key: -11}", "takes 11 Roe"),
        ("return {ctx.task_id: 1}", "who did not submit"),
        ("return {one: 1 for one in await ctx.submissions(round)}", "RequestRefused"),
        ("import os; os._exit(1)", "gave no list"),
    ],
)
def test_a_distribution_that_gives_no_list_is_not_recomputed(tmp_path: Path, body: str, part: str) -> None:
    path = written(
        tmp_path, f"    async def distribution(self, ctx, submitters, bounty, round):\n        {body}\n"
    )
    found = amounts_of(path)
    assert isinstance(found, str)
    assert part in found


def test_code_that_cannot_be_imported_is_an_error_of_whoever_named_it(tmp_path: Path) -> None:
    (tmp_path / "task.py").write_text("import koii_no_such_module\n")
    with pytest.raises(ConfigurationError, match="could not be imported"):
        amounts_of(tmp_path)


# --- testnet check


@pytest.fixture
def checked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, dict[str, Any]]]:
    evidence = tmp_path / "evidence"
    save_evidence(own(), evidence)

    def command(*words: str) -> tuple[int, dict[str, Any]]:
        code = run(["testnet", "check", "--evidence", str(evidence), *words, "--output", "json"])
        captured = capsys.readouterr()
        return code, json.loads(captured.out or captured.err)

    return command


def test_evidence_is_checked_with_the_tasks_code(
    checked: Callable[..., tuple[int, dict[str, Any]]], tmp_path: Path
) -> None:
    code, found = checked("--code", str(written(tmp_path, LESSON)))
    assert (code, found["verified"], found["ok"], found["unrecomputed"]) == (0, True, True, [])
    code, found = checked("--code", str(EXAMPLES / "hello_world"))
    assert (code, found["verified"]) == (1, False)
    assert "list_leaf" in {finding["code"] for finding in found["findings"]}
    code, found = checked("--code", str(tmp_path / "nothing"))
    assert (code, "nothing at this path" in found["error"]["why"]) == (3, True)


def test_evidence_without_the_code_is_neither_right_nor_wrong(
    checked: Callable[..., tuple[int, dict[str, Any]]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    code, found = checked()
    assert (code, found["verified"], found["findings"], len(found["unrecomputed"])) == (1, False, [], 3)
    assert run(["testnet", "check", "--evidence", str(tmp_path / "evidence")]) == 1
    shown = " ".join(capsys.readouterr().out.split())
    assert "verified: all but the lists of rounds 0, 1, 2, which were not recomputed" in shown
    assert "the task's code is not at hand. Name the task's code with --code." in shown
    assert "verified: yes" not in shown


# --- explain


def test_an_explanation_says_whether_the_tasks_own_rule_was_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    evidence = tmp_path / "evidence"
    save_evidence(own(), evidence)

    def reasons(node: int, *words: str) -> tuple[str, dict[str, Any]]:
        key = own().nodes[node].key
        code = run(["explain", "0", key, "--evidence", str(evidence), *words, "--output", "json"])
        assert code == 0
        found = json.loads(capsys.readouterr().out)
        return " ".join(found["reasons"]), found["amounts"]

    told, amounts = reasons(0)
    assert "0.123456789 KOII are not Koii's equal split: the rule is the task's own" in told
    assert amounts["own_rule"] is None
    told, amounts = reasons(4)
    assert "1.9 KOII are not the slash of Koii's default" in told
    right = ("--code", str(written(tmp_path, LESSON)))
    told, amounts = reasons(0, *right)
    assert "The task's own distribution, run again, gives 0.123456789 KOII, as the list has it." in told
    assert amounts["own_rule"] == {"amount": REWARD, "agrees": True, "why": ""}
    told, amounts = reasons(4, *right)
    assert "run again, takes 1.9 KOII, as the list has it." in told
    told, amounts = reasons(5, *right)
    assert amounts["own_rule"]["agrees"], "a conviction costs what the terms say, whatever the task says"
    (tmp_path / "other").mkdir()
    other = "    def distribution(self, ctx, them, bounty, round): return {them[0].public_key: 1}\n"
    told, amounts = reasons(0, "--code", str(written(tmp_path / "other", other)))
    assert "and that does not lead to what the list has" in told
    assert amounts["own_rule"]["agrees"] is False
    broken = "    def distribution(self, ctx, them, bounty, round): return 1 / 0\n"
    told, amounts = reasons(0, "--code", str(written(tmp_path / "other", broken)))
    assert "run again: the task's distribution gave no list: raised: ZeroDivisionError" in told
