"""`koii-p2p resources`: what the running node takes of its machine, and how near it is to its limits."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import typer
from rich.console import Group, RenderableType
from rich.text import Text

from koii_p2p.cli.output import duration, pairs, size, table
from koii_p2p.cli.running_node import WatchOption, show
from koii_p2p.testnets.node_client import NodeClient

AllOption = Annotated[
    bool,
    typer.Option("--all", "-a", help="Show limits as well of which neither use nor refusals are counted."),
]


def command(ctx: typer.Context, watch: WatchOption = False, everything: AllOption = False) -> None:
    """Show the process (files, threads, memory, tasks), the database, what waits in queues, and the limits.

    Beside each limit is what is in use of it and what was refused because of it since the start; "-" is not counted, as
    on the size of one message. Sizes of limits are in bytes and times in seconds. JSON has every limit.
    """
    show(ctx, NodeClient.resources, lambda found: resources_table(found, everything), resources_line, watch)


def resources_line(found: Mapping[str, Any]) -> str:
    """The use in one line, for a pipe."""
    process = found["process"]
    refused = sum(one["refused"] or 0 for one in found["limits"])
    return (
        f"{_size(process['resident_bytes'])} of memory, {_known(process['open_files'])} files, "
        f"{_known(process['threads'])} threads, {process['trio_tasks']} tasks, "
        f"{sum(found['queues'].values())} queued, {refused} refused"
    )


def resources_table(found: Mapping[str, Any], everything: bool = False) -> RenderableType:
    """The use for a person."""
    process = found["process"]
    about = {
        "open files": f"{_known(process['open_files'])} of {process['most_open_files']}",
        "threads": _known(process["threads"]),
        "tasks": process["trio_tasks"],
        "memory": f"{_size(process['resident_bytes'])}, at most {_size(process['most_resident_bytes'])} so far",
        "CPU time": duration(process["cpu_seconds"]),
        "database": size(found["database_bytes"]),
    }
    limits = [
        one for one in found["limits"] if everything or one["used"] is not None or one["refused"] is not None
    ]
    rows = [(one["name"], one["limit"], _known(one["used"]), _known(one["refused"])) for one in limits]
    return Group(
        pairs(about),
        Text("\nqueues", style="bold"),
        pairs(found["queues"]),
        Text(""),
        table(("limit", "value", "in use", "refused"), rows),
    )


def _known(value: float | None) -> str:
    return "-" if value is None else str(value)


def _size(value: int | None) -> str:
    return "-" if value is None else size(value)
