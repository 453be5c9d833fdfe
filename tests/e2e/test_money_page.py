"""Every command that docs/money.md shows is run here, on a local K2 that it starts."""

from __future__ import annotations

import json
import shlex
import signal
import time
from contextlib import ExitStack
from pathlib import Path

import pytest
import trio

from koii_p2p.rounds.distribution import DistributionList, Leaf
from koii_p2p.storage.home import Home
from koii_p2p.storage.keyfile import load_secret
from tests.cli.spender import KOII, anchor_list
from tests.e2e.shell import koii_p2p, running, wait_until
from tests.e2e.test_documents import ROOT, shown_commands

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

SHORT = {"1500": "40", "500": "13"}
"""What is shown takes ten minutes a round."""

READING = ("balance", "list", "show", "init", "airdrop")


def test_every_command_of_the_money_page(tmp_path: Path) -> None:
    left = shown_commands([ROOT / "docs" / "money.md"])
    assert left
    home = Home(tmp_path / "home")
    place = {"KOII_P2P_HOME": str(home.path)}
    names: dict[str, str] = dict(SHORT)

    def take(*words: str) -> list[str]:
        start = " ".join(("koii-p2p", *words))
        command = next(command for command in left if command == start or command.startswith(f"{start} "))
        left.remove(command)
        return [names.get(word, word) for word in shlex.split(command)[1:]]

    def tried(*words: str, more: tuple[str, ...] = ()) -> tuple[int, str, str]:
        return called([*take(*words), *more])

    def called(arguments: list[str]) -> tuple[int, str, str]:
        if not set(arguments[:2]) & set(READING):
            arguments = [*arguments, "--yes"]
        result = koii_p2p(*arguments, seconds=60, **place)
        return result.returncode, result.stdout, result.stderr

    def run(*words: str, more: tuple[str, ...] = ()) -> str:
        code, out, err = tried(*words, more=more)
        assert code == 0, (words, err)
        return out

    def stake_of(task: str) -> dict[str, int]:
        found = json.loads(koii_p2p("balance", "--output", "json", seconds=60, **place).stdout)
        (held,) = [one for one in found["tasks"] if one["task"] == task]
        return {"now": found["slot"], **held}

    def wait_for(slot: int) -> None:
        while stake_of(names["TASK"])["now"] <= slot:
            time.sleep(0.2)

    with ExitStack() as stack:
        k2 = stack.enter_context(running(*take("k2", "up"), "--port", "0", "--slot-ms", "50", **place))
        k2.wait_for("genesis")
        place["KOII_P2P_URL"] = k2.wait_for("url").split()[1]
        run("init")
        wallet, staker = load_secret(home.wallet_key), load_secret(home.staking_key)
        names["WALLET"] = json.loads(
            koii_p2p("keys", "show", "--output", "json", seconds=60, **place).stdout
        )["wallet"]
        run("k2", "airdrop")

        made = run("task", "create", more=("--failed-distributions", "0", "--output", "json"))
        task = names["TASK"] = json.loads(made)["task"]
        assert task in run("task", "list")
        assert "100 KOII" in run("task", "show")
        assert "150 KOII" in run("task", "fund")
        assert "5 KOII" in run("stake")
        assert task in run("balance")

        listed = DistributionList(0, (Leaf(staker.public_key, 2 * KOII, KOII),))
        settles = trio.run(anchor_list, place["KOII_P2P_URL"], wallet, staker, task, listed)
        wait_for(settles)
        code, _, err = tried("claim")
        assert (code, "--list" in err) == (3, True), "no node of this home has the list"
        assert "locked" not in run("unstake")
        code, _, err = tried("withdraw", "TASK")
        assert (code, "is locked until slot" in err) == (5, True)
        wait_for(stake_of(task)["unlock_slot"])
        code, _, err = tried("withdraw", "TASK", "--peer")
        assert (code, "ADDRESS" in err) == (3, True), "no peer runs here"
        names["FILE"] = str(tmp_path / "list")
        Path(names["FILE"]).write_bytes(listed.encode())
        assert "4 KOII" in run("withdraw", "TASK", "--list")
        assert "2 KOII" in called(["claim", task, "--list", names["FILE"]])[1]

        run("task", "update")
        assert "inactive" in run("task", "deactivate")
        assert "active" in run("task", "activate")
        assert called(["task", "deactivate", task])[0] == 0
        closing = take("task", "close")
        code, _, err = called(closing)
        assert (code, "can still be listed" in err) == (5, True), "the rounds in flight have their time"
        wait_until(lambda: called(closing)[0] == 0, 60, "the end of the last round")
        assert "closed" in called(["task", "show", task])[1]
        k2.signal(signal.SIGINT)
        assert k2.end() == 130
    assert left == []
