"""`koii-p2p collection`: documents that the running node writes, reads and follows."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from functools import partial
from typing import Annotated, Any, Final
from urllib.parse import quote

import trio
import typer
from rich.text import Text

from koii_p2p.cli.main import OutputFormat
from koii_p2p.cli.output import pairs, plain, print_result, size, table
from koii_p2p.cli.progress import progress
from koii_p2p.cli.settings import settings_of
from koii_p2p.errors import ConfigurationError
from koii_p2p.testnets.node_client import NodeClient

app = typer.Typer(help="Write, read, query and follow a task's documents, through the running node.")

DOCUMENTS_AT_ONCE: Final = 500

NameArgument = Annotated[str, typer.Argument(metavar="NAME", help="Name of the collection.")]
FilterArgument = Annotated[
    str, typer.Argument(metavar="FILTER", help="NeDB's filter, in JSON; {} is everything.")
]
TaskOption = Annotated[
    str | None, typer.Option("--task", metavar="ID", help="Whose documents; needed if the node has several.")
]
IdOption = Annotated[
    str | None,
    typer.Option("--id", metavar="HEX", help="Which of several collections of the name (`stat` shows ids)."),
]
MultiOption = Annotated[bool, typer.Option("--multi", help="All documents that match, not the first alone.")]


def _nobody(_count: int) -> None:
    """Shows no progress: one document is there at once."""


@app.command("open")
def open_command(
    ctx: typer.Context,
    name: NameArgument,
    shards: Annotated[int, typer.Option("--shards", help="Into how many parts it is cut.")] = 64,
    replicas: Annotated[int, typer.Option("--replicas", help="How many nodes hold each part.")] = 3,
    full: Annotated[bool, typer.Option("--full", help="Every staker holds everything.")] = False,
    own_keys: Annotated[
        bool, typer.Option("--own-keys", help="Authors write only to keys that begin with theirs.")
    ] = False,
    author: Annotated[
        list[str] | None,
        typer.Option("--author", metavar="KEY", help="Who may write; repeat it. Else all stakers."),
    ] = None,
    index: Annotated[
        list[str] | None, typer.Option("--index", metavar="FIELD", help="Indexed at every holder; repeat it.")
    ] = None,
    task: TaskOption = None,
) -> None:
    """Define a collection on this node. Its rules are its identity: other rules make another collection."""
    asked = {
        "shards": shards,
        "replicas": replicas,
        "full": full,
        "own_keys": own_keys,
        "authors": author or [],
        "indexes": index or [],
    }
    found, output = _ask(ctx, name, "open", asked, task)
    print_result(found, pairs(found), output)


@app.command("put")
def put_command(
    ctx: typer.Context,
    name: NameArgument,
    document: Annotated[
        str,
        typer.Argument(
            metavar="DOCUMENT", help="A JSON object; - reads one from each line of standard input."
        ),
    ],
    task: TaskOption = None,
    id: IdOption = None,
) -> None:
    """Write documents, over whatever their `_id` held; without an `_id` they are given one."""
    written: list[Any] = []
    output = OutputFormat.TABLE
    with progress("put", None, "documents") if document == "-" else nullcontext(_nobody) as moved:
        for documents in _documents(document):
            found, output = _ask(ctx, name, "put", {"documents": documents}, task, id)
            written += found
            moved(len(found))
    rows = [(plain(one["_id"]), one["slot"], f"{one['stored']} of {one['replicas']}") for one in written]
    print_result(written, table(("key", "slot", "stored at"), rows), output)


@app.command("get")
def get_command(
    ctx: typer.Context,
    name: NameArgument,
    key: Annotated[str, typer.Argument(metavar="KEY", help="The document's _id.")],
    task: TaskOption = None,
    id: IdOption = None,
) -> int:
    """Read one document: the newest that any of its replicas has. Exit code 1 if there is none."""
    found, output = _ask(ctx, name, "get", {"key": key}, task, id)
    print_result(found, Text("no such document" if found is None else _json_line(found)), output)
    return 1 if found is None else 0


@app.command("query")
def query_command(
    ctx: typer.Context,
    name: NameArgument,
    filter: FilterArgument = "{}",
    sort: Annotated[str | None, typer.Option("--sort", metavar="JSON", help='Such as {"round": -1}.')] = None,
    skip: Annotated[int, typer.Option("--skip", min=0, help="Leave out so many of the first.")] = 0,
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="Show at most so many.")] = None,
    fields: Annotated[
        str | None, typer.Option("--fields", metavar="JSON", help='Such as {"name": 1}, or {"body": 0}.')
    ] = None,
    count: Annotated[bool, typer.Option("--count", help="Only tell how many match.")] = False,
    task: TaskOption = None,
    id: IdOption = None,
) -> None:
    """Find documents as NeDB does; one line of JSON for each."""
    asked: dict[str, Any] = {"filter": _json(filter, "FILTER")}
    if count:
        found, output = _ask(ctx, name, "count", asked, task, id)
        print_result(found, str(found), output)
        return
    asked |= {"skip": skip, "limit": limit}
    asked |= {"sort": None if sort is None else _json(sort, "--sort")}
    asked |= {"projection": None if fields is None else _json(fields, "--fields")}
    found, output = _ask(ctx, name, "find", asked, task, id)
    print_result(found, Text("\n".join(map(_json_line, found)) or "nothing matches"), output)


@app.command("update")
def update_command(
    ctx: typer.Context,
    name: NameArgument,
    filter: FilterArgument,
    change: Annotated[str, typer.Argument(metavar="CHANGE", help='Such as {"$set": {"seen": true}}.')],
    multi: MultiOption = False,
    upsert: Annotated[bool, typer.Option("--upsert", help="Insert if nothing matches.")] = False,
    task: TaskOption = None,
    id: IdOption = None,
) -> None:
    """Change documents as NeDB does; prints how many."""
    asked = {
        "filter": _json(filter, "FILTER"),
        "change": _json(change, "CHANGE"),
        "multi": multi,
        "upsert": upsert,
    }
    found, output = _ask(ctx, name, "update", asked, task, id)
    print_result(found, f"{found} changed", output)


@app.command("remove")
def remove_command(
    ctx: typer.Context,
    name: NameArgument,
    filter: FilterArgument,
    multi: MultiOption = False,
    task: TaskOption = None,
    id: IdOption = None,
) -> None:
    """Remove documents; prints how many."""
    found, output = _ask(ctx, name, "remove", {"filter": _json(filter, "FILTER"), "multi": multi}, task, id)
    print_result(found, f"{found} removed", output)


@app.command("watch")
def watch_command(
    ctx: typer.Context,
    name: NameArgument,
    from_start: Annotated[bool, typer.Option("--from-start", help="Begin with what is there.")] = False,
    changes: Annotated[
        int | None, typer.Option("--changes", min=1, help="End after so many; else at Ctrl-C.")
    ] = None,
    task: TaskOption = None,
    id: IdOption = None,
) -> None:
    """Follow a collection: one line of JSON for each document that changes, wherever it is held."""
    client_of, _ = _node(ctx)
    query = {"from_start": str(int(from_start))} | _query(task, id)

    async def follow() -> None:
        left = changes
        waiting = b""
        async with client_of() as client:
            with trio.CancelScope() as scope:

                async def take(chunk: bytes) -> None:
                    nonlocal left, waiting
                    *lines, waiting = (waiting + chunk).split(b"\n")
                    for line in filter_empty(lines):
                        if left == 0:
                            return
                        print(_json_line(json.loads(line)), flush=True)
                        left = None if left is None else left - 1
                    if left == 0:
                        scope.cancel()

                await client.collections("GET", f"/{quote(name, safe='')}/watch", take, params=query)

    trio.run(follow)


@app.command("stat")
def stat_command(ctx: typer.Context, task: TaskOption = None) -> None:
    """Show the collections of a task and what of them is on this node."""
    client_of, output = _node(ctx)

    async def ask() -> dict[str, Any]:
        async with client_of() as client:
            return await client.collections_json("GET", "", params=_query(task, None))

    found = trio.run(ask)
    rows = [
        (
            plain(one["name"]),
            one["id"][:12],
            "all" if one["full"] else one["replicas"],
            f"{one['own_shards']} of {one['shards']}",
            one["documents"],
            one["tombstones"],
            size(one["bytes"]),
            plain(", ".join(one["indexes"])) or "-",
        )
        for one in found["collections"]
    ]
    columns = ("collection", "id", "replicas", "shards here", "documents here", "removed", "size", "indexes")
    print_result(found, table(columns, rows), output)


def filter_empty(lines: list[bytes]) -> Iterator[bytes]:
    """Lines with something in them: an empty one says only that the node is there."""
    return (line for line in lines if line.strip())


def _node(ctx: typer.Context) -> tuple[Callable[[], NodeClient], OutputFormat]:
    """What opens a client of the node that runs from the home, and how to print."""
    settings = settings_of(ctx)
    return partial(NodeClient.of_home, settings.home), settings.output


def _ask(
    ctx: typer.Context,
    name: str,
    what: str,
    asked: Mapping[str, Any],
    task: str | None,
    id: str | None = None,
) -> tuple[Any, OutputFormat]:
    client_of, output = _node(ctx)

    async def ask() -> dict[str, Any]:
        async with client_of() as client:
            return await client.collections_json(
                "POST", f"/{quote(name, safe='')}/{what}", params=_query(task, id), json=dict(asked)
            )

    return trio.run(ask)["answer"], output


def _query(task: str | None, id: str | None) -> dict[str, str]:
    return {key: value for key, value in (("task", task), ("id", id)) if value is not None}


def _documents(text: str) -> Iterator[list[Any]]:
    """Documents of the command line or of standard input, some at a time."""
    if text != "-":
        yield [_json(text, "DOCUMENT")]
        return
    some: list[Any] = []
    for line in sys.stdin:
        if line.strip():
            some.append(_json(line, "a line of standard input"))
        if len(some) == DOCUMENTS_AT_ONCE:
            yield some
            some = []
    if some:
        yield some


def _json(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise ConfigurationError(
            f"{where} cannot be read.",
            f"It is not JSON: {error}.",
            """Write it in single quotes, with double quotes inside: '{"name": "zoe"}'.""",
        ) from error


def _json_line(value: Any) -> str:
    """JSON on one line, harmless to a terminal."""
    return plain(json.dumps(value, ensure_ascii=False))
