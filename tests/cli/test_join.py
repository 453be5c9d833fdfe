from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from koii_p2p.cli import join
from koii_p2p.cli.join import is_local
from koii_p2p.cli.main import EXIT_USAGE, OutputFormat, run
from koii_p2p.node.node import NodeSettings
from koii_p2p.rounds.role import Role

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


def test_help_says_what_each_role_does(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["join", "--help"]) == 0
    shown = capsys.readouterr().out
    for flag in ("--witness", "--patrols", "--canaries"):
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
