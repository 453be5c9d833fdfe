"""`koii-p2p status`: what a running node says of itself, once or again and again."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import typer
from rich.console import Group, RenderableType
from rich.text import Text

from koii_p2p.cli.output import pairs, plain, table
from koii_p2p.cli.running_node import WatchOption, show
from koii_p2p.testnets.node_client import NodeClient


def command(ctx: typer.Context, watch: WatchOption = False) -> None:
    """Show the node that runs from this home: its keys, K2, peers, tasks and rounds in flight."""
    show(ctx, NodeClient.status, status_table, status_line, watch)


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
    if url := found.get("task_http", {}).get("url"):
        about["REST of tasks"] = url
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
            Text(f"\n{plain(task['name'])}  {task['task']}  period {task['period']}", style="bold"),
            *(Text(f"  {line}") for line in _life(task)),
            _rounds(task),
        ]
        actions = task["actions"]
        parts += [Text(f"  not done: {name}: {plain(why)}") for name, why in actions["last_failures"].items()]
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
    if (task.get("succession") or {}).get("why"):
        yield f"which was not joined: {plain(task['succession']['why'])}"


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
