"""What a task is to be, by the options of `task create` and a `config-task.yml`: options go first, and that is said."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import typer

from koii_p2p.cli.output import koii
from koii_p2p.cli.task_rules import rules_given
from koii_p2p.tasks.config_task import SECTION, config_file, load_config
from koii_p2p.tasks.config_terms import TaskPlan, plan_of

_FIELDS: Final[Mapping[str, tuple[str, str]]] = {
    "name": ("--name", "task_name"),
    "program": ("--program", "the program"),
    "round_time": ("--round-time", "round_time"),
    "submission_window": ("--submission-window", "submission_window"),
    "audit_window": ("--audit-window", "audit_window"),
    "bounty_per_round": ("--bounty-per-round", "bounty_amount_per_round"),
    "minimum_stake": ("--minimum-stake", "minimum_stake_amount"),
    "slash_basis_points": ("--slash", f"{SECTION}.slash_basis_points"),
    "allowed_failed_distributions": ("--failed-distributions", "allowed_failed_distributions"),
    "fund": ("--fund", "total_bounty_amount"),
    "starts_in": ("--starts-in", f"{SECTION}.starts_in"),
}
"""Fields of a plan: their options, and what they are in the file."""

_NEEDED: Final = tuple(_FIELDS)[:7]
_AMOUNTS: Final = frozenset({"bounty_per_round", "minimum_stake", "fund"})


@dataclass(frozen=True, slots=True)
class Planned:
    """A task to be, and what is to be said of where it comes from, in sentences."""

    plan: TaskPlan
    notes: tuple[str, ...] = ()


def planned(path: Path | None, options: Mapping[str, Any], rules: Mapping[str, str]) -> Planned:
    """The task that `options` (by the fields of `TaskPlan`, None where not given) and a config file come to.

    A rule goes before the same rule of the file; the file's other rules stay. Raises typer's usage error for what
    neither says, and `ConfigurationError` for a file that cannot be used.
    """
    given = {name: value for name, value in options.items() if value is not None}
    if path is None:
        missing = [_FIELDS[name][0] for name in _NEEDED if name not in given]
        if missing:
            raise typer.BadParameter(f"give {', '.join(missing)}, or the PATH of a config-task.yml")
        rules_given(rules)
        return Planned(TaskPlan(**given, rules=rules))
    read = load_config(path)
    plan = plan_of(read.config)
    merged = {**plan.rules, **rules}
    rules_given(merged)  # the file's alone are right
    file = config_file(path).name
    notes = [f"{file}: {warning}" for warning in read.warnings]
    notes += [
        f"{_FIELDS[name][0]} {_shown(name, value)} goes before {_FIELDS[name][1]} {_shown(name, old)} of {file}."
        for name, value in given.items()
        if value != (old := getattr(plan, name))
    ]
    notes += [
        f"--rule {name}={text} goes before {name}: {plan.rules[name]} of {file}."
        for name, text in rules.items()
        if plan.rules.get(name, text) != text
    ]
    return Planned(replace(plan, **given, rules=merged), tuple(notes))


def _shown(name: str, value: Any) -> str:
    if name in _AMOUNTS:
        return koii(value)
    return str(value) if value != "" else "(none)"
