from __future__ import annotations

import re
from pathlib import Path

import pytest

from koii_p2p.records.schema import Verdict
from koii_p2p.rounds.distribution import Submitter, default_distribution
from koii_p2p.rounds.tally import Outcome
from koii_p2p.tasks import classic
from tests.examples.playing import EXAMPLES, command_of, in_a_worker, rehearsed

EXAMPLE = EXAMPLES / "ported_task"
KEYS = [bytes([number]) * 32 for number in range(1, 6)]
STAKE = 1_900_000_001


async def test_it_does_what_the_original_does(tmp_path: Path) -> None:
    async with in_a_worker("ported_task", tmp_path) as runner:
        assert await runner.submission(1) is None
        assert await runner.task(1)
        assert await runner.submission(1) == "Hello, World!"
        assert await runner.audit("Hello, World!", 1, KEYS[0]) == (Verdict.VALID, "")
        assert await runner.audit("Hello, Mars!", 1, KEYS[0]) == (Verdict.INVALID, "")


@pytest.mark.parametrize(
    "outcomes",
    [
        [Outcome.APPROVED, Outcome.APPROVED, Outcome.REJECTED, Outcome.UNDECIDED, Outcome.UNAVAILABLE],
        [Outcome.REJECTED, Outcome.REJECTED],
        [Outcome.APPROVED] * 3,
    ],
)
async def test_its_list_pays_and_takes_what_the_default_rule_does(
    outcomes: list[Outcome], tmp_path: Path
) -> None:
    submitters = [Submitter(key, outcome, STAKE) for key, outcome in zip(KEYS, outcomes, strict=False)]
    async with in_a_worker("ported_task", tmp_path) as runner:
        made = await runner.distribution(submitters, 100_000_000, 7)
    expected = default_distribution(submitters, 100_000_000, 7000)
    assert made == {key: amount for key, amount in expected.items() if amount}


def test_rounds_with_all_kinds_of_copies(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = rehearsed("ported_task", tmp_path, capsys, monkeypatch, "--rounds", "1")
    assert found["rounds"][0]["amounts"] == {
        **{f"honest-{number}": 333_333_333 for number in (1, 2, 3)},
        "wrong-1": -1_330_000_000,
    }
    assert command_of("ported_task", "testnet up") == ["testnet", "up", "--task", "examples/ported_task"]


def test_every_call_is_one_of_koiis() -> None:
    called = set(re.findall(r"namespaceWrapper\.(\w+)", (EXAMPLE / "task.py").read_text()))
    assert called <= set(classic.KOII_SPELLING)
    assert len(called) == 9
