"""The document a memo task begins with: its address names every value in it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import base58
import pytest
from solders.pubkey import Pubkey

from koii_p2p.errors import ConfigurationError
from koii_p2p.rounds.audit_rules import AuditRules, Profile
from koii_p2p.rounds.roster import roster_at
from koii_p2p.settlement.memo.genesis import Genesis, GenesisError, GenesisStake, load_genesis

from ..virtual_chain import KOII
from .memo_world import GENESIS, STAKES, TASK, genesis, terms


def test_a_document_comes_back(tmp_path: Path) -> None:
    rules = AuditRules(profile=Profile.POSP, audit_rate=5000, finders_share=1000, sealed=True)
    made = genesis(audit=rules)
    file = tmp_path / "genesis.json"
    file.write_text(made.to_json())
    assert load_genesis(file, made.terms.task) == made
    assert load_genesis(file).terms.audit == rules


def test_spaces_and_order_do_not_count() -> None:
    document = json.loads(GENESIS.to_json())
    turned = {name: document[name] for name in reversed(document)}
    turned["stakes"].reverse()
    assert Genesis.from_json(json.dumps(turned)) == GENESIS


Change = Callable[[dict[str, Any]], object]

CHANGES: dict[str, Change] = {
    "stake": lambda one: one["stakes"][0].update(stake=9 * KOII),
    "staker": lambda one: one["stakes"][0].update(staker=base58.b58encode(b"s" * 32).decode()),
    "beneficiary": lambda one: one["stakes"][0].update(beneficiary=base58.b58encode(b"s" * 32).decode()),
    "one staker fewer": lambda one: one["stakes"].pop(),
    "bounty": lambda one: one["terms"].update(bounty_per_round=1),
    "audit rule": lambda one: one["terms"]["audit"].update(auditors=1),
    "creator": lambda one: one.update(creator=base58.b58encode(b"c" * 32).decode()),
    "pledge": lambda one: one.update(pledged=1),
    "nonce": lambda one: one.update(nonce=1),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=list(CHANGES))
def test_every_value_is_in_the_address(change: Change, tmp_path: Path) -> None:
    document = json.loads(GENESIS.to_json())
    change(document)
    with pytest.raises(GenesisError, match="a value was changed"):
        Genesis.from_json(json.dumps(document))
    del document["task"]
    other = Genesis.from_json(json.dumps(document))
    assert other.terms.task != TASK
    file = tmp_path / "genesis.json"
    file.write_text(other.to_json())
    with pytest.raises(ConfigurationError, match="of another task"):
        load_genesis(file, TASK)


BAD: dict[str, tuple[Change, str]] = {
    "format": (lambda one: one.update(format="else"), "format"),
    "no stakers": (lambda one: one.update(stakes=[]), "0 stakers"),
    "stakes": (lambda one: one.update(stakes=3), "not a list"),
    "a stake": (lambda one: one["stakes"].append(3), "not an object"),
    "twice": (lambda one: one["stakes"].append(one["stakes"][0]), "appears twice"),
    "below minimum": (lambda one: one["stakes"][0].update(stake=1), "below the minimum"),
    "no number": (lambda one: one["stakes"][0].update(stake=2.5), "not an amount"),
    "truth": (lambda one: one.update(pledged=True), "pledged"),
    "key": (lambda one: one["stakes"][0].update(staker="l0l"), "staker"),
    "long key": (lambda one: one["stakes"][0].update(staker="1" * 10_000), "staker"),
    "empty key": (lambda one: one["stakes"][0].update(beneficiary="1" * 32), "not all zero"),
    "unknown term": (lambda one: one["terms"].update(colour=1), "terms"),
    "term": (lambda one: one["terms"].update(round_time="100"), "round_time"),
    "profile": (lambda one: one["terms"]["audit"].update(profile="LAX"), "LAX"),
    "rule": (lambda one: one["terms"]["audit"].update(auditors=0), "auditors"),
    "terms": (lambda one: one.update(terms=[]), "terms"),
    "too much": (lambda one: [stake.update(stake=2**63) for stake in one["stakes"]], "64 bits"),
}


@pytest.mark.parametrize(("change", "why"), BAD.values(), ids=list(BAD))
def test_a_damaged_document_is_refused(change: Change, why: str) -> None:
    document = json.loads(GENESIS.to_json())
    change(document)
    with pytest.raises(GenesisError, match=why):
        Genesis.from_json(json.dumps(document))


@pytest.mark.parametrize(
    "text", ["", "[" * 100_000, "[1]", "{", '{"a": 1, "a": 2}', b"\xff\xfe\xff", "x" * (8 << 20) + "x"]
)
def test_what_is_no_document_is_refused(text: str | bytes) -> None:
    with pytest.raises(GenesisError):
        Genesis.from_json(text)


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="cannot be read"):
        load_genesis(tmp_path / "none.json")
    (tmp_path / "some.json").write_text("{}")
    with pytest.raises(ConfigurationError, match="not a genesis document"):
        load_genesis(tmp_path / "some.json")


def test_terms_of_another_task_are_refused() -> None:
    with pytest.raises(GenesisError, match="another task"):
        Genesis(replace(GENESIS.terms, name="other"), GENESIS.stakes, GENESIS.pledged)


def test_the_stakes_make_every_rosters() -> None:
    for round in (0, 1, 1000):
        roster = roster_at(GENESIS.histories(), round, GENESIS.terms)
        assert {key: roster.stake_of(key) for key in roster.keys} == GENESIS.amounts
    assert GENESIS.total_stake == sum(STAKES) * KOII


def test_twenty_thousand_stakers_fit() -> None:
    stakes = [GenesisStake(b"%032d" % index, 2 * KOII, b"%032d" % index) for index in range(20_000)]
    made = Genesis.make(terms(), stakes, 0)
    assert Genesis.from_json(made.to_json()).digest == made.digest
    with pytest.raises(GenesisError, match="20001 stakers"):
        Genesis.make(terms(), [*stakes, GenesisStake(b"x" * 32, 2 * KOII, b"x" * 32)], 0)


def test_the_address_is_nobodys_key() -> None:
    assert not Pubkey(TASK).is_on_curve()
