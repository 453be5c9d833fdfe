from __future__ import annotations

import io
import json
import os
from pathlib import Path

import base58
import pytest

from koii_p2p.cli.main import run
from koii_p2p.records.keys import SecretKey
from koii_p2p.storage.keyfile import load_secret, save_secret


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in [name for name in os.environ if name.startswith("KOII_P2P_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("KOII_P2P_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def address(key: SecretKey) -> str:
    return base58.b58encode(key.public_key).decode()


def test_a_new_key_is_private_and_never_shown(home: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert run(["keys", "new"]) == 0
    file = home / "staking.json"
    key = load_secret(file)
    seen = capfd.readouterr()
    assert address(key) in seen.out
    assert file.stat().st_mode & 0o777 == 0o600
    assert home.stat().st_mode & 0o777 == 0o700
    for form in (key.seed.hex(), base58.b58encode(key.solana_bytes).decode(), str(list(key.seed))[1:-1]):
        assert form not in seen.out + seen.err


def test_roles_and_files_of_ones_own(home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["keys", "new", "wallet", "--output", "json"]) == 0
    assert json.loads(capsys.readouterr().out)["file"] == str(home / "wallet.json")
    assert run(["keys", "new", "--outfile", str(tmp_path / "own.json"), "--output", "json"]) == 0
    shown = json.loads(capsys.readouterr().out)["public_key"]
    assert shown == address(load_secret(tmp_path / "own.json"))
    assert not (home / "staking.json").exists()


def test_no_key_is_overwritten(home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["keys", "new"]) == 0
    before = (home / "staking.json").read_bytes()
    save_secret(tmp_path / "other.json", SecretKey.generate())
    capsys.readouterr()
    for line in (["keys", "new"], ["keys", "import", str(tmp_path / "other.json")]):
        assert run(line) == 3
        assert "staking.json was not written" in capsys.readouterr().err
    assert (home / "staking.json").read_bytes() == before


def test_import_from_a_file_and_from_stdin(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = SecretKey.generate(), SecretKey.generate()
    save_secret(tmp_path / "first.json", first)
    assert run(["keys", "import", str(tmp_path / "first.json")]) == 0
    monkeypatch.setattr("sys.stdin", io.StringIO(json.dumps(list(second.solana_bytes))))
    assert run(["keys", "import", "-", "wallet"]) == 0
    capsys.readouterr()
    assert run(["keys", "show", "--output", "json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"staking": address(first), "wallet": address(second)}


@pytest.mark.parametrize(
    "text", ["", "secret words", "[1, 2, 3]", "[" * 3000, '["a"]', str([300] * 64), str([7] * 64)]
)
def test_a_bad_key_on_stdin_is_refused_and_not_repeated(
    text: str, home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(text))
    assert run(["keys", "import", "-"]) == 3
    seen = capsys.readouterr()
    assert "not a key in Solana's format" in seen.err
    assert len(text) < 5 or text not in seen.err
    assert not (home / "staking.json").exists()


def test_show_of_one_file_and_of_the_global_flag(
    tmp_path: Path, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    key = SecretKey.generate()
    file = tmp_path / "key.json"
    save_secret(file, key)
    assert run(["keys", "show", str(file), "--output", "json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"public_key": address(key)}
    assert run(["-k", str(file), "keys", "show"]) == 0
    assert address(key) in capsys.readouterr().out


def test_missing_and_readable_key_files_are_configuration_errors(
    tmp_path: Path, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["keys", "show"]) == 3
    assert "koii-p2p keys new" in capsys.readouterr().err
    file = tmp_path / "key.json"
    save_secret(file, SecretKey.generate())
    file.chmod(0o644)
    assert run(["keys", "show", str(file)]) == 3
    assert str(file) in capsys.readouterr().err
