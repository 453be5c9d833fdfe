"""Nets of real processes whose links are slow and lossy, fall apart and heal, and whose nodes come and go."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from koii_p2p.amounts import roe
from tests.e2e.shell import LONG, koii_p2p, running

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]

FILES = Path(__file__).parents[2] / "testnet"
SLASH = roe("1.9") * 7000 // 10000


def played(name: str, *where: str) -> tuple[dict[str, Any], list[str]]:
    """What a demonstration came to, and what it said meanwhile."""
    file = str(FILES / f"{name}.toml")
    with running("testnet", "up", "--file", file, "--output", "json", *where) as net:
        net.end(LONG)
    found: dict[str, Any] = json.loads("\n".join(net.out)) if net.out else {}
    told = {
        key: found.get(key) for key in ("findings", "failures", "deaths", "network", "expected", "remarks")
    }
    assert found.get("verified") is True, (told, net.err[-40:])
    assert found["ok"] is True, (told, net.err[-40:])
    return found, net.err


@pytest.mark.parametrize(
    ("name", "hits"),
    [
        ("latency", ["delayed_writes", "retransmissions"]),
        ("partition", ["partitions", "heals", "resets"]),
        ("churn", ["killed", "came_back"]),
    ],
)
def test_rounds_are_settled_and_nobody_honest_is_slashed(tmp_path: Path, name: str, hits: list[str]) -> None:
    where = ("--dir", str(tmp_path / "net"))
    found, said = played(name, *where)
    *honest, cheater = found["nodes"]
    assert [node["taken"] for node in honest] == [0] * len(honest)
    assert cheater["taken"] == SLASH
    assert found["deaths"] == []
    assert all(found["network"][hit] >= 2 for hit in hits), found["network"]
    assert all(one["ok"] for one in found["expected"])
    assert any("the network from now on: " in line for line in said)
    counted = [one for one in found["rounds"] if one["round"] >= found["first_counted_round"]]
    for one in counted:
        assert one["transactions"]["commitment"] == one["transactions"]["list"] == 1, one
    checked = koii_p2p("testnet", "check", "--output", "json", *where)
    assert checked.returncode == 0, checked.stdout
    assert json.loads(checked.stdout)["expected"] == found["expected"]


def test_chaos_in_a_testnet_that_goes_on(tmp_path: Path) -> None:
    where = ("--dir", str(tmp_path / "net"))
    with running("testnet", "up", "--keep", "--rounds", "1", *where) as net:
        net.wait_for("the testnet goes on", LONG)
        told = []
        for name in ("kill", "halves", "rough"):
            done = koii_p2p("testnet", "chaos", name, *where, seconds=120)
            assert done.returncode == 0, done.stderr
            told.append(done.stderr)
        assert "killed: node-01" in told[0]
        assert "back: node-01" in told[0]
        assert "cut off from each other (hang): node-00, node-01 | node-02, node-03, node-04" in told[1]
        assert "the network is whole again" in told[1]
        assert "links from now on: latency 150 ms ± 50, loss 0.02" in told[2]
        assert "1 killed, 1 came back, 1 partitions, 1 heals" in " ".join(done.stdout.split())
        state = json.loads(koii_p2p("testnet", "status", "--output", "json", *where).stdout)
        assert sorted(state["nodes"]) == [f"node-{number:02d}" for number in range(5)]  # all answer
        found = json.loads(koii_p2p("testnet", "check", "--output", "json", *where, seconds=120).stdout)
        assert found["verified"] is True, found["findings"]
        assert [node["taken"] for node in found["nodes"]] == [0] * 4 + [SLASH]
        refused = koii_p2p("testnet", "chaos", "nowhere.toml", *where)
        assert refused.returncode == 3
        assert koii_p2p("testnet", "down", *where).returncode == 0
