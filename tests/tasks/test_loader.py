from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from koii_p2p.errors import ConfigurationError
from koii_p2p.tasks.loader import load_task_class, task_file
from koii_p2p.tasks.sdk import Task


@pytest.fixture(autouse=True)
def undo_imports() -> Iterator[None]:
    modules, path = set(sys.modules), list(sys.path)
    yield
    sys.path[:] = path
    for name in set(sys.modules) - modules:
        del sys.modules[name]


def test_a_folder_or_a_file_is_a_task(tmp_path: Path) -> None:
    file = tmp_path / "task.py"
    file.write_text("from koii_p2p.tasks.sdk import Task\nclass Mine(Task): ...\nAlias = Mine\n")
    assert task_file(tmp_path) == task_file(file) == file
    found = load_task_class(tmp_path)
    assert found.__name__ == "Mine"
    assert issubclass(found, Task)


def test_a_task_may_have_modules_beside_it_with_tasks_of_their_own(tmp_path: Path) -> None:
    (tmp_path / "koii_test_part.py").write_text(
        "from koii_p2p.tasks.sdk import Task\nclass Parent(Task): ...\n"
    )
    (tmp_path / "task.py").write_text("from koii_test_part import Parent\nclass Mine(Parent): ...\n")
    assert load_task_class(tmp_path).__name__ == "Mine"


def test_an_error_deep_in_a_package_names_the_authors_line(tmp_path: Path) -> None:
    (tmp_path / "koii_test_deep.py").write_text("import json\n\nSETTINGS = json.loads('{')\n")
    (tmp_path / "task.py").write_text("import koii_test_deep\n")
    with pytest.raises(ConfigurationError) as caught:
        load_task_class(tmp_path)
    assert f"{tmp_path / 'koii_test_deep.py'}, line 3: JSONDecodeError" in caught.value.why


def test_what_is_no_task_is_refused(tmp_path: Path) -> None:
    (tmp_path / "readme.txt").write_text("text")
    for path in (tmp_path, tmp_path / "readme.txt", tmp_path / "absent.py"):
        with pytest.raises(ConfigurationError):
            task_file(path)
