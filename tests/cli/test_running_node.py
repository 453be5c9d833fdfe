"""`peers`, `mesh`, `resources` and `doctor` beside a real API over loopback, with hostile peers."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import trio
from rich.console import Console, RenderableType

from koii_p2p.cli import running_node
from koii_p2p.cli.doctor import findings_table
from koii_p2p.cli.main import run
from koii_p2p.cli.mesh import mesh_table, scores_table
from koii_p2p.cli.output import duration, plain, size
from koii_p2p.cli.peers import peers_table
from koii_p2p.cli.resources import resources_table
from koii_p2p.limits import Limits
from koii_p2p.network.gossip import PeerScore, ScoreParts, TopicStanding
from koii_p2p.network.reach.dial_back import Verdict
from koii_p2p.network.statistics import PunchStatistics, ReachReport, RelayPlace, RelayStatistics
from koii_p2p.node.api import create_app, serve_api
from koii_p2p.node.api_file import write_api_file
from koii_p2p.node.checkup import Finding, Level
from koii_p2p.node.resources import limit_uses, process_statistics, queue_lengths
from koii_p2p.node.views import base58, score_view
from koii_p2p.node.views import plain as json_ready
from koii_p2p.records.keys import SecretKey
from koii_p2p.storage.home import Home
from koii_p2p.storage.keyfile import save_secret
from tests.node.test_metrics import gossip
from tests.node.test_resources import task_use, usage

EVIL = "/ip4/1.2.3.4\x1b[2J\x1b]0;owned\x07\r\n\u202etxt\x9b31m"
REPORT: Mapping[str, Any] = json_ready(
    ReachReport(
        access="private",
        agreeing=2,
        asked=2,
        confirmed=(),
        addresses=(f"/ip4/45.0.0.9/tcp/4001/p2p/12D3/p2p-circuit/p2p/{EVIL}",),
        listening=("/ip4/192.168.1.2/tcp/4001",),
        announced=(),
        observed=(EVIL,),
        verdicts=(
            Verdict("12D3a", "/ip4/45.0.1.2/tcp/4001", False, "Connection refused", 1.0),
            Verdict("12D3b", "/ip4/45.0.1.2/tcp/4001", False, f"no {EVIL}", 2.0),
        ),
        verdict_ages=(61.0, 60.0),
        dialled_in=(),
        relays=(RelayPlace("12D3r", ("/ip4/45.0.0.9/tcp/4001/p2p/12D3/p2p-circuit",), 3000.0),),
        relay=RelayStatistics(3, 1, 7, 1572864, (), ()),
        hole_punches=PunchStatistics(3, 2),
        dialled_back=0,
        dialbacks_refused=0,
    )
)
USAGE = usage(task_use(2, 5, 100, TOO_LARGE=3))


def peer(key: str, **changed: Any) -> dict[str, Any]:
    return {
        "key": key,
        "peer_id": f"12D3{key}",
        "addresses": [],
        "remote": "/ip4/127.0.0.1/tcp/4001",
        "connected_seconds": 200.4,
        "outgoing": True,
        "connections": 1,
        "topics": ["/a", "/b"],
        "rejects": 3,
        "bans": 1,
    } | changed


class Shown:
    """A node whose numbers are real statistics, and whose peers are given."""

    def __init__(self, *peers: dict[str, Any]) -> None:
        self._peers = list(peers)

    def status(self) -> Mapping[str, Any]:
        return {
            "slot": {"trusted": True, "slot": 5, "slot_seconds": 0.4, "age": 0.1},
            "network": {"peers": len(self._peers), "discovery": {"bootstrap": []}},
            "supervisor": {"restarts": {}, "last_errors": {}},
            "tasks": [],
            "closed_tasks": [],
            "addresses": [],
            "observed": [EVIL],
            "cluster": {"genesis": "G"},
        }

    def peers(self) -> list[Mapping[str, Any]]:
        return list(self._peers)

    def reach(self) -> Mapping[str, Any]:
        return REPORT

    def mesh(self) -> Mapping[str, Any]:
        found: Mapping[str, Any] = json_ready(gossip())
        return found

    def scores(self) -> list[Mapping[str, Any]]:
        parts = ScoreParts(time_in_mesh=2.5, invalid_messages=-10.0, application=-60.0, score=-67.5)
        good = ScoreParts(first_deliveries=7.0, application=1.9, score=8.9)
        kept = (TopicStanding("/koii-p2p/1/T/audits", False, -60.0), TopicStanding(EVIL, False, -1.0))
        joined = (TopicStanding("/koii-p2p/1/T/audits", True, 8.9), TopicStanding("/x/presence", True, 1.9))
        peers = (PeerScore(bytes(32), good, joined), PeerScore(b"\x01" * 32, parts, kept))
        found: list[Mapping[str, Any]] = [score_view(peer) for peer in peers]
        return found[: len(self._peers)]

    def resources(self) -> Mapping[str, Any]:
        return {
            "process": json_ready(process_statistics()),
            "database_bytes": 1572864,
            "queues": queue_lengths(USAGE),
            "limits": json_ready(limit_uses(Limits(), USAGE)),
        }

    def rounds(self) -> list[Mapping[str, Any]]:
        return []

    def round(self, task: str, number: int) -> Mapping[str, Any] | None:
        return None

    def unready(self) -> list[str]:
        return []

    def metrics(self, accept: str) -> tuple[bytes, str]:
        return b"", "text/plain"

    def artifact(self, task: str, number: int, name: str) -> bytes | None:
        return None

    def stop(self) -> None:
        raise AssertionError("nobody asked it to stop")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    for name in [name for name in os.environ if name.startswith("KOII_P2P_")]:
        monkeypatch.delenv(name)
    made = Home(tmp_path / "home")
    made.prepare()
    return made


async def printed(home: Home, node: Shown, *arguments: str) -> int:
    """Run a command beside a node that serves its API, and return its exit code."""
    async with trio.open_nursery() as nursery:
        url = await nursery.start(serve_api, create_app(node, "secret"), "127.0.0.1", 0, Limits())
        write_api_file(home.api, url, "secret", os.getpid())
        code = await trio.to_thread.run_sync(run, [*arguments, "--home", str(home.path)])
        nursery.cancel_scope.cancel()
    return code


def shown(thing: RenderableType) -> str:
    console = Console(width=250)
    with console.capture() as capture:
        console.print(thing)
    return capture.get()


async def test_peers_are_sorted_by_key_with_who_dialled_and_since_when(
    home: Home, capsys: pytest.CaptureFixture[str]
) -> None:
    node = Shown(peer("B"), peer("A", outgoing=False, connected_seconds=7.9))
    assert await printed(home, node, "peers") == 0
    head, first, second = (line.split() for line in capsys.readouterr().out.splitlines())
    assert " ".join(head) == "key peer id address direction since topics rejects bans"
    assert first == ["A", "12D3A", "/ip4/127.0.0.1/tcp/4001", "in", "7", "s", "2", "3", "1"]
    assert second[:4] == ["B", "12D3B", "/ip4/127.0.0.1/tcp/4001", "out"]
    assert second[4:8] == ["3", "min", "20", "s"]
    assert await printed(home, node, "peers", "--output", "json") == 0
    assert [one["key"] for one in json.loads(capsys.readouterr().out)] == ["B", "A"]
    assert await printed(home, Shown(), "peers") == 0
    assert "koii-p2p doctor" in capsys.readouterr().out


async def test_the_mesh_has_every_number_of_a_topic(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    assert await printed(home, Shown(), "mesh") == 0
    head, row, *rest = capsys.readouterr().out.splitlines()
    assert " ".join(head.split()) == "topic neighbours mesh published accepted ignored rejected duplicates"
    assert row.split() == ["/koii/topic", "5", "3", "2", "20", "4", "1", "9"]
    assert any(line.split() == ["queued", "7"] for line in rest)
    assert await printed(home, Shown(), "mesh", "--output", "json") == 0
    assert json.loads(capsys.readouterr().out)["topics"][0]["accepted"] == 20


async def test_scores_have_every_term_the_lowest_first_and_say_which_meshes_a_peer_is_kept_from(
    home: Home, capsys: pytest.CaptureFixture[str]
) -> None:
    node = Shown(peer("A"), peer("B"))
    assert await printed(home, node, "mesh", "--scores") == 0
    head, bad, good = capsys.readouterr().out.splitlines()
    assert [f"P{number}" in head for number in range(1, 8)] == [True] * 7
    key, score, p1, p2, p3, p3b, p4, p5, p6, p7, joined, *kept = bad.split()
    assert (score, p1, p2, p3, p3b, p4, p5, p6, p7) == (
        *("-67.5", "2.5", "0.0", "0.0", "0.0", "-10.0", "-60.0", "0.0", "0.0"),
    )
    assert key == base58(b"\x01" * 32)
    assert joined == "-"
    assert kept[:2] == ["audits", "-60.0,"]
    assert good.split()[1:] == [
        "8.9",
        "0.0",
        "7.0",
        "0.0",
        "0.0",
        "0.0",
        "1.9",
        "0.0",
        "0.0",
        "audits,",
        "presence",
        "-",
    ]
    assert await printed(home, node, "mesh", "--scores", "--output", "json") == 0
    assert [one["application"] for one in json.loads(capsys.readouterr().out)] == [1.9, -60.0]
    assert await printed(home, Shown(), "mesh", "--scores") == 0
    assert "koii-p2p doctor" in capsys.readouterr().out


async def test_resources_have_the_limits_that_count_and_all_if_asked(
    home: Home, capsys: pytest.CaptureFixture[str]
) -> None:
    assert await printed(home, Shown(), "resources") == 0
    out = capsys.readouterr().out
    lines = [line.split() for line in out.splitlines()]
    assert ["api_connections", "64", "2", "6"] in lines
    assert ["record_bytes", "65536", "-", "3"] in lines
    assert ["database", "1.5", "MiB"] in lines
    assert "dial_deadline" not in out
    assert await printed(home, Shown(), "resources", "--all") == 0
    assert ["dial_deadline", "8.0", "-", "-"] in [
        line.split() for line in capsys.readouterr().out.splitlines()
    ]
    assert await printed(home, Shown(), "resources", "--output", "json") == 0
    found = json.loads(capsys.readouterr().out)
    assert len(found["limits"]) == len(limit_uses(Limits(), USAGE))
    assert found["process"]["open_files"] > 0


async def test_reach_says_who_tried_what_came_of_it_and_what_to_do(
    home: Home, capsys: pytest.CaptureFixture[str]
) -> None:
    assert await printed(home, Shown(), "reach", "--url", "testnet") == 0
    text = capsys.readouterr().out
    assert "private: 2 of 2 peers of the Internet say so" in text
    assert "12D3a" in text
    assert "Connection refused" in text
    assert "1 min 1 s ago" in text
    assert "3 places, 1 connections now, 7 so far, 1.5 MiB" in text
    assert "It is reached through 1 relay, and takes part." in text
    assert "forward TCP port 4001 of the router to 192.168.1.2" in text
    assert not any(letter in text for letter in "\x1b\x9b\x07\r\u202e")
    assert await printed(home, Shown(), "reach", "--output", "json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["access"] == "private"
    assert found["finding"]["level"] == "ok"
    assert found["verdicts"][0]["why"] == "Connection refused"


@pytest.mark.parametrize("name", ["peers", "mesh", "resources", "reach"])
def test_without_a_node_there_is_one_clear_error(
    name: str, home: Home, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run([name, "--home", str(home.path), "--output", "json"]) == 4
    out, err = capsys.readouterr()
    assert out == ""
    error = json.loads(err)["error"]
    assert str(home.path) in error["what"]
    assert "koii-p2p join" in error["remedy"]


async def test_a_node_of_another_version_is_no_bug(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    class Older(Shown):
        """One without the path."""

    app = create_app(Older(), "secret")
    app.router.routes[:] = [route for route in app.router.routes if getattr(route, "path", "") != "/mesh"]
    async with trio.open_nursery() as nursery:
        url = await nursery.start(serve_api, app, "127.0.0.1", 0, Limits())
        write_api_file(home.api, url, "secret", os.getpid())
        code = await trio.to_thread.run_sync(run, ["mesh", "--home", str(home.path)])
        nursery.cancel_scope.cancel()
    assert code == 4
    assert "another version" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("peers",), r"2 peers, 2 dialled by us, 6 rejects"),
        (("mesh", "--scores"), r"2 peers, 1 below 0, lowest -67\.5"),
        (("mesh",), r"1 topics, 2 published, 20 accepted, 1 rejected, 7 queued"),
        (("resources",), r"[\d.]+ MiB of memory, \d+ files, \d+ threads, \d+ tasks, \d+ queued, \d+ refused"),
    ],
)
async def test_watching_in_a_pipe_is_a_line_each_time(
    arguments: tuple[str, ...],
    expected: str,
    home: Home,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    left = [None, None]

    def interrupted_after_three(_seconds: float) -> None:
        if not left:
            raise KeyboardInterrupt
        left.pop()

    monkeypatch.setattr(running_node.time, "sleep", interrupted_after_three)
    node = Shown(peer("A"), peer("B"))
    assert await printed(home, node, *arguments, "--watch") == 130
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3
    assert all(re.fullmatch(expected, line) for line in lines), lines
    left[:] = [None]
    assert await printed(home, node, *arguments, "--watch", "--output", "json") == 130
    assert len([json.loads(line) for line in capsys.readouterr().out.splitlines()]) == 2


def test_what_strangers_say_neither_moves_the_cursor_nor_makes_lines() -> None:
    tables = (
        peers_table([peer("A", remote=EVIL, peer_id=EVIL)]),
        scores_table(Shown(peer("A"), peer("B")).scores()),
        mesh_table({"topics": [{"topic": EVIL, "mesh": 1}], "refused": [[EVIL, 3]]}),
        findings_table([Finding("K2", Level.ERROR, EVIL, EVIL)]),
    )
    for one in tables:
        text = shown(one)
        assert "1.2.3.4" in text
        assert not set("\x1b\x07\r\x9b\u202e") & set(text)
        assert all(char.isprintable() for char in text.replace("\n", ""))
    assert plain(EVIL).startswith("/ip4/1.2.3.4\ufffd[2J")
    assert plain("naïve 日本") == "naïve 日本"


async def test_json_on_a_terminal_is_harmless_too_and_loses_nothing(
    home: Home, capsys: pytest.CaptureFixture[str]
) -> None:
    node = Shown(peer("A", topics=[EVIL, "\U000e0001 日本"]))
    assert await printed(home, node, "peers", "--output", "json") == 0
    out = capsys.readouterr().out
    assert all(line.isprintable() for line in out.splitlines())
    assert "日本" in out
    assert json.loads(out)[0]["topics"] == [EVIL, "\U000e0001 日本"]


def test_numbers_that_are_not_known_are_a_dash() -> None:
    process = dict.fromkeys(("open_files", "threads", "resident_bytes", "most_resident_bytes"))
    found = {
        "process": {**process, "most_open_files": 9, "trio_tasks": 4, "cpu_seconds": 61.0},
        "database_bytes": 10,
        "queues": {},
        "limits": [],
    }
    text = shown(resources_table(found))
    assert "- of 9" in text
    assert "1 min 1 s" in text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (59.9, "59 s"),
        (60, "1 min 0 s"),
        (3661, "1 h 1 min"),
        (90000, "1 d 1 h"),
        (86400, "1 d 0 h"),
    ],
)
def test_times_are_in_their_two_largest_units(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (1 << 20, "1.0 MiB"), (3 << 30, "3.0 GiB")],
)
def test_sizes_are_in_the_largest_unit_that_they_reach(count: int, text: str) -> None:
    assert size(count) == text


NO_K2 = ("--url", "http://127.0.0.1:1")


def doctors(capsys: pytest.CaptureFixture[str]) -> dict[str, list[dict[str, str]]]:
    found: dict[str, list[dict[str, str]]] = {}
    data = json.loads(capsys.readouterr().out)
    for one in data["findings"]:
        found.setdefault(one["check"], []).append(one)
    for level in Level:
        assert data[level.value] == sum(one["level"] == level.value for one in data["findings"])
    return found


def test_the_doctor_finds_what_is_missing_without_a_node(
    tmp_path: Path, home: Home, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["doctor", "--home", str(tmp_path / "none"), "--output", "json", *NO_K2]) == 1
    found = doctors(capsys)
    assert [found[check][0]["level"] for check in ("home", "staking key", "wallet key", "K2")] == [
        "error"
    ] * 4
    assert found["python"][0]["level"] == "ok"
    assert "koii-p2p init" in found["home"][0]["remedy"]
    save_secret(home.staking_key, SecretKey.generate())
    save_secret(home.wallet_key, SecretKey.generate())
    assert run(["doctor", "--home", str(home.path), "--output", "json", *NO_K2]) == 1
    found = doctors(capsys)
    assert {check for check, all_of in found.items() if any(one["level"] == "error" for one in all_of)} == {
        "K2"
    }
    assert "No node runs" in found["node"][0]["what"]


def test_the_doctor_looks_at_settings_that_cannot_be_used(
    home: Home, capsys: pytest.CaptureFixture[str]
) -> None:
    home.config.write_text(
        'listen = ["/ip4/0.0.0.0/udp/1"]\nbootstrap = ["/ip4/1.2.3.4/tcp/1", "/ip4/127.0.0.1/tcp/1/p2p/'
        '12D3KooWA9zYkcAvwwSnHHoYGUAqiiiTgVoERhgyiiEBXaPfg5uF"]\n'
    )
    two = "http://127.0.0.1:1,http://127.0.0.1:1"
    assert run(["doctor", "--home", str(home.path), "--output", "json", "--url", two]) == 1
    found = doctors(capsys)
    assert found["ports"][0]["level"] == "error"
    assert [one["level"] for one in found["bootstrap"]] == ["error", "warning"]
    assert found["K2"][0]["level"] == "error"


async def test_the_doctor_asks_the_node_that_runs(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    save_secret(home.staking_key, SecretKey.generate())
    save_secret(home.wallet_key, SecretKey.generate())
    node = Shown(peer("A", outgoing=False, remote="/ip4/9.9.9.9/tcp/5"))
    with home.locked():
        assert await printed(home, node, "doctor", "--output", "json", *NO_K2) == 1
    found = doctors(capsys)
    assert f"Process {os.getpid()} runs" in found["node"][0]["what"]
    assert found["peers"][0]["what"] == "Connected peers: 1."
    assert "the node has" in found["open files"][0]["what"]
    assert "It is reached through 1 relay" in found["reachable"][0]["what"]
    assert await printed(home, node, "doctor", *NO_K2) == 1
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert re.search(r"^error +K2 +http://127.0.0.1:1 is not well", out, re.MULTILINE)
