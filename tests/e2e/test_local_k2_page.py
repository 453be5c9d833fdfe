"""Every command that docs/local-k2.md shows is run here, against local K2s that it starts."""

from __future__ import annotations

import json
import shlex
import signal
from contextlib import ExitStack
from pathlib import Path

import base58
import pytest
import trio
from solders.keypair import Keypair

from tests.e2e.shell import Running, koii_p2p, running
from tests.e2e.test_documents import ROOT, shown_commands
from tests.localk2.anchored import anchored_task

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


def test_every_command_of_the_local_k2_page(tmp_path: Path) -> None:
    left = shown_commands([ROOT / "docs" / "local-k2.md"])
    assert left
    place = {"KOII_P2P_HOME": str(tmp_path / "home")}
    names: dict[str, str] = {}

    def take(*words: str) -> list[str]:
        start = " ".join(("koii-p2p", *words))
        command = next(command for command in left if command == start or command.startswith(f"{start} "))
        left.remove(command)
        return [names.get(word, word) for word in shlex.split(command)[1:]]

    def run(*words: str) -> str:
        arguments = take(*words)
        result = koii_p2p(*arguments, seconds=60, **place)
        assert result.returncode == 0, (arguments, result.stderr)
        return result.stdout

    def up(stack: ExitStack, *words: str) -> Running:
        # Only the port and the pace differ from what is shown, so that any machine can run this, soon.
        k2 = stack.enter_context(running(*take(*words), "--port", "0", "--slot-ms", "50", **place))
        k2.wait_for("genesis")
        place["KOII_P2P_URL"] = k2.wait_for("url").split()[1]
        return k2

    with ExitStack() as stack:
        first = up(stack, "k2", "up")
        names["ADDRESS"] = str(Keypair().pubkey())
        paid = run("k2", "airdrop")
        assert "5 KOII" in paid
        made = trio.run(anchored_task, place["KOII_P2P_URL"], 50)
        names["TASK"], names["SIGNATURE"] = base58.b58encode(made.task).decode(), made.signature
        shown = run("k2", "show", "tx")
        assert "AnchorCommitment" in shown
        names["SLOT"] = next(line.split()[1] for line in shown.splitlines() if line.startswith("slot"))
        names["ROUND"] = "0"
        assert made.signature in run("k2", "show", "slot")
        assert "5 KOII" in run("k2", "show", "account")
        assert made.signature in run("k2", "show", "round")
        names["FILE"], names["FOLDER"] = str(tmp_path / "snapshot"), str(tmp_path / "restored")
        assert "digest" in run("k2", "save")
        assert "digest" in run("k2", "restore")
        first.signal(signal.SIGINT)
        assert first.end() == 130

        second = up(stack, "k2", "up", "--allow-faults")
        assert "drop" in run("k2", "faults", "--drop")
        assert "lag" in run("k2", "faults")
        assert "faults" in run("k2", "faults", "--clear")
        assert "undone" in run("k2", "rollback")
        assert "oldest slot" in run("k2", "prune")
        second.signal(signal.SIGINT)
        assert second.end() == 130

        third = up(stack, "k2", "up", "--rpc-nodes")
        nodes = third.wait_for("nodes").split("nodes", 1)[1]
        urls = [one.strip() for one in nodes.split(",")]
        assert len(urls) == 3
        names["URLS"] = ",".join(urls)
        listed = koii_p2p("--output", "json", *take("--url"), seconds=60, **place)
        assert json.loads(listed.stdout)["balance"] > 0
        third.signal(signal.SIGINT)
        assert third.end() == 130
    assert left == []
