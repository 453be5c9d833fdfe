from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import pytest

from koii_p2p.tasks.task_network import asks_for_internet
from tests.e2e.shell import LONG, koii_p2p
from tests.e2e.test_documents import ROOT, shown_commands

EXAMPLE = ROOT / "examples" / "google_doodle"
DOODLE = "www.example.org/logos/2026/spring-6753651837110711.2-l.png"


@pytest.fixture
def module() -> ModuleType:
    spec = importlib.util.spec_from_file_location("google_doodle_example", EXAMPLE / "task.py")
    assert spec is not None
    assert spec.loader is not None
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    return made


def test_the_newest_doodle_is_found_and_no_other(module: ModuleType) -> None:
    assert module.newest_doodle() == DOODLE


@pytest.mark.parametrize(
    "page",
    [
        "",
        "<div class='latest-doodle on'></div><div><div><a><img src='//x'></a></div></div>",
        "<div class='latest-doodle on'><a><img src='//x'></a></div>",
        "<div class='latest-doodle'><div><div><a><img src='//x'></a></div></div></div>",
        "<div class='latest-doodle on'><div><div><a><img></a></div></div></div>",
        "</div></div><<<div class='on latest-doodle",
    ],
)
def test_a_page_without_a_doodle_is_an_error(module: ModuleType, tmp_path: Path, page: str) -> None:
    module.SOURCE = tmp_path / "page.html"
    module.SOURCE.write_text(page)
    with pytest.raises(LookupError):
        module.newest_doodle()


def test_empty_elements_on_the_way_do_not_lead_astray(module: ModuleType, tmp_path: Path) -> None:
    module.SOURCE = tmp_path / "page.html"
    module.SOURCE.write_text(
        "<main class='a latest-doodle on'><br><div><hr><div><a href='x'><br><img src='//right'></a></div></div></main>"
    )
    assert module.newest_doodle() == "right"


def test_it_asks_for_the_internet() -> None:
    assert asks_for_internet(EXAMPLE)


def test_rounds_with_a_cheater_in_real_workers(tmp_path: Path) -> None:
    few = ("--rounds", "1", "--slow", "0", "--crashing", "0")
    result = koii_p2p(
        "task", "test", str(EXAMPLE), *few, "--output", "json", seconds=120, KOII_P2P_HOME=str(tmp_path)
    )
    assert result.returncode == 0, result.stdout[-1500:]
    found = json.loads(result.stdout)
    assert found["rounds"][0]["outcomes"]["wrong-1"] == "REJECTED"
    assert any(DOODLE in call["answer"] for call in found["calls"])


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_cheater_is_slashed_on_a_testnet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    (up,) = shown_commands([EXAMPLE / "README.md"])
    place = {"KOII_P2P_TESTNET_DIR": str(tmp_path / "net")}
    result = koii_p2p(*up.split()[1:], "--output", "json", seconds=LONG, **place)
    found = json.loads(result.stdout)
    assert (result.returncode, found["failures"]) == (0, []), result.stderr[-2000:]
    assert (found["settled"], found["verified"]) == (3, True)
    assert found["nodes"][4]["taken"] == 1_330_000_000
    assert all(node["taken"] == 0 and node["paid"] > 0 for node in found["nodes"][:4])
