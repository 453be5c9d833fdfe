from __future__ import annotations

import json
from hashlib import sha256
from pathlib import Path

import pytest

from koii_p2p.tasks.task_network import asks_for_internet
from tests.e2e.shell import koii_p2p
from tests.examples.playing import EXAMPLES, rehearsed, settled_on_a_testnet
from tests.node.test_task_http import BASE, serving, stamp_of

EXAMPLE = EXAMPLES / "storage_service"


async def test_what_is_kept_is_handed_out_under_its_hash(tmp_path: Path) -> None:
    async with serving(tmp_path, str(EXAMPLE)) as served:
        assert await served.runner.task(3)
        health = await served.get(f"{BASE}/health")
        assert health.json() == {"status": "OK", "slot": 1234, "round": 12, "items": 0}
        assert stamp_of(health, "GET", f"{BASE}/health").slot == 1234
        data = bytes(range(256)) * 1024
        name = sha256(data).hexdigest()
        put = await served.client.put(f"{BASE}/items/{name}", content=data)
        assert (put.status_code, put.json()) == (201, {"name": name, "bytes": 256 * 1024})
        for cache in ("miss", "hit"):
            found = await served.get(f"{BASE}/items/{name}")
            assert (found.content, found.headers["x-cache"]) == (data, cache)
        assert (await served.get(f"{BASE}/health")).json()["items"] == 1
        large = data + b"x"
        for body, asked, status in (
            (b"other", name, 422),
            (b"", "../../etc/passwd", 404),
            (large, sha256(large).hexdigest(), 413),
        ):
            assert (await served.client.put(f"{BASE}/items/{asked}", content=body)).status_code == status
        assert (await served.get(f"{BASE}/items/{'0' * 64}")).status_code == 404


async def test_the_oldest_item_makes_room(tmp_path: Path) -> None:
    async with serving(tmp_path, str(EXAMPLE)) as served:
        names = []
        for number in range(201):
            data = str(number).encode()
            names.append(sha256(data).hexdigest())
            put = await served.client.put(f"{BASE}/items/{names[-1]}", content=data)
            assert put.status_code == 201
        assert (await served.get(f"{BASE}/items/{names[0]}")).status_code == 404
        assert (await served.get(f"{BASE}/items/{names[1]}")).content == b"1"
        assert (await served.get(f"{BASE}/health")).json()["items"] == 200


def test_who_serves_nonsense_is_slashed_by_its_own_signature(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = rehearsed(EXAMPLE.name, tmp_path, capsys, monkeypatch, "--rounds", "1")
    assert found["rounds"][0]["amounts"]["wrong-1"] == -1_330_000_000
    assert found["rounds"][0]["outcomes"]["honest-1"] == "APPROVED"
    said = {call["answer"] for call in found["calls"] if call["about"] == "of wrong-1"}
    assert said
    assert all("the node signed an answer that the task does not allow" in one for one in said)
    assert [call["about"] for call in found["calls"] if call["function"] == "routes"] == ["GET /health"]


def test_without_the_network_nobody_is_paid_and_it_is_said_why(tmp_path: Path) -> None:
    assert asks_for_internet(EXAMPLE)
    few = ("--rounds", "1", "--honest", "2", "--wrong", "0", "--slow", "0", "--crashing", "0")
    result = koii_p2p("task", "test", str(EXAMPLE), *few, "--output", "json", KOII_P2P_HOME=str(tmp_path))
    assert result.returncode == 1
    found = json.loads(result.stdout)
    assert any("no network here: ask for it in config-task.yml" in one for one in found["findings"])
    assert set(found["rounds"][0]["amounts"].values()) <= {0}


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_on_a_testnet_whose_nodes_ask_each_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = settled_on_a_testnet(EXAMPLE.name, tmp_path, monkeypatch)
    # Rounds before all nodes were up pay too; the check has held each sum against the rule.
    assert all(node["paid"] > 0 for node in found["nodes"][:4])
