"""`koii-p2p balance`, `stake`, `unstake`, `withdraw` and `claim`, against a real local K2 process."""

from __future__ import annotations

import io
import json
import logging
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import base58
import pytest
import structlog
import trio

from koii_p2p.cli.key_names import text_of
from koii_p2p.cli.main import run
from koii_p2p.limits import Limits
from koii_p2p.rounds.distribution import DistributionList, Leaf
from koii_p2p.settlement.rpc import RpcClient
from koii_p2p.storage.artifacts import Artifact, Artifacts
from koii_p2p.storage.database import Database
from tests.cli.spender import KOII, TERMS, UNKNOWN, Spender, anchor_list
from tests.localk2.chain import K2Process, k2_process

FEE = 5000
"""Of one signature on the local K2."""


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
def poor(k2: K2Process, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Spender:
    return Spender(k2.address["url"], tmp_path / "home", capsys)


@pytest.fixture
def spender(poor: Spender) -> Spender:
    return poor.paid("100")


def answer(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    """A person at a terminal who types this."""
    terminal = io.StringIO(text)
    monkeypatch.setattr(terminal, "isatty", lambda: True)
    monkeypatch.setattr(sys, "stdin", terminal)


def test_a_stake_goes_into_a_task_and_back(spender: Spender) -> None:
    task = spender.create()
    before = spender.balance()
    staked = spender.found("stake", task, "5", "--yes")
    cost = staked["cost"]
    assert (cost["amount"], cost["fee"]) == (5 * KOII, 2 * FEE)
    assert cost["rent"] > 0
    assert before - spender.balance() == cost["total"], "it costs what was said"
    assert (staked["stake"], staked["beneficiary"]) == (5 * KOII, text_of(spender.wallet.public_key))

    more = spender.found("stake", task, "0.5", "--yes")
    assert (more["stake"], more["cost"]["rent"]) == (5 * KOII + KOII // 2, 0)
    (held,) = spender.found("balance")["tasks"]
    assert (held["task"], held["name"], held["stake"], held["rent"]) == (
        task,
        "spent",
        5_500_000_000,
        cost["rent"],
    )
    assert (held["asked_back_slot"], held["unsettled_reward"]) == (None, 0)
    assert "5.5 KOII" in spender.shown("balance")

    code, error = spender.refused("withdraw", task, "--yes")
    assert (code, "koii-p2p unstake" in error["remedy"]) == (5, True)
    asked = spender.found("unstake", task, "--yes")
    assert asked["unlock_slot"] == asked["slot"] + 60
    code, error = spender.refused("withdraw", task, "--yes")
    assert (code, f"locked until slot {asked['unlock_slot']}" in error["why"]) == (5, True)
    code, error = spender.refused("unstake", task, "--yes")
    assert (code, "asked back already" in error["what"]) == (5, True)
    assert "locked until slot" in spender.shown("balance")

    spender.wait_for_slot(asked["unlock_slot"] + 1)
    before = spender.balance()
    paid = spender.found("withdraw", task, "--yes")
    assert (paid["paid"], paid["slashed"], paid["cost"]["total"]) == (5_500_000_000, 0, FEE)
    assert spender.balance() == before + 5_500_000_000 - FEE
    (left,) = spender.found("balance")["tasks"]
    assert (left["stake"], left["unlock_slot"]) == (0, None)
    code, error = spender.refused("withdraw", task, "--yes")
    assert (code, "has no stake" in error["what"]) == (5, True)

    spender.found("task", "deactivate", task, "--yes")
    code, error = spender.refused("stake", task, "5", "--yes")
    assert (code, "takes no stakes" in error["what"]) == (5, True)
    spender.found("task", "close", task, "--yes")
    for words in (("stake", task, "5"), ("unstake", task), ("claim", task)):
        code, error = spender.refused(*words, "--yes")
        assert (code, "was closed" in error["what"]) == (5, True)
    assert "rent back" in spender.shown("balance")
    rent = spender.found("withdraw", task, "--yes")
    assert (rent["paid"], rent["closed"]) == (cost["rent"], True)
    assert spender.found("balance")["tasks"] == []
    assert "no stakes" in spender.shown("balance")
    code, error = spender.refused("withdraw", task, "--yes")
    assert (code, "nothing to withdraw" in error["what"]) == (5, True)


def test_a_top_up_takes_the_request_back(spender: Spender) -> None:
    task = spender.create()
    spender.found("stake", task, "2", "--yes")
    spender.found("unstake", task, "--yes")
    assert any("takes back" in note for note in spender.found("stake", task, "1", "--yes")["notes"])
    (held,) = spender.found("balance")["tasks"]
    assert (held["stake"], held["asked_back_slot"]) == (3 * KOII, None)


@pytest.mark.parametrize(
    "amount", ["0", "0.0000000001", "1e-10", "many", "", "nan", "18446744073.709551616", "1e99"]
)
def test_an_amount_that_is_none_is_refused_before_anything_is_asked(poor: Spender, amount: str) -> None:
    code, _ = poor.refused("--url", "http://127.0.0.1:1", "stake", UNKNOWN, amount, "--yes")
    assert code == 2


def test_a_negative_amount_is_no_amount(poor: Spender) -> None:
    assert poor.refused("stake", UNKNOWN, "-1", "--yes")[0] == 2
    assert poor.refused("stake", UNKNOWN, "--yes", "--", "-1")[0] == 2


@pytest.mark.parametrize("words", [("stake", "X", "1"), ("unstake", "X"), ("withdraw", "X"), ("claim", "X")])
def test_what_is_no_task_is_refused(poor: Spender, words: tuple[str, ...]) -> None:
    code, error = poor.refused(*(UNKNOWN if word == "X" else word for word in words), "--yes")
    assert (code, f"There is no task {UNKNOWN}" in error["what"]) == (5, True)
    code, error = poor.refused(*("0OIl" if word == "X" else word for word in words), "--yes")
    assert (code, "not 32 bytes in base58" in error["why"]) == (2, True)


def test_who_has_no_stake_is_told(spender: Spender) -> None:
    task = spender.create()
    for words in (("unstake", task), ("withdraw", task), ("claim", task)):
        code, error = spender.refused(*words, "--yes")
        assert (code, "has no stake" in error["what"]) == (5, True)
    code, error = spender.refused("stake", task, "1.9", "--yes")
    assert (code, "Stake 2 KOII or more." in error["remedy"]) == (5, True)
    spender.found("stake", task, "2", "--yes")
    code, error = spender.refused("claim", task, "--yes")
    assert (code, "No distribution list is settled yet." in error["why"]) == (5, True)


def test_a_poor_wallet_is_told_what_it_lacks(spender: Spender, k2: K2Process, tmp_path: Path) -> None:
    task = spender.create()
    code, error = spender.refused("stake", task, "100", "--yes")
    assert (code, "cannot pay for this" in error["what"]) == (5, True)
    assert "KOII of rent" in error["why"]
    left = spender.balance()
    # All but a little: an account can't be left with less than its rent.
    cost = spender.found("task", "fund", task, "1", "--yes")["cost"]["total"] - KOII
    nearly = left - KOII - 2 * cost - 1000
    code, error = spender.refused("task", "fund", task, f"{nearly / KOII:.9f}", "--yes")
    assert (code, "leaves less than" in error["why"]) == (5, True)
    assert spender.balance() == left - KOII - cost, "nothing was sent"


def test_nobody_to_ask_is_a_refusal_with_the_price(spender: Spender) -> None:
    task = spender.create()
    before = spender.balance()
    code, error = spender.refused("stake", task, "5")
    assert (code, "--yes" in error["remedy"]) == (2, True)
    assert "5 KOII" in error["why"]
    assert spender.balance() == before


def test_a_person_is_asked_and_may_say_no(spender: Spender, monkeypatch: pytest.MonkeyPatch) -> None:
    task = spender.create()
    before = spender.balance()
    for said in ("n\n", "\n"):
        answer(monkeypatch, said)
        code, out, err = spender.run("stake", task, "5", output="table")
        assert (code, out) == (1, "")
        assert "This stakes 5 KOII in task spent" in err
        assert "of rent" in err
        assert "Nothing was sent." in err
    assert spender.balance() == before
    answer(monkeypatch, "y\n")
    code, out, _ = spender.run("stake", task, "5", output="table")
    assert (code, "signature" in out) == (0, True)
    answer(monkeypatch, "y\n")
    code, out, err = spender.run("unstake", task, output="json")
    assert code == 0, err
    assert json.loads(out)["stake"] == 5 * KOII


def test_a_key_that_is_missing_is_named(spender: Spender) -> None:
    spender.home.staking_key.unlink()
    code, error = spender.refused("balance")
    assert (code, "staking.json" in error["what"]) == (3, True)


def test_k2_that_is_away_is_said(poor: Spender) -> None:
    poor.url = "http://127.0.0.1:1"
    code, error = poor.refused("balance")
    assert (code, "127.0.0.1:1" in error["what"] + error["why"]) == (5, True)


# --- with a settled list


def test_rewards_are_claimed_and_a_slashed_stake_is_withdrawn_with_its_leaf(
    spender: Spender, tmp_path: Path
) -> None:
    terms = ("--starts-in", 120, "--round-time", 80, "--submission-window", 30, "--audit-window", 24)
    task = spender.create(*terms, "--failed-distributions", 0, "--fund", "20")
    spender.found("stake", task, "10", "--yes")
    listed = DistributionList(0, (Leaf(spender.staker.public_key, KOII, 7 * KOII),))
    settles = trio.run(anchor_list, spender.url, spender.wallet, spender.staker, task, listed)
    unlock = spender.found("unstake", task, "--yes")["unlock_slot"]
    spender.wait_for_slot(settles + 1)

    code, error = spender.refused("claim", task, "--yes")
    assert (code, "--list" in error["remedy"]) == (3, True)
    (held,) = spender.found("balance")["tasks"]
    assert (held["settled_round"], held["unsettled_reward"]) == (0, None)
    assert "?" in spender.shown("balance")
    _store(spender, task, listed)
    (held,) = spender.found("balance")["tasks"]
    assert (held["unsettled_reward"], held["unsettled_slash"]) == (KOII, 7 * KOII)

    file = tmp_path / "list"
    file.write_bytes(DistributionList(0, (Leaf(spender.staker.public_key, 2 * KOII, 0),)).encode())
    code, error = spender.refused("claim", task, "--list", file, "--yes")
    assert (code, "is not the list of round 0" in error["why"]) == (3, True)
    code, error = spender.refused("claim", task, "--list", tmp_path / "none", "--yes")
    assert code == 3
    assert spender.refused("claim", task, "--list", file, "--peer", "/ip4/1.2.3.4", "--yes")[0] == 2
    file.write_bytes(listed.encode())

    before = spender.balance()
    claimed = spender.found("claim", task, "--list", file, "--yes")
    assert (claimed["reward"], claimed["slashed"], claimed["round"]) == (KOII, 7 * KOII, 0)
    assert spender.balance() == before + KOII - FEE
    again = spender.found("claim", task, "--yes")
    assert (again["signature"], again["reward"]) == (None, 0)
    (held,) = spender.found("balance")["tasks"]
    assert (held["stake"], held["reward_paid"], held["slashed"]) == (3 * KOII, KOII, 7 * KOII)

    spender.wait_for_slot(unlock + 1)
    paid = spender.found("withdraw", task, "--list", file, "--yes")
    assert (paid["paid"], paid["slashed"], paid["unclaimed_reward"]) == (3 * KOII, 0, 0)


def test_a_stake_leaves_with_its_leaf_only(spender: Spender, tmp_path: Path) -> None:
    terms = ("--starts-in", 120, "--round-time", 80, "--submission-window", 30, "--audit-window", 24)
    task = spender.create(*terms, "--failed-distributions", 0, "--fund", "20")
    spender.found("stake", task, "10", "--yes")
    listed = DistributionList(0, (Leaf(spender.staker.public_key, KOII, 7 * KOII),))
    settles = trio.run(anchor_list, spender.url, spender.wallet, spender.staker, task, listed)
    unlock = spender.found("unstake", task, "--yes")["unlock_slot"]
    spender.wait_for_slot(max(settles, unlock) + 1)
    code, error = spender.refused("withdraw", task, "--yes")
    assert (code, "newest settled list" in error["why"]) == (3, True)
    _store(spender, task, listed)
    with spender.home.locked():  # as a node does that starts: it does not answer yet
        assert spender.refused("withdraw", task, "--yes")[0] == 3
        assert spender.found("balance")["tasks"][0]["unsettled_reward"] is None
    before = spender.balance()
    paid = spender.found("withdraw", task, "--yes")
    assert (paid["paid"], paid["slashed"], paid["unclaimed_reward"]) == (3 * KOII, 7 * KOII, KOII)
    assert spender.balance() == before + 3 * KOII - FEE
    assert spender.found("claim", task, "--yes")["reward"] == KOII


def _store(spender: Spender, task: str, listed: DistributionList) -> None:
    """What a node of this home that has stopped would have left."""

    async def genesis() -> bytes:
        async with RpcClient(spender.url) as rpc:
            return await rpc.get_genesis_hash()

    with Database.open(spender.home.database_of(trio.run(genesis))) as database:
        Artifacts(database, Limits()).put(
            base58.b58decode(task), listed.round, Artifact.LIST, listed.encode()
        )


def test_help_says_what_is_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("stake", "unstake", "withdraw", "claim"):
        assert run([name, "--help"]) == 0
        assert "--yes" in capsys.readouterr().out


# --- priority fees


def test_what_is_shown_with_a_priority_fee_is_what_is_paid(
    spender: Spender, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KOII_P2P_PRIORITY_FEE_LEAST", "20000")
    monkeypatch.setenv("KOII_P2P_PRIORITY_FEE_MOST", "100000")
    before = spender.balance()
    task = spender.create("--fund", "3")
    made = before - spender.balance()
    for words, moved in (
        (("stake", task, "5"), 5 * KOII),
        (("unstake", task), 0),
        (("task", "fund", task, "1"), KOII),
    ):
        code, error = spender.refused(*words)
        assert (code, "of fees" in error["why"] or "That costs" in error["why"]) == (2, True)
        before = spender.balance()
        sent = spender.found(*words, "--yes")
        assert sent["cost"]["amount"] == moved
        assert sent["cost"]["fee"] >= FEE + 200_000 * 20_000 // 10**6
        assert before - spender.balance() == sent["cost"]["total"]
    code, _, err = spender.run("stake", task, "2", "--yes", output="table")
    assert code == 0
    assert re.search(r"sent again for up to 0\.0000\d+ KOII of fees", err)
    assert made > 3 * KOII
    monkeypatch.delenv("KOII_P2P_PRIORITY_FEE_MOST")
    code, error = spender.refused("balance")
    assert (code, "from 20000 to 0" in error["what"]) == (3, True)


def test_a_person_is_shown_the_fee_that_is_paid(spender: Spender, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both transactions of one command: the task and its funds."""
    monkeypatch.setenv("KOII_P2P_PRIORITY_FEE_LEAST", "30000")
    monkeypatch.setenv("KOII_P2P_PRIORITY_FEE_MOST", "30000")
    before = spender.balance()
    answer(monkeypatch, "y\n")
    code, _, err = spender.run("task", "create", *TERMS, "--fund", "3", output="table")
    assert code == 0, err
    (shown,) = re.findall(r"Cost: ([0-9.]+) KOII", err)
    assert round(float(shown) * KOII) == before - spender.balance()
    assert "sent again" not in err, "there is nothing more to bid"
