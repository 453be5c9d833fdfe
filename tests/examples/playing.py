"""Examples played as their READMEs say: the commands of a README, with what makes a test of them."""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import trio

from koii_p2p.cli.main import run
from koii_p2p.limits import Limits
from koii_p2p.tasks.runner import TaskRunner
from koii_p2p.tasks.services import TaskServices
from tests.e2e.shell import LONG, koii_p2p
from tests.e2e.test_documents import ROOT, shown_commands

EXAMPLES = ROOT / "examples"
FEW = ("--honest", "3", "--slow", "0", "--crashing", "0")


def module_of(example: str, file: str = "task.py") -> ModuleType:
    """The module of an example, loaded anew: what a test changes in it is its own."""
    path = EXAMPLES / example / file
    spec = importlib.util.spec_from_file_location(f"{example}_example", path)
    assert spec is not None
    assert spec.loader is not None
    made = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = made
    spec.loader.exec_module(made)
    return made


def command_of(example: str, start: str) -> list[str]:
    """The words of the one command of an example's README that begins so, behind `koii-p2p`."""
    shown = shown_commands([EXAMPLES / example / "README.md"])
    (found,) = [command for command in shown if command.startswith(f"koii-p2p {start}")]
    return found.split()[1:]


@asynccontextmanager
async def in_a_worker(example: str, folder: Path) -> AsyncIterator[TaskRunner]:
    """The task of an example in a worker process, with a store and nothing else of a node."""
    store: dict[bytes, bytes] = {}
    services = TaskServices(
        submitter=b"s" * 32,
        main_account=b"w" * 32,
        store_get=store.get,
        store_set=store.__setitem__,
        store_delete=lambda key: None,
        sign=lambda message: bytes(64),
        verify=lambda message, signature, key: False,
    )
    runner = TaskRunner(EXAMPLES / example, b"t" * 32, folder, services, Limits())
    async with trio.open_nursery() as nursery:
        await nursery.start(runner.run)
        yield runner
        nursery.cancel_scope.cancel()


def rehearsed(
    example: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    *more: str,
) -> dict[str, Any]:
    """What `task test` finds, called as the README says, with few copies; in real workers, on virtual time."""
    monkeypatch.chdir(ROOT)
    words = [*command_of(example, "task test"), *FEW, *more]
    code = run([*words, "--home", str(tmp_path / "home"), "--output", "json"])
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert (code, found["findings"]) == (0, []), found["findings"]
    return found


def settled_on_a_testnet(example: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the README's testnet comes to in one round: all honest nodes paid, the cheater slashed, all verified."""
    monkeypatch.chdir(ROOT)
    up = [*command_of(example, "testnet up"), "--rounds", "1", "--output", "json"]
    result = koii_p2p(*up, seconds=LONG, KOII_P2P_TESTNET_DIR=str(tmp_path / "net"))
    assert result.returncode == 0, result.stderr[-3000:] + result.stdout[-1500:]
    found: dict[str, Any] = json.loads(result.stdout)
    assert (found["settled"], found["verified"], found["failures"]) == (1, True, [])
    *honest, cheater = found["nodes"]
    assert cheater["taken"] == 1_330_000_000
    assert all(node["taken"] == 0 for node in honest)
    return found
