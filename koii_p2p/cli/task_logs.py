"""`koii-p2p task logs`: what tasks printed and logged, and what became of their workers."""

from __future__ import annotations

import json
import time
from typing import Annotated, Final

import typer

from koii_p2p.cli.key_names import key_given, text_of
from koii_p2p.cli.log_file import Follower, last_lines
from koii_p2p.cli.logs import FOLLOW_SECONDS, MOST_LINES, print_lines
from koii_p2p.cli.settings import settings_of
from koii_p2p.errors import ConfigurationError
from koii_p2p.storage.home import Home

OF_TASKS: Final = "task_"
"""How the events of a task and its workers begin: task_output, task_call_failed, task_worker_ended and others."""


def logs(
    ctx: typer.Context,
    task: Annotated[str | None, typer.Argument(metavar="[TASK]", help="Only of this task.")] = None,
    lines: Annotated[int, typer.Option("--lines", "-n", min=1, max=MOST_LINES, help="How many lines.")] = 40,
    follow: Annotated[bool, typer.Option("--follow", "-F", help="Go on as it grows, until Ctrl-C.")] = False,
) -> None:
    """Show what the tasks of this home's node printed and logged, which calls failed, and why workers ended."""
    settings = settings_of(ctx)
    wanted = None if task is None else text_of(key_given(task, "TASK"))
    path = Home(settings.home).log
    if not path.exists():
        raise ConfigurationError(
            f"There is no log in {settings.home}.",
            f"No node has written {path}.",
            "Start one with `koii-p2p join --task ID=PATH`, or name another --home.",
        )
    follower = Follower(path) if follow else None  # before the last lines, so that none is left out between
    found = [line for line in last_lines(path, MOST_LINES) if is_of_task(line, wanted)]
    print_lines(found[-lines:], settings.output)
    while follower is not None:
        time.sleep(FOLLOW_SECONDS)
        print_lines((line for line in follower.lines() if is_of_task(line, wanted)), settings.output)


def is_of_task(line: bytes, task: str | None) -> bool:
    """Whether a line of the log is an event of a task; of this one, if one is named (base58)."""
    try:
        event = json.loads(line)
    except (ValueError, RecursionError):
        return False
    if not isinstance(event, dict) or not str(event.get("event")).startswith(OF_TASKS):
        return False
    return "task" in event and task in (None, event["task"])
