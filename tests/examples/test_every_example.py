"""What holds for every example: its README, its configuration, and the plainest cheater of all."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from koii_p2p.cli.main import run
from koii_p2p.tasks.config_task import load_config
from koii_p2p.testnets.topology import load_topology
from tests.e2e.test_documents import ROOT, shown_commands
from tests.examples.playing import EXAMPLES, FEW

FOLDERS = sorted(path.parent for path in EXAMPLES.glob("*/README.md"))
TASKS = [folder for folder in FOLDERS if (folder / "task.py").exists()]


def name_of(folder: Path) -> str:
    return folder.name


def test_there_are_examples_and_the_page_on_writing_tasks_lists_them() -> None:
    page = (ROOT / "docs" / "writing-tasks.md").read_text().split("## Examples")[1]
    assert re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE)
    assert set(re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE)) == {folder.name for folder in FOLDERS}


@pytest.mark.parametrize("folder", FOLDERS, ids=name_of)
def test_the_readme_shows_a_command_and_names_every_file(folder: Path) -> None:
    readme = folder / "README.md"
    assert any(command.startswith("koii-p2p ") for command in shown_commands([readme]))
    unnamed = {"README.md", "config-task.yml", "__pycache__"}
    there = {path.name for path in folder.iterdir()} - unnamed
    assert not [name for name in there if f"`{name}" not in readme.read_text()]


@pytest.mark.parametrize("file", sorted(EXAMPLES.glob("*/*.toml")), ids=lambda file: file.parent.name)
def test_every_testnet_of_an_example_can_be_used_and_is_the_readmes(file: Path) -> None:
    topology = load_topology(file, {})
    assert topology.nodes == len(topology.plan())
    shown = f"testnet up --file examples/{file.parent.name}/{file.name}"
    assert shown in file.read_text()
    assert f"    koii-p2p {shown}" in (file.parent / "README.md").read_text()


@pytest.mark.parametrize("folder", TASKS, ids=name_of)
def test_the_configuration_is_one_that_koiis_tool_reads(folder: Path) -> None:
    found = load_config(folder)
    assert found.warnings == ()
    assert found.config.task_name


@pytest.mark.parametrize("folder", TASKS, ids=name_of)
def test_the_right_value_with_a_word_before_it_is_rejected(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if "numpy" in (folder / "task.py").read_text():
        pytest.importorskip("numpy", reason="the extra `lab` brings NumPy, which this example needs")
    shown = " ".join(shown_commands([folder / "README.md"]))
    network = ["--task-network"] if " --task-network" in shown else []
    words = ["task", "test", str(folder), "--rounds", "1", *FEW, *network, "--home", str(tmp_path / "home")]
    code = run([*words, "--output", "json"])
    found = json.loads(capsys.readouterr().out)
    assert (code, found["findings"]) == (0, [])
    (played,) = found["rounds"]
    assert played["outcomes"].pop("wrong-1") == "REJECTED"
    assert set(played["outcomes"].values()) == {"APPROVED"}
