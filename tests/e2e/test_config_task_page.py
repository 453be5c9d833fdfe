"""Every command that docs/config-task.md shows is run here, on a local K2; so is the section that it shows."""

from __future__ import annotations

import json
import re
import shlex
import signal
import textwrap
from pathlib import Path

import pytest

from koii_p2p.tasks.config_task import load_config
from koii_p2p.tasks.config_terms import MEANINGS
from tests.cli.spender import KOII
from tests.e2e.shell import koii_p2p, running
from tests.e2e.test_documents import ROOT, shown_commands

PAGE = ROOT / "docs" / "config-task.md"


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_every_command_of_the_config_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)  # the page names files of the source tree
    left = shown_commands([PAGE])
    place = {"KOII_P2P_HOME": str(tmp_path / "home")}
    names: dict[str, str] = {}

    def take(*words: str) -> list[str]:
        start = " ".join(("koii-p2p", *words))
        command = next(command for command in left if command == start or command.startswith(f"{start} "))
        left.remove(command)
        return [names.get(word, word) for word in shlex.split(command)[1:]]

    def run(*words: str, more: tuple[str, ...] = ()) -> str:
        result = koii_p2p(*take(*words), *more, seconds=60, **place)
        assert result.returncode == 0, (words, result.stderr)
        return result.stdout

    def create(*words: str) -> dict[str, object]:
        made: dict[str, object] = json.loads(
            run("task", "create", *words, more=("--yes", "--output", "json"))
        )
        return made

    with running(*take("k2", "up"), "--port", "0", "--slot-ms", "50", **place) as k2:
        k2.wait_for("genesis")
        place["KOII_P2P_URL"] = k2.wait_for("url").split()[1]
        run("init")
        keys = koii_p2p("keys", "show", "--output", "json", seconds=60, **place)
        names["WALLET"] = json.loads(keys.stdout)["wallet"]
        run("k2", "airdrop")
        assert "500 slots = 3 min 20 s" in run("task", "check")
        made = create("examples/hello_world")
        names["TASK"] = str(made["task"])
        assert made["funded"] == 10 * KOII
        shown = run("task", "show")
        assert all(words in shown for words in ("Hello World", "examples.hello_world", "10 KOII", "500"))
        other = create("examples/hello_world/config-task.yml")
        assert (other["name"], other["funded"]) == ("longer", 20 * KOII)
        notes = other["notes"]
        assert isinstance(notes, list)
        assert [note.split(" goes")[0] for note in notes if " goes before " in note] == [
            "--name longer", "--round-time 1500", "--fund 20 KOII",
        ]  # fmt: skip
        assert sum("Koii advises more than a third" in note for note in notes) == 0
        k2.signal(signal.SIGINT)
        assert k2.end() == 130
    assert left == []


def test_the_section_that_the_page_shows_can_be_used(tmp_path: Path) -> None:
    text = PAGE.read_text()
    section = re.search(r"^    koii_p2p:\n(?:     .*\n)+", text, re.MULTILINE)
    assert section is not None
    example = (ROOT / "examples" / "hello_world" / "config-task.yml").read_text().split("koii_p2p:")[0]
    (tmp_path / "config-task.yml").write_text(example + textwrap.dedent(section.group()))
    found = load_config(tmp_path)
    assert found.warnings == ()
    own = found.config.own
    assert (own.program, own.slash_basis_points, own.starts_in) == ("examples.hello_world", 7000, 150)
    assert own.audit == {"profile": "posp", "audit_rate": "5000"}


def test_the_page_has_every_field() -> None:
    rows = [line.split("|")[1] for line in PAGE.read_text().splitlines() if line.startswith("| `")]
    named = {name for row in rows for name in re.findall(r"`(\w+)`", row)}
    assert named == set(MEANINGS)
