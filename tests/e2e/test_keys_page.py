"""Every command that docs/keys.md shows is run here, where it asks at a terminal."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import base58

from koii_p2p.storage.derivation import STAKING_PATH, WALLET_PATH
from koii_p2p.storage.keyfile import load_public
from tests.cli.terminal import at_a_terminal
from tests.e2e.shell import koii_p2p, write_private
from tests.e2e.test_documents import ROOT, shown_commands

PAGE = ROOT / "docs" / "keys.md"


def test_every_command_of_the_keys_page(tmp_path: Path) -> None:
    left = shown_commands([PAGE])
    names: dict[str, str] = {}

    def take(*words: str) -> list[str]:
        command = " ".join(("koii-p2p", *words))
        left.remove(command)
        return [*(names.get(word, word) for word in shlex.split(command)[1:]), "--output", "json"]

    def run(home: str, *words: str) -> dict[str, str]:
        result = koii_p2p(*take(*words), KOII_P2P_HOME=str(tmp_path / home))
        assert result.returncode == 0, (words, result.stderr)
        found: dict[str, str] = json.loads(result.stdout)
        return found

    def asked(home: str, *words: str, answers: Sequence[tuple[str, str]] = ()) -> tuple[Any, str]:
        code, out, shown = at_a_terminal(take(*words), answers, KOII_P2P_HOME=str(tmp_path / home))
        assert code == 0, shown
        return json.loads(out), shown

    def ask(home: str, *words: str, answer: str | None = None) -> tuple[dict[str, dict[str, str]], str]:
        return asked(home, *words, answers=[] if answer is None else [("(not shown): ", answer)])

    made = run("first", "init")
    assert run("first", "keys", "show") == {role: made[role] for role in ("staking", "wallet")}
    names["FILE"] = str(tmp_path / "first" / "wallet.json")
    assert run("first", "keys", "show", "FILE") == {"public_key": made["wallet"], "role": "wallet"}

    twice = [("Passphrase of the key file: ", "a long passphrase"), ("again: ", "a long passphrase")]
    locked, _ = asked("locked", "keys", "new", "wallet", "--lock", answers=twice)
    assert load_public(Path(locked["file"])) == base58.b58decode(locked["public_key"])
    names["LOCKED"] = str(tmp_path / "locked.json")
    copy = ("keys", "import", "FILE", "wallet", "--lock", "--outfile", "LOCKED")
    assert asked("first", *copy, answers=twice)[0]["public_key"] == made["wallet"]
    assert "locked" in (tmp_path / "locked.json").read_text()

    derived, shown = ask("second", "keys", "new", "--mnemonic")
    words = shown.split("\n\n")[1]
    _, shown = ask("third", "keys", "new", "--mnemonic", "--words", "24")
    assert len(shown.split("\n\n")[1].split()) == 24
    again, shown = ask("fourth", "keys", "import", "--mnemonic", answer=words)
    assert words not in shown
    assert [again[role]["public_key"] for role in again] == [derived[role]["public_key"] for role in derived]
    alone, _ = ask("fifth", "keys", "import", "--mnemonic", "-", "wallet", answer=words)
    assert {role: key["public_key"] for role, key in alone.items()} == {
        "wallet": derived["wallet"]["public_key"]
    }
    names["WORDS"] = str(tmp_path / "words")
    write_private(tmp_path / "words", words)
    assert run("sixth", "keys", "import", "--mnemonic", "WORDS")["staking"] == {
        **derived["staking"], "file": str(tmp_path / "sixth" / "staking.json"),
    }  # fmt: skip
    assert left == []


def test_the_page_has_the_paths() -> None:
    text = PAGE.read_text()
    assert f"| wallet | `{WALLET_PATH}` |" in text
    assert f"| staking key | `{STAKING_PATH}` |" in text
