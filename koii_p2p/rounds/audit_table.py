"""Audit rules as people write them: profiles and weights by name, and fractions of one for what the chain keeps.

This is how such a table is read, in the files of testnets and of experiments.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from decimal import Decimal
from enum import IntEnum
from typing import Any, Final

from koii_p2p.rounds.audit_rules import BASIS_POINTS, MILLIONTHS, AuditRules, Profile, RulesError, Weights

FRACTIONS: Final = {
    "confidence": MILLIONTHS,
    "dishonest": BASIS_POINTS,
    "audit_rate": BASIS_POINTS,
    "canary_rate": BASIS_POINTS,
    "reputation_floor": BASIS_POINTS,
    "finders_share": BASIS_POINTS,
}
"""Rules that people write as a fraction of one, and the parts of one that the chain keeps."""


def written(member: IntEnum) -> str:
    """A profile, or weights, as people write it: "stake-time"."""
    return member.name.lower().replace("_", "-")


PROFILES: Final[Mapping[str, IntEnum]] = {written(member): member for member in Profile}
WEIGHTS: Final[Mapping[str, IntEnum]] = {written(member): member for member in Weights}


def rules_in(table: Mapping[str, Any], profiles: Mapping[str, IntEnum] = PROFILES) -> AuditRules:
    """The rules that a table says; what it leaves out has the default of `AuditRules`.

    Names are those of `AuditRules`. `profile` and `weights` are given by name; confidence, shares and rates as
    fractions from 0 to 1, exact if they are `Decimal`. Profile koii implies equal weights: it has no others. Raises
    `RulesError`, which says what to write instead.
    """
    known = [one.name for one in fields(AuditRules)]
    values: dict[str, Any] = {}
    for name, value in table.items():
        if name not in known:
            raise RulesError(f"the setting `{name}` does not exist; there are: {', '.join(known)}")
        match name:
            case "profile":
                values[name] = _named(profiles, name, value)
            case "weights":
                values[name] = _named(WEIGHTS, name, value)
            case _ if name in FRACTIONS:
                values[name] = _parts(name, value, FRACTIONS[name])
            case _:
                values[name] = value
    if values.get("profile") is Profile.KOII:
        values.setdefault("weights", Weights.EQUAL)
    if values.get("profile") is Profile.POSP and "audit_rate" not in values:
        raise RulesError(
            "profile posp audits a share of the submissions: write which one, such as audit_rate = 0.5"
        )
    return AuditRules(**values)


def _named(members: Mapping[str, IntEnum], name: str, value: object) -> IntEnum:
    if isinstance(value, str) and value in members:
        return members[value]
    raise RulesError(f"{name} = {value!r} does not exist; there are: {', '.join(members)}")


def _parts(name: str, value: object, whole: int) -> int:
    # bool is an int to Python, and true is no share.
    if type(value) not in (int, float, Decimal):
        raise RulesError(f"{name} = {value!r} is not a number: write a fraction, such as 0.25")
    share = Decimal(str(value))
    if not share.is_finite() or not 0 <= share <= 1:
        raise RulesError(f"{name} = {value} is not from 0 to 1: write a fraction, such as 0.25")
    parts = share * whole
    if parts != int(parts):
        raise RulesError(f"{name} = {value} is finer than 1/{whole}, which K2 keeps: write fewer digits")
    return int(parts)
