"""A task's audit rules on K2: the program accepts what Python's terms accept, nothing else, and keeps every field."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping
from copy import copy
from dataclasses import replace
from typing import TypeVar

import pytest

from koii_p2p.rounds.audit_rules import AuditRules, Profile, RulesError, Weights
from koii_p2p.rounds.terms import TaskTerms, TermsError
from koii_p2p.settlement import instructions as ix
from koii_p2p.settlement.decoding import decode_instruction
from koii_p2p.settlement.layouts import AUDIT_LAYOUT, decode_audit, decode_task, encode_audit
from koii_p2p.settlement.refusals import ProgramError as E

from .test_instructions import EVERY_RULE
from .virtual_chain import VirtualChain, address, default_terms, with_data

T = TypeVar("T")

PLAIN: dict[Profile, dict[str, int]] = {
    Profile.KOII: {"weights": Weights.EQUAL},
    Profile.HARDENED: {},
    Profile.ALL: {},
    Profile.POSP: {"audit_rate": 5000},
}
"""What each profile needs besides the defaults."""

BOUNDS: dict[str, tuple[int, int]] = {
    "auditors": (1, 255),
    "confidence": (0, 999_999),
    "dishonest": (0, 9999),
    "quorum": (1, 255),
    "audit_rate": (1, 10_000),
    "canary_rate": (0, 10_000),
    "reputation_floor": (0, 10_000),
    "finders_share": (0, 10_000),
    "witness_seats": (0, 1024),
}


def _unchecked(value: T, **changes: object) -> T:
    """A frozen value with fields that it need not accept, for the encoder."""
    changed = copy(value)
    for name, one in changes.items():
        object.__setattr__(changed, name, one)
    return changed


def _python(terms: TaskTerms, numbers: Mapping[str, int]) -> E | None:
    """The refusal that the program owes, by what Python says of the same numbers."""
    try:
        kinds = {"profile": Profile(numbers["profile"]), "weights": Weights(numbers["weights"])}
        if numbers["sealed"] not in (0, 1):
            return E.TERMS_AUDIT
        rules = AuditRules(**{**numbers, **kinds, "sealed": numbers["sealed"] == 1})  # type: ignore[arg-type]
    except (ValueError, RulesError):
        return E.TERMS_AUDIT
    try:
        replace(terms, audit=rules)
    except TermsError:
        return E.TERMS_TIMING
    return None


def _differences(terms: TaskTerms, cases: Iterable[Mapping[str, int]]) -> Iterator[str]:
    """Create a task for each case; what the program and Python do not agree about. Both must say yes and no."""
    chain = VirtualChain()
    terms = _unchecked(terms, creator=address(chain.payer))
    answers = set()
    defaults = {name: int(getattr(AuditRules(), name)) for name in AuditRules.__dataclass_fields__}
    for nonce, case in enumerate(cases):
        numbers = {**defaults, **case}
        bare = _unchecked(terms, audit=_unchecked(AuditRules(), **numbers))
        expected, got = _python(terms, numbers), chain.send(ix.create_task(bare, nonce)).error
        answers.add(expected)
        if got is not expected:
            yield f"{case}: the program says {got!r}, Python {expected!r}"
    assert len(answers) > 1


def test_every_combination_of_rules() -> None:
    values = {
        "profile": range(5),
        "weights": range(4),
        "sealed": range(3),
        "audit_rate": (9_999, 10_000),
        "canary_rate": (0, 1),
        "reputation_floor": (0, 1),
        "finders_share": (0, 1),
        "witness_seats": (0, 1),
    }
    cases = (dict(zip(values, one, strict=True)) for one in itertools.product(*values.values()))
    assert list(_differences(default_terms(bytes(32)), cases)) == []


@pytest.mark.parametrize("profile", list(Profile), ids=lambda profile: profile.name.lower())
def test_every_field_at_its_bounds(profile: Profile) -> None:
    cases: list[dict[str, int]] = []
    for name, (low, high) in BOUNDS.items():
        widest = next((1 << 8 * field.size) - 1 for field in AUDIT_LAYOUT if field.name == name)
        for value in {max(low - 1, 0), low, low + 1, high - 1, high, high + 1, widest}:
            sealed = int(profile is not Profile.KOII)
            cases.append({"profile": profile, "sealed": sealed, **PLAIN[profile], name: value})
    assert list(_differences(default_terms(bytes(32)), cases)) == []


@pytest.mark.parametrize("window", [1, 5, 6, 7])
def test_every_profile_but_koii_needs_room_for_its_stages(window: int) -> None:
    terms = _unchecked(default_terms(bytes(32)), audit_window=window)
    cases: list[dict[str, int]] = [{"profile": profile, **needs} for profile, needs in PLAIN.items()]
    unknown: list[dict[str, int]] = [{"profile": 9}]
    assert list(_differences(terms, cases + unknown)) == []


@pytest.mark.parametrize("place", [2, 3])
def test_bytes_that_stand_for_nothing_are_refused(place: int) -> None:
    """A sealed of 2, and the reserved byte behind it."""
    chain = VirtualChain()
    terms = default_terms(address(chain.payer))
    good = ix.create_task(terms, 7)
    data = bytearray(good.data)
    data[len(data) - AUDIT_LAYOUT.size + place] = 2
    assert chain.send(with_data(good, bytes(data))).error is E.TERMS_AUDIT
    with pytest.raises(ix.InstructionError, match="CREATE_TASK"):
        decode_instruction(bytes(data), [bytes(one.pubkey) for one in good.accounts])
    assert chain.ok(good).err is None


def test_every_rule_is_kept() -> None:
    chain = VirtualChain()
    terms = replace(default_terms(address(chain.payer)), audit=EVERY_RULE)
    chain.ok(ix.create_task(terms, 7))
    assert decode_task(terms.task, chain.data(terms.task), vault=0).terms == terms
    assert decode_audit(encode_audit(EVERY_RULE)) == EVERY_RULE
    fields = {field.name for field in AUDIT_LAYOUT} - {"reserved"}
    assert fields == set(AuditRules.__dataclass_fields__)
