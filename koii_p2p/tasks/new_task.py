"""Starts a task: the folder of a template, with the task's name put in."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from koii_p2p.errors import ConfigurationError
from koii_p2p.rounds.terms import MAX_NAME_BYTES

TEMPLATES: Final = Path(__file__).parent / "templates"
"""A folder for each template; its files end in `.template`, so that no tool takes them for code."""

_NAME: Final = re.compile(r"[A-Za-z][A-Za-z0-9_-]*\Z")
_MARK: Final = "TASK_NAME"
_ENDING: Final = ".template"


def template_names() -> tuple[str, ...]:
    """The templates that there are, sorted."""
    return tuple(sorted(folder.name for folder in TEMPLATES.iterdir() if folder.is_dir()))


def make_task(name: str, template: str, parent: Path) -> list[Path]:
    """Make the folder `name` in `parent` from a template, and return the files made.

    Raises `ConfigurationError` for a name that cannot be one, an unknown template, or a folder that exists.
    """
    what = f"The task {name!r} cannot be made."
    if len(name) > MAX_NAME_BYTES or not _NAME.match(name):
        raise ConfigurationError(
            what,
            "A task's name begins with a letter and has at most "
            f"{MAX_NAME_BYTES} letters, digits, hyphens and underscores.",
            "Choose another name.",
        )
    if template not in template_names():
        names = ", ".join(template_names())
        raise ConfigurationError(what, f"There is no template {template!r}.", f"Choose one of: {names}.")
    folder = parent / name
    try:
        folder.mkdir()
    except OSError as error:
        raise ConfigurationError(
            what, f"The folder {folder} cannot be made: {error.strerror}.", "Choose another name or place."
        ) from error
    made = []
    for source in sorted((TEMPLATES / template).glob(f"*{_ENDING}")):
        target = folder / source.name.removesuffix(_ENDING)
        target.write_text(source.read_text("utf-8").replace(_MARK, name), "utf-8")
        made.append(target)
    return made
