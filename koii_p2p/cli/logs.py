"""`koii-p2p logs`: what the node of a home has logged, whether it runs or not."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterable
from typing import Annotated, Final

import typer

from koii_p2p.cli.log_file import Follower, last_lines
from koii_p2p.cli.main import OutputFormat
from koii_p2p.cli.output import plain
from koii_p2p.cli.settings import settings_of
from koii_p2p.errors import ConfigurationError
from koii_p2p.storage.home import Home

FOLLOW_SECONDS: Final = 0.3
MOST_LINES: Final = 100_000
FIRST: Final = ("timestamp", "level", "event")


def command(
    ctx: typer.Context,
    lines: Annotated[int, typer.Option("--lines", "-n", min=1, max=MOST_LINES, help="How many lines.")] = 40,
    follow: Annotated[bool, typer.Option("--follow", "-F", help="Go on as it grows, until Ctrl-C.")] = False,
) -> None:
    """Show the log of the node of this home, running or not; with --output json, its lines as they are.

    It is log/node.log in the home, and has what `join` shows on stderr, from the level `log_level` up. It and three
    older files have at most 4 MiB each.
    """
    settings = settings_of(ctx)
    path = Home(settings.home).log
    if not path.exists():
        raise ConfigurationError(
            f"There is no log in {settings.home}.",
            f"No node has written {path}.",
            "Start one with `koii-p2p join`, or name another --home.",
        )
    follower = Follower(path) if follow else None  # before the last lines, so that none is left out between
    print_lines(last_lines(path, lines), settings.output)
    while follower is not None:
        time.sleep(FOLLOW_SECONDS)
        print_lines(follower.lines(), settings.output)


def shown(line: bytes) -> str:
    """A line of the log for a person; what strangers said in it is shown harmlessly."""
    try:
        event = json.loads(line)
        if not isinstance(event, dict):
            raise TypeError
    except (ValueError, TypeError, RecursionError):
        return plain(line.decode(errors="replace"))
    head = f"{event.get('timestamp', '')} [{event.get('level', '')}] {event.get('event', '')}"
    rest = [f"{name}={_value(value)}" for name, value in event.items() if name not in FIRST]
    return plain("  ".join([head, *rest]))


def _value(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def print_lines(lines: Iterable[bytes], form: OutputFormat) -> None:
    """Print lines of a log, harmless to a terminal: for a person, or as they are."""
    for line in lines:
        print(plain(line.decode(errors="replace")) if form is OutputFormat.JSON else shown(line))
    sys.stdout.flush()
