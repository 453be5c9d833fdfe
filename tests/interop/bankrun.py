"""Replays recorded transactions in solana-bankrun, which has the runtime of Solana 1.18 in it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from koii_p2p.settlement.instructions import Tag
from koii_p2p.settlement.layouts import ROUND_RING
from tests.settlement.virtual_chain import (
    COMPUTE_BUDGET_UNITS,
    PROGRAM_SO,
    TaskChain,
    use_every_instruction,
)

from .npm import run_node
from .recording import recording

UNITS_FILE: Final = Path(__file__).with_name("compute_units.json")
REPLAY_SECONDS: Final = 240


@dataclass(frozen=True, slots=True)
class Difference:
    """A case that the two runtimes do not agree on: what solders' did, and what the old one did."""

    name: str
    expected: Any
    found: Any


def replay(recorded: Mapping[str, Any], modules: Path, folder: Path) -> dict[str, Any]:
    """What the old runtime makes of every case: error text, compute units and the accounts afterwards."""
    cases, outcomes = folder / "cases.json", folder / "outcomes.json"
    cases.write_text(json.dumps(recorded))
    files = (str(PROGRAM_SO), str(cases), str(outcomes))
    run_node(modules, "bankrun.cjs", *files, seconds=REPLAY_SECONDS, environment={"RUST_LOG": "error"})
    found: dict[str, Any] = json.loads(outcomes.read_text())
    return found


def old_text(err: object) -> str | None:
    """How the old runtime says what solders' says as JSON. Raises `ValueError` for what no case has had yet."""
    match err:
        case None:
            return None
        case {"InstructionError": [int(place), {"Custom": int(code)}]}:
            return f"Error processing Instruction {place}: custom program error: {code:#x}"
    raise ValueError(f"how does Solana 1.18 say {err}?")


def differences(recorded: Mapping[str, Any], outcomes: Mapping[str, Any]) -> list[Difference]:
    """Every case whose outcome, error code or accounts are not the same in both."""
    found = []
    for case, outcome in zip(recorded["cases"], outcomes["cases"], strict=True):
        err = old_text(case["err"])
        if outcome["err"] != err:
            found.append(Difference(case["name"], err, outcome["err"]))
        elif outcome["after"] != case["after"]:
            states = recorded["states"] | outcome.get("unknown", {})
            both = (
                {key: states.get(side["after"][key]) for key in case["after"]} for side in (case, outcome)
            )
            found.append(Difference(case["name"], *both))
    return found


def units(cases: Iterable[tuple[Mapping[str, Any], Mapping[str, Any]]]) -> dict[str, int]:
    """The most compute units of each instruction among the good cases of one instruction alone."""
    most: dict[str, int] = {}
    for case, outcome in cases:
        if case["err"] is None and len(case["tags"]) == 1:
            name = Tag(int(case["tags"][0], 16)).name
            most[name] = max(most.get(name, 0), outcome["units"] - COMPUTE_BUDGET_UNITS)
    return most


def measured_units(modules: Path, folder: Path) -> dict[str, Any]:
    """Compute units of every instruction in the old runtime, in the life of a task that docs/settlement.md measures."""
    with recording() as kept:
        use_every_instruction(TaskChain(), rounds=ROUND_RING + 1)
    recorded = kept.dump()
    outcomes = replay(recorded, modules, folder)
    found = units(zip(recorded["cases"], outcomes["cases"], strict=True))
    return {"runtime": outcomes["runtime"], "sha256": program_digest(), "units": found}


def program_digest() -> str:
    """SHA-256 of the program's code, in hexadecimal."""
    return hashlib.sha256(PROGRAM_SO.read_bytes()).hexdigest()
