from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from koii_p2p.errors import ConfigurationError
from koii_p2p.records.keys import SecretKey
from koii_p2p.storage import StorageFull, create_private, load_secret, replace_private, save_secret
from tests.storage.conftest import SmallDisk

KEY = SecretKey.from_seed(b"k" * 32)
NUMBERS = list(KEY.solana_bytes)


def written(path: Path, content: str | bytes, mode: int = 0o600) -> Path:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    path.chmod(mode)
    return path


def refusal(path: Path) -> ConfigurationError:
    with pytest.raises(ConfigurationError) as caught:
        load_secret(path)
    assert caught.value.exit_code == 3
    assert str(path) in caught.value.what
    assert caught.value.remedy
    assert "107" not in str(caught.value)  # no byte of the seed
    return caught.value


def test_a_key_is_saved_as_solana_does_and_loaded(tmp_path: Path) -> None:
    path = tmp_path / "staking.json"
    save_secret(path, KEY)
    assert json.loads(path.read_text()) == NUMBERS
    assert path.stat().st_mode & 0o777 == 0o600
    assert load_secret(path).public_key == KEY.public_key
    assert load_secret(written(tmp_path / "spaced", json.dumps(NUMBERS, indent=2) + "\n")).seed == KEY.seed
    assert sorted(os.listdir(tmp_path)) == ["spaced", "staking.json"]


def test_a_key_file_is_never_overwritten(tmp_path: Path) -> None:
    path = written(tmp_path / "staking.json", "precious")
    with pytest.raises(ConfigurationError, match="There is a file of this name"):
        save_secret(path, KEY)
    assert path.read_text() == "precious"
    assert os.listdir(tmp_path) == ["staking.json"]


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o644, 0o601])
def test_a_key_that_others_may_use_is_refused(tmp_path: Path, mode: int) -> None:
    error = refusal(written(tmp_path / "key", json.dumps(NUMBERS), mode))
    assert re.search(rf"mode {mode:04o}", error.why)
    assert error.remedy == f"Run: chmod 600 {tmp_path / 'key'}"


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ("", "not JSON"),
        ("hello", "not JSON"),
        (b"\xff\xfe", "not JSON"),
        ("[" * 4000, "not JSON"),
        ("{}", "64 integers"),
        ("64", "64 integers"),
        ("[]", "64 integers"),
        (json.dumps(NUMBERS[:-1]), "64 integers"),
        (json.dumps([*NUMBERS, 0]), "64 integers"),
        (json.dumps([256, *NUMBERS[1:]]), "64 integers"),
        (json.dumps([-1, *NUMBERS[1:]]), "64 integers"),
        (json.dumps([True, *NUMBERS[1:]]), "64 integers"),
        (json.dumps([1.0, *NUMBERS[1:]]), "64 integers"),
        (json.dumps([*NUMBERS[:-1], NUMBERS[-1] ^ 1]), "public half"),
        (json.dumps(NUMBERS) + " " * 5000, "more than 4096 bytes"),
    ],
)
def test_what_is_not_a_key_file(tmp_path: Path, content: str | bytes, why: str) -> None:
    assert why in refusal(written(tmp_path / "key", content)).why


def test_what_is_not_a_file(tmp_path: Path) -> None:
    assert "does not exist" in refusal(tmp_path / "missing").why
    assert "keys new" in refusal(tmp_path / "missing").remedy
    assert "regular file" in refusal(tmp_path).why
    written(tmp_path / "file", "x")
    assert refusal(tmp_path / "file" / "key").why
    os.mkfifo(tmp_path / "pipe", 0o600)
    assert "regular file" in refusal(tmp_path / "pipe").why
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    assert refusal(tmp_path / "loop").why


def test_a_key_that_cannot_be_written(tmp_path: Path) -> None:
    written(tmp_path / "file", "x")
    for path in (tmp_path / "file" / "key", tmp_path / "missing" / "key"):
        with pytest.raises(ConfigurationError) as caught:
            save_secret(path, KEY)
        assert caught.value.exit_code == 3


def test_a_private_file_is_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "api.json"
    replace_private(path, b"old")
    path.chmod(0o644)
    replace_private(path, b"new")
    assert path.read_bytes() == b"new"
    assert path.stat().st_mode & 0o777 == 0o600
    assert os.listdir(tmp_path) == ["api.json"]
    (tmp_path / "folder").mkdir()
    with pytest.raises(ConfigurationError):
        replace_private(tmp_path / "folder", b"new")
    assert sorted(os.listdir(tmp_path)) == ["api.json", "folder"]


def test_on_a_full_disk_nothing_is_half_written(small_disk: SmallDisk) -> None:
    kept = small_disk.path / "api.json"
    replace_private(kept, b"old")
    filler = small_disk.fill()
    writes: list[Callable[[], None]] = [
        lambda: save_secret(small_disk.path / "key", KEY),
        lambda: create_private(small_disk.path / "new", bytes(5000)),
        lambda: replace_private(kept, bytes(5000)),
    ]
    for write in writes:
        with pytest.raises(StorageFull) as caught:
            write()
        assert "full" in caught.value.why
        assert caught.value.exit_code == 3
    assert kept.read_bytes() == b"old"
    assert sorted(os.listdir(small_disk.path)) == ["api.json", "filler"]
    filler.unlink()
    save_secret(small_disk.path / "key", KEY)
    assert load_secret(small_disk.path / "key").seed == KEY.seed
