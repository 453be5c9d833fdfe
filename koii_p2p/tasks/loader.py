"""Finds and imports a task: a folder with `task.py`, or one file, that holds exactly one `Task` subclass, or Koii's
classic classes: at most one of each.

Runs in the worker process only: importing a task means running its author's code.
"""

from __future__ import annotations

import importlib.util
import inspect
import sys
import traceback
from pathlib import Path
from types import ModuleType
from typing import Any

from koii_p2p.errors import ConfigurationError
from koii_p2p.tasks.sdk import Task

TASK_FILE = "task.py"
_MODULE_NAME = "koii_task"


def task_file(path: Path) -> Path:
    """The Python file of the task at `path` (a folder or a file).

    Raises `ConfigurationError` if there is none.
    """
    if path.is_dir():
        file = path / TASK_FILE
        if file.is_file():
            return file
        raise ConfigurationError(
            f"The task folder {path} cannot be used.",
            f"It has no file {TASK_FILE}.",
            f"Put the class that subclasses koii_p2p.tasks.sdk.Task into {file}.",
        )
    if path.is_file() and path.suffix == ".py":
        return path
    why = "It is not a Python file." if path.exists() else "There is nothing at this path."
    raise ConfigurationError(
        f"The task {path} cannot be used.", why, f"Give a folder with a {TASK_FILE}, or the .py file itself."
    )


def load_task_class(path: Path) -> type[Task]:
    """Import the task at `path` and return its one `Task` subclass, or a `ClassicTask` made of its classic classes.

    The file's folder is put first on `sys.path`, so that a task may consist of several modules. Raises
    `ConfigurationError` for a missing file, a failing import (naming file and line), none or several
    subclasses.
    """
    file = task_file(path)
    module = _import(file)
    classes = _subclasses(module, Task)
    if len(classes) == 1:
        return classes[0]
    if not classes:
        if (made := _of_classic_classes(file, module)) is not None:
            return made
        raise ConfigurationError(
            f"The task {file} cannot be used.",
            "It defines no subclass of koii_p2p.tasks.sdk.Task.",
            "Write `class MyTask(Task): ...` with the functions task, submission and audit.",
        )
    raise _too_many(file, Task, classes)


def _of_classic_classes(file: Path, module: ModuleType) -> type[Task] | None:
    """A task of the module's subclasses of Submission, Audit and Distribution; None if it defines none of them."""
    from koii_p2p.tasks import classic  # only for tasks that use it: workers start fast

    parts: list[Any] = []
    for base in (classic.Submission, classic.Audit, classic.Distribution):
        found = _subclasses(module, base)
        if len(found) > 1:
            raise _too_many(file, base, found)
        parts.append(found[0] if found else base)
    if all(part.__module__ != module.__name__ for part in parts):
        return None

    def make(self: classic.ClassicTask) -> None:
        classic.ClassicTask.__init__(self, *(part() for part in parts))

    return type("ClassicTask", (classic.ClassicTask,), {"__init__": make})


def _subclasses(module: ModuleType, base: type) -> list[type[Any]]:
    """The classes that a module defines itself; an alias is not a second one."""
    found = [
        value
        for value in vars(module).values()
        if inspect.isclass(value) and issubclass(value, base) and value.__module__ == module.__name__
    ]
    return list(dict.fromkeys(found))


def _too_many(file: Path, base: type, classes: list[type[Any]]) -> ConfigurationError:
    names = ", ".join(f"{one.__name__} (line {inspect.getsourcelines(one)[1]})" for one in classes)
    return ConfigurationError(
        f"The task {file} cannot be used.",
        f"It defines {len(classes)} subclasses of {base.__name__} where there must be one: {names}.",
        "Keep one per file, and move the others to files of their own.",
    )


def _import(file: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(_MODULE_NAME, file)
    if spec is None or spec.loader is None:
        raise ConfigurationError(
            f"The task {file} cannot be used.",
            "Python has no importer for it.",
            "Give a file that ends in .py.",
        )
    module = importlib.util.module_from_spec(spec)
    sys.modules[_MODULE_NAME] = module
    sys.path.insert(0, str(file.parent))
    try:
        spec.loader.exec_module(module)
    except BaseException as error:  # an import may raise anything, SystemExit included
        raise _import_failure(file, error) from error
    return module


def _import_failure(file: Path, error: BaseException) -> ConfigurationError:
    """Name the line of the author's code that failed, not a line of the import machinery."""
    place, line = str(file), 0
    if isinstance(error, SyntaxError) and error.filename:
        place, line = error.filename, error.lineno or 0
    else:
        folder = str(file.parent)
        for frame in traceback.extract_tb(error.__traceback__):
            if frame.filename.startswith(folder):
                place, line = frame.filename, frame.lineno or 0
    why = f"{place}, line {line}: {type(error).__name__}: {error}."
    if isinstance(error, ModuleNotFoundError):
        remedy = f"Install the module {error.name!r} into this Python, or put it beside {file.name}."
    else:
        remedy = "Correct this line, and try it with `python` on its own first."
    return ConfigurationError(f"The task {file} could not be imported.", why, remedy)
