"""Task states in Koii's forms: whatever is written comes back, and what is damaged is refused in order."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import base58
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from koii_p2p.settlement.koii_task.readings import KPL, NATIVE, Readings, StateForm
from koii_p2p.settlement.koii_task.state import (
    KoiiAudit,
    KoiiSubmission,
    KoiiTaskState,
    KoiiVote,
    PayoutRecord,
    StateError,
    read_binary,
    read_state,
)
from scripts.koii_standin.state import render, to_json

FORMS: list[Readings] = [
    NATIVE,
    KPL,
    replace(KPL, fixed_text=True),
    replace(KPL, state=StateForm.BINCODE),
    replace(KPL, state=StateForm.BINCODE, fixed_text=True),
]
IDS = ["json", "borsh", "borsh, fixed texts", "bincode", "bincode, fixed texts"]

keys = st.binary(min_size=32, max_size=32)
u64 = st.integers(0, 2**64 - 1)
words = st.text(st.characters(codec="ascii", min_codepoint=33, max_codepoint=126), max_size=24)


def by_key(values: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[bytes, Any]]:
    return st.dictionaries(keys, values, max_size=3).map(lambda one: dict(sorted(one.items())))


def by_round(values: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[int, Any]]:
    return st.dictionaries(u64, values, max_size=3).map(lambda one: dict(sorted(one.items())))


listed = keys.map(lambda key: base58.b58encode(key).decode())
votes = st.lists(st.builds(KoiiVote, keys, st.booleans(), u64), max_size=3).map(tuple)
audits = by_round(by_key(st.builds(KoiiAudit, keys, u64, votes)))
states = st.builds(
    KoiiTaskState,
    task_name=words,
    task_description=words,
    task_manager=keys,
    is_allowlisted=st.booleans(),
    is_active=st.booleans(),
    task_audit_program=words,
    stake_pot_account=keys,
    total_bounty_amount=u64,
    bounty_amount_per_round=u64,
    total_stake_amount=u64,
    minimum_stake_amount=u64,
    round_time=u64,
    starting_slot=u64,
    audit_window=u64,
    submission_window=u64,
    task_executable_network=words,
    task_metadata=words,
    task_vars=words,
    is_migrated=st.booleans(),
    migrated_to=words,
    allowed_failed_distributions=u64,
    available_balances=by_key(u64),
    stake_list=by_key(u64),
    ip_address_list=by_key(words),
    submissions=by_round(by_key(st.builds(KoiiSubmission, words, u64))),
    submissions_audit_trigger=audits,
    distribution_rewards_submission=by_round(by_key(st.builds(KoiiSubmission, listed, u64))),
    distributions_audit_trigger=audits,
    distributions_audit_record=by_round(st.sampled_from(PayoutRecord)),
)


@pytest.mark.parametrize("readings", FORMS, ids=IDS)
@settings(max_examples=40)
@given(state=states)
def test_a_state_comes_back(readings: Readings, state: KoiiTaskState) -> None:
    found = read_state(render(state, readings), readings)
    assert replace(found, token_type=None) == state


@pytest.mark.parametrize("readings", FORMS, ids=IDS)
@settings(max_examples=60)
@given(state=states, data=st.data())
def test_damaged_states_are_refused_or_read_never_worse(
    readings: Readings, state: KoiiTaskState, data: st.DataObject
) -> None:
    content = bytearray(render(state, readings))
    place = data.draw(st.integers(0, len(content) - 1))
    if data.draw(st.booleans()):
        content = content[:place]
    else:
        content[place] ^= data.draw(st.integers(1, 255))
    try:
        found = read_state(bytes(content), readings)
    except StateError:
        return
    assert isinstance(found, KoiiTaskState)


SAMPLE = KoiiTaskState(
    task_name="name",
    task_description="",
    task_manager=b"m" * 32,
    is_allowlisted=True,
    is_active=True,
    task_audit_program="cid",
    stake_pot_account=b"p" * 32,
    total_bounty_amount=10,
    bounty_amount_per_round=1,
    total_stake_amount=5,
    minimum_stake_amount=1,
    round_time=600,
    starting_slot=0,
    audit_window=200,
    submission_window=200,
    task_executable_network="IPFS",
    task_metadata="",
    task_vars="",
    is_migrated=False,
    migrated_to="",
    allowed_failed_distributions=3,
    stake_list={b"s" * 32: 5},
    submissions={4: {b"s" * 32: KoiiSubmission("value", 9)}},
)


def test_the_bytes_that_koiis_filters_look_for() -> None:
    assert to_json(SAMPLE).startswith('{"is_allowlisted":true'), "koii-node filters native tasks by this text"
    assert render(SAMPLE, KPL)[:2] == b"\1\1", "and KPL tasks by these bytes"


def test_a_key_may_be_base58_or_bytes_and_maps_may_be_missing() -> None:
    document = json.loads(to_json(SAMPLE))
    document["task_manager"] = document["stake_pot_account"]
    for name in ("submissions", "stake_list", "available_balances", "distributions_audit_record"):
        del document[name]
    found = read_state(json.dumps(document).encode(), NATIVE)
    assert found.task_manager == b"p" * 32
    assert (found.submissions, found.stake_list) == ({}, {})


Change = Callable[[dict[str, Any]], object]
BAD: dict[str, Change] = {
    "round": lambda one: one["submissions"].update({"x": {}}),
    "round of other digits": lambda one: one["submissions"].update({"\u0661": {}}),
    "key": lambda one: one["stake_list"].update({"0": 1}),
    "long key": lambda one: one["stake_list"].update({"1" * 10_000: 1}),
    "amount": lambda one: one.update(total_bounty_amount=-1),
    "fraction": lambda one: one.update(total_bounty_amount=1.0),
    "truth": lambda one: one.update(is_active=1),
    "text": lambda one: one.update(task_name=1),
    "list for map": lambda one: one.update(submissions=[]),
    "manager": lambda one: one.update(task_manager=[300] * 32),
    "record": lambda one: one.update(distributions_audit_record={"1": "Maybe"}),
    "votes": lambda one: one.update(
        submissions_audit_trigger={"1": {"1" * 32: {"trigger_by": "1" * 32, "slot": 1, "votes": 3}}}
    ),
}


@pytest.mark.parametrize("change", BAD.values(), ids=list(BAD))
def test_wrong_types_in_json(change: Change) -> None:
    document = json.loads(to_json(SAMPLE))
    change(document)
    with pytest.raises(StateError):
        read_state(json.dumps(document).encode(), NATIVE)


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"\xff", b"[" * 100_000], ids=lambda one: str(one[:4]))
def test_what_is_no_state(data: bytes) -> None:
    for readings in FORMS:
        with pytest.raises(StateError):
            read_state(data, readings)


def test_the_wrong_binary_form_is_noticed() -> None:
    for written in FORMS[1:]:
        for read in FORMS[1:]:
            if read != written:
                with pytest.raises(StateError):
                    read_state(render(SAMPLE, written), read)


def test_binary_is_strict() -> None:
    content = render(SAMPLE, KPL)
    with pytest.raises(StateError, match="behind the last field"):
        read_state(content + b"x", KPL)
    with pytest.raises(StateError, match="not a binary form"):
        read_binary(content, NATIVE)
    with pytest.raises(StateError, match="not sorted"):
        read_state(render(replace(SAMPLE, stake_list={b"b" * 32: 1, b"a" * 32: 1}), KPL), KPL)
    with pytest.raises(StateError, match="more than any task account"):
        read_state(bytes(50_000_001), KPL)
