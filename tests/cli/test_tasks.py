"""`koii-p2p task`, against a real local K2 process."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog

from koii_p2p.cli.key_names import text_of
from tests.cli.spender import KOII, TERMS, UNKNOWN, Spender
from tests.localk2.chain import K2Process, k2_process


@pytest.fixture(autouse=True)
def own_logs() -> Iterator[None]:
    """Commands send logs to the stderr of their test: afterwards, logs go where they went before."""
    yield
    structlog.reset_defaults()
    logging.basicConfig(level=logging.WARNING, force=True)


@pytest.fixture(scope="module")
def k2(tmp_path_factory: pytest.TempPathFactory) -> Iterator[K2Process]:
    with k2_process(tmp_path_factory.mktemp("k2") / "k2", "--slot-ms", "20", "--finality", "8") as running:
        yield running


@pytest.fixture
def spender(k2: K2Process, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Spender:
    return Spender(k2.address["url"], tmp_path / "home", capsys).paid("100")


@pytest.fixture
def stranger(k2: K2Process, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Spender:
    return Spender(k2.address["url"], tmp_path / "other", capsys).paid("100")


def test_a_task_is_created_shown_funded_and_listed(spender: Spender) -> None:
    before = spender.balance()
    made = spender.found("task", "create", *TERMS, "--fund", "30", "--rule", "auditors=7", "--yes")
    cost = made["cost"]
    assert (cost["amount"], cost["fee"], made["funded"]) == (30 * KOII, 10_000, 30 * KOII)
    assert before - spender.balance() == cost["total"], "it costs what was said, with the rents and both fees"
    assert made["starting_slot"] >= 4000
    assert "bounties of 20 rounds" in made["notes"][1]
    task = made["task"]
    found = spender.found("task", "show", task)
    assert (found["name"], found["program"], found["state"]) == ("spent", "examples.hello_world", "active")
    assert (found["vault"], found["funded"], found["minimum_stake"]) == (30 * KOII, 30 * KOII, 2 * KOII)
    assert (found["round_time"], found["submission_window"], found["audit_window"]) == (20, 8, 8)
    assert (found["audit"]["auditors"], found["audit"]["profile"]) == (7, "hardened")
    assert (found["creator"], found["nonce"]) == (text_of(spender.wallet.public_key), made["nonce"])
    assert found["period"] < 0
    assert found["starting_slot"] == made["starting_slot"]

    funded = spender.found("task", "fund", task, "1.5", "--yes")
    assert (funded["vault"], funded["cost"]["total"]) == (31_500_000_000, 1_500_005_000)
    assert spender.found("task", "show", task)["vault"] == 31_500_000_000
    assert "31.5 KOII" in spender.shown("task", "show", task)
    assert task in [one["task"] for one in spender.found("task", "list")]
    (own,) = spender.found("task", "list", "--mine")
    assert (own["task"], own["stakers"], own["total_stake"]) == (task, 0, 0)
    assert task in spender.shown("task", "list")


def test_reading_needs_no_keys(spender: Spender) -> None:
    task = spender.create()
    spender.home.wallet_key.unlink()
    spender.home.staking_key.unlink()
    assert spender.found("task", "show", task)["name"] == "spent"
    assert spender.found("task", "list")
    assert spender.refused("task", "list", "--mine")[0] == 3


def test_no_tasks_are_said(spender: Spender) -> None:
    assert spender.found("task", "list", "--mine") == []
    assert "no tasks" in spender.shown("task", "list", "--mine")


def test_rules_of_every_profile_are_taken(spender: Spender) -> None:
    for given, told in (
        (("profile=koii",), {"profile": "koii", "weights": "equal"}),
        (("profile=posp", "audit_rate=5000"), {"profile": "posp", "audit_rate": 5000}),
        (("sealed=yes", "canary_rate=100"), {"sealed": True, "canary_rate": 100}),
    ):
        task = spender.create(*(word for rule in given for word in ("--rule", rule)))
        audit = spender.found("task", "show", task)["audit"]
        assert {name: audit[name] for name in told} == told


@pytest.mark.parametrize(
    ("rule", "why"),
    [
        ("auditors", "write it like auditors=5"),
        ("auditor=3", "perhaps you mean auditors"),
        ("auditors=many", "not 'many'"),
        ("auditors=0", "from 1 to 255"),
        ("auditors=-1", "whole number"),
        ("auditors=99999999999999999999", "whole number"),
        ("profile=none", "profile is one of"),
        ("sealed=2", "yes or no"),
        ("canary_rate=1", "needs sealed"),
        ("profile=posp", "audit_rate below 10000"),
    ],
)
def test_a_rule_that_is_none_is_refused(spender: Spender, rule: str, why: str) -> None:
    code, error = spender.refused("task", "create", *TERMS, "--rule", rule, "--yes")
    assert code == 2
    assert why in error["why"]


@pytest.mark.parametrize(
    ("changed", "code", "why"),
    [
        (("--name", ""), 3, "name has 0 bytes"),
        (("--name", "n" * 25), 3, "name has 25 bytes"),
        (("--program", ""), 3, "program is empty"),
        (("--program", "p" * 65), 3, "program has 65 bytes"),
        (("--round-time", 15), 3, "longer than round_time"),
        (("--round-time", 0), 3, "round_time is 0"),
        (("--audit-window", 5), 3, "shorter than the 6 slots"),
        (("--minimum-stake", "0"), 3, "minimum_stake is 0"),
        (("--minimum-stake", "little"), 2, "not an amount in KOII"),
        (("--slash", 10_001), 3, "slash_basis_points"),
        (("--failed-distributions", 16), 3, "allowed_failed_distributions"),
        (("--fund", "-3"), 2, "whole number of Roe"),
        (("--fund", "100"), 5, "It holds 100 KOII, and this takes 100."),
        (("--nonce", -1), 2, "nonce"),
        (("--starts-in", 2**63), 3, "starting_slot"),
    ],
)
def test_terms_that_are_not_possible_are_refused(
    spender: Spender, changed: tuple[object, ...], code: int, why: str
) -> None:
    told, error = spender.refused("task", "create", *TERMS, *changed, "--yes")
    assert told == code, error
    assert why in error["why"]
    assert spender.found("task", "list", "--mine") == []


def test_a_nonce_makes_one_task_only(spender: Spender) -> None:
    spender.create("--nonce", 7)
    code, error = spender.refused("task", "create", *TERMS, "--nonce", 7, "--yes")
    assert (code, "used the nonce before" in error["why"]) == (5, True)


def test_a_task_is_paused_and_goes_on(spender: Spender) -> None:
    task = spender.create()
    assert spender.found("task", "deactivate", task, "--yes")["state"] == "inactive"
    found = spender.found("task", "show", task)
    assert (found["state"], found["idle"]) == ("inactive", [0, None])
    assert "rounds left out" in spender.shown("task", "show", task)
    code, error = spender.refused("task", "deactivate", task, "--yes")
    assert (code, "inactive already" in error["what"]) == (5, True)
    assert spender.found("task", "activate", task, "--yes")["cost"]["total"] == 5000
    assert spender.found("task", "show", task)["state"] == "active"


def test_a_task_says_more_of_itself_and_names_a_successor(spender: Spender) -> None:
    task, other = spender.create(), spender.create()
    spender.found("task", "update", task, "--metadata", "a page", "--yes")
    spender.found("task", "update", task, "--successor", other, "--yes")
    found = spender.found("task", "show", task)
    assert (found["metadata"], found["successor"]) == ("a page", other), "what is not given stays"
    spender.found("task", "update", task, "--successor", task, "--metadata", "", "--yes")
    found = spender.found("task", "show", task)
    assert (found["metadata"], found["successor"]) == ("", None)
    assert spender.refused("task", "update", task, "--yes")[0] == 2
    code, error = spender.refused("task", "update", task, "--metadata", "m" * 65, "--yes")
    assert (code, "at most 64 bytes" in error["why"]) == (3, True)
    code, error = spender.refused("task", "update", task, "--successor", UNKNOWN, "--yes")
    assert (code, UNKNOWN in error["what"]) == (5, True)


def test_a_task_is_closed_and_its_rest_comes_back(spender: Spender) -> None:
    before = spender.balance()
    task = spender.create("--fund", "10")
    code, error = spender.refused("task", "close", task, "--yes")
    assert (code, "deactivate" in error["remedy"]) == (5, True)
    spender.found("stake", task, "2", "--yes")
    spender.found("task", "deactivate", task, "--yes")
    code, error = spender.refused("task", "close", task, "--yes")
    assert (code, "2 KOII are staked" in error["why"]) == (5, True)
    unlock = spender.found("unstake", task, "--yes")["unlock_slot"]
    spender.wait_for_slot(unlock + 1)
    spender.found("withdraw", task, "--yes")
    held = spender.balance()
    closed = spender.found("task", "close", task, "--yes")
    assert spender.balance() == held + closed["returned"] - 5000
    assert closed["returned"] > 10 * KOII
    assert before - spender.balance() < KOII // 100
    found = spender.found("task", "show", task)
    assert (found["state"], found["successor"]) == ("closed", None)
    assert found["closed_slot"] == closed["slot"]
    assert "closed" in spender.shown("task", "show", task)
    assert spender.found("task", "list", "--mine") == []
    for words in (
        ("fund", task, "1"),
        ("activate", task),
        ("update", task, "--metadata", "x"),
        ("close", task),
    ):
        code, error = spender.refused("task", *words, "--yes")
        assert (code, "was closed" in error["what"]) == (5, True)


def test_only_its_creator_rules_a_task_and_anybody_may_fund_it(spender: Spender, stranger: Spender) -> None:
    task = spender.create()
    for words in (
        ("activate", task),
        ("deactivate", task),
        ("update", task, "--metadata", "x"),
        ("close", task),
    ):
        code, error = stranger.refused("task", *words, "--yes")
        assert (code, "is not this wallet's" in error["what"]) == (5, True)
    assert stranger.found("task", "fund", task, "1", "--yes")["vault"] == KOII


@pytest.mark.parametrize("words", [("show",), ("fund", "1"), ("activate",), ("deactivate",), ("close",)])
def test_what_is_no_task_is_refused(spender: Spender, words: tuple[str, ...]) -> None:
    name, *rest = words
    yes = () if name == "show" else ("--yes",)
    code, error = spender.refused("task", name, UNKNOWN, *rest, *yes)
    assert (code, UNKNOWN in error["what"]) == (5, True)
    assert spender.refused("task", name, "abc", *rest, *yes)[0] == 2


def test_nobody_to_ask_is_a_refusal(spender: Spender) -> None:
    code, error = spender.refused("task", "create", *TERMS, "--fund", "10")
    assert (code, "no terminal" in error["why"], "--yes" in error["remedy"]) == (2, True, True)
    assert spender.found("task", "list", "--mine") == []


def test_a_name_cannot_play_with_the_terminal(spender: Spender) -> None:
    task = spender.create("--name", "red\x1b[31m\nline")
    spender.found("task", "update", task, "--metadata", "\x1b]0;title\x07", "--yes")
    for words in (("task", "list", "--mine"), ("task", "show", task)):
        shown = spender.shown(*words)
        assert "\x1b" not in shown
        assert "red\ufffd[31m\ufffdline" in shown
    code, _, err = spender.run("task", "fund", task, "1", "--yes", output="table")
    assert (code, "\x1b" in err) == (0, False)
