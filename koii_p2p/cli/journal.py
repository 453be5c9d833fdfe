"""`koii-p2p journal`: what this identity has signed, to take along to another home. Works while no node runs here."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import base58
import trio
import typer
from rich.console import Group, RenderableType
from rich.text import Text

from koii_p2p.cli.main import Invocation
from koii_p2p.cli.output import pairs, print_result, table
from koii_p2p.cli.settings import Settings, load_settings
from koii_p2p.errors import ChainError, ConfigurationError
from koii_p2p.limits import Limits
from koii_p2p.records.cbor import U64_MAX
from koii_p2p.records.envelope import GENESIS_BYTES
from koii_p2p.records.equivocation import Place
from koii_p2p.records.schema import TASK_BYTES
from koii_p2p.settlement.rpc import RpcClient
from koii_p2p.storage.database import Database
from koii_p2p.storage.home import CHAIN_FOLDER_BYTES, Home
from koii_p2p.storage.journal import Owner, SigningJournal
from koii_p2p.storage.journal_file import JournalFileError, content_of, read_journal, write_journal
from koii_p2p.storage.keyfile import load_public

_FOLDER = re.compile(f"[0-9a-f]{{{2 * CHAIN_FOLDER_BYTES}}}")

app = typer.Typer()

GenesisOption = Annotated[
    str | None,
    typer.Option("--genesis", metavar="HASH", help="Which chain, by its genesis hash, if this is not clear."),
]
FileArgument = Annotated[Path, typer.Argument(metavar="FILE", help="The journal file.")]


@app.callback()
def journal() -> None:
    """The signing journal holds every statement made once per round, so that none is made twice, differently.

    Take it along with the key: a node that does not know what its key has said may be slashed for saying it anew.
    """


@app.command("export")
def export(
    ctx: typer.Context,
    file: FileArgument,
    genesis: GenesisOption = None,
    rounds: Annotated[
        int | None,
        typer.Option("--rounds", min=1, metavar="N", help="Only the newest N rounds of each task."),
    ] = None,
) -> None:
    """Write this identity's journal to a new file. Do not run the node afterwards: the file would be out of date."""
    settings, home, key = _opened(ctx)
    with home.locked():
        owner = Owner(_genesis_here(home, _given(genesis)), key)
        with _existing(home, owner) as held:
            content = content_of(held, owner, newest=rounds)
    write_journal(file, content)
    found = {
        "file": str(file),
        "genesis": _text(owner.genesis),
        "staking": _text(key),
        "statements": len(content.entries),
        "floors": {_text(task): floor for task, floor in content.floors.items()},
    }
    print_result(found, pairs(found | {"floors": _floors_text(content.floors)}), settings.output)


@app.command("import")
def import_journal(ctx: typer.Context, file: FileArgument, genesis: GenesisOption = None) -> None:
    """Merge a journal file of this identity into this home: all of it or nothing.

    Nothing new is signed afterwards for any round up to the newest in the file.
    """
    settings, home, key = _opened(ctx)
    content = read_journal(file)
    what = f"The journal file {file} was not imported."
    if content.owner.key != key:
        raise JournalFileError(
            what,
            f"It is the journal of {_text(content.owner.key)}, and this home's identity is {_text(key)}.",
            "Import the key that it belongs to first, into a home of its own: `koii-p2p keys import`.",
        )
    with home.locked():
        _check_chain(home, content.owner.genesis, _given(genesis), what)
        with Database.open(home.database_of(content.owner.genesis)) as database:
            merged = SigningJournal(database).merge(content.owner, content.entries, content.floors)
    found = {
        "file": str(file),
        "genesis": _text(content.owner.genesis),
        "staking": _text(key),
        "new": merged.new,
        "known": merged.known,
        "floors": {_text(task): floor for task, floor in merged.floors.items()},
    }
    print_result(found, pairs(found | {"floors": _floors_text(merged.floors)}), settings.output)


@app.command("floor")
def floor(
    ctx: typer.Context,
    task: Annotated[str, typer.Option("--task", metavar="ID", help="The id of the task.")],
    round: Annotated[
        int,
        typer.Option("--round", min=0, max=U64_MAX, metavar="N", help="The newest round to stay silent in."),
    ],
    lower: Annotated[
        bool, typer.Option("--lower", help="Lower a floor as well: this lets the key speak there again.")
    ] = False,
    genesis: GenesisOption = None,
) -> None:
    """Sign nothing new for a task in round N or earlier: for a key whose past is not all in this home.

    Without --genesis, K2 (--url) is asked which chain it is.
    """
    settings, home, key = _opened(ctx)
    task_id = _key_given(task, TASK_BYTES, "--task")
    with home.locked():
        owner = Owner(_given(genesis) or _genesis_of_k2(settings, home), key)
        with Database.open(home.database_of(owner.genesis)) as database:
            SigningJournal(database).set_floor(owner, task_id, round, lower=lower)
    found = {"genesis": _text(owner.genesis), "staking": _text(key), "task": task, "floor": round}
    print_result(found, pairs(found), settings.output)


@app.command("show")
def show(
    ctx: typer.Context,
    task: Annotated[str | None, typer.Option("--task", metavar="ID", help="Only this task.")] = None,
    genesis: GenesisOption = None,
) -> None:
    """List the rounds in which this identity has spoken, and what kinds of statements it made."""
    settings, home, key = _opened(ctx)
    chosen = None if task is None else _key_given(task, TASK_BYTES, "--task")
    with home.locked():
        owner = Owner(_genesis_here(home, _given(genesis)), key)
        with _existing(home, owner) as held:
            held.require_owner(owner)
            views = [_task_view(held, one) for one in held.tasks() if chosen in (None, one)]
    found = {"genesis": _text(owner.genesis), "staking": _text(key), "tasks": views}
    print_result(found, _shown(found), settings.output)


# --- whose journal, and where


def _opened(ctx: typer.Context) -> tuple[Settings, Home, bytes]:
    """The settings, the home, and the public key of its identity, before anything is locked or made."""
    invocation: Invocation = ctx.obj
    settings = load_settings(invocation).settings
    home = Home(settings.home)
    if settings.staking_key != home.staking_key:
        raise ConfigurationError(
            f"The signing journal is not used with the key file {settings.staking_key}.",
            f"It belongs to the identity of the home, {home.path}.",
            f"Leave --keypair out, or run `koii-p2p keys import {settings.staking_key}` in a new home.",
        )
    return settings, home, load_public(home.staking_key)


def _folders(home: Home) -> list[Path]:
    return sorted(path for path in home.database.iterdir() if _FOLDER.fullmatch(path.name))


@contextmanager
def _existing(home: Home, owner: Owner) -> Iterator[SigningJournal]:
    """The journal of a chain, which this does not make."""
    folder = home.database_of(owner.genesis)
    if not folder.exists():
        raise ConfigurationError(
            f"The home {home.path} has no signing journal of the chain {_text(owner.genesis)}.",
            "No node has run from it on that chain.",
            _known_chains(home),
        )
    with Database.open(folder) as database:
        yield SigningJournal(database)


def _genesis_here(home: Home, given: bytes | None) -> bytes:
    """The chain that is meant: the given one, or the only one of which this home has a journal."""
    if given is not None:
        return given
    folders = _folders(home)
    if not folders:
        raise ConfigurationError(
            f"The home {home.path} has no signing journal.",
            "No node has run from it, so there is nothing that it knows of the past of its key.",
            "Name the right home with --home.",
        )
    held = _owner_in(folders[0]) if len(folders) == 1 else None
    if held is None:
        raise ConfigurationError(
            "It is not clear which chain's signing journal is meant.",
            f"The home {home.path} has {len(folders)} databases, one per chain."
            if len(folders) > 1
            else "The only journal of this home does not say of which chain it is, as nothing was signed yet.",
            _known_chains(home),
        )
    return held.genesis


def _check_chain(home: Home, genesis: bytes, given: bytes | None, what: str) -> None:
    """Refuse a file of another chain than the one that is given, or than those this home has worked on."""
    if given is None:
        folders = _folders(home)
        if folders and home.database_of(genesis) not in folders:
            raise JournalFileError(
                what,
                f"It is of the chain {_text(genesis)}, on which no node has run from the home {home.path}.",
                f"If this chain is meant, give --genesis {_text(genesis)} as well.",
            )
    elif given != genesis:
        raise JournalFileError(
            what,
            f"It is of the chain {_text(genesis)}, and --genesis says {_text(given)}.",
            "Name the file of that chain; what was signed on one means nothing on another.",
        )


def _genesis_of_k2(settings: Settings, home: Home) -> bytes:
    """Ask K2: a floor of the wrong chain would protect from nothing, so the home's only chain is no answer."""

    async def ask() -> bytes:
        async with RpcClient(settings.rpc_url, limits=Limits()) as rpc:
            return await rpc.get_genesis_hash()

    try:
        return trio.run(ask)
    except ChainError as error:
        raise ChainError(
            f"K2 at {settings.shown_url} does not say which chain it is.", error.why, _known_chains(home)
        ) from error


def _known_chains(home: Home) -> str:
    owners = [held for folder in _folders(home) if (held := _owner_in(folder)) is not None]
    known = " or ".join(_text(held.genesis) for held in owners)
    return (
        f"Give the chain's genesis hash with --genesis: {known}."
        if known
        else "Give the chain's genesis hash with --genesis; `koii-p2p status --output json` of a node shows it."
    )


def _owner_in(folder: Path) -> Owner | None:
    with Database.open(folder) as database:
        return SigningJournal(database).owner()


# --- what is shown


def _task_view(held: SigningJournal, task: bytes) -> dict[str, Any]:
    rounds = [
        {"round": number, "said": [_said(place) for place, _ in held.of_round(task, number)]}
        for number in held.rounds(task)
    ]
    return {"task": _text(task), "floor": held.floor_of(task), "rounds": rounds}


def _said(place: Place) -> dict[str, object]:
    return {"kind": place.kind.name, "attempt": place.attempt}


def _shown(found: dict[str, Any]) -> RenderableType:
    parts: list[RenderableType] = [pairs({name: found[name] for name in ("genesis", "staking")})]
    for view in found["tasks"]:
        bound = "" if view["floor"] is None else f"  nothing new up to round {view['floor']}"
        rows = [(entry["round"], ", ".join(map(_said_text, entry["said"]))) for entry in view["rounds"]]
        parts += [Text(f"\n{view['task']}{bound}", style="bold"), table(("round", "said"), rows)]
    if not found["tasks"]:
        parts.append(Text("\nnothing"))
    return Group(*parts)


def _said_text(said: dict[str, Any]) -> str:
    name = said["kind"].lower().replace("_", " ")
    return f"{name} (attempt {said['attempt']})" if said["attempt"] else name


def _floors_text(floors: dict[bytes, int]) -> str:
    lines = [f"{_text(task)}: nothing new up to round {floor}" for task, floor in floors.items()]
    return "\n".join(lines) or "none"


def _given(genesis: str | None) -> bytes | None:
    return None if genesis is None else _key_given(genesis, GENESIS_BYTES, "--genesis")


def _key_given(text: str, length: int, option: str) -> bytes:
    """An option's 32 bytes in base58. Raises typer's usage error."""
    try:
        value = base58.b58decode(text)
    except ValueError:
        value = b""
    if len(value) != length:
        raise typer.BadParameter(f"{text!r} is not {length} bytes in base58", param_hint=option)
    return value


def _text(key: bytes) -> str:
    return base58.b58encode(key).decode("ascii")
