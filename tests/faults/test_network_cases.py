"""`docs/network-cases.md` names a test for every case, and each of them exists.

The cases themselves are in `test_hostile_records.py` (1 to 5, 18, 19), `test_hostile_nets.py` (14 to 17, the burst) and
`test_hostile_gossip.py` (20, slow loris, churn, bad lines, leaks); the page says where the others are.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "network-cases.md").read_text()
ROWS = [
    [cell.strip() for cell in line.split("|")[1:-1]] for line in PAGE.splitlines() if line.startswith("|")
][2:]
HERE = ("test_hostile_records.py", "test_hostile_nets.py", "test_hostile_gossip.py")


def names_in(path: Path) -> set[str]:
    found = ast.walk(ast.parse(path.read_text()))
    return {one.name for one in found if isinstance(one, ast.FunctionDef | ast.AsyncFunctionDef)}


@pytest.mark.parametrize("row", ROWS, ids=[row[2].rpartition("::")[2].strip("`") for row in ROWS])
def test_every_named_test_exists(row: list[str]) -> None:
    assert len(row) == 4
    assert all(row)
    path, _, name = row[2].strip("`").partition("::")
    assert name.startswith("test_")
    assert name in names_in(ROOT / path)


def test_every_test_of_a_case_is_on_the_page() -> None:
    named = {row[2].rpartition("::")[2].strip("`") for row in ROWS}
    written = {
        name
        for file in HERE
        for name in names_in(ROOT / "tests" / "faults" / file)
        if name.startswith("test_")
    }
    assert written <= named


def test_the_cases_are_there() -> None:
    numbers = {int(number) for row in ROWS for number in re.findall(r"\d+", row[0])}
    assert numbers >= {1, 2, 3, 4, 5, 14, 15, 16, 17, 18, 19, 20, 21}
