"""`koii-p2p task check`: whether a task's settings can be used, what they come to, and whether its code answers alike.

It asks no node and no K2.
"""

from __future__ import annotations

import tempfile
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any

import trio
import typer
from rich.console import Group, RenderableType
from rich.text import Text

from koii_p2p.cli.main import Invocation
from koii_p2p.cli.output import configure_logs, koii, pairs, plain, print_result, table
from koii_p2p.cli.settings import load_settings
from koii_p2p.errors import ConfigurationError
from koii_p2p.rounds.terms import TermsError
from koii_p2p.tasks.config_task import SECTION, config_file, load_config
from koii_p2p.tasks.config_terms import MEANINGS, TaskPlan, metadata_of, plan_of, seconds_of, timetable
from koii_p2p.tasks.determinism import CodeCheck, check_code
from koii_p2p.tasks.loader import TASK_FILE
from koii_p2p.tasks.rule_words import rules_in_words, rules_json

PathArgument = Annotated[
    Path, typer.Argument(metavar="PATH", help="A task's folder with a config-task.yml, or the file.")
]

_UNITS = ((86_400, "d"), (3600, "h"), (60, "min"), (1, "s"))


def check(ctx: typer.Context, path: PathArgument) -> int:
    """Check a task: what its config-task.yml becomes in slots, Roe and seconds, and whether its code answers alike.

    Where there is a task.py beside the file, its functions are looked at, and audit and distribution are called in
    several workers that differ in the order of sets, in clock, and in whose node they are. The exit code is 1 if they
    answer differently, or cannot be called.
    """
    invocation: Invocation = ctx.obj
    settings = load_settings(invocation).settings
    configure_logs(invocation.verbosity, "error")
    found = report(path)
    code = _code(path, found["bounty_per_round"], found["slash_basis_points"])
    found["code"] = None if code is None else asdict(code)
    print_result(found, Group(_for_a_person(found), Text(), *_code_shown(code)), settings.output)
    return 1 if code is not None and code.findings else 0


def _code(path: Path, bounty: int, slash_basis_points: int) -> CodeCheck | None:
    """What there is to say of the code beside a config, None if there is none. Raises `ConfigurationError`."""
    place = config_file(path).parent
    if not (place / TASK_FILE).is_file():
        return None

    async def look() -> CodeCheck:
        with tempfile.TemporaryDirectory(prefix="koii-p2p-") as folder:
            return await check_code(place, Path(folder), bounty=bounty, slash_basis_points=slash_basis_points)

    return trio.run(look)


def _code_shown(code: CodeCheck | None) -> list[RenderableType]:
    if code is None:
        return [Text(f"The code was not looked at: there is no {TASK_FILE} beside the file.")]
    rows = [(one.name, "own" if one.own else "inherited", one.fault or "fits") for one in code.functions]
    shown: list[RenderableType] = [table(("function", "whose", "as nodes call it"), rows), Text()]
    shown += [Text(f"not tried: {plain(note)}") for note in code.notes]
    shown += [Text(f"found: {plain(finding)}", style="yellow") for finding in code.findings]
    if not code.findings:
        text = f"{code.class_name} answered {code.calls} calls of audit and distribution alike in workers that differ."
        shown.append(Text(text))
    return shown


def report(path: Path) -> dict[str, Any]:
    """What a config comes to: its terms, times, money, metadata and warnings. Raises `ConfigurationError`."""
    read = load_config(path)
    plan = plan_of(read.config)
    warnings = list(read.warnings)
    if not plan.program:
        warnings.append(
            "The program's name on K2 would be the CID of an upload, which this file cannot know: give it to "
            f"`task create` with --program, or as `program` under {SECTION}; or --publish the folder."
        )
    _check_terms(plan)
    slots = timetable(plan)
    rounds = plan.fund // plan.bounty_per_round if plan.bounty_per_round else None
    return {
        "file": str(config_file(path)),
        "valid": True,
        "name": plan.name,
        "program": plan.program,
        "slots": slots,
        "seconds": {name: seconds_of(number) for name, number in slots.items()},
        "minimum_stake": plan.minimum_stake,
        "bounty_per_round": plan.bounty_per_round,
        "fund": plan.fund,
        "funded_rounds": rounds,
        "funded_seconds": None if rounds is None else seconds_of(rounds * plan.round_time),
        "slash_basis_points": plan.slash_basis_points,
        "allowed_failed_distributions": plan.allowed_failed_distributions,
        "audit": rules_json(rules_in_words(plan.rules)),
        "metadata": metadata_of(read.config, int(time.time() * 1000)),
        "meanings": {name: MEANINGS[name] for name in read.fields},
        "warnings": warnings,
    }


def _check_terms(plan: TaskPlan) -> None:
    try:
        replace(plan, program=plan.program or "main.js").terms(bytes(32), bytes(32), 0)
    except TermsError as error:  # the fields were checked one by one; this is the last word
        raise ConfigurationError(
            "The task cannot be like this.", f"{error}.", "Correct the config-task.yml."
        ) from error


def _for_a_person(found: dict[str, Any]) -> Group:
    shown: dict[str, object] = {
        "file": found["file"],
        "name": plain(found["name"]),
        "program": plain(found["program"]) or "none",
    }
    for name, slots in found["slots"].items():
        shown[name.replace("_", " ")] = f"{slots} slots = {lasting(found['seconds'][name])}"
    shown["minimum stake"] = f"{koii(found['minimum_stake'])} = {found['minimum_stake']} Roe"
    shown["bounty per round"] = f"{koii(found['bounty_per_round'])} = {found['bounty_per_round']} Roe"
    rounds = found["funded_rounds"]
    lasts = "" if rounds is None else f", the bounties of {rounds} rounds: {lasting(found['funded_seconds'])}"
    shown["put into its vault"] = f"{koii(found['fund'])} = {found['fund']} Roe{lasts}"
    shown["slash"] = f"{found['slash_basis_points']} of 10000"
    shown["lists that may be rejected"] = found["allowed_failed_distributions"]
    shown["audit"] = ", ".join(f"{rule}={setting}" for rule, setting in found["audit"].items())
    meanings = table(("field", "what it means here"), found["meanings"].items())
    warnings = [Text(f"warning: {plain(warning)}") for warning in found["warnings"]]
    last = Text("The settings can be used; seconds are at 400 ms a slot.")
    return Group(pairs(shown), Text(), meanings, Text(), *warnings, last)


def lasting(seconds: float) -> str:
    """Seconds in the two largest units that matter: 612.0 -> "10 min 12 s"."""
    if seconds < 60:
        return f"{seconds:g} s"
    whole = round(seconds)
    parts: list[tuple[int, str]] = []
    for size, unit in _UNITS:
        count, whole = divmod(whole, size)
        if count or parts:
            parts.append((count, unit))
    return " ".join(f"{count} {unit}" for count, unit in parts[:2] if count)
