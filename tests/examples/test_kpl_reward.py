"""Paid in tokens: real transfers of the token program on a real local K2, from lists that are final there."""

from __future__ import annotations

import importlib.util
import json
import shlex
import subprocess
import sys
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import base58
import pytest
import trio
from solders.pubkey import Pubkey
from solders.token.state import TokenAccount
from spl.token.instructions import get_associated_token_address

from koii_p2p.errors import CheckFailed
from koii_p2p.localk2 import LocalK2Address, LocalK2Settings, serve
from koii_p2p.records.keys import SecretKey
from koii_p2p.rounds.distribution import DistributionList, Leaf
from koii_p2p.rounds.tally import Outcome
from koii_p2p.rounds.terms import TaskTerms
from koii_p2p.settlement.program import ProgramSettlement
from koii_p2p.settlement.rpc import RpcClient
from koii_p2p.tasks.loader import load_task_class
from koii_p2p.tasks.sdk import Submitter, Verdict
from tests.e2e.shell import LONG, koii_p2p, running
from tests.e2e.test_documents import ROOT

EXAMPLE = ROOT / "examples" / "kpl_reward"
KOII = 1_000_000_000
STAKE = 5 * KOII
UNITS = 250_000


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("kpl_pay", EXAMPLE / "pay.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# --- the task


class Here:
    """As much of a context as the distribution needs."""

    slash_basis_points = 7000


async def test_rewards_are_units_and_slashes_are_koiis() -> None:
    task = load_task_class(EXAMPLE)()
    keys = [base58.b58encode(bytes([number]) * 32).decode() for number in range(1, 5)]
    outcomes = [Outcome.APPROVED, Outcome.REJECTED, Outcome.UNDECIDED, Outcome.UNAVAILABLE]
    group = [Submitter(key, outcome, STAKE) for key, outcome in zip(keys, outcomes, strict=True)]
    amounts = await task.distribution(Here(), group, 1_000_000, 0)  # type: ignore[arg-type]
    assert list(amounts.values()) == [UNITS, -(STAKE * 7000 // 10_000), 0, 0]
    poor = await task.distribution(Here(), group[:1] * 1, 100, 0)  # type: ignore[arg-type]
    assert list(poor.values()) == [100]
    assert await task.distribution(Here(), [], 100, 0) == {}  # type: ignore[arg-type]
    from koii_task import chain_of  # type: ignore[import-not-found]

    right = await task.audit(None, chain_of(3, keys[0]), 3, keys[0])  # type: ignore[arg-type]
    copied = await task.audit(None, chain_of(3, keys[0]), 3, keys[1])  # type: ignore[arg-type]
    assert (right.verdict, copied.verdict) == (Verdict.VALID, Verdict.INVALID)  # type: ignore[union-attr]


# --- paying


async def until(chain: ProgramSettlement, slot: int) -> None:
    while await chain.slot() < slot:
        await trio.sleep(0.02)


def listed(number: int, *totals: tuple[SecretKey, int]) -> DistributionList:
    return DistributionList(
        number,
        tuple(sorted((Leaf(key.public_key, total, 0) for key, total in totals), key=lambda one: one.staker)),
    )


class Anchored:
    """A task of three stakers, two of whom share a wallet, on a local K2; lists are anchored as they are told."""

    def __init__(self, rpc: RpcClient) -> None:
        self.rpc, self.payer = rpc, SecretKey.generate()
        self.stakers = [SecretKey.generate() for _ in range(3)]
        self.wallets = [SecretKey.generate().public_key for _ in range(2)]
        self.nodes = [ProgramSettlement(rpc, self.payer, staker) for staker in self.stakers]
        self.task = b""

    async def begin(self) -> None:
        await self.rpc.request_airdrop(self.payer.public_key, 100 * KOII)
        await until(self.nodes[0], 5)
        while not await self.rpc.get_balance(self.payer.public_key):
            await trio.sleep(0.02)
        terms = TaskTerms(
            task=bytes(32),
            creator=bytes(32),
            name="kpl",
            program="examples.kpl_reward",
            starting_slot=await self.nodes[0].slot() + 50,
            round_time=45,
            submission_window=15,
            audit_window=15,
            bounty_per_round=10**6,
            minimum_stake=KOII,
        )
        self.task = (await self.nodes[0].create_task(terms, nonce=1)).task
        await self.nodes[0].fund(self.task, KOII)
        for node, wallet in zip(self.nodes, [*self.wallets, self.wallets[1]], strict=True):
            await node.stake(self.task, STAKE, wallet)

    async def settle(self, folder: Path, *totals: tuple[SecretKey, int]) -> Path:
        """Anchor a list for the round that is worked on and wait until it is final; the file with its bytes."""
        node = self.nodes[0]
        clock = (await node.task_state(self.task)).terms.clock
        number = max(0, clock.period(await node.slot()))
        made = listed(number, *totals)
        await until(node, clock.commitment(number).opens)
        await node.anchor_commitment(self.task, number, b"c" * 32)
        await until(node, clock.distribution(number).opens)
        await node.anchor_list(self.task, number, made.root, made.reward_total, made.slash_total)
        file = folder / f"round-{number}.list"
        file.write_bytes(made.encode())
        await until(node, clock.settles_at(number, 0))
        return file

    async def tokens(self, mint: str) -> list[int]:
        """Units in the wallets."""
        found = []
        for wallet in self.wallets:
            account = get_associated_token_address(Pubkey(wallet), Pubkey.from_string(mint))
            held = await self.rpc.get_account(bytes(account))
            found.append(0 if held is None else TokenAccount.from_bytes(held.data).amount)
        return found


async def test_every_staker_is_paid_once_what_the_final_lists_have(
    tmp_path: Path, nursery: trio.Nursery, script: ModuleType
) -> None:
    settings = LocalK2Settings(tmp_path / "k2", port=0, slot_ms=30, finality=4)
    k2: LocalK2Address = await nursery.start(partial(serve, settings))
    with trio.fail_after(120):
        async with RpcClient(k2.url) as rpc:
            one = Anchored(rpc)
            await one.begin()
            first, second, third = one.stakers
            mint = await script.make_mint(k2.url, one.payer, 10**9)
            task = str(Pubkey(one.task))

            async def pay(file: Path) -> dict[str, int]:
                found: dict[str, int] = await script.pay(k2.url, one.payer, task, mint, script.of_file(file))
                return found

            with pytest.raises(CheckFailed, match="nothing to pay"):
                await pay(tmp_path / "none")
            file = await one.settle(tmp_path, (first, UNITS), (second, UNITS), (third, 100))
            lie = tmp_path / "lie"
            lie.write_bytes(listed(0, (first, 10**6)).encode())
            for other in (lie, tmp_path / "none", Path(__file__)):
                with pytest.raises(CheckFailed, match="is not there"):
                    await pay(other)
            assert await one.tokens(mint) == [0, 0]
            sent = await pay(file)
            assert sorted(sent.values()) == [100, UNITS, UNITS]
            assert await one.tokens(mint) == [UNITS, UNITS + 100]
            assert set((await pay(file)).values()) == {0}, "whoever has everything gets nothing"
            file = await one.settle(tmp_path, (first, 2 * UNITS), (second, UNITS), (third, 300))
            assert sorted((await pay(file)).values()) == [0, 200, UNITS], "only what was added"
            assert await one.tokens(mint) == [2 * UNITS, UNITS + 300]
            state = await one.nodes[0].task_state(one.task)
            assert state.paid == 0, "the vault pays who claims, and tokens are nothing of its"
    nursery.cancel_scope.cancel()


# --- the whole story


def pay_command(command: str, **names: str) -> Any:
    words = [names.get(word, word) for word in shlex.split(command.replace("NET/", f"{names['NET']}/"))]
    done = subprocess.run(
        [sys.executable, *words[1:]], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_the_page_from_the_net_to_the_tokens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    lines = [
        line.strip() for line in (EXAMPLE / "README.md").read_text().splitlines() if line.startswith("    ")
    ]
    up, mint, pay, down = lines
    net = str(tmp_path / "net")
    names = {"NET": net}
    words = [names.get(word, word) for word in shlex.split(up)[1:]]
    with running(*words, "--output", "json") as process:
        process.wait_for("the testnet goes on", LONG)
        checked = koii_p2p("testnet", "check", "--dir", net)
        assert (checked.returncode, "verified: yes" in checked.stdout) == (0, True), (
            "with the code of its nodes"
        )
        state = json.loads((tmp_path / "net" / "testnet.json").read_text())
        names |= {"URL": state["k2_url"], "TASK": state["task"]}
        names["MINT"] = pay_command(mint, **names)["mint"]
        sent = pay_command(pay, **names)["sent"]
        honest = {node["key"] for node in state["nodes"] if node["behaviour"] == "honest"}
        assert {key for key, units in sent.items() if units} == honest
        assert all(units % UNITS == 0 for units in sent.values())
        assert set(pay_command(pay, **names)["sent"].values()) <= {0, UNITS}, "more only for a round since"
        assert koii_p2p(*[names.get(word, word) for word in shlex.split(down)[1:]]).returncode == 0
        process.end()
    found = json.loads("\n".join(process.out))
    assert (found["verified"], found["ok"]) == (True, True)
