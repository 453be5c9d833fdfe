"""The table [audit] of a testnet file: a task's audit rules as people write them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from decimal import Decimal
from enum import IntEnum
from typing import Any, Final

from koii_p2p.errors import ConfigurationError
from koii_p2p.rounds.audit_rules import BASIS_POINTS, MILLIONTHS, AuditRules, Profile, RulesError, Weights

AUDIT_FLAGS: Final = ("profile", "sealed")
"""Settings of the table that are flags of the command as well."""

_FRACTIONS: Final = {
    "confidence": MILLIONTHS,
    "dishonest": BASIS_POINTS,
    "audit_rate": BASIS_POINTS,
    "canary_rate": BASIS_POINTS,
    "reputation_floor": BASIS_POINTS,
    "finders_share": BASIS_POINTS,
}
"""Settings that people write as a fraction of one, and the parts of one that the chain keeps."""


def audit_rules(table: Mapping[str, Any]) -> AuditRules:
    """The rules that a table names; what it leaves out has the default of `AuditRules`.

    Names are those of `AuditRules`. `profile` and `weights` are given by name ("koii", "stake-time"); confidence,
    shares and rates as fractions from 0 to 1 (0.25). Profile koii implies weights = "equal": it has no others.
    Raises `ConfigurationError`.
    """
    known = [one.name for one in fields(AuditRules)]
    values: dict[str, Any] = {}
    for name, value in table.items():
        if name not in known:
            raise _bad(f"The setting `{name}` does not exist", f"There are: {', '.join(known)}.")
        match name:
            case "profile":
                values[name] = _named(Profile, name, value)
            case "weights":
                values[name] = _named(Weights, name, value)
            case _ if name in _FRACTIONS:
                values[name] = _parts(name, value, _FRACTIONS[name])
            case _:
                values[name] = value
    if values.get("profile") is Profile.KOII:
        values.setdefault("weights", Weights.EQUAL)
    if values.get("profile") is Profile.POSP and "audit_rate" not in values:
        raise _bad(
            "Profile posp audits a share of the submissions, and it is not said which",
            "Write audit_rate, such as 0.5, into the table [audit] of a testnet file.",
        )
    try:
        return AuditRules(**values)
    except RulesError as error:
        raise _bad(f"{error}", "Correct the table [audit], or the flags that change it.") from error


def names_of(kind: type[IntEnum]) -> tuple[str, ...]:
    """The members of a profile or of weights as people write them."""
    return tuple(member.name.lower().replace("_", "-") for member in kind)


def _named(kind: type[IntEnum], name: str, value: object) -> IntEnum:
    for member, written in zip(kind, names_of(kind), strict=True):
        if value == written:
            return member
    raise _bad(f"{name} = {value!r} does not exist", f"There are: {', '.join(names_of(kind))}.")


def _parts(name: str, value: object, whole: int) -> int:
    remedy = "Write a fraction, such as 0.25."
    if type(value) not in (int, Decimal):
        raise _bad(f"{name} = {value!r} is not a number", remedy)
    share = Decimal(str(value))
    if not share.is_finite() or not 0 <= share <= 1:
        raise _bad(f"{name} = {value} is not from 0 to 1", remedy)
    parts = share * whole
    if parts != int(parts):
        raise _bad(f"{name} = {value} is finer than 1/{whole}, which K2 keeps", remedy)
    return int(parts)


def _bad(why: str, remedy: str) -> ConfigurationError:
    return ConfigurationError("A testnet with these audit rules is not possible.", f"{why}.", remedy)
