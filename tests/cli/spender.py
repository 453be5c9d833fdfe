"""A home with keys and Roe, and the command line that spends it on a local K2."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import base58
import pytest
import trio

from koii_p2p.cli.key_names import text_of
from koii_p2p.cli.main import run
from koii_p2p.records.keys import SecretKey
from koii_p2p.rounds.distribution import DistributionList
from koii_p2p.settlement.program import ProgramSettlement
from koii_p2p.settlement.rpc import RpcClient
from koii_p2p.storage.home import Home
from koii_p2p.storage.keyfile import save_secret

KOII = 10**9
UNKNOWN = text_of(bytes(range(32)))


class Spender:
    """Runs `koii-p2p` in this process, from one home and on one K2."""

    def __init__(self, url: str, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.url, self.home = url, Home(home)
        self._capsys = capsys
        self.home.prepare()
        self.wallet, self.staker = SecretKey.generate(), SecretKey.generate()
        save_secret(self.home.wallet_key, self.wallet)
        save_secret(self.home.staking_key, self.staker)

    def run(self, *words: object, output: str = "json") -> tuple[int, str, str]:
        line = ["--home", str(self.home.path), "--url", self.url, "--output", output, *map(str, words)]
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

    def refused(self, *words: object) -> tuple[int, dict[str, str]]:
        """The exit code and the error of a command that prints nothing else."""
        code, out, err = self.run(*words)
        assert (code != 0, out) == (True, ""), (out, err)
        error = json.loads(err)["error"]
        assert all(error[part] for part in ("what", "why", "remedy")), error
        assert error["exit_code"] == code
        return code, error

    def paid(self, amount: str) -> Spender:
        """The same, after the faucet paid the wallet."""
        self.found("k2", "airdrop", text_of(self.wallet.public_key), amount)
        return self

    def balance(self) -> int:
        """What the wallet holds, in Roe."""
        held: int = self.found("balance")["wallet"]["balance"]
        return held

    def create(self, *more: object) -> str:
        """A task whose first round is far away and whose rounds are short; its id."""
        made = self.found("task", "create", *TERMS, *more, "--yes")
        return str(made["task"])

    def wait_for_slot(self, slot: int) -> None:
        while self.found("balance")["slot"] < slot:
            time.sleep(0.05)


TERMS = (
    "--name", "spent", "--program", "examples.hello_world", "--round-time", 20, "--submission-window", 8,
    "--audit-window", 8, "--bounty-per-round", "1.5", "--minimum-stake", "2", "--starts-in", 4000,
)  # fmt: skip


async def anchor_list(
    url: str, wallet: SecretKey, staker: SecretKey, task: str, listed: DistributionList
) -> int:
    """Anchor round 0 of a task with this list; the slot from which on it is settled."""
    where = base58.b58decode(task)
    async with RpcClient(url) as rpc:
        node = ProgramSettlement(rpc, wallet, staker)
        clock = (await node.task_state(where)).terms.clock
        while await node.slot() < clock.commitment(0).opens + 1:
            await trio.sleep(0.02)
        await node.anchor_commitment(where, 0, b"c" * 32)
        while await node.slot() < clock.distribution(0).opens + 1:
            await trio.sleep(0.02)
        await node.anchor_list(where, 0, listed.root, listed.reward_total, listed.slash_total)
        return clock.settles_at(0)
