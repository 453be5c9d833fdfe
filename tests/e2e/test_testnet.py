"""`koii-p2p testnet` from the shell: real processes, real sockets, a real local K2."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.e2e.shell import LONG, Running, all_gone, is_open, koii_p2p, running, wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

STAKE, BOUNTY = 1_900_000_000, 1_000_000_000
SLASH = STAKE * 7000 // 10000


def urls_of(folder: Path) -> list[str]:
    """Where the testnet's processes listen, as their own files say."""
    urls = [json.loads(path.read_text())["url"] for path in folder.glob("node-*/api.json")]
    state = json.loads((folder / "testnet.json").read_text())
    return [*urls, state["k2_url"]] if state["k2_url"] else urls


def assert_nothing_left(net: Running, processes: list[psutil.Process], urls: list[str]) -> None:
    wait_until(lambda: all_gone(processes), 20, "the processes to be gone")
    assert not [url for url in urls if is_open(url)]


def test_five_nodes_three_rounds_one_cheater(tmp_path: Path) -> None:
    folder = tmp_path / "net"
    place = {"KOII_P2P_TESTNET_DIR": str(folder)}
    with running("testnet", "up", "--output", "json", **place) as net:
        net.wait_for("nodes are ready")
        processes, urls = net.descendants(), urls_of(folder)
        # The local K2, five nodes, and a worker for the task of each.
        assert len(processes) >= 11
        assert len(urls) == 6
        assert all(is_open(url) for url in urls)
        _look_from_another_shell(folder, place)
        assert net.end(LONG) == 0, net.err[-20:]
    assert_nothing_left(net, processes, urls)
    found = json.loads("\n".join(net.out))
    _assert_as_promised(found)
    _check_again(folder, place, found)


def _look_from_another_shell(folder: Path, place: dict[str, str]) -> None:
    second = koii_p2p("testnet", "up", **place)
    assert second.returncode == 3
    assert "running" in second.stderr
    status = koii_p2p("testnet", "status", "--output", "json", **place)
    assert status.returncode == 0, status.stderr
    shown = json.loads(status.stdout)
    assert shown["running"] is True
    assert sorted(shown["nodes"]) == [f"node-{index:02d}" for index in range(5)]
    node = koii_p2p("status", "--home", str(folder / "node-00"), "--output", "json")
    assert json.loads(node.stdout)["tasks"][0]["task"] == shown["task"]
    human = koii_p2p("status", "--home", str(folder / "node-00"))
    assert (human.returncode, shown["task"] in human.stdout) == (0, True)
    one = koii_p2p("round", "show", "0", "--home", str(folder / "node-01"))
    assert (one.returncode, "settles at" in one.stdout) == (0, True), one.stderr
    logs = koii_p2p("testnet", "logs", "node-00", **place)
    assert (logs.returncode, "network_listening" in logs.stdout) == (0, True)
    early = koii_p2p("testnet", "check", **place)
    assert (early.returncode, "nothing to check yet" in early.stderr) == (1, True)


def _assert_as_promised(found: dict[str, Any]) -> None:
    assert found["verified"] is True
    assert found["ok"] is True
    assert (found["findings"], found["failures"], found["deaths"]) == ([], [], [])
    assert found["settled"] == 3
    rounds = found["rounds"][found["first_counted_round"] :]
    assert len(rounds) == 3
    for entry in found["rounds"]:
        counts = entry["transactions"]
        assert (counts["commitment"], counts["list"]) == (1, 1)
    cheater = found["nodes"][4]
    assert cheater["behaviour"] == "wrong-value"
    assert (cheater["paid"], cheater["taken"], cheater["stake_now"]) == (0, SLASH, STAKE - SLASH)
    for node in found["nodes"][:4]:
        assert node["verdicts"][found["first_counted_round"] :] == ["APPROVED"] * 3
        assert (node["taken"], node["stake_now"]) == (0, STAKE)
        if found["first_counted_round"] == 0:
            assert node["paid"] == 3 * (BOUNTY // 4)
    assert found["seconds"] < 180


def _check_again(folder: Path, place: dict[str, str], found: dict[str, Any]) -> None:
    again = koii_p2p("testnet", "check", "--output", "json", **place)
    assert again.returncode == 0, again.stderr
    assert json.loads(again.stdout)["transactions"] == found["transactions"]
    bundle = folder / "evidence" / "round-0001" / "node-02.bundle"
    data = bytearray(bundle.read_bytes())
    data[len(data) // 2] ^= 1
    bundle.write_bytes(data)
    changed = koii_p2p("testnet", "check", "--evidence", str(folder / "evidence"))
    assert changed.returncode == 1
    assert "round 1: The bundle at node-02 hashes to" in changed.stdout
    assert "verified: no" in changed.stdout
    down = koii_p2p("testnet", "down", **place)
    assert (down.returncode, "no testnet runs" in down.stdout) == (0, True)


@pytest.mark.parametrize(
    ("moment", "way"),
    [
        ("local K2 at", "SIGINT"),
        ("staked", "SIGINT"),
        ("nodes are ready", "SIGINT"),
        ("submitted", "SIGINT"),
        ("nodes are ready", "SIGTERM"),
        ("nodes are ready", "SIGKILL"),
        ("staked", "down"),
        ("round 0: work", "down"),
    ],
)
def test_ending_it_at_any_moment_leaves_nothing(tmp_path: Path, moment: str, way: str) -> None:
    folder = tmp_path / "net"
    place = {"KOII_P2P_TESTNET_DIR": str(folder)}
    with running("testnet", "up", "--nodes", "3", "--rounds", "1", **place) as net:
        net.wait_for(moment)
        processes, urls = net.descendants(), urls_of(folder)
        assert processes
        if way == "down":
            down = koii_p2p("testnet", "down", **place)
            assert down.returncode == 0, down.stderr
            assert "testnet up" in down.stdout
        else:
            net.signal(signal.Signals[way])
        code = net.end(60)
        assert code == (-signal.SIGKILL if way == "SIGKILL" else 130), net.err
    assert_nothing_left(net, processes, urls)
    assert koii_p2p("testnet", "down", **place).returncode == 0


def test_ctrl_c_while_python_starts(tmp_path: Path) -> None:
    place = {"KOII_P2P_TESTNET_DIR": str(tmp_path / "net")}
    with running("testnet", "up", **place) as net:
        wait_until(
            lambda: bool(net.descendants()) or (tmp_path / "net").exists(), 30, "the first sign of life"
        )
        processes = net.descendants()
        net.signal(signal.SIGINT)
        assert net.end(60) == 130
    wait_until(lambda: all_gone(processes), 20, "the processes to be gone")
    assert "Traceback" not in "\n".join(net.err)


def test_a_node_that_dies_is_told_and_the_others_go_on(tmp_path: Path) -> None:
    folder = tmp_path / "net"
    with running(
        "testnet", "up", "--rounds", "1", "--output", "json", KOII_P2P_TESTNET_DIR=str(folder)
    ) as net:
        net.wait_for("nodes are ready")
        state = json.loads((folder / "testnet.json").read_text())
        psutil.Process(state["processes"]["node-01"]["pid"]).kill()
        net.wait_for("node-01 ended (signal SIGKILL)")
        assert net.end(LONG) == 1
    found = json.loads("\n".join(net.out))
    assert found["verified"] is True
    assert found["ok"] is False
    assert found["deaths"][0].startswith("node-01 ended")
    honest = [node for node in found["nodes"] if node["behaviour"] == "honest"]
    assert all(node["taken"] == 0 and node["stake_now"] == STAKE for node in honest)
    assert found["nodes"][4]["taken"] == SLASH
