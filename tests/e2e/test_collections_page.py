"""Every command that docs/collections.md shows is run here, at a node of a testnet of real processes."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest

from tests.e2e.shell import LONG, koii_p2p, running, wait_until
from tests.e2e.test_documents import ROOT, shown_commands

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def test_every_command_of_the_collections_page(tmp_path: Path) -> None:
    left = shown_commands([ROOT / "docs" / "collections.md"])
    folder = tmp_path / "net"
    place = {"KOII_P2P_TESTNET_DIR": str(folder)}
    homes = [{"KOII_P2P_HOME": str(folder / name)} for name in ("node-00", "node-01")]

    def run(*words: str) -> str:
        start = " ".join(("koii-p2p", "collection", *words))
        command = next(command for command in left if command.startswith(start))
        left.remove(command)
        result = koii_p2p(*shlex.split(command)[1:], **homes[0])
        assert result.returncode == 0, (command, result.stderr)
        return result.stdout

    def stakers(home: dict[str, str]) -> int:
        result = koii_p2p("collection", "stat", "--output", "json", **home)
        return int(json.loads(result.stdout)["stakers"]) if result.returncode == 0 else 0

    with running("testnet", "up", "--keep", **place) as net:
        net.wait_for("the testnet goes on", LONG)
        wait_until(lambda: all(stakers(home) > 2 for home in homes), 120, "a roster at two nodes")
        assert "links" in run("open")
        assert "3 of 3" in run("put")
        assert json.loads(run("get")) == {"_id": "zoe", "username": "zoe", "visits": 1}
        assert json.loads(run("query"))["visits"] == 1
        assert "1 changed" in run("update")
        # The other node was told of the collection with its first document, or finds it by its rules.
        koii_p2p("collection", "open", "links", "--index", "username", **homes[1])
        other = koii_p2p("collection", "get", "links", "zoe", **homes[1])
        assert json.loads(other.stdout)["visits"] == 2, other.stderr
        assert json.loads(run("watch"))["document"]["visits"] == 2
        assert "1 removed" in run("remove")
        assert "links" in run("stat")
        gone = koii_p2p("collection", "get", "links", "zoe", **homes[1])
        assert gone.returncode == 1
        assert "no such document" in gone.stdout
    assert left == []
