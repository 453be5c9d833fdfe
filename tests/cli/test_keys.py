from __future__ import annotations

import io
import json
import os
from pathlib import Path

import base58
import pytest

from koii_p2p.cli.main import run
from koii_p2p.records.keys import SecretKey
from koii_p2p.storage.derivation import STAKING_PATH, WALLET_PATH, derived_key
from koii_p2p.storage.keyfile import load_secret, save_secret
from tests.cli.terminal import at_a_terminal

WORDS = "legal winner thank year wave sausage worth useful legal winner thank yellow"


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
    assert json.loads(capsys.readouterr().out) == {"public_key": address(key), "role": None}
    assert run(["-k", str(file), "keys", "show"]) == 0
    assert address(key) in capsys.readouterr().out


def test_show_says_what_a_key_is_for(home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for role in ("staking", "wallet"):
        assert run(["keys", "new", role]) == 0
    capsys.readouterr()
    assert run(["keys", "show"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["role", "staking", "wallet"]
    assert "submissions and votes" in lines[1]
    assert "pays stakes, fees and rents" in lines[2]
    for role in ("staking", "wallet"):
        (tmp_path / role).write_bytes((home / f"{role}.json").read_bytes())
        (tmp_path / role).chmod(0o600)
        assert run(["keys", "show", str(tmp_path / role), "--output", "json"]) == 0
        assert json.loads(capsys.readouterr().out)["role"] == role


def test_show_says_when_both_are_one_key(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["keys", "new"]) == 0
    assert run(["keys", "import", str(home / "staking.json"), "wallet"]) == 0
    capsys.readouterr()
    assert run(["keys", "show"]) == 0
    assert "Both are one key" in capsys.readouterr().out
    assert run(["keys", "show", str(home / "wallet.json"), "--output", "json"]) == 0
    assert json.loads(capsys.readouterr().out)["role"] == "staking and wallet"


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


# --- recovery words


def derived(passphrase: str = "") -> tuple[str, str]:
    """The addresses of the staking key and the wallet of `WORDS`."""
    staking, wallet = (derived_key(WORDS, path, passphrase) for path in (STAKING_PATH, WALLET_PATH))
    return address(staking), address(wallet)


def test_words_on_stdin_make_both_keys(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(f"{WORDS}\n"))
    assert run(["keys", "import", "--mnemonic", "--output", "json"]) == 0
    seen = capsys.readouterr()
    found = json.loads(seen.out)
    assert (found["staking"]["public_key"], found["wallet"]["public_key"]) == derived()
    assert (found["staking"]["derivation"], found["wallet"]["derivation"]) == (
        "m/44'/501'/99'/0'",
        "m/44'/501'/0'",
    )
    assert address(load_secret(home / "staking.json")) == derived()[0]
    assert address(load_secret(home / "wallet.json")) == derived()[1]
    assert (home / "wallet.json").stat().st_mode & 0o777 == 0o600
    assert not [word for word in WORDS.split() if word in seen.out + seen.err]
    for kept in home.rglob("*"):
        assert kept.is_dir() or b"sausage" not in kept.read_bytes(), "words are kept nowhere"


def test_one_role_and_a_passphrase_on_stdin(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = WORDS.split("wave ")
    monkeypatch.setattr("sys.stdin", io.StringIO(f"{first}\nwave {second}\nand more \n"))
    assert run(["keys", "import", "--mnemonic", "--bip39-passphrase", "-", "wallet"]) == 0
    assert address(load_secret(home / "wallet.json")) == derived("and more ")[1]
    assert not (home / "staking.json").exists()
    assert "more" not in capsys.readouterr().out


def test_words_in_a_file_of_its_owner(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "words"
    file.write_text(WORDS.replace(" ", "\n"))
    assert run(["keys", "import", "--mnemonic", str(file)]) == 3
    assert "chmod 600" in capsys.readouterr().err
    file.chmod(0o600)
    monkeypatch.setattr("sys.stdin", io.StringIO("secret\n"))
    line = [
        "keys",
        "import",
        "--mnemonic",
        "--bip39-passphrase",
        str(file),
        "staking",
        "-o",
        str(tmp_path / "own"),
    ]
    assert run(line) == 0
    assert address(load_secret(tmp_path / "own")) == derived("secret")[0]
    assert not home.exists()


@pytest.mark.parametrize(
    ("line", "words", "code", "why"),
    [
        (["import", "--mnemonic"], "legal winner thank", 3, "There are 3 of them"),
        (["import", "--mnemonic"], WORDS.replace("wave", "wawe"), 3, "in place 5 is not a word"),
        (["import", "--mnemonic"], WORDS.replace("yellow", "wave"), 3, "checksum is wrong"),
        (["import", "--mnemonic"], "x" * 100_000, 3, "more than 1024 characters"),
        (["import", "--mnemonic", "--bip39-passphrase"], WORDS, 3, "There are 0 of them"),
        (["import", "--mnemonic", "-o", "both.json"], WORDS, 2, "say which is meant"),
        (["import", "--bip39-passphrase", "-"], WORDS, 2, "give --mnemonic"),
        (["import"], WORDS, 2, "name a key file"),
        (["new", "--bip39-passphrase"], "", 2, "give --mnemonic"),
        (["new", "--mnemonic"], "", 2, "no terminal to show the words on"),
        (["new", "--mnemonic", "--words", "15"], "", 2, "15 is not 12 or 24"),
    ],
)
def test_words_that_cannot_be_used_make_no_key(
    line: list[str],
    words: str,
    code: int,
    why: str,
    home: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(words))
    assert run(["keys", *line, "--output", "json"]) == code
    seen = capsys.readouterr()
    assert why in json.loads(seen.err)["error"]["why"]
    assert not [word for word in ("sausage", "wawe", "yellow", "xxxx") if word in seen.out + seen.err]
    assert not list(home.glob("*.json"))


def test_no_words_are_asked_for_when_a_key_is_there(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run(["keys", "new", "wallet"]) == 0
    before = (home / "wallet.json").read_bytes()
    monkeypatch.setattr("sys.stdin", None)
    for line in (["import", "--mnemonic"], ["new", "--mnemonic"], ["new", "wallet", "--mnemonic"]):
        assert run(["keys", *line]) == 3
        assert "wallet.json already" in capsys.readouterr().err
    assert not (home / "staking.json").exists()
    assert (home / "wallet.json").read_bytes() == before


@pytest.mark.parametrize(("more", "count"), [([], 12), (["--words", "24"], 24)])
def test_new_words_are_shown_once_and_make_the_same_keys_again(
    more: list[str], count: int, tmp_path: Path
) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    line = ["keys", "new", "--mnemonic", *more, "--output", "json"]
    code, out, shown = at_a_terminal(line, KOII_P2P_HOME=str(first))
    assert code == 0, shown
    words = shown.split("\n\n")[1]
    assert len(words.split()) == count
    assert shown.count(words) == 1
    assert words not in out
    made = json.loads(out)
    line = ["keys", "import", "--mnemonic", "--output", "json"]
    typed = [("(not shown): ", words.upper())]
    code, out, shown = at_a_terminal(line, typed, KOII_P2P_HOME=str(second))
    assert code == 0, shown
    assert words.split()[0] not in shown.lower(), "what is typed is not shown"
    again = json.loads(out)
    assert [again[role]["public_key"] for role in again] == [made[role]["public_key"] for role in made]
    assert list(made) == ["staking", "wallet"]


def test_a_passphrase_is_asked_for_twice_and_belongs_to_the_words(tmp_path: Path) -> None:
    home = {"KOII_P2P_HOME": str(tmp_path / "home")}
    line = ["keys", "new", "wallet", "--mnemonic", "--bip39-passphrase", "--output", "json"]
    asked = [("BIP-39 passphrase: ", "one"), ("again: ", "other")]
    code, _out, shown = at_a_terminal(line, asked, **home)
    assert (code, "not the same" in shown, "Write these" in shown) == (3, True, False)
    code, out, shown = at_a_terminal(line, [("BIP-39 passphrase: ", "one"), ("again: ", "one")], **home)
    assert code == 0, shown
    words = shown.split("\n\n")[1]
    made = json.loads(out)["wallet"]["public_key"]
    assert made == address(derived_key(words, WALLET_PATH, "one"))
    line = ["keys", "import", "--mnemonic", "--bip39-passphrase", "-", "wallet", "-o", str(tmp_path / "w")]
    typed = [("(not shown): ", words), ("passphrase: ", "one")]
    code, out, shown = at_a_terminal(line, typed, **home)
    assert (code, made in out) == (0, True), shown


# --- locked files


def test_a_locked_key_is_asked_for_at_a_terminal(tmp_path: Path) -> None:
    home = {"KOII_P2P_HOME": str(tmp_path / "home")}
    question = "Passphrase of the key file: "
    line = ["keys", "new", "wallet", "--lock", "--output", "json"]
    code, _out, shown = at_a_terminal(line, [(question, "short"), ("again: ", "short")], **home)
    assert (code, "fewer than 8" in shown) == (3, True)
    code, out, shown = at_a_terminal(line, [(question, "long enough"), ("again: ", "long enough")], **home)
    assert (code, "long enough" in out + shown) == (0, False), shown
    made = json.loads(out)
    assert "koii_p2p_locked_key" in Path(made["file"]).read_text()
    code, out, shown = at_a_terminal(["keys", "show", made["file"], "--output", "json"], **home)
    assert json.loads(out) == {"public_key": made["public_key"], "role": "wallet"}, "without its passphrase"
    unlocked = tmp_path / "plain.json"
    line = ["keys", "import", made["file"], "wallet", "-o", str(unlocked)]
    code, _out, shown = at_a_terminal(line, [("wallet.json: ", "long enough")], **home)
    assert code == 0, shown
    assert address(load_secret(unlocked)) == made["public_key"]


def test_a_passphrase_file_locks_and_unlocks(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "passphrase"
    file.write_text("a long passphrase\n")
    file.chmod(0o600)
    monkeypatch.setenv("KOII_P2P_PASSPHRASE_FILE", str(file))
    monkeypatch.setattr("sys.stdin", io.StringIO(WORDS))
    assert run(["keys", "import", "--mnemonic", "--lock"]) == 0
    assert run(["init"]) == 0
    capsys.readouterr()
    assert run(["keys", "show", "--output", "json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"staking": derived()[0], "wallet": derived()[1]}
    for name in ("staking", "wallet"):
        assert "koii_p2p_locked_key" in (home / f"{name}.json").read_text()
    assert address(load_secret(home / "wallet.json")) == derived()[1]


def test_a_key_is_not_locked_where_nobody_can_say_with_what(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("a long passphrase\na long passphrase\n"))
    assert run(["keys", "new", "--lock"]) == 2
    assert "no terminal to ask at" in capsys.readouterr().err
    assert not (home / "staking.json").exists()
