"""`koii-p2p config`: the settings and where they come from."""

from __future__ import annotations

from typing import Annotated

import typer

from koii_p2p.cli.main import Invocation
from koii_p2p.cli.output import print_result, table
from koii_p2p.cli.settings import load_settings

app = typer.Typer()


@app.callback()
def config() -> None:
    """Settings come from flags, then the environment (KOII_P2P_*), then a TOML file, then defaults."""


@app.command("show")
def show(
    ctx: typer.Context,
    origin: Annotated[bool, typer.Option("--origin", help="Say where each value comes from.")] = False,
) -> None:
    """Show every setting as it would be used now; of RPC URLs not the passwords and keys."""
    invocation: Invocation = ctx.obj
    loaded = load_settings(invocation)
    values = loaded.settings.model_dump(mode="json") | {"url": loaded.settings.shown_cluster}
    if origin:
        data: object = {
            name: {"value": value, "origin": loaded.origins[name]} for name, value in values.items()
        }
        rows = [(name, _text(value), loaded.origins[name]) for name, value in values.items()]
        shown = table(("setting", "value", "origin"), rows)
    else:
        data = values
        shown = table(("setting", "value"), [(name, _text(value)) for name, value in values.items()])
    print_result(data, shown, loaded.settings.output)


def _text(value: object) -> str:
    if value is None:
        return "-"
    return (
        ", ".join(value)
        if isinstance(value, list)
        else str(value).lower()
        if isinstance(value, bool)
        else str(value)
    )
