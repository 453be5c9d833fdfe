"""A task's audit rules on the command line: NAME=VALUE, by the names of `AuditRules`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

import typer

from koii_p2p.rounds.audit_rules import AuditRules, RulesError
from koii_p2p.tasks.rule_words import RULE_NAMES, nearest, rules_in_words

RuleOption = Annotated[
    list[str] | None,
    typer.Option(
        "--rule",
        metavar="NAME=VALUE",
        help=f"An audit rule; may be repeated. Names: {', '.join(RULE_NAMES)}.",
    ),
]


def rule_words(options: list[str]) -> dict[str, str]:
    """What is given for each rule. Raises typer's usage error for a name that is none, or given twice."""
    found: dict[str, str] = {}
    for option in options:
        name, equals, text = option.partition("=")
        if not equals or name not in RULE_NAMES:
            raise _bad(f"{option!r} is not a rule: write it like auditors=5{nearest(name)}")
        if name in found:
            raise _bad(f"{name} is given twice")
        found[name] = text
    return found


def rules_given(words: Mapping[str, str]) -> AuditRules:
    """The rules that differ from the default, as given. Raises typer's usage error."""
    try:
        return rules_in_words(words)
    except RulesError as error:
        raise _bad(str(error)) from error


def _bad(why: str) -> typer.BadParameter:
    return typer.BadParameter(why, param_hint="--rule")
