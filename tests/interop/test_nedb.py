"""Our reading of NeDB beside NeDB 1.8.0 itself: the same random operations come to the same, or both refuse."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random
from typing import Any

import pytest

from koii_p2p.data.collections.reasons import DocumentError
from tests.data.collections.model import Model, operation

from .npm import NotInstalled, packages, run_node

STORIES, OPERATIONS = 60, 60


@pytest.fixture(scope="session")
def nedb_modules() -> Path:
    try:
        return packages(Path(__file__).parent / "nedb")
    except NotInstalled as missing:
        pytest.skip(str(missing))


def ours(model: Model, step: list[Any]) -> Any:
    """What an operation comes to here, in the form of the script's answers."""
    name, *given = step
    before = json.dumps(model.documents)
    try:
        if name == "insert":
            model.insert(json.loads(json.dumps(given[0])))
            return {"result": given[0]}
        if name == "find":
            filter, sort, skip, limit, projection = given
            return {"result": model.find(filter, sort, skip, limit or None, projection)}
        if name == "update":
            return {"result": model.update(given[0], given[1], **given[2])}
        if name == "remove":
            return {"result": model.remove(given[0], **given[1])}
        return {"result": len(model.find(given[0]))}
    except DocumentError as error:
        model.documents = json.loads(before)
        return {"error": str(error)}


def test_random_operations_come_to_the_same_as_with_nedb(nedb_modules: Path, tmp_path: Path) -> None:
    random = Random(1)
    stories = [
        [operation(random) for _ in range(OPERATIONS)] + [["find", {}, {"_id": 1}, 0, 0, None]]
        for _ in range(STORIES)
    ]
    file = tmp_path / "stories.json"
    file.write_text(json.dumps(stories))
    theirs = json.loads(run_node(nedb_modules, "nedb.cjs", str(file), seconds=120))
    refused = 0
    for story, told in zip(stories, theirs, strict=True):
        model = Model()
        for step, answer in zip(story, told, strict=True):
            mine = ours(model, step)
            assert ("error" in mine) is ("error" in answer), (step, mine, answer)
            refused += "error" in mine
            if "result" in mine:
                assert mine == answer, step
    assert refused > STORIES, "some operations are refused"
