from __future__ import annotations

import importlib.util
from pathlib import Path

from koii_p2p.records.schema import Verdict
from koii_p2p.rounds.distribution import Submitter
from koii_p2p.rounds.tally import Outcome
from tests.examples.playing import in_a_worker

EXAMPLE = Path(__file__).parents[2] / "examples" / "hello_world"


async def test_a_round_of_hello_world(tmp_path: Path) -> None:
    async with in_a_worker("hello_world", tmp_path / "work") as runner:
        assert await runner.submission(1) is None  # nothing was done yet
        assert await runner.task(1)
        assert await runner.submission(1) == "Hello, World!"
        assert await runner.audit("Hello, World!", 1, b"a" * 32) == (Verdict.VALID, "")
        assert await runner.audit("Hello, Mars!", 1, b"a" * 32) == (Verdict.INVALID, "")
        assert await runner.audit(b"Hello, World!", 1, b"a" * 32) == (Verdict.INVALID, "")
        outcomes = {b"a" * 32: Outcome.APPROVED, b"b" * 32: Outcome.APPROVED, b"c" * 32: Outcome.REJECTED}
        submitters = [Submitter(key, outcome, 1_900_000_000) for key, outcome in outcomes.items()]
        assert await runner.distribution(submitters, 100_000_001, 1) == {
            b"a" * 32: 50_000_000,
            b"b" * 32: 50_000_000,
            b"c" * 32: -1_330_000_000,
        }
        assert runner.statistics().failures == {}


def test_its_class_can_be_imported_without_a_node() -> None:
    spec = importlib.util.spec_from_file_location("hello_world_example", EXAMPLE / "task.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.GREETING == "Hello, World!"
