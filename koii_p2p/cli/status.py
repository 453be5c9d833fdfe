"""`koii-p2p status`: what a running node says of itself, once or again and again."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator, Mapping
from typing import Annotated, Any

import trio
import typer
from rich.console import Group, RenderableType
from rich.live import Live
from rich.text import Text

from koii_p2p.cli.main import Invocation, OutputFormat
from koii_p2p.cli.output import configure_logs, pairs, print_result, table
from koii_p2p.cli.settings import load_settings
from koii_p2p.testnets.node_client import NodeClient

WATCH_SECONDS = 1.0


def command(
    ctx: typer.Context,
    watch: Annotated[
        bool, typer.Option("--watch", "-w", help="Show it again every second until Ctrl-C.")
    ] = False,
) -> None:
    """Show the node that runs from this home: its keys, K2, peers, tasks and rounds in flight."""
    invocation: Invocation = ctx.obj
    settings = load_settings(invocation).settings
    configure_logs(invocation.verbosity, "warning")

    async def read() -> dict[str, Any]:
        async with NodeClient.of_home(settings.home) as client:
            return await client.status()

    found = trio.run(read)
    if not watch:
        print_result(found, status_table(found), settings.output)
    elif settings.output is OutputFormat.JSON or not sys.stdout.isatty():
        while True:
            print(
                json.dumps(found) if settings.output is OutputFormat.JSON else status_line(found), flush=True
            )
            time.sleep(WATCH_SECONDS)
            found = trio.run(read)
    else:
        with Live(status_table(found), auto_refresh=False) as live:
            while True:
                live.update(status_table(found), refresh=True)
                time.sleep(WATCH_SECONDS)
                found = trio.run(read)


def status_line(found: Mapping[str, Any]) -> str:
    """The status in one line, for a pipe."""
    rounds = [f"{r['round']}: {r['phase']}" for task in found["tasks"] for r in task["rounds"]]
    return (
        f"slot {found['slot']['slot']}, {found['network']['peers']} peers, {'; '.join(rounds) or 'no rounds'}"
    )


def status_table(found: Mapping[str, Any]) -> RenderableType:
    """The status for a person."""
    slot, network = found["slot"], found["network"]
    trust = "" if slot["trusted"] else f" (not heard for {slot['age']:.0f} s: this node stands still)"
    about = {
        "key": found["key"],
        "wallet": found["wallet"],
        "peer": found["peer_id"],
        "addresses": "\n".join(found["addresses"]) or "none",
        "K2": f"{found['cluster']['url']}, slot {slot['slot']}, {slot['slot_seconds'] * 1000:.0f} ms each{trust}",
        "peers": f"{network['peers']} ({network['banned']} banned)",
        "running": f"{found['uptime_seconds']:.0f} s, process {found['pid']}, version {found['version']}",
    }
    carrier = found["carrier"]
    if carrier["note"]:
        about["carrier"] = f"{carrier['name']}: {carrier['note']}"
    if found["behaviour"] != "honest":
        about["behaviour"] = found["behaviour"]
    restarts = found["supervisor"]["restarts"]
    if restarts:
        about["restarted"] = ", ".join(f"{name} {count} times" for name, count in restarts.items())
    parts: list[RenderableType] = [pairs(about)]
    for task in found["tasks"]:
        parts += [
            Text(f"\n{task['name']}  {task['task']}  period {task['period']}", style="bold"),
            *(Text(f"  {line}") for line in _life(task)),
            _rounds(task),
        ]
        actions = task["actions"]
        parts += [Text(f"  not done: {name}: {why}") for name, why in actions["last_failures"].items()]
        parts += [Text(f"  not carried: {name}: {why}") for name, why in actions["not_carried"].items()]
    for task in found["closed_tasks"]:
        line = f"\n{task['task']}  closed in slot {task['closed_slot']}"
        parts += [Text(line, style="bold"), Text(f"  {task['remedy']}")]
    if not found["tasks"] and not found["closed_tasks"]:
        parts.append(Text("\nno tasks"))
    return Group(*parts)


def _life(task: Mapping[str, Any]) -> Iterator[str]:
    """What its creator does with a task, where that is more than to let it go on."""
    first, end = task["idle"] or (0, 0)
    if end is None:
        yield f"inactive: no rounds from {first} on, until its creator goes on"
    elif end > task["period"] - 2:  # a round is settled two periods after it began
        yield f"was inactive: no rounds from {first} to {end - 1}"
    if task["successor"] is not None:
        yield f"its creator names a task that takes over: {task['successor']}"


def _rounds(task: Mapping[str, Any]) -> RenderableType:
    rows = [
        (
            entry["round"],
            entry["phase"],
            entry["roster"] if entry["roster"] is not None else "-",
            entry["submissions"],
            entry["ballots"],
            ", ".join(f"{count} {name.lower()}" for name, count in (entry["outcomes"] or {}).items()) or "-",
            (entry["commitment"] or "-")[:16],
            (entry["list_root"] or "-")[:16],
            "yes" if entry["settled"] else "no",
        )
        for entry in task["rounds"]
    ]
    columns = ("round", "phase", "roster", "submitted", "voted", "outcomes", "commitment", "list", "settled")
    return table(columns, rows)
