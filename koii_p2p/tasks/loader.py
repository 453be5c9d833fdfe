"""Finds and imports a task: a folder with `task.py`, or one file, that holds exactly one `Task` subclass.

Runs in the worker process only: importing a task means running its author's code.
"""

from __future__ import annotations

import importlib.util
import inspect
import sys
import traceback
from pathlib import Path
from types import ModuleType

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
    """Import the task at `path` and return its one `Task` subclass.

    The file's folder is put first on `sys.path`, so that a task may consist of several modules. Raises
    `ConfigurationError` for a missing file, a failing import (naming file and line), none or several
    subclasses.
    """
    file = task_file(path)
    module = _import(file)
    found = [
        value
        for value in vars(module).values()
        if inspect.isclass(value) and issubclass(value, Task) and value.__module__ == module.__name__
    ]
    classes = list(dict.fromkeys(found))  # an alias is not a second task
    if len(classes) == 1:
        return classes[0]
    if not classes:
        raise ConfigurationError(
            f"The task {file} cannot be used.",
            "It defines no subclass of koii_p2p.tasks.sdk.Task.",
            "Write `class MyTask(Task): ...` with the functions task, submission and audit.",
        )
    names = ", ".join(f"{one.__name__} (line {inspect.getsourcelines(one)[1]})" for one in classes)
    raise ConfigurationError(
        f"The task {file} cannot be used.",
        f"It defines {len(classes)} subclasses of Task where there must be one: {names}.",
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
