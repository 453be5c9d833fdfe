"""A task's audit rules on the command line: NAME=VALUE, by the names of `AuditRules`."""

from __future__ import annotations

import dataclasses
import difflib
from typing import Annotated, Any

import typer

from koii_p2p.rounds.audit_rules import AuditRules, Profile, RulesError, Weights

_NAMES = tuple(field.name for field in dataclasses.fields(AuditRules))
_ENUMS: dict[str, type[Profile] | type[Weights]] = {"profile": Profile, "weights": Weights}
_FLAGS = {"yes": True, "true": True, "no": False, "false": False}

RuleOption = Annotated[
    list[str] | None,
    typer.Option(
        "--rule",
        metavar="NAME=VALUE",
        help=f"An audit rule; may be repeated. Names: {', '.join(_NAMES)}.",
    ),
]


def rules_given(words: list[str]) -> AuditRules:
    """The rules that differ from the default, as given. Raises typer's usage error."""
    values: dict[str, Any] = {}
    for word in words:
        name, equals, text = word.partition("=")
        if not equals or name not in _NAMES:
            near = difflib.get_close_matches(name, _NAMES, 1)
            hint = f"; perhaps you mean {near[0]}" if near and near[0] != name else ""
            raise _bad(f"{word!r} is not a rule: write it like auditors=5{hint}")
        if name in values:
            raise _bad(f"{name} is given twice")
        values[name] = _value(name, text)
    if values.get("profile") is Profile.KOII:
        values.setdefault("weights", Weights.EQUAL)
    try:
        return AuditRules(**values)
    except RulesError as error:
        raise _bad(str(error)) from error


def rules_json(rules: AuditRules) -> dict[str, str | int | bool]:
    """The rules by name; profile and weights in words."""
    found: dict[str, str | int | bool] = {}
    for name in _NAMES:
        value = getattr(rules, name)
        found[name] = value.name.lower() if name in _ENUMS else value
    return found


def _value(name: str, text: str) -> object:
    if name in _ENUMS:
        names = {member.name.lower(): member for member in _ENUMS[name]}
        if text not in names:
            raise _bad(f"{name} is one of {', '.join(names)}, not {text!r}")
        return names[text]
    if name == "sealed":
        if text not in _FLAGS:
            raise _bad(f"sealed is yes or no, not {text!r}")
        return _FLAGS[text]
    if not text.isascii() or not text.isdigit() or len(text) > 9:
        raise _bad(f"{name} is a whole number, not {text!r}")
    return int(text)


def _bad(why: str) -> typer.BadParameter:
    return typer.BadParameter(why, param_hint="--rule")
