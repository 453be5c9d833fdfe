"""`koii-p2p data`: blobs that the running node puts, reads, pins and lists."""

from __future__ import annotations

import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, BinaryIO, Final, TypeVar

import trio
import typer

from koii_p2p.cli.main import OutputFormat
from koii_p2p.cli.output import pairs, plain, print_result, size, table
from koii_p2p.cli.progress import progress
from koii_p2p.cli.settings import settings_of
from koii_p2p.data.durability import DEFAULT_LEVEL, Level
from koii_p2p.data.manifest import Reference
from koii_p2p.data.putting import PutSettings
from koii_p2p.data.reasons import DataError
from koii_p2p.errors import ConfigurationError
from koii_p2p.records.cid import cid_to_text
from koii_p2p.testnets.node_client import NodeClient

app = typer.Typer(help="Put, get, pin and list task data, through the running node.")

READ_BYTES: Final = 256 * 1024
ROUNDS: Final = PutSettings().rounds

T = TypeVar("T")

ReferenceArgument = Annotated[
    str, typer.Argument(metavar="REFERENCE", help="What `put` printed: a CID, and the key of a private blob.")
]
TaskOption = Annotated[
    str | None,
    typer.Option("--task", metavar="ID", help="Whose nodes keep it; needed if the node has several."),
]
LevelOption = Annotated[
    str, typer.Option("--level", help=f"What loss it survives: {', '.join(level.title for level in Level)}.")
]
RoundsOption = Annotated[int, typer.Option("--rounds", min=1, help="For how many rounds nodes keep it.")]


@app.command("put")
def put_command(
    ctx: typer.Context,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="What to store; - is standard input.")],
    task: TaskOption = None,
    level: LevelOption = DEFAULT_LEVEL.title,
    rounds: RoundsOption = ROUNDS,
    pin: Annotated[bool, typer.Option("--pin", help="Keep it until it is unpinned on this node.")] = False,
    private: Annotated[
        bool, typer.Option("--private", help="Encrypt it; who is to read it needs the whole reference.")
    ] = False,
) -> None:
    """Store a file as a blob that outlives most of its holders. Prints the reference that it is read by."""
    if level not in {one.title for one in Level}:
        raise typer.BadParameter(f"there are {', '.join(one.title for one in Level)}", param_hint="--level")
    query = {"level": level, "rounds": str(rounds), "pin": str(int(pin)), "private": str(int(private))}
    if task is not None:
        query["task"] = task

    async def work(client: NodeClient) -> dict[str, Any]:
        with _opened(file) as source, progress("put", _size_of(source)) as moved:

            async def chunks() -> AsyncIterator[bytes]:
                while chunk := await trio.to_thread.run_sync(source.read, READ_BYTES):
                    yield chunk
                    moved(len(chunk))

            return await client.put_blob(chunks(), **query)

    found, output = _with_node(ctx, work)
    print_result(found, pairs(_of_put(found)), output)


@app.command("get")
def get_command(
    ctx: typer.Context,
    reference: ReferenceArgument,
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="Where to write it; - is standard output.")
    ] = Path("-"),
) -> None:
    """Read a blob: any k of n shards of each block, each checked. The file is there when all of it is."""
    known = _reference(reference)
    cid, key = cid_to_text(known.manifest), None if known.key is None else known.key.hex()

    async def work(client: NodeClient) -> dict[str, Any]:
        about = await client.data("GET", f"/{cid}/stat")
        with _written(file) as target, progress("get", int(about["size"])) as moved:

            async def take(chunk: bytes) -> None:
                await trio.to_thread.run_sync(target.write, chunk)
                moved(len(chunk))

            await client.get_blob(cid, key, take)
        return {"cid": cid, "size": about["size"], "file": str(file)}

    found, output = _with_node(ctx, work)
    if str(file) != "-":
        print_result(found, pairs({**found, "size": size(found["size"])}), output)


@app.command("stat")
def stat_command(ctx: typer.Context, reference: ReferenceArgument) -> None:
    """Show a blob: size, level, term, and how many shards of each block its holders say they have."""
    _about_one(ctx, reference, "GET", "stat")


@app.command("pin")
def pin_command(ctx: typer.Context, reference: ReferenceArgument) -> None:
    """Keep a blob: this node has its holders keep it for as long as it is pinned here."""
    _about_one(ctx, reference, "POST", "pin")


@app.command("unpin")
def unpin_command(ctx: typer.Context, reference: ReferenceArgument) -> None:
    """Let a blob end with its term, which was renewed last while it was pinned."""
    _about_one(ctx, reference, "DELETE", "pin")


@app.command("ls")
def ls_command(ctx: typer.Context) -> None:
    """List the blobs of which this node keeps shards or a pin, and what they take up of its quota."""

    async def work(client: NodeClient) -> dict[str, Any]:
        return await client.data("GET")

    found, output = _with_node(ctx, work)
    rows = [
        (
            plain(one["cid"]),
            size(one["size"]),
            one["level"],
            one["held"],
            "pinned" if one["pinned"] else f"to round {one['until']}",
        )
        for one in found["blobs"]
    ]
    print_result(found, table(("blob", "size", "level", "shards here", "kept"), rows), output)


def _about_one(ctx: typer.Context, reference: str, method: str, what: str) -> None:
    cid = cid_to_text(_reference(reference).manifest)

    async def work(client: NodeClient) -> dict[str, Any]:
        return await client.data(method, f"/{cid}/{what}")

    found, output = _with_node(ctx, work)
    print_result(found, pairs(_of_blob(found)), output)


def _with_node(ctx: typer.Context, work: Callable[[NodeClient], Awaitable[T]]) -> tuple[T, OutputFormat]:
    settings = settings_of(ctx)

    async def run() -> T:
        async with NodeClient.of_home(settings.home) as client:
            return await work(client)

    return trio.run(run), settings.output


def _reference(text: str) -> Reference:
    try:
        return Reference.from_text(text)
    except DataError as error:
        raise ConfigurationError(
            f"The reference {plain(text)!r} cannot be used.",
            str(error),
            "Copy the whole of what `koii-p2p data put` printed.",
        ) from error


def _of_put(found: Mapping[str, Any]) -> dict[str, object]:
    waiting = found["shards_waiting"]
    shown: dict[str, object] = {
        "reference": found["reference"],
        "content": found["content"],
        "size": f"{size(found['size'])}, {size(found['stored'])} in shards",
        "kept": f"to round {found['until']}",
        "shards": f"{found['shards_placed']} with their holders",
    }
    if waiting:
        shown["waiting"] = f"{waiting} shards are still on this node only; it goes on bringing them"
    return shown


def _of_blob(found: Mapping[str, Any]) -> dict[str, object]:
    shown: dict[str, object] = {
        "cid": found["cid"],
        "content": found["content"],
        "size": f"{size(found['size'])}, {size(found['stored'])} in shards",
        "level": found["level"],
        "blocks": found["blocks"],
        "private": "yes" if found["private"] else "no",
        "shards here": found["held"],
        "kept": "not here" if found["until"] is None else f"to round {found['until']}",
        "pinned here": "yes" if found["pinned"] else "no",
    }
    if found["live"]:
        shown["live shards"] = f"{min(found['live'])} of the block that has fewest"
    return shown


@contextmanager
def _opened(file: Path) -> Iterator[BinaryIO]:
    if str(file) == "-":
        yield sys.stdin.buffer
        return
    try:
        with file.open("rb") as source:
            yield source
    except OSError as error:
        raise ConfigurationError(
            f"The file {file} cannot be read.", f"The system says: {error.strerror}.", "Name another."
        ) from error


@contextmanager
def _written(file: Path) -> Iterator[BinaryIO]:
    """A file that appears under its name when all of it is there; standard output is written as it comes."""
    if str(file) == "-":
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    what = f"The file {file} cannot be written."
    if not file.name or file.is_dir():
        raise ConfigurationError(what, "It is a folder.", "Name a file in it.")
    part = file.with_name(f".{file.name}.{os.urandom(8).hex()}.part")
    try:
        # "x": in a folder that others write in, nobody can have put a link there before.
        with part.open("xb") as target:
            yield target
            target.flush()
            os.fsync(target.fileno())
        part.replace(file)
    except OSError as error:
        raise ConfigurationError(what, f"The system says: {error.strerror}.", "Name another.") from error
    finally:
        part.unlink(missing_ok=True)


def _size_of(source: BinaryIO) -> int | None:
    if source is sys.stdin.buffer:
        return None
    return os.fstat(source.fileno()).st_size
