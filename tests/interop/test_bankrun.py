"""The same settlement program in the runtime of Solana 1.18: every case of its tests ends as in solders' machine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any, Final

import pytest

from koii_p2p.settlement.instructions import Tag
from koii_p2p.settlement.refusals import ProgramError as E
from scripts.build_program import compiler_missing
from tests.settlement.virtual_chain import TaskChain

from .bankrun import UNITS_FILE, differences, measured_units, program_digest, replay
from .recording import FILE_VARIABLE, recording

ROOT: Final = Path(__file__).parents[2]
PROGRAM_TESTS: Final = (
    "test_settlement_program.py",
    "test_leaving.py",
    "test_vetoes.py",
    "test_terms_on_chain.py",
    "test_refusals_tasks.py",
    "test_refusals_anchors.py",
    "test_refusals_settle.py",
    "test_refusals_veto.py",
    "test_refusals_leaving.py",
    "test_refusals_rest.py",
    "test_retries_at_random.py",
    "test_model.py",
)
RECORD_SECONDS: Final = 300


def record(file: Path) -> dict[str, Any]:
    """Run the program's tests once more, in a process of their own, and take down what they do."""
    done = subprocess.run(
        [
            *(
                sys.executable,
                "-m",
                "pytest",
                "-q",
                "-p",
                "no:cacheprovider",
                "-p",
                "tests.interop.recording",
            ),
            *(str(ROOT / "tests" / "settlement" / name) for name in PROGRAM_TESTS),
        ],
        cwd=ROOT,
        env={**os.environ, FILE_VARIABLE: str(file)},
        capture_output=True,
        text=True,
        timeout=RECORD_SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:]
    recorded: dict[str, Any] = json.loads(file.read_text())
    return recorded


@pytest.mark.slow
def test_every_case_ends_the_same_in_the_old_runtime(bankrun_modules: Path, tmp_path: Path) -> None:
    recorded = record(tmp_path / "recorded.json")
    outcomes = replay(recorded, bankrun_modules, tmp_path)
    cases = recorded["cases"]
    print(f"{outcomes['runtime']}: {len(cases)} cases, of {recorded['transactions']} transactions")
    assert recorded["sha256"] == program_digest()
    assert differences(recorded, outcomes) == []
    # Not vacuous: every instruction was accepted and refused, every code was had, and all attacks are among them.
    alone = [(Tag(int(case["tags"][0], 16)), case["err"]) for case in cases if case["tags"][0] in TAGS]
    assert {tag for tag, err in alone if err is None} == {tag for tag, err in alone if err} == set(Tag)
    codes = Counter(case["err"]["InstructionError"][1]["Custom"] for case in cases if case["err"])
    unreachable = {E.SYSCALL} if compiler_missing() is None else {E.SYSCALL, E.CALLED_BY_PROGRAM}
    assert set(E) - set(codes) == unreachable
    attacks = {
        case["name"] for case in cases if "test_refused_with_its_own_code" in case["name"] and case["err"]
    }
    assert len(attacks) >= 150
    print(f"{sum(codes.values())} refused with {len(codes)} codes; {len(attacks)} of the tests are attacks")


TAGS: Final = {f"{int(tag):02x}" for tag in Tag}


def test_a_difference_would_be_seen(bankrun_modules: Path, tmp_path: Path) -> None:
    """One slot earlier a commitment is refused; with another amount before, another is there afterwards."""
    with recording() as kept:
        chain = TaskChain()
        chain.at(chain.clock.commitment(0).opens)
        chain.ok(chain.commit_instruction(0), signers=[chain.stakers[0]])
    recorded = kept.dump()
    assert differences(recorded, replay(recorded, bankrun_modules, tmp_path)) == []

    commitment = recorded["cases"][-1]
    commitment["slot"] -= 1
    (refused,) = differences(recorded, replay(recorded, bankrun_modules, tmp_path))
    assert (
        refused.found == f"Error processing Instruction 1: custom program error: {int(E.COMMITMENT_EARLY):#x}"
    )

    commitment["slot"] += 1
    payer = recorded["states"][commitment["before"][str(chain.payer.pubkey())]]
    payer["lamports"] += 1
    before = [case["before"] for case in recorded["cases"]]
    later = replay(recorded, bankrun_modules, tmp_path)
    found = differences(recorded, later)
    assert [one.found[str(chain.payer.pubkey())]["lamports"] for one in found][-1] == payer[
        "lamports"
    ] - 10_000
    assert before == [case["before"] for case in recorded["cases"]]


def test_the_compute_units_on_the_page_are_those_of_the_old_runtime(
    bankrun_modules: Path, tmp_path: Path
) -> None:
    kept = json.loads(UNITS_FILE.read_text())
    assert measured_units(bankrun_modules, tmp_path) == kept, (
        "run scripts/make_settlement_page.py --old-runtime"
    )
    assert set(kept["units"]) == {tag.name for tag in Tag}
