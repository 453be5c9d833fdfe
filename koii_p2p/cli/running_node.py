"""What commands that look at the running node have in common: once or again and again, as a table, lines or JSON."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Annotated, TypeVar

import trio
import typer
from rich.console import RenderableType
from rich.live import Live

from koii_p2p.cli.main import OutputFormat
from koii_p2p.cli.output import print_result
from koii_p2p.cli.settings import settings_of
from koii_p2p.errors import ConfigurationError
from koii_p2p.testnets.node_client import NodeClient

WATCH_SECONDS = 1.0

T = TypeVar("T")

WatchOption = Annotated[bool, typer.Option("--watch", "-w", help="Show it again every second until Ctrl-C.")]


def only_task(tasks: Sequence[str]) -> str:
    """The one task of a node, where none was named. Raises `ConfigurationError` if it has several, or none."""
    if len(tasks) != 1:
        raise ConfigurationError(
            "It is not clear which task is meant.",
            f"The node works on {', '.join(tasks) or 'none that its settings name'}.",
            "Name one with --task.",
        )
    return tasks[0]


def show(
    ctx: typer.Context,
    ask: Callable[[NodeClient], Awaitable[T]],
    human: Callable[[T], RenderableType],
    line: Callable[[T], str],
    watch: bool,
) -> None:
    """Print what the node that runs from the home answers; with `watch`, every second until interrupted.

    A terminal gets `human`, drawn over and over in place; a pipe gets one `line`, or one line of JSON, each time.
    Raises `NetworkError` if no node runs or it does not answer.
    """
    settings = settings_of(ctx)

    async def read() -> T:
        async with NodeClient.of_home(settings.home) as client:
            return await ask(client)

    found = trio.run(read)
    if not watch:
        print_result(found, human(found), settings.output)
    elif settings.output is OutputFormat.JSON or not sys.stdout.isatty():
        while True:
            print(json.dumps(found) if settings.output is OutputFormat.JSON else line(found), flush=True)
            time.sleep(WATCH_SECONDS)
            found = trio.run(read)
    else:
        with Live(human(found), auto_refresh=False) as live:
            while True:
                live.update(human(found), refresh=True)
                time.sleep(WATCH_SECONDS)
                found = trio.run(read)
