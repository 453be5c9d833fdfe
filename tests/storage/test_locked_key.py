from __future__ import annotations

import json
from pathlib import Path

import pytest

from koii_p2p.errors import ConfigurationError
from koii_p2p.records.keys import SecretKey
from koii_p2p.storage import create_private, load_public, load_secret, save_secret
from koii_p2p.storage.locked_key import MARK, PASSPHRASE_FILE, WrongPassphrase, lock, unlock

KEY = SecretKey.from_seed(b"k" * 32)
PASSPHRASE = "correct horse"


@pytest.fixture(scope="module")
def content() -> dict[str, object]:
    found: dict[str, object] = json.loads(lock(KEY, PASSPHRASE))
    return found


def test_what_is_locked_opens_with_its_passphrase_alone(content: dict[str, object]) -> None:
    assert unlock(content, PASSPHRASE).seed == KEY.seed
    for wrong in ("", "correct hors", "Correct horse", PASSPHRASE + " "):
        with pytest.raises(WrongPassphrase):
            unlock(content, wrong)


def test_nothing_of_the_key_is_in_the_file_and_no_two_files_are_alike(content: dict[str, object]) -> None:
    other = lock(KEY, PASSPHRASE).decode()
    assert KEY.seed.hex() not in other
    assert KEY.seed.hex() not in json.dumps(content)
    assert json.loads(other)["secretbox"] != content["secretbox"]
    assert json.loads(other)["argon2id"]["salt"] != content["argon2id"]["salt"]  # type: ignore[index]


def test_the_same_letters_in_other_code_points_open_it() -> None:
    locked = json.loads(lock(KEY, "caf\u00e9 caf\u00e9"))
    assert unlock(locked, "cafe\u0301 cafe\u0301").seed == KEY.seed


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({MARK: 2}, "not a locked key of this version"),
        ({"public_key": "abc"}, "32 bytes in base58"),
        ({"public_key": "1" * 5000}, "32 bytes in base58"),
        ({"public_key": 7}, "32 bytes in base58"),
        ({"public_key": "11111111111111111111111111111111"}, "not that of the key in the box"),
        ({"argon2id": None}, "settings are missing"),
        ({"argon2id": {"operations": 17, "memory": 2**26, "salt": "00" * 16}}, "operations are out of range"),
        ({"argon2id": {"operations": 3, "memory": 2**31, "salt": "00" * 16}}, "memory is out of range"),
        ({"argon2id": {"operations": 3, "memory": True, "salt": "00" * 16}}, "memory is out of range"),
        ({"argon2id": {"operations": 3, "memory": 2**26, "salt": "00"}}, "not that of Argon2id"),
        ({"argon2id": {"operations": 3, "memory": 2**26, "salt": "zz" * 16}}, "hexadecimal"),
        ({"secretbox": "00"}, "passphrase is wrong, or the file was changed"),
        ({"secretbox": "zz"}, "hexadecimal"),
        ({"secretbox": None}, "box or its Argon2id"),
    ],
)
def test_a_file_that_was_changed_is_refused(
    content: dict[str, object], changed: dict[str, object], why: str
) -> None:
    with pytest.raises(ValueError, match=why):
        unlock({**content, **changed}, PASSPHRASE)


def test_a_locked_key_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "key.json"
    save_secret(path, KEY, PASSPHRASE)
    assert path.stat().st_mode & 0o777 == 0o600
    assert load_public(path) == KEY.public_key, "which needs no passphrase"
    monkeypatch.delenv(PASSPHRASE_FILE, raising=False)
    monkeypatch.setattr("sys.stdin", None)
    with pytest.raises(ConfigurationError, match="no terminal to ask at") as caught:
        load_secret(path)
    assert PASSPHRASE_FILE in caught.value.remedy
    create_private(tmp_path / "passphrase", f"{PASSPHRASE}\n".encode())
    monkeypatch.setenv(PASSPHRASE_FILE, str(tmp_path / "passphrase"))
    assert load_secret(path).seed == KEY.seed


def test_a_wrong_passphrase_and_a_readable_one_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    create_private(tmp_path / "passphrase", b"wrong\n")
    monkeypatch.setenv(PASSPHRASE_FILE, str(tmp_path / "passphrase"))
    save_secret(tmp_path / "key.json", KEY, PASSPHRASE)
    with pytest.raises(ConfigurationError, match="passphrase is wrong") as caught:
        load_secret(tmp_path / "key.json")
    assert "wrong\n" not in str(caught.value)
    save_secret(tmp_path / "other.json", KEY, PASSPHRASE)
    (tmp_path / "passphrase").chmod(0o644)
    with pytest.raises(ConfigurationError, match="chmod 600"):
        load_secret(tmp_path / "other.json")


@pytest.mark.parametrize("text", [f'{{"{MARK}": 1}}', f'{{"{MARK}": 1, "public_key": "0OIl"}}', '{"a": 1}'])
def test_what_is_no_locked_key_file(tmp_path: Path, text: str) -> None:
    create_private(tmp_path / "key.json", text.encode())
    with pytest.raises(ConfigurationError, match="cannot be used"):
        load_public(tmp_path / "key.json")


def test_the_public_key_of_a_plain_file(tmp_path: Path) -> None:
    save_secret(tmp_path / "key.json", KEY)
    assert load_public(tmp_path / "key.json") == KEY.public_key
