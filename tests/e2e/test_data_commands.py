"""Every command that docs/data.md shows is run here, on the nodes of a testnet, and what a round left is read by it."""

from __future__ import annotations

import json
import random
import shlex
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from koii_p2p.records.cid import cid_of_digest, cid_to_text
from tests.e2e.shell import LONG, koii_p2p, running, wait_until
from tests.e2e.test_documents import ROOT, shown_commands

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]

PAGE = ROOT / "docs" / "data.md"


def test_every_command_of_the_data_page(tmp_path: Path) -> None:
    left = shown_commands([PAGE])
    net_folder = {"KOII_P2P_TESTNET_DIR": str(tmp_path / "net")}
    data = random.Random(5).randbytes(2_500_000)
    (tmp_path / "file").write_bytes(data)
    names = {"FILE": str(tmp_path / "file"), "COPY": str(tmp_path / "copy")}

    def run(node: str, command: str) -> dict[str, Any]:
        left.remove(command)
        words = [names.get(word, word) for word in shlex.split(command)[1:]]
        home = str(tmp_path / "net" / node)
        result = koii_p2p(*words, "--output", "json", KOII_P2P_HOME=home, **net_folder)
        assert result.returncode == 0, (words, result.stderr)
        found: dict[str, Any] = json.loads(result.stdout)
        return found

    with running("testnet", "up", "--keep", "--nodes", "4", "--cheaters", "1", **net_folder) as net:
        net.wait_for("the testnet goes on", LONG)
        plain = run("node-00", "koii-p2p data put FILE")
        assert (plain["size"], plain["shards_waiting"]) == (2_500_000, 0)
        names["REFERENCE"] = plain["reference"]
        run("node-02", "koii-p2p data get REFERENCE COPY")
        assert (tmp_path / "copy").read_bytes() == data
        assert set(run("node-03", "koii-p2p data stat REFERENCE")["live"]) == {8}
        assert run("node-02", "koii-p2p data pin REFERENCE")["pinned"]
        assert not run("node-02", "koii-p2p data unpin REFERENCE")["pinned"]
        strong = run("node-01", "koii-p2p data put FILE --level strong --rounds 20 --pin")
        assert strong["stored"] >= 3 * 2_500_000
        private = run("node-01", "koii-p2p data put FILE --private")
        assert private["content"] != plain["content"]
        listed = run("node-01", "koii-p2p data ls")
        assert {strong["cid"], private["cid"], plain["cid"]} <= {one["cid"] for one in listed["blobs"]}
        assert [one["cid"] for one in listed["blobs"] if one["pinned"]] == [strong["cid"]]

        state = json.loads(koii_p2p("testnet", "status", "--output", "json", **net_folder).stdout)
        commitment = bytes.fromhex(anchored(tmp_path, state["task"]))
        cid = cid_to_text(cid_of_digest(commitment))

        def kept() -> bool:
            words = ("data", "get", cid, str(tmp_path / "commitment"))
            return koii_p2p(*words, KOII_P2P_HOME=str(tmp_path / "net" / "node-03")).returncode == 0

        wait_until(kept, 60, "the commitment of round 0 among the task's data")
        assert sha256((tmp_path / "commitment").read_bytes()).digest() == commitment
        koii_p2p("testnet", "down", **net_folder)
        net.end()
    assert left == []


def anchored(folder: Path, task: str) -> str:
    """The digest of the commitment to round 0, as a node has it from the chain."""
    home = str(folder / "net" / "node-00")
    view = json.loads(koii_p2p("round", "show", "0", "--output", "json", KOII_P2P_HOME=home).stdout)
    assert view["task"] == task
    digest: str = view["commitment"]
    return digest
