from __future__ import annotations

import json
import os
import tomllib
from pathlib import Path

import pytest

from koii_p2p.cli.main import run
from koii_p2p.cli.settings import Settings


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in [name for name in os.environ if name.startswith("KOII_P2P_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("KOII_P2P_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def test_init_makes_a_private_home(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["init", "--output", "json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert data["made"] == [str(home / name) for name in ("staking.json", "wallet.json", "config.toml")]
    assert len({data["staking"], data["wallet"]}) == 2
    for path in (home, *home.iterdir()):
        assert path.stat().st_mode & 0o077 == 0


def test_init_again_keeps_everything(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["init"]) == 0
    before = {path: path.read_bytes() for path in home.iterdir() if path.is_file()}
    capsys.readouterr()
    assert run(["init", "--output", "json"]) == 0
    assert json.loads(capsys.readouterr().out)["made"] == []
    assert {path: path.read_bytes() for path in home.iterdir() if path.is_file()} == before


def test_the_settings_file_explains_every_setting(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["init", "--url", "testnet"]) == 0
    text = (home / "config.toml").read_text()
    assert tomllib.loads(text) == {"url": "testnet"}
    for name, field in Settings.model_fields.items():
        if name != "home":
            assert f"{name} =" in text
            assert field.description
            assert field.description in text
    capsys.readouterr()
    assert run(["config", "show", "--origin", "--output", "json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["url"] == {"value": "testnet", "origin": f"file {home / 'config.toml'}"}


def test_every_example_in_the_settings_file_is_valid(home: Path) -> None:
    assert run(["init"]) == 0
    file = home / "config.toml"
    lines = file.read_text().splitlines()
    examples = [line.removeprefix("# ") for line in lines if " = " in line and not line.endswith("=")]
    assert len(examples) >= 8
    file.write_text("\n".join(examples))
    assert run(["config", "show"]) == 0


def test_a_home_that_cannot_be_made_is_a_configuration_error(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    home.write_text("in the way")
    assert run(["init"]) == 3
    assert str(home) in capsys.readouterr().err
