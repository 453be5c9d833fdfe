"""Whether a task asks for the internet: Koii's requirement of that name in its config-task.yml."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import structlog

from koii_p2p.errors import ConfigurationError
from koii_p2p.tasks.config_task import FILE_NAME, Requirement, load_config

log = structlog.get_logger(__name__)

REQUIRE_INTERNET = "REQUIRE_INTERNET"
"""Koii's value of a requirement of type ADDON."""


def asks_for_internet(task: Path) -> bool:
    """Whether the config-task.yml in a task's folder, or beside its file, asks for the internet.

    A task without that file asks for nothing. Raises `ConfigurationError` for a file that cannot be used.
    """
    folder = task if task.is_dir() else task.parent
    if not (folder / FILE_NAME).exists():
        return False
    tags = load_config(folder).config.requirements_tags
    return any(tag.type is Requirement.ADDON and tag.value == REQUIRE_INTERNET for tag in tags)


def may_reach_internet(task: str, path: Path, allowed: bool) -> bool:
    """Whether a task asks for the internet and the operator agreed; that it asks in vain is said in the log.

    Raises `ConfigurationError` as `asks_for_internet` does, if the operator agreed.
    """
    if allowed:
        return asks_for_internet(path)
    # Whoever allows nothing needs no config-task.yml that can be read.
    with suppress(ConfigurationError):
        if asks_for_internet(path):
            log.warning(
                "the task asks for the internet, and does not get it: allow it with --task-network", task=task
            )
    return False
