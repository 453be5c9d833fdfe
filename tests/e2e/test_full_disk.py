"""A disk that fills up under a running node: it ends with one clear message, and goes on when there is space again."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio
from solders.pubkey import Pubkey

from koii_p2p.records.keys import SecretKey
from koii_p2p.rounds.terms import TaskTerms
from koii_p2p.settlement.program import ProgramSettlement
from koii_p2p.settlement.rpc import RpcClient
from tests.e2e.shell import koii_p2p, running, wait_until

EXAMPLE = Path(__file__).parents[2] / "examples" / "hello_world"
STAKE = 10**9


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 16 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if os.geteuid() != 0:
        pytest.skip("only root may mount the small file system that this test fills")
    mount = ["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", str(folder)]
    mounted = subprocess.run(mount, capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"the small file system that this test fills cannot be mounted: {mounted.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.fixture
def k2(tmp_path: Path) -> Iterator[str]:
    """The URL of a local K2 with slots of 50 ms."""
    flags = ("--path", str(tmp_path / "k2"), "--port", "0", "--slot-ms", "50", "--output", "json")
    with running("k2", "up", *flags) as command:
        yield command.wait_for('"url"').split('"')[3]


def create_task(url: str) -> str:
    """A task whose rounds begin now and last five seconds."""

    async def create() -> str:
        creator = SecretKey.generate()
        async with RpcClient(url) as rpc:
            await rpc.request_airdrop(creator.public_key, 10**12)
            while not await rpc.get_balance(creator.public_key):
                await trio.sleep(0.05)
            settlement = ProgramSettlement(rpc, creator)
            begins = await settlement.slot()
            terms = TaskTerms(bytes(32), creator.public_key, "t", begins, 100, 40, 40, 1, STAKE, program="t")
            return str(Pubkey((await settlement.create_task(terms, 1)).task))

    return trio.run(create)


def submissions(home: Path, task: str) -> dict[int, str]:
    """Ids of the node's own submissions by round, as its API shows them."""
    shown = json.loads(koii_p2p("status", "--home", str(home), "--output", "json").stdout)
    found = {}
    for brief in shown["tasks"][0]["rounds"]:
        line = ("round", "show", str(brief["round"]), "--task", task, "--home", str(home), "--output", "json")
        view = json.loads(koii_p2p(*line).stdout)
        for entry in view["submitted"]:  # the node is alone: there is one at most
            found[view["round"]] = entry["id"]
    return found


def test_a_full_disk_ends_the_node_and_costs_nothing_it_said(k2: str, small_disk: Path) -> None:
    home = small_disk / "home"
    made = json.loads(koii_p2p("init", "--home", str(home), "--output", "json").stdout)
    assert koii_p2p("k2", "airdrop", made["wallet"], "5", "-u", k2).returncode == 0
    task = create_task(k2)
    line = ("join", "--home", str(home), "-u", k2, "--listen", "/ip4/127.0.0.1/tcp/0", "--no-mdns")
    line = (*line, "--task", f"{task}={EXAMPLE}", "--stake", "1", "--output", "json")

    with running(*line) as node:
        node.wait_for('"ready"')
        wait_until(lambda: bool(submissions(home, task)), 60, "a first submission")
        said = submissions(home, task)
        filler = small_disk / "filler"
        with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
            while file.write(bytes(4096)):
                pass
        assert node.end(60) == 3
        error = json.loads(node.err[-1])["error"]
        assert "full" in error["why"] or "No space left" in error["why"], error
        assert "Traceback" not in "\n".join(node.err)

    filler.unlink()
    with running(*line) as node:
        node.wait_for('"ready"')
        again = submissions(home, task)
        assert all(again[number] == said[number] for number in said.keys() & again.keys())
        wait_until(lambda: max(submissions(home, task), default=0) > max(said), 60, "a new submission")
        node.signal(signal.SIGTERM)
        assert node.end() == 0
