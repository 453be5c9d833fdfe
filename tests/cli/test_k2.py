"""`koii-p2p k2`: faults, snapshots and the explorer, against a real local K2 process."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import base58
import pytest
import structlog
import trio
from solders.keypair import Keypair

from koii_p2p.cli.main import run
from koii_p2p.settlement.rpc import RpcClient
from tests.localk2.anchored import DIGEST, anchored_task
from tests.localk2.chain import K2Process, k2_process

KOII = 10**9


def text(key: bytes) -> str:
    return base58.b58encode(key).decode()


class Shell:
    """Runs `koii-p2p k2` in this process against one K2."""

    def __init__(self, url: str, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.url = url
        self._home = home
        self._capsys = capsys

    def run(self, *words: object, output: str = "json") -> tuple[int, str, str]:
        line = ["--home", str(self._home), "--url", self.url, "--output", output, "k2", *map(str, words)]
        self._capsys.readouterr()
        code = run(line)
        out, err = self._capsys.readouterr()
        return code, out, err

    def found(self, *words: object) -> Any:
        code, out, err = self.run(*words)
        assert code == 0, err
        return json.loads(out)

    def shown(self, *words: object) -> str:
        code, out, err = self.run(*words, output="table")
        assert code == 0, err
        return out


@pytest.fixture(autouse=True)
def own_logs() -> Iterator[None]:
    """Commands send logs to the stderr of their test: afterwards, logs go where they went before."""
    yield
    structlog.reset_defaults()
    logging.basicConfig(level=logging.WARNING, force=True)


@pytest.fixture
def k2(tmp_path: Path) -> Iterator[K2Process]:
    with k2_process(tmp_path / "k2", "--slot-ms", "20", "--finality", "8", "--allow-faults") as running:
        yield running


@pytest.fixture
def shell(k2: K2Process, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Shell:
    return Shell(k2.address["url"], tmp_path / "home", capsys)


async def reached(url: str, slot: int) -> None:
    async with RpcClient(url) as rpc:
        while await rpc.get_slot() < slot:
            await trio.sleep(0.02)


def test_faults_are_shown_changed_and_cleared(shell: Shell) -> None:
    assert shell.found("faults")["faults"]["drop"] == 0
    changed = shell.found("faults", "--drop", "0.2", "--wrong", "id", "--wrong-share", "0", "--reorder")[
        "faults"
    ]
    assert (changed["drop"], changed["wrong"], changed["reorder"]) == (0.2, ["id"], True)
    kept = shell.found("faults", "--lag", 30, "--in-order")["faults"]
    assert (kept["drop"], kept["lag"], kept["reorder"]) == (0.2, 30, False)
    assert "lag" in shell.shown("faults")
    cleared = shell.found("faults", "--clear", "--delay-ms", 5)["faults"]
    assert (cleared["drop"], cleared["lag"], cleared["delay_ms"]) == (0, 0, 5)
    code, _, err = shell.run("faults", "--drop", "7")
    assert (code, "not possible" in err) == (3, True)
    assert shell.found("faults")["faults"] == cleared


def test_a_k2_that_was_not_started_for_it_refuses(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with k2_process(tmp_path / "k2") as closed:
        shell = Shell(closed.address["url"], tmp_path, capsys)
        for words in (("faults",), ("rollback", "1"), ("prune", "1")):
            code, _, err = shell.run(*words)
            assert code == 5
            assert "--allow-faults" in json.loads(err)["error"]["remedy"]


def test_slots_are_rolled_back_and_history_is_pruned(shell: Shell) -> None:
    trio.run(reached, shell.url, 6)
    to = str(Keypair().pubkey())
    signature = shell.found("airdrop", to, "5")["signature"]
    slot = shell.found("show", "tx", signature)["slot"]
    assert shell.found("show", "account", to)["balance"] == 5 * KOII
    again = shell.found("rollback", 4, "--land-again", 1)
    assert again["slot"] > 0
    assert again["undone"] >= again["landedAgain"]
    assert shell.found("prune", slot)["firstSlot"] <= slot


def test_a_transaction_its_block_and_its_account_are_shown(shell: Shell) -> None:
    to = str(Keypair().pubkey())
    signature = shell.found("airdrop", to, "5")["signature"]
    tx = shell.found("show", "tx", signature)
    transfer = tx["instructions"][1]
    assert (transfer["name"], transfer["values"]) == ("System", {"amount": 5 * KOII, "to": to})
    assert (tx["err"], tx["fee"], tx["commitment"]) == (None, 5000, tx["commitment"])
    block = shell.found("show", "slot", tx["slot"])
    assert [one["signature"] for one in block["transactions"]] == [signature]
    assert block["parent"] < block["slot"]
    account = shell.found("show", "account", to)
    assert account["owner_name"] == "System"
    assert [one["signature"] for one in account["transactions"]] == [signature]
    # And for a person: nothing cut, nothing broken across lines.
    assert f"transfer 5 KOII to {to}" in shell.shown("show", "tx", signature)
    assert signature in shell.shown("show", "slot", tx["slot"])
    assert "balance  5 KOII" in shell.shown("show", "account", to)


def test_a_task_and_its_stake_are_decoded(k2: K2Process, shell: Shell) -> None:
    made = trio.run(anchored_task, k2.address["url"])
    task, staker = text(made.task), text(made.staker)
    found = shell.found("show", "account", task)
    assert (found["kind"], found["owner_name"]) == ("task", "Settlement")
    assert (found["content"]["funded"], found["content"]["stakers"]) == (50 * KOII, 1)
    does = [
        instruction["does"]
        for line in found["transactions"]
        for instruction in shell.found("show", "tx", line["signature"])["instructions"]
        if instruction["name"] == "Settlement"
    ]
    assert [one.split(" ")[0] for one in does] == ["AnchorCommitment", "Stake", "Fund", "CreateTask"]
    staked = shell.found("show", "tx", found["transactions"][1]["signature"])
    values = next(one["values"] for one in staked["instructions"] if one["name"] == "Settlement")
    assert (values["staker"], values["amount"]) == (staker, 5 * KOII)
    stake = next(one for one in staked["instructions"] if one["name"] == "Settlement")["accounts"]
    kinds = [shell.found("show", "account", address).get("kind") for address in stake]
    assert "stake" in kinds
    assert "Stake (" in shell.shown("show", "tx", found["transactions"][1]["signature"])
    (anchored,) = shell.found("show", "round", task, 0)["entries"]
    assert (anchored["does"], anchored["signer"], anchored["err"]) == (
        "AnchorCommitment",
        staker,
        None,
    )
    assert anchored["signature"] == made.signature
    assert anchored["values"]["digest"] == DIGEST.hex()
    assert anchored["signature"] in shell.shown("show", "round", task, 0)
    code, _, err = shell.run("show", "round", task, 3)
    assert (code, "Nothing about it was sent" in err) == (1, True)


@pytest.mark.parametrize(
    ("words", "code", "say"),
    [
        (("slot", "99999999"), 1, "K2 has no slot"),
        (("tx", "1" * 64), 1, "K2 has no transaction"),
        (("account", "1" * 31 + "2"), 1, "K2 has no account"),
        (("tx", "abc"), 2, "not a signature"),
        (("account", "0OIl"), 2, "not an address"),
        (("slot", "-1"), 2, ""),
    ],
)
def test_what_is_not_there_is_said(shell: Shell, words: tuple[str, ...], code: int, say: str) -> None:
    found, out, err = shell.run("show", *words)
    assert (found, out) == (code, "")
    assert say in err
    assert "Traceback" not in err


def test_a_chain_is_saved_while_it_runs_and_goes_on_elsewhere(
    k2: K2Process, shell: Shell, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    to = str(Keypair().pubkey())
    signature = shell.found("airdrop", to, "5")["signature"]
    file = tmp_path / "snapshot"
    saved = shell.found("save", file, "--path", tmp_path / "k2")
    assert saved["genesis"] == k2.address["genesis"]
    assert shell.found("restore", file, "--path", tmp_path / "two") == saved
    with k2_process(tmp_path / "two") as second:
        assert second.address["genesis"] == k2.address["genesis"]
        other = Shell(second.address["url"], tmp_path / "home", capsys)
        assert other.found("show", "tx", signature)["slot"] == shell.found("show", "tx", signature)["slot"]
        assert other.found("show", "account", to)["balance"] == 5 * KOII
    code, _, err = shell.run("restore", tmp_path / "nothing", "--path", tmp_path / "three")
    assert (code, "cannot be used" in err) == (3, True)


def test_up_takes_faults_by_flags(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = [
        "--drop",
        "0.5",
        "--lag",
        "7",
        "--seed",
        "3",
        "--allow-faults",
        "--rpc-nodes",
        "2",
        "--slot-ms",
        "50",
    ]
    command = [sys.executable, "-m", "koii_p2p.cli", "--output", "json", "k2", "up", "--port", "0"]
    process = subprocess.Popen(
        [*command, "--path", str(tmp_path / "k2"), *flags],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        assert process.stdout is not None
        said = ""
        while not said.endswith("}\n"):
            said += process.stdout.readline()
        announced = json.loads(said)
        assert len(announced["nodes"]) == 2
        for url in announced["nodes"]:
            faults = Shell(url, tmp_path, capsys).found("faults")["faults"]
            assert (faults["drop"], faults["lag"], faults["seed"]) == (0.5, 7, 3)
    finally:
        os.kill(process.pid, signal.SIGINT)
        process.communicate(timeout=30)
    assert process.returncode == 130


def test_up_refuses_faults_that_are_not_possible(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shell = Shell("local", tmp_path, capsys)
    for flags in (("--drop", "2"), ("--wrong", "all"), ("--lag", "9999"), ("--rpc-nodes", "99")):
        code, _, err = shell.run("up", "--port", "0", "--path", tmp_path / "k2", *flags)
        assert (code, "not possible" in err) == (3, True)
    assert not (tmp_path / "k2").exists()
