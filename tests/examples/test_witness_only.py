from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from koii_p2p.testnets.topology import NodePlan, load_topology
from tests.e2e.shell import LONG, koii_p2p, running
from tests.e2e.test_documents import ROOT, shown_commands
from tests.examples.playing import EXAMPLES

EXAMPLE = EXAMPLES / "witness_only"
WATCHER = "node-03"


def test_the_testnet_has_one_node_that_only_watches() -> None:
    topology = load_topology(EXAMPLE / "testnet.toml", {})
    plan = topology.plan()
    assert plan[int(WATCHER[-2:])] == NodePlan(witness=True, staked=False)
    assert plan.count(NodePlan()) == 3
    assert topology.audit.witness_seats == 0
    assert topology.task == EXAMPLES / "hello_world"


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_it_sees_and_verifies_a_round_without_a_word_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    up, *asked = [command.split()[1:] for command in shown_commands([EXAMPLE / "README.md"])]
    net, receipt = tmp_path / "net", tmp_path / "cheater.receipt"
    place = {"KOII_P2P_TESTNET_DIR": str(net)}
    with running(*up, "--rounds", "1", **place) as testnet:
        testnet.wait_for("the testnet goes on", LONG)
        check = json.loads(koii_p2p("testnet", "check", "--output", "json", **place).stdout)
        watcher = next(node for node in check["nodes"] if node["name"] == WATCHER)
        *_, cheater = check["nodes"]
        assert (watcher["submitted"], watcher["paid"], watcher["taken"]) == (0, 0, 0)
        assert all(line["by"] != WATCHER for line in check["transactions"]), "it spends nothing"
        state = json.loads(koii_p2p("testnet", "status", "--output", "json", **place).stdout)
        words = {
            "FOLDER": str(net / WATCHER),
            "FILE": str(receipt),
            "KEY": cheater["key"],
            "URL": state["k2_url"],
        }

        def ask(start: str, **more: str) -> Any:
            """What a command of the README that begins so says, in JSON."""
            (command,) = [words_ for words_ in asked if " ".join(words_).startswith(start)]
            line = [{**words, **more}.get(word, word) for word in command]
            result = koii_p2p(*line, "--output", "json")
            assert result.returncode == 0, (line, result.stderr)
            return json.loads(result.stdout)

        seen = ask("round show")
        assert {one["author"]: one["outcome"] for one in seen["submitted"]}[cheater["key"]] == "REJECTED"
        assert len(seen["submitted"]) == 4
        assert watcher["key"] not in json.dumps(seen), "it has said nothing"
        explained, worker = ask("explain"), ask("explain", FOLDER=str(net / "node-00"))
        asked_in = {"slot": 0}
        assert {**explained, **asked_in} == {**worker, **asked_in}, "it knows what a worker knows"
        assert (explained["outcome"], explained["leaf"] is None) == ("REJECTED", False)
        ask("receipt export")
        assert ask("receipt verify")["holds"] is True
    assert len(asked) == 4
