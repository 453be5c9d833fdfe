"""`koii-p2p task test`: rounds of a task with honest and other copies, on virtual time, in seconds."""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Final

import trio
import typer
from rich.console import Group
from rich.text import Text

from koii_p2p.cli.main import Invocation
from koii_p2p.cli.output import configure_logs, koii, plain, print_result, table
from koii_p2p.cli.settings import load_settings
from koii_p2p.errors import ConfigurationError
from koii_p2p.node.rehearsal import Call, Kind, Rehearsal, rehearse
from koii_p2p.rounds.terms import TaskTerms, TermsError
from koii_p2p.tasks.config_task import FILE_NAME, load_config
from koii_p2p.tasks.config_terms import plan_of
from koii_p2p.tasks.task_network import asks_for_internet

MOST_COPIES: Final = 32
MOST_ROUNDS: Final = 100

DEFAULT_TERMS: Final = TaskTerms(
    task=b"koii-p2p/rehearsal".ljust(32, b"."),
    creator=bytes(32),
    name="rehearsal",
    starting_slot=0,
    round_time=500,
    submission_window=200,
    audit_window=200,
    bounty_per_round=1_000_000_000,
    minimum_stake=1_900_000_000,
)
"""For a task without a config-task.yml: those of `examples/hello_world`."""


def rehearsal(
    ctx: typer.Context,
    path: Annotated[
        Path, typer.Argument(metavar="PATH", help="The task's folder, or its .py file.", exists=False)
    ],
    rounds: Annotated[int, typer.Option("--rounds", min=1, max=MOST_ROUNDS, help="How many rounds.")] = 3,
    honest: Annotated[
        int, typer.Option("--honest", min=1, max=MOST_COPIES, help="Copies that do what the task says.")
    ] = 4,
    wrong: Annotated[
        int, typer.Option("--wrong", min=0, max=MOST_COPIES, help="Copies that submit another value.")
    ] = 1,
    slow: Annotated[
        int, typer.Option("--slow", min=0, max=MOST_COPIES, help="Copies that answer when windows are over.")
    ] = 1,
    crashing: Annotated[
        int,
        typer.Option("--crashing", min=0, max=MOST_COPIES, help="Copies whose worker dies while it audits."),
    ] = 1,
    cheater: Annotated[
        Path | None,
        typer.Option(
            "--cheater", metavar="PATH", help="A task that cheats: the wrong copies submit what it makes."
        ),
    ] = None,
    get: Annotated[
        list[str] | None,
        typer.Option(
            "--get", metavar="PATH", help="Ask the task's routes for this at the end, such as /health."
        ),
    ] = None,
    task_network: Annotated[
        bool,
        typer.Option(
            "--task-network",
            help="Serve routes on loopback, and let copies reach each other and the internet if config-task.yml asks.",
        ),
    ] = False,
    live: Annotated[bool, typer.Option("--live", help="Show each call on stderr as it ends.")] = False,
) -> int:
    """Play rounds of a task in real workers, on virtual time: every call, its time and verdict, and what is paid.

    Calls audits and distributions twice, since all nodes have to come to the same. The exit code is 1 if anything would
    go wrong in a network: honest work that is not approved, wrong work that is, calls that fail, lists that differ.
    """
    invocation: Invocation = ctx.obj
    settings = load_settings(invocation).settings
    configure_logs(invocation.verbosity, "error")
    if cheater is not None and not wrong:
        raise typer.BadParameter("it is for wrong copies, and there are none", param_hint="--cheater")
    terms = terms_of(path)
    kinds = [
        *[Kind.HONEST] * honest,
        *[Kind.WRONG] * wrong,
        *[Kind.SLOW] * slow,
        *[Kind.CRASHING] * crashing,
    ]

    def show(call: Call) -> None:
        if live:
            sys.stderr.write(f"{'  '.join(str(cell) for cell in _row(call))}\n")

    async def play() -> Rehearsal:
        with tempfile.TemporaryDirectory(prefix="koii-p2p-") as folder:
            network = task_network and asks_for_internet(path)
            gets = [one if one.startswith("/") else f"/{one}" for one in get or ()]
            place, asked = Path(folder), partial(rehearse, cheater=cheater, gets=gets, network=network)
            return await asked(path, terms, kinds, rounds, place, show=show)

    began = time.monotonic()
    found = trio.run(play)
    seconds = time.monotonic() - began
    print_result(as_json(found, seconds), _for_a_person(found, seconds), settings.output)
    return 1 if found.findings else 0


def terms_of(path: Path) -> TaskTerms:
    """The terms of the task's config-task.yml, or `DEFAULT_TERMS` if it has none. Raises `ConfigurationError`."""
    folder = path if path.is_dir() else path.parent
    if not (folder / FILE_NAME).exists():
        return DEFAULT_TERMS
    try:
        plan = plan_of(load_config(folder).config)
        return plan.terms(DEFAULT_TERMS.task, DEFAULT_TERMS.creator, 0)
    except TermsError as error:
        raise ConfigurationError(
            f"The task {path} cannot be tested.", f"{error}.", f"Correct its {FILE_NAME}."
        ) from error


def as_json(found: Rehearsal, seconds: float) -> dict[str, Any]:
    """A rehearsal as JSON-ready values; outcomes by name, amounts in Roe."""
    return {
        "copies": list(found.copies),
        "rounds": [
            {
                "round": one.round,
                "settled": one.settled,
                "outcomes": {name: outcome.name for name, outcome in one.outcomes.items()},
                "amounts": dict(one.amounts),
            }
            for one in found.rounds
        ],
        "calls": [asdict(call) for call in found.calls],
        "findings": list(found.findings),
        "seconds": round(seconds, 2),
    }


def _for_a_person(found: Rehearsal, seconds: float) -> Group:
    columns = ("slot", "round", "copy", "call", "answer", "ms")
    calls = table(columns, [_row(call) for call in found.calls])
    rows = [
        [name, *(_came_to(one.outcomes.get(name), one.amounts.get(name, 0)) for one in found.rounds)]
        for name in found.copies
    ]
    rounds = table(("copy", *(_head(one.round, one.settled) for one in found.rounds)), rows)
    last = f"{len(found.rounds)} rounds, {len(found.calls)} calls, in {seconds:.1f} s; "
    last += f"{len(found.findings)} findings" if found.findings else "nothing found"
    return Group(calls, Text(), rounds, Text(), *_lines(found.findings), Text(last, style="bold"))


def _row(call: Call) -> tuple[object, ...]:
    what = f"{call.function} {call.about}".strip()
    return call.slot, call.round, call.copy, what, plain(call.answer), f"{call.milliseconds:.1f}"


def _head(number: int, settled: bool) -> str:
    return f"round {number}" + ("" if settled else " (not settled)")


def _came_to(outcome: Any, amount: int) -> str:
    said = "nothing submitted" if outcome is None else outcome.name
    return f"{said}, {koii(amount)}"


def _lines(findings: Sequence[str]) -> list[Text]:
    return [Text(f"found: {plain(finding)}", style="yellow") for finding in findings]
