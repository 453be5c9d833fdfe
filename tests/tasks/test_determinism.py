"""Tasks that answer differently, and what `check_code` says of each; the workers are real."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from koii_p2p.errors import ConfigurationError
from koii_p2p.limits import Limits
from koii_p2p.tasks.determinism import CodeCheck, check_code
from tests.tasks.conftest import FIXTURES

EXAMPLES = Path(__file__).parents[2] / "examples"
HEAD = """
import datetime, os, random, time
from koii_p2p.tasks.sdk import Task
"""
WORK = "    def submission(self, ctx, round): return f'work {round}'\n"
AUDIT = "    def audit(self, ctx, submission, round, submitter): return submission == f'work {round}'\n"
LIST = "    def distribution(self, ctx, submitters, bounty, round):\n"


async def checked(path: Path, tmp_path: Path) -> CodeCheck:
    limits = replace(Limits(), worker_niceness=0, worker_call_seconds=60.0, worker_start_seconds=60.0)
    return await check_code(path, tmp_path / "work", bounty=10**9, slash_basis_points=7000, limits=limits)


async def checked_body(body: str, tmp_path: Path, head: str = "") -> CodeCheck:
    (tmp_path / "task.py").write_text(f"{HEAD}{head}\nclass Mine(Task):\n{body}")
    return await checked(tmp_path, tmp_path)


def audit_with(expression: str) -> str:
    return WORK + f"    def audit(self, ctx, submission, round, submitter): return {expression}\n"


def list_with(lines: str) -> str:
    indented = "".join(f"        {line}\n" for line in lines.split("; "))
    return WORK + AUDIT + LIST + indented


@pytest.mark.parametrize("name", ["hello_world", "caesar_cipher", "google_doodle"])
async def test_the_examples_answer_alike(name: str, tmp_path: Path) -> None:
    found = await checked(EXAMPLES / name, tmp_path)
    assert (found.findings, found.notes) == ((), ())
    assert found.calls >= 14
    called = {"setup", "task", "submission", "audit", "distribution", "routes"}
    assert {one.name for one in found.functions} == called
    owns = {one.name: one.own for one in found.functions}
    assert (owns["audit"], owns["distribution"]) == (True, name == "caesar_cipher")


@pytest.mark.parametrize(
    ("expression", "cause", "remedy"),
    [
        ("random.random() < 0.5", "asked again", "Use no randomness"),
        ("setattr(self, 'n', getattr(self, 'n', 0) + 1) or self.n % 2 == 0", "asked again", "keep nothing"),
        ("hash(submission) % 2 == 0", "orders sets differently", "Sort a set"),
        ("list({'a', 'b', 'c', 'd', 'e'}).index('a') % 2 == 0", "orders sets differently", "Sort a set"),
        ("time.time() < START + 3600", "at another time", "Use no clock"),
        ("datetime.datetime.now(datetime.UTC).year == YEAR", "at another time", "Use no clock"),
        ("datetime.date.today().year == YEAR", "at another time", "Use no clock"),
        ("time.localtime().tm_year == YEAR", "at another time", "Use no clock"),
        ("submitter == ctx.submitter", "at another node", "ctx.submitter"),
    ],
)
async def test_an_audit_that_differs_is_named_with_its_cause(
    expression: str, cause: str, remedy: str, tmp_path: Path
) -> None:
    import time

    head = f"START, YEAR = {int(time.time())}, {time.gmtime().tm_year}"
    found = await checked_body(audit_with(expression), tmp_path, head)
    (sentence,) = found.findings
    assert sentence.startswith("audit() is not the same everywhere: ")
    assert cause in sentence
    assert remedy in sentence


@pytest.mark.parametrize(
    ("lines", "part"),
    [
        ("return {one.public_key: random.randrange(1000) for one in submitters}", "asked again"),
        (
            "approved = {one.public_key for one in submitters if one.votes > 0}; "
            "first = list(approved)[:1]; return {key: bounty for key in first}",
            "orders sets differently",
        ),
        ("return {one.public_key: int(time.time()) // 10**6 for one in submitters}", "no clock"),
        ("return {one.public_key: time.localtime().tm_year for one in submitters}", "at another time"),
        (
            "return {one.public_key: int(ctx.submitter < one.public_key) for one in submitters}",
            "another node",
        ),
        ("return {one.public_key: bounty / 9 for one in submitters}", "whole Roe"),
        ("return {one.public_key: bounty for one in submitters}", "of a bounty of 1000000000"),
        ("return {one.public_key: -one.stake - 1 for one in submitters}", "who staked"),
        ("return bounty // len(submitters)", "of 0 submitters in round 0: raised: ZeroDivisionError"),
        ("return sorted(submitters)", "TypeError"),
        ("return {ctx.task_id: 0}", "who did not submit"),
    ],
)
async def test_a_distribution_that_differs_or_gives_no_list(lines: str, part: str, tmp_path: Path) -> None:
    found = await checked_body(list_with(lines), tmp_path)
    (sentence,) = found.findings
    assert sentence.startswith("distribution() ")
    assert part in sentence


async def test_what_does_not_matter_is_not_found(tmp_path: Path) -> None:
    """The order of a list's keys, what a submission is made of, and clocks that only measure."""
    body = (
        "    async def task(self, ctx, round): await ctx.store.set('v', f'{ctx.submitter} {random.random()}')\n"
        "    async def submission(self, ctx, round): return await ctx.store.get('v')\n"
        "    async def audit(self, ctx, submission, round, submitter):\n"
        "        began = time.monotonic()\n"
        "        assert isinstance(datetime.datetime(2020, 1, 1), datetime.date)\n"
        "        return submission.startswith(submitter) and time.monotonic() >= began\n"
        "    async def distribution(self, ctx, submitters, bounty, round):\n"
        "        return {key: 1 for key in {one.public_key for one in submitters}}\n"
    )
    found = await checked_body(body, tmp_path)
    assert (found.findings, found.notes) == ((), ())


@pytest.mark.parametrize(
    ("body", "parts"),
    [
        (AUDIT, ["submission() is missing: write `async def submission(self, ctx, round)`"]),
        (WORK, ["audit() is missing"]),
        (
            WORK + "    def audit(self, ctx, submission): return True\n",
            [
                "audit(ctx, submission) does not fit: nodes call it with (ctx, submission, round, submitter), too many"
            ],
        ),
        (
            "    def submission(self, ctx, round, more): return 'x'\n    def task(self): pass\n" + AUDIT,
            [
                "task() does not fit",
                "submission(ctx, round, more) does not fit",
                "missing a required argument: 'more'",
            ],
        ),
        (WORK + AUDIT + "    distribution = None\n", ["distribution is no function"]),
        (
            AUDIT + "    async def submission(self, ctx, round):\n        yield 'x'\n",
            ["submission() yields: a node takes what it returns"],
        ),
    ],
)
async def test_a_function_that_does_not_fit_is_named_before_it_is_called(
    body: str, parts: list[str], tmp_path: Path
) -> None:
    found = await checked_body(body, tmp_path)
    told = " ".join(found.findings)
    for part in parts:
        assert part in told
    assert found.calls == 0


@pytest.mark.parametrize(
    ("body", "part"),
    [
        (AUDIT + "    def submission(self, ctx, round): return 5\n", "submission() returned int"),
        (AUDIT + "    def submission(self, ctx, round): return 'x' * 600\n", "600 bytes where at most 512"),
        (audit_with("'yes'"), "audit() returned str; it must return True, False"),
        (audit_with("1"), "audit() returned int"),
    ],
)
async def test_a_wrong_type_is_told_with_the_function(body: str, part: str, tmp_path: Path) -> None:
    found = await checked_body(body, tmp_path)
    assert part in " ".join(found.findings)


async def test_what_needs_a_node_is_said_and_is_no_fault(tmp_path: Path) -> None:
    body = (
        "    async def task(self, ctx, round): await ctx.data.put(b'x')\n"
        "    async def submission(self, ctx, round): return await ctx.data.put(b'x')\n"
        "    async def audit(self, ctx, submission, round, submitter): return await ctx.data.get(submission) == b'x'\n"
    )
    found = await checked_body(body, tmp_path)
    assert found.findings == ()
    told = " ".join(found.notes)
    for part in (
        "task() did not finish here",
        "submission() gave nothing here",
        "audit() came to no verdict",
    ):
        assert part in told


async def test_classic_classes_are_looked_at_by_their_own_names(tmp_path: Path) -> None:
    head = "from koii_p2p.tasks.classic import Audit, Submission\n"
    (tmp_path / "task.py").write_text(
        head + "class Mine(Submission):\n    def fetchSubmission(self): return 'x'\n"
    )
    found = await checked(tmp_path, tmp_path)
    told = " ".join(found.findings)
    assert "Submission.fetch_submission() does not fit: nodes call it with (round)" in told
    assert "Audit.validate_node() is missing" in told
    found = await checked(FIXTURES / "classic_camel.py", tmp_path)
    assert not [sentence for sentence in found.findings if "fit" in sentence]


async def test_code_that_cannot_be_imported_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "task.py").write_text("import koii_no_such_module\n")
    with pytest.raises(ConfigurationError, match="could not be imported"):
        await checked(tmp_path, tmp_path)
