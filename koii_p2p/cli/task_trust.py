"""`koii-p2p task trust`: whose code this node runs; and the question that `join` asks on a terminal."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import trio
import typer
from rich.console import Console
from rich.text import Text

from koii_p2p.cli.key_names import text_of
from koii_p2p.cli.main import Invocation
from koii_p2p.cli.output import plain, print_result, size
from koii_p2p.cli.settings import Settings, load_settings
from koii_p2p.limits import Limits
from koii_p2p.node.trust import Consent, TrustList, trust_entry
from koii_p2p.records.cid import cid_to_text
from koii_p2p.storage.home import Home
from koii_p2p.tasks.offer import Offer

app = typer.Typer(help="Whose code from peers this node runs: tasks, authors and CIDs.")

EntryArgument = Annotated[
    str,
    typer.Argument(
        metavar="ID|AUTHOR|CID", help="A task, the key that created tasks, or one version of code."
    ),
]
TrustOption = Annotated[
    list[str] | None,
    typer.Option(
        "--trust",
        metavar="ID|AUTHOR|CID",
        help="Run the code of this task, this author's tasks, or with this CID, this time. May be repeated.",
    ),
]


@app.command("list")
def list_command(ctx: typer.Context) -> None:
    """List what is trusted."""
    settings, trusted = _opened(ctx)
    entries = trusted.entries()
    print_result({"trusted": list(entries)}, "\n".join(entries) or "nothing", settings.output)


@app.command("add")
def add_command(ctx: typer.Context, entry: EntryArgument) -> None:
    """Trust a task, an author or a CID from now on. A node that runs and waits for it goes on by itself."""
    settings, trusted = _opened(ctx)
    Home(settings.home).prepare()
    new = trusted.add(entry)
    print_result({"entry": entry, "new": new}, "trusted" if new else "trusted already", settings.output)


@app.command("remove")
def remove_command(ctx: typer.Context, entry: EntryArgument) -> None:
    """Trust it no longer. What runs goes on until its node is stopped."""
    settings, trusted = _opened(ctx)
    was = trusted.remove(entry)
    print_result(
        {"entry": entry, "was": was}, "not trusted any more" if was else "it was not trusted", settings.output
    )


def _opened(ctx: typer.Context) -> tuple[Settings, TrustList]:
    invocation: Invocation = ctx.obj
    settings = load_settings(invocation).settings
    return settings, TrustList(Home(settings.home), Limits())


def consent_given(named: list[str] | None) -> Consent:
    """The consent of whoever runs `join`: what `--trust` names, and the answers at the terminal, if there is one."""
    entries = tuple(trust_entry(one) for one in named or ())
    terminal = sys.stdin is not None and sys.stdin.isatty() and sys.stderr.isatty()
    return Consent(entries, _ask if terminal else None)


async def _ask(offer: Offer, folder: Path) -> bool:
    return await trio.to_thread.run_sync(asked, offer, folder, abandon_on_cancel=True)


def asked(offer: Offer, folder: Path) -> bool:
    """Show what is about to run, on stderr, and ask; anything but a yes is a no."""
    shown = {
        "task": f"{plain(offer.name)}  {text_of(offer.task)}",
        "author": f"{text_of(offer.author)}, who says to be {offer.called}",
        "code": f"{cid_to_text(offer.cid)}, {size(offer.size)} in {offer.files} files",
        "to be read in": str(folder),
        "asks for": ", ".join(offer.wishes) or "nothing",
        "settings": " ".join(offer.differences) or "those of the task on K2",
    }
    console = Console(stderr=True, soft_wrap=True)  # keys and paths are for copying: no line is broken here
    for name, value in shown.items():
        console.print(Text(f"{name}: {value}"), highlight=False)
    sys.stderr.write("Run this code, and remember its CID? [y/N] ")
    sys.stderr.flush()
    return sys.stdin.readline().strip().lower() in ("y", "yes")
