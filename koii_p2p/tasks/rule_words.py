"""A task's audit rules as people write them: by the names of `AuditRules`, in words and whole numbers."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Mapping
from typing import Any

from koii_p2p.rounds.audit_rules import AuditRules, Profile, RulesError, Weights

RULE_NAMES = tuple(field.name for field in dataclasses.fields(AuditRules))

_ENUMS: dict[str, type[Profile] | type[Weights]] = {"profile": Profile, "weights": Weights}
_FLAGS = {"yes": True, "true": True, "no": False, "false": False}


def rules_in_words(words: Mapping[str, str]) -> AuditRules:
    """The rules that differ from the default, as given; profile koii has equal weights without saying so.

    Profile and weights are given by their names, `sealed` as yes or no, everything else as a whole number (shares in
    basis points, the confidence in millionths). Raises `RulesError`.
    """
    values: dict[str, Any] = {}
    for name, text in words.items():
        if name not in RULE_NAMES:
            raise RulesError(f"{name!r} is not an audit rule{nearest(name)}")
        values[name] = _value(name, text)
    if values.get("profile") is Profile.KOII:
        values.setdefault("weights", Weights.EQUAL)
    return AuditRules(**values)


def rules_json(rules: AuditRules) -> dict[str, str | int | bool]:
    """The rules by name; profile and weights in words."""
    found: dict[str, str | int | bool] = {}
    for name in RULE_NAMES:
        value = getattr(rules, name)
        found[name] = value.name.lower() if name in _ENUMS else value
    return found


def nearest(name: str) -> str:
    """What to add to a sentence on a name that is not a rule's: the one that may be meant, or nothing."""
    near = difflib.get_close_matches(name, RULE_NAMES, 1)
    return f"; perhaps you mean {near[0]}" if near and near[0] != name else ""


def _value(name: str, text: str) -> object:
    if name in _ENUMS:
        names = {member.name.lower(): member for member in _ENUMS[name]}
        if text not in names:
            raise RulesError(f"{name} is one of {', '.join(names)}, not {text!r}")
        return names[text]
    if name == "sealed":
        if text not in _FLAGS:
            raise RulesError(f"sealed is yes or no, not {text!r}")
        return _FLAGS[text]
    if not text.isascii() or not text.isdigit() or len(text) > 9:
        raise RulesError(f"{name} is a whole number, not {text!r}")
    return int(text)
