"""Koii's classic classes, run in real workers."""

from __future__ import annotations

from pathlib import Path

import pytest

from koii_p2p.errors import ConfigurationError
from koii_p2p.records.schema import Verdict
from koii_p2p.rounds.distribution import Submitter
from koii_p2p.rounds.tally import Outcome
from koii_p2p.tasks.classic import Distribution, JsObject, namespace_wrapper
from koii_p2p.tasks.loader import load_task_class
from koii_p2p.tasks.sdk import NotOffered
from tests.tasks.conftest import Running

KEYS = [bytes([number]) * 32 for number in (1, 2, 3, 4)]
SUBMITTERS = [
    Submitter(KEYS[0], Outcome.APPROVED, 1_900_000_000),
    Submitter(KEYS[1], Outcome.APPROVED, 1_900_000_000),
    Submitter(KEYS[2], Outcome.REJECTED, 1_900_000_000),
    Submitter(KEYS[3], Outcome.UNDECIDED, 1_900_000_000),
]
KOIIS_LIST = {KEYS[0]: 50_000_000, KEYS[1]: 50_000_000, KEYS[2]: -1_330_000_000, KEYS[3]: 0}


async def test_a_port_line_for_line_in_koiis_spelling(running: Running) -> None:
    async with running("classic_camel.py") as runner:
        assert await runner.submission(1) is None
        assert await runner.task(1)
        assert await runner.submission(1) == "Hello, World!"
        assert await runner.audit("Hello, World!", 1, KEYS[0]) == (Verdict.VALID, "")
        assert await runner.audit("Hello, Mars!", 1, KEYS[0]) == (Verdict.INVALID, "")
        verdict, detail = await runner.audit("unreadable", 1, KEYS[0])
        assert (verdict, "cannot fetch it" in detail) == (Verdict.UNAVAILABLE, True)
        assert await runner.distribution(SUBMITTERS, 100_000_001, 1) == KOIIS_LIST


async def test_pythons_spelling_and_the_default_list(running: Running) -> None:
    async with running("classic_snake.py") as runner:
        assert await runner.task(7)
        assert await runner.submission(7) == "round 7"
        assert await runner.audit("round 7", 7, KEYS[0]) == (Verdict.VALID, "")
        assert await runner.audit("round 8", 7, KEYS[0]) == (Verdict.INVALID, "")
        assert await runner.distribution(SUBMITTERS, 100_000_001, 1) == KOIIS_LIST


async def test_a_class_that_is_left_out_is_koiis_default(running: Running, tmp_path: Path) -> None:
    (tmp_path / "task.py").write_text(
        "from koii_p2p.tasks.classic import Submission\n"
        "class Only(Submission):\n"
        "    def fetch_submission(self, round): return 'x'\n"
    )
    async with running(tmp_path) as runner:
        assert await runner.submission(1) == "x"
        verdict, detail = await runner.audit("x", 1, KEYS[0])
        assert verdict is Verdict.UNAVAILABLE
        assert "has no method validate_node" in detail


def test_two_of_one_class_are_refused(tmp_path: Path) -> None:
    (tmp_path / "task.py").write_text(
        "from koii_p2p.tasks.classic import Audit\nclass A(Audit): ...\nclass B(Audit): ...\n"
    )
    with pytest.raises(ConfigurationError, match="2 subclasses of Audit"):
        load_task_class(tmp_path)


def test_what_the_wrapper_returns_reads_as_in_javascript() -> None:
    info = JsObject({"submissions": JsObject({"7": JsObject({"key": JsObject(slot=1)})})})
    assert info.submissions[7] is info["submissions"]["7"]
    assert info.submissions[7].key["slot"] == info.submissions["7"]["key"].slot == 1
    assert (info.submissions[8], info.submissions["8"], info["other"]) == (None, None, None)
    with pytest.raises(AttributeError, match="there is no submisions in it, but submissions"):
        _ = info.submisions


async def test_the_state_of_a_task_reads_the_same_whenever_it_is_asked_for(
    running: Running, tmp_path: Path
) -> None:
    (tmp_path / "task.py").write_text(
        "from koii_p2p.tasks.classic import Distribution, Submission, namespaceWrapper\n"
        "class Asks(Submission):\n"
        "    async def fetchSubmission(self, round):\n"
        "        info = await namespaceWrapper.getTaskSubmissionInfo(round)\n"
        "        return f'{list(info.submissions[round])} {info.submissions_audit_trigger[round]}'\n"
        "class Lists(Distribution):\n"
        "    async def generateDistributionList(self, round):\n"
        "        state = await namespaceWrapper.getTaskState()\n"
        "        info = await namespaceWrapper.getTaskSubmissionInfo(round)\n"
        "        votes = info.submissions_audit_trigger[round]\n"
        "        taken = {one: votes[one].votes[0].is_valid for one in info.submissions[round] if votes[one]}\n"
        "        return {one: -state.stake_list[one] for one, valid in taken.items() if not valid}\n"
    )
    async with running(tmp_path) as runner:
        assert await runner.distribution(SUBMITTERS, 100_000_001, 1) == {KEYS[2]: -1_900_000_000}


async def test_the_wrapper_belongs_to_a_call() -> None:
    with pytest.raises(NotOffered, match="only while the node calls the task"):
        await namespace_wrapper.store_get("value")
    with pytest.raises(NotOffered, match="compares lists itself"):
        await Distribution().validate_distribution("key", 1)
    assert Distribution().shallowEqual({"a": 1}, {"a": 1})
    assert not Distribution().shallow_equal({"a": 1}, {"a": 2})
