"""`koii-p2p task`, against a real local K2 process."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog

from koii_p2p.cli.key_names import text_of
from koii_p2p.network.settings import parse_peer_address
from koii_p2p.network.task_bootstrap import bootstrap_in
from tests.cli.spender import KOII, TERMS, UNKNOWN, Spender
from tests.localk2.chain import K2Process, k2_process

BOOTSTRAP = "/ip4/203.0.113.7/tcp/4001/p2p/12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN"


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
    spender.found("task", "update", task, "--bootstrap", BOOTSTRAP, "--yes")
    peer = bootstrap_in(spender.found("task", "show", task)["metadata"])
    assert peer == parse_peer_address(BOOTSTRAP), "nodes of the task call it first"
    assert (
        spender.refused("task", "update", task, "--bootstrap", BOOTSTRAP, "--metadata", "x", "--yes")[0] == 2
    )
    assert spender.refused("task", "update", task, "--bootstrap", "/ip4/1.2.3.4/tcp/1", "--yes")[0] == 3
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


CONFIG = """\
task_name: by a file
author: someone
description: What it does
repositoryUrl: https://example.org/task
task_executable_network: DEVELOPMENT
task_audit_program: examples.hello_world
round_time: 20
submission_window: 8
audit_window: 8
minimum_stake_amount: 1.9
task_type: KOII
total_bounty_amount: 10.5
bounty_amount_per_round: 0.25
allowed_failed_distributions: 2
space: 0.1
koii_p2p:
  slash_basis_points: 6000
  starts_in: 4000
  audit:
    auditors: 7
    finders_share: 1000
"""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    file = tmp_path / "config-task.yml"
    file.write_text(CONFIG)
    return file


def test_a_task_is_created_by_its_file(spender: Spender, config: Path) -> None:
    before = spender.balance()
    made = spender.found("task", "create", config, "--yes")
    assert (made["name"], made["funded"]) == ("by a file", 10_500_000_000)
    assert before - spender.balance() == made["cost"]["total"]
    assert "bounties of 42 rounds" in made["notes"][-1]
    found = spender.found("task", "show", made["task"])
    assert (found["name"], found["program"], found["vault"]) == (
        "by a file",
        "examples.hello_world",
        10_500_000_000,
    )
    assert (found["round_time"], found["submission_window"], found["audit_window"]) == (20, 8, 8)
    assert (found["minimum_stake"], found["bounty_per_round"]) == (1_900_000_000, 250_000_000)
    assert (found["slash_basis_points"], found["allowed_failed_distributions"]) == (6000, 2)
    assert (found["audit"]["auditors"], found["audit"]["finders_share"]) == (7, 1000)
    assert found["starting_slot"] - found["slot"] > 3500


def test_options_go_before_the_file_and_that_is_said(spender: Spender, config: Path) -> None:
    options = (
        "--name", "by options", "--round-time", 30, "--minimum-stake", "2", "--fund", "0", "--slash", 6000,
        "--rule", "auditors=3", "--rule", "quorum=2",
    )  # fmt: skip
    made = spender.found("task", "create", config.parent, *options, "--yes")
    assert made["notes"][:-1] == [
        "--name by options goes before task_name by a file of config-task.yml.",
        "--round-time 30 goes before round_time 20 of config-task.yml.",
        "--minimum-stake 2 KOII goes before minimum_stake_amount 1.9 KOII of config-task.yml.",
        "--fund 0 KOII goes before total_bounty_amount 10.5 KOII of config-task.yml.",
        "--rule auditors=3 goes before auditors: 7 of config-task.yml.",
    ]
    found = spender.found("task", "show", made["task"])
    assert (found["name"], found["round_time"], found["minimum_stake"]) == ("by options", 30, 2 * KOII)
    assert (found["vault"], found["slash_basis_points"]) == (0, 6000)
    rules = {name: found["audit"][name] for name in ("auditors", "quorum", "finders_share")}
    assert rules == {"auditors": 3, "quorum": 2, "finders_share": 1000}


def test_a_file_that_cannot_be_used_makes_no_task(spender: Spender, config: Path) -> None:
    config.write_text(CONFIG.replace("round_time: 20", 'round_time: "20"').replace("space: 0.1", "space: 0"))
    code, error = spender.refused("task", "create", config, "--yes")
    assert (code, "line 7: round_time is '20' in quotes" in error["why"]) == (3, True)
    assert "line 15: space is 0. Write a number of MB, from 0.1 to 50" in error["why"]
    config.write_text(CONFIG)
    for options, code, why in (
        (("--audit-window", 15), 3, "longer than round_time"),
        (("--program", ""), 3, "program is empty"),
        (("--rule", "quorum=0"), 2, "from 1 to 255"),
        (("--rule", "canary_rate=5"), 2, "needs sealed"),
        (("--rule", "profile=all", "--rule", "audit_rate=10000"), 0, ""),
    ):
        told, _out, err = spender.run("task", "create", config, *options, "--yes")
        assert (told, why in err) == (code, True), err
    assert len(spender.found("task", "list", "--mine")) == 1


def test_a_rule_may_need_what_the_file_says(spender: Spender, config: Path) -> None:
    config.write_text(CONFIG.replace("finders_share: 1000", "sealed: yes"))
    made = spender.found("task", "create", config, "--rule", "canary_rate=100", "--yes")
    audit = spender.found("task", "show", made["task"])["audit"]
    assert (audit["sealed"], audit["canary_rate"], audit["auditors"]) == (True, 100, 7)


def test_without_a_file_and_an_option_it_is_said_what_is_missing(spender: Spender) -> None:
    code, error = spender.refused("task", "create", "--name", "n", "--round-time", 20, "--yes")
    assert code == 2
    missing = "--program, --submission-window, --audit-window, --bounty-per-round, --minimum-stake"
    assert f"give {missing}, or the PATH" in error["why"]


def test_a_file_is_checked_without_keys_or_k2(
    tmp_path: Path, config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    nobody = Spender("http://127.0.0.1:9", tmp_path / "nobody", capsys)
    nobody.home.wallet_key.unlink()
    config.write_text(CONFIG + "tag: [AI]\ntask_audit_program_id: ''\n")
    found = nobody.found("task", "check", config.parent)
    assert (found["valid"], found["file"], found["name"]) == (True, str(config), "by a file")
    assert found["slots"] == {
        "starts_in": 4000, "round_time": 20, "submission_window": 8, "audit_window": 8, "delay": 4,
        "until_paid": 56,
    }  # fmt: skip
    assert (found["seconds"]["round_time"], found["seconds"]["until_paid"]) == (8.0, 22.4)
    assert (found["fund"], found["funded_rounds"], found["funded_seconds"]) == (10_500_000_000, 42, 336.0)
    assert found["metadata"]["author"] == "someone"
    assert "nothing" in found["meanings"]["space"]
    assert found["warnings"] == [
        "line 22: tag is not a field of this file, and is ignored; perhaps you mean tags."
    ]
    shown = nobody.shown("task", "check", config)
    for words in ("20 slots = 8 s", "1.9 KOII = 1900000000 Roe", "42 rounds: 5 min 36 s", "warning: line 22"):
        assert words in shown
    assert "26 min 40 s" in shown, "of 4000 slots until it starts"


def test_a_check_fails_with_what_to_do(
    tmp_path: Path, config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    nobody = Spender("http://127.0.0.1:9", tmp_path / "nobody", capsys)
    code, error = nobody.refused("task", "check", tmp_path / "absent")
    assert (code, "no such file" in error["why"]) == (3, True)
    for old, new, why in (
        ("task_type: KOII", "task_type: KPL\ntoken_type: 7RzFDBFBf2NnBdUVn8uRL5BGcyRWYdXQzUnNGdYWHRcF", "tokens"),
        ("round_time: 20", "round_time: 15", "Line 7: round_time is 15 slots, less than the 16"),
        ("task_name: by", "task_name: &x by", "Line 1: it has an anchor"),
    ):  # fmt: skip
        config.write_text(CONFIG.replace(old, new))
        code, error = nobody.refused("task", "check", config)
        assert (code, why in error["why"]) == (3, True), error
    config.write_text(CONFIG.replace("DEVELOPMENT", "IPFS").replace("examples.hello_world", "dist/main.js"))
    (warning,) = nobody.found("task", "check", config)["warnings"]
    assert "--program" in warning
