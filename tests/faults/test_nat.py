"""Whole nodes with a local K2, two of them behind NATs, that find their network by the task's record alone."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.shell import environment
from tests.network.test_nat import Place, until, why_not, world

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

ROOT = Path(__file__).parents[2]
K2 = "http://45.0.3.1:8899"
TASK = ROOT / "examples" / "hello_world"
TERMS = (
    "--name", "behind NATs", "--program", "hello", "--round-time", "120", "--submission-window", "40",
    "--audit-window", "40", "--bounty-per-round", "1", "--minimum-stake", "1", "--fund", "50", "--starts-in", "100",
)  # fmt: skip


class Seat:
    """A home in a namespace, and the command line there."""

    def __init__(self, place: Place, home: Path) -> None:
        self.place, self.home = place, home

    def line(self, *words: str) -> list[str]:
        command = [
            sys.executable,
            "-m",
            "koii_p2p.cli",
            "--home",
            str(self.home),
            "--url",
            K2,
            "--output",
            "json",
        ]
        return ["ip", "netns", "exec", self.place.name, *command, *words]

    def run(self, *words: str) -> Any:
        done = subprocess.run(
            self.line(*words), capture_output=True, text=True, timeout=90, env=environment(), check=False
        )
        assert done.returncode == 0, (words, done.stderr)
        return json.loads(done.stdout) if done.stdout.strip() else None

    def paid(self) -> str:
        """Make the keys, have the faucet pay, and return the staking key."""
        self.run("init")
        keys = self.run("keys", "show")
        self.run("k2", "airdrop", keys["wallet"], "100")
        return str(keys["staking"])

    @contextmanager
    def joined(self, task: str, *words: str) -> Iterator[dict[str, Any]]:
        line = self.line("join", "--task", f"{task}={TASK}", "--stake", "2", "--no-mdns", *words)
        with self.home.with_suffix(".err").open("wb") as log:
            process = subprocess.Popen(
                line, stdout=subprocess.PIPE, stderr=log, text=True, cwd=ROOT, env=environment()
            )
            try:
                assert process.stdout is not None
                said = process.stdout.readline()
                assert said, self.home.with_suffix(".err").read_text()[-2000:]
                yield json.loads(said)
            finally:
                process.terminate()
                try:
                    process.wait(30)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()


@contextmanager
def k2(place: Place, path: Path) -> Iterator[None]:
    options = [
        "--path",
        str(path),
        "--host",
        "0.0.0.0",
        "--port",
        "8899",
        "--slot-ms",
        "200",
        "--finality",
        "8",
    ]
    process = subprocess.Popen(
        ["ip", "netns", "exec", place.name, sys.executable, "-m", "koii_p2p.localk2", *options],
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        assert process.stdout.readline(), "the local K2 did not start"
        yield
    finally:
        process.kill()
        process.wait()


def approved(seat: Seat, key: str) -> list[int]:
    """The rounds in which a node's work was approved, as this one sees it."""
    found = []
    for task in seat.run("status")["tasks"]:
        for brief in task["rounds"]:
            view = seat.run("round", "show", str(brief["round"]))
            if any((entry["author"], entry["outcome"]) == (key, "APPROVED") for entry in view["submitted"]):
                found.append(view["round"])
    return found


def test_nodes_behind_nats_join_a_task_by_its_record_alone_and_their_work_is_approved(tmp_path: Path) -> None:
    if reason := why_not():
        pytest.skip(reason)
    with ExitStack() as stack:
        there = stack.enter_context(world())
        stack.enter_context(k2(there.internet, tmp_path / "k2"))
        creator = Seat(there.public, tmp_path / "creator")
        homes = [Seat(place, tmp_path / f"home{number}") for number, place in enumerate(there.homes, 1)]
        creator.paid()
        task = creator.run("task", "create", *TERMS, "--yes")["task"]
        open_port = ("--relay", "--listen", "/ip4/0.0.0.0/tcp/4001")
        ready = stack.enter_context(creator.joined(task, *open_port))
        creator.run("task", "update", task, "--bootstrap", ready["addresses"][0], "--yes")
        keys = [seat.paid() for seat in homes]
        for seat in homes:
            stack.enter_context(seat.joined(task, "--listen", "/ip4/0.0.0.0/tcp/4001"))
        for seat in homes:
            report = until(partial(seat.run, "reach"), lambda said: bool(said["relays"]), 90)
            assert report["access"] == "private"
            assert "It is reached through 1 relay" in report["finding"]["what"]
            assert all("/p2p-circuit/" in text for text in report["addresses"])

        # They find each other by their signed Presence: through the relay, and past it if that works out in time.
        def link() -> str:
            return next((peer["remote"] for peer in homes[0].run("peers") if peer["key"] == keys[1]), "")

        remote = until(link, bool, 120)
        assert remote.endswith("/p2p-circuit") or remote.startswith("/ip4/45.0.2.2/"), "there is no other way"
        for key in keys:
            assert until(partial(approved, creator, key), bool, 120)
        shown = subprocess.run(
            homes[0].line("logs"), capture_output=True, text=True, timeout=60, check=True
        ).stdout
        assert "relay_found" in shown
