from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest
from solders.pubkey import Pubkey

from koii_p2p.cli import join
from koii_p2p.cli.join import is_local
from koii_p2p.cli.main import EXIT_USAGE, OutputFormat, run
from koii_p2p.network.settings import NetworkSettings
from koii_p2p.node.carriers import ByKoiiTask, ByMemos, ByProgram
from koii_p2p.node.node import NodeReady, NodeSettings
from koii_p2p.node.task_server import TaskHttpPlace
from koii_p2p.rounds.role import Role
from koii_p2p.rounds.terms import TaskTerms
from koii_p2p.settlement.memo.genesis import Genesis, GenesisStake
from koii_p2p.storage.home import Home

NO_K2 = ("--url", "http://127.0.0.1:1")


@pytest.fixture
def told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[NodeSettings]:
    """What `koii-p2p join` tells the nodes that it would run; none is."""
    for name in [name for name in os.environ if name.startswith("KOII_P2P_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("KOII_P2P_HOME", str(tmp_path / "home"))
    found: list[NodeSettings] = []

    async def not_run(settings: NodeSettings, _output: OutputFormat, _made: list[str]) -> int:
        found.append(settings)
        return 0

    monkeypatch.setattr(join, "_run", not_run)
    monkeypatch.setattr(join, "configure_logs", lambda *_: None)  # it would stay for the tests after this one
    return found


@pytest.mark.parametrize(
    ("flags", "role"),
    [
        ((), Role(submits=True, patrols=0, canaries=False)),
        (("--witness",), Role(submits=False)),
        (("--patrols", "0"), Role()),
        (("--patrols", "3"), Role(patrols=3)),
        (("--patrols=3",), Role(patrols=3)),
        (("--canaries",), Role(canaries=True)),
        (("--canaries", "--patrols", "2"), Role(patrols=2, canaries=True)),
        (("--patrols", "100", "--witness"), Role(submits=False, patrols=100)),
    ],
)
def test_the_node_takes_the_role_that_its_operator_chose(
    flags: tuple[str, ...], role: Role, told: list[NodeSettings]
) -> None:
    assert run(["join", *NO_K2, *flags]) == 0
    assert [settings.role for settings in told] == [role]


@pytest.mark.parametrize(
    ("flags", "why"),
    [
        (("--patrols", "-1"), "'--patrols'"),
        (("--patrols", "101"), "'--patrols'"),
        (("--patrols", "many"), "'--patrols'"),
        (("--patrols", "1.5"), "'--patrols'"),
        (("--patrols", ""), "'--patrols'"),
        (("--patrols",), "'--patrols' requires an argument"),
        (("--witness=yes",), "'--witness' does not take a value"),
        (("--canaries=1",), "'--canaries' does not take a value"),
        (("--canaries", "3"), "unexpected extra argument"),
        (("--witnesses",), "--witness"),
        (("--witness", "--canaries"), "hands in no work"),
    ],
)
def test_another_value_is_refused_with_one_error_and_no_node(
    flags: tuple[str, ...],
    why: str,
    told: list[NodeSettings],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run(["join", *NO_K2, "--output", "json", *flags]) == EXIT_USAGE
    out, err = capsys.readouterr()
    error = json.loads(err)["error"]
    assert out == ""
    assert why in error["why"]
    assert all(error[part] for part in ("what", "remedy"))
    assert told == []
    assert not (tmp_path / "home").exists(), "no key was made for it"


SECRETS = "https://user:sesame@k2.example/rpc?api-key=open"
TASK = "Koiitask22222222222222222222222222222222222"


def refused(capsys: pytest.CaptureFixture[str], *flags: str) -> dict[str, str]:
    """The error of a `join` that is refused as a matter of configuration; nothing else is printed."""
    assert run(["join", "--output", "json", *flags]) == 3
    out, err = capsys.readouterr()
    assert out == ""
    error: dict[str, str] = json.loads(err)["error"]
    return error


def test_the_program_carries_unless_another_carrier_is_chosen(
    told: list[NodeSettings], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert run(["join", *NO_K2]) == 0
    assert run(["join", *NO_K2, "--carrier", "koii-task", "--readings", "native"]) == 0
    monkeypatch.setenv("KOII_P2P_CARRIER", "koii-task")
    monkeypatch.setenv("KOII_P2P_READINGS", "native")
    assert run(["join", *NO_K2]) == 0
    (tmp_path / "home" / "config.toml").write_text('carrier = "program"\n')
    assert run(["join", *NO_K2]) == 0, "the environment goes before the file"
    assert run(["join", *NO_K2, "--carrier", "memo"]) == 3, "readings are of no use then"
    assert [type(settings.carrier) for settings in told] == [ByProgram, *[ByKoiiTask] * 3]


def test_a_memo_task_needs_its_document_before_a_key_is_made(
    told: list[NodeSettings], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    terms = TaskTerms(bytes(32), bytes([1]) * 32, "memo", 1000, 100, 30, 40, 10, 10, program="t")
    genesis = Genesis.make(terms, [GenesisStake(bytes([2]) * 32, 50, bytes([3]) * 32)], pledged=1000)
    path = tmp_path / "genesis.json"
    path.write_text(genesis.to_json())
    memo = (*NO_K2, "--carrier", "memo", "--task", f"{Pubkey(genesis.terms.task)}=task.py")
    assert "There is no genesis document" in refused(capsys, *memo)["what"]
    assert "stake is of no use" in refused(capsys, *memo, "--genesis", str(path), "--stake", "2")["what"]
    assert (
        "is of no task of this node"
        in refused(capsys, *memo[:-1], f"{TASK}=task.py", "--genesis", str(path))["what"]
    )
    assert not (tmp_path / "home").exists()
    assert run(["join", *memo, "--genesis", str(path)]) == 0
    assert [settings.carrier for settings in told] == [ByMemos((genesis,))]


@pytest.mark.parametrize(
    ("flags", "why"),
    [
        (("--carrier", "pigeon"), "'pigeon'"),
        (("--carrier", "koii-task"), "nothing is assumed"),
        (("--genesis", "g.json"), "Only memo tasks"),
        (("--readings", "native"), "Only Koii's own program"),
    ],
)
@pytest.mark.usefixtures("told")
def test_what_a_carrier_lacks_or_cannot_use_is_one_error(
    flags: tuple[str, ...], why: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    error = refused(capsys, *NO_K2, *flags)
    assert why in error["why"]
    assert error["remedy"]
    assert not (tmp_path / "home").exists()


def test_a_node_behind_a_router_is_told_what_to_announce(
    told: list[NodeSettings], capsys: pytest.CaptureFixture[str]
) -> None:
    outside = "/ip4/203.0.113.7/tcp/4001"
    assert "/udp/" in refused(capsys, *NO_K2, "--announce", "/ip4/203.0.113.7/udp/4001")["what"]
    assert run(["join", *NO_K2, "--announce", outside]) == 0
    assert run(["join", *NO_K2]) == 0
    assert [settings.network.announce for settings in told] == [(outside,), ()]


@pytest.mark.usefixtures("told")
def test_no_error_shows_the_key_of_a_provider(capsys: pytest.CaptureFixture[str]) -> None:
    error = refused(capsys, "--url", SECRETS, "--behaviour", "wrong-value")
    assert "https://k2.example/rpc" in error["what"]
    assert not {"sesame", "open"} & set(re.findall(r"\w+", " ".join(map(str, error.values()))))


def test_records_are_traced_into_the_file_that_is_named(told: list[NodeSettings], tmp_path: Path) -> None:
    assert run(["join", *NO_K2, "--trace", str(tmp_path / "trace.jsonl")]) == 0
    assert run(["join", *NO_K2]) == 0
    assert [settings.trace for settings in told] == [tmp_path / "trace.jsonl", None]


@pytest.mark.usefixtures("told")
@pytest.mark.parametrize(
    ("flags", "node", "task"),
    [
        ((), 8192, 4096),
        (("--data-quota", "100"), 100, 100),
        (("--data-quota", "1536"), 1536, 1024),
        (("--data-quota", "10000"), 10_000, 5000),
    ],
)
def test_the_quota_of_task_data(
    flags: tuple[str, ...], node: int, task: int, told: list[NodeSettings]
) -> None:
    assert run(["join", *NO_K2, *flags]) == 0
    limits = told[0].limits
    assert (limits.data_bytes >> 20, limits.data_task_bytes >> 20) == (node, task)


def test_the_dht_is_a_flag_and_a_setting(
    capsys: pytest.CaptureFixture[str], told: list[NodeSettings], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "The setting dht (flag --dht)" in refused(capsys, *NO_K2, "--dht", "maybe")["what"]
    for flags in ((), ("--dht", "off"), ("--dht", "server")):
        assert run(["join", *NO_K2, *flags]) == 0
    monkeypatch.setenv("KOII_P2P_DHT", "client")
    assert run(["join", *NO_K2]) == 0
    assert [settings.network.dht for settings in told] == ["auto", "off", "server", "client"]


@pytest.mark.parametrize(
    ("flags", "place"),
    [
        ((), None),
        (("--task-port", "30017"), TaskHttpPlace("127.0.0.1", 30017)),
        (("--task-port", "0"), TaskHttpPlace("127.0.0.1", 0)),
        (("--task-host", "0.0.0.0"), TaskHttpPlace("0.0.0.0", 30017)),
        (("--task-host", "::1", "--task-port", "5"), TaskHttpPlace("::1", 5)),
    ],
)
def test_the_rest_of_tasks_is_off_unless_asked_for_and_then_on_loopback(
    flags: tuple[str, ...], place: TaskHttpPlace | None, told: list[NodeSettings]
) -> None:
    assert run(["join", *NO_K2, *flags]) == 0
    assert [settings.task_http for settings in told] == [place]


def test_the_rest_of_tasks_is_a_setting_too_and_needs_an_address(
    told: list[NodeSettings], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("KOII_P2P_TASK_HOST", "0.0.0.0")
    assert run(["join", *NO_K2]) == 0
    assert told[0].task_http == TaskHttpPlace("0.0.0.0", 30017)
    assert run(["join", *NO_K2, "--task-host", "example.org"]) == 3
    assert "--task-host an address of this machine" in " ".join(capsys.readouterr().err.split())
    assert len(told) == 1


def test_network_conditions_are_for_local_clusters_only(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    file = tmp_path / "conditions.json"
    file.write_text("{}")
    error = refused(capsys, "--url", "https://k2.example/rpc", "--conditions", str(file))
    assert "Network conditions are refused on https://k2.example/rpc" in error["what"]


def test_network_conditions_are_read_before_anything_is_started(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, told: list[NodeSettings]
) -> None:
    file = tmp_path / "conditions.json"
    assert "cannot be read" in refused(capsys, *NO_K2, "--conditions", str(file))["why"]
    file.write_text('{"link": {"latency_ms": -1}}')
    assert "latency_ms = -1" in refused(capsys, *NO_K2, "--conditions", str(file))["why"]
    assert told == []
    file.write_text('{"link": {"latency_ms": 1}}')
    assert run(["join", *NO_K2, "--conditions", str(file)]) == 0
    assert [settings.network.conditions for settings in told] == [file]


def test_the_settings_of_a_node_do_not_say_the_key_of_a_provider(told: list[NodeSettings]) -> None:
    assert run(["join", "--url", SECRETS]) == 0
    assert told[0].url == SECRETS
    assert "sesame" not in repr(told[0])


def test_the_address_of_k2_is_printed_without_its_key(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    settings = NodeSettings(Home(tmp_path), SECRETS, NetworkSettings(), carrier=ByMemos(()))
    ready = NodeReady(
        "key", "wallet", "peer", (), "http://127.0.0.1:1", (), "https://k2.example/rpc", "memo", ByMemos.note
    )
    for output in OutputFormat:
        join._Announcement(settings, output, []).started(ready)
        shown = capsys.readouterr().out
        assert "https://k2.example/rpc" in shown
        assert "sesame" not in shown
        assert ByMemos.note in shown


def test_help_says_what_each_role_does(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["join", "--help"]) == 0
    shown = capsys.readouterr().out
    for flag in ("--witness", "--patrols", "--canaries", "--carrier", "--genesis", "--readings"):
        assert flag in shown


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:8899,http://localhost:8901",
        "http://127.0.0.1:8899",
        "http://127.9.9.9",
        "http://localhost:1",
        "http://[::1]:8899",
    ],
)
def test_loopback_is_local(url: str) -> None:
    assert is_local(url)


@pytest.mark.parametrize(
    "url",
    [
        "https://mainnet.koii.network",
        "http://localhost.example.org",
        "http://127.0.0.1.example.org",
        "http://127.0.0.1:8899,https://mainnet.example.org",
        "http://127.0.0.1@example.org",
        "http://192.168.0.7:8899",
        "http://0.0.0.0:8899",
        "not a url",
    ],
)
def test_everything_else_is_not(url: str) -> None:
    assert not is_local(url)
