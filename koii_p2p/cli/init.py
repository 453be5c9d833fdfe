"""`koii-p2p init`: a home with keys and a commented settings file. What exists already is kept."""

from __future__ import annotations

import json

import typer
from pydantic_core import PydanticUndefined

from koii_p2p.cli.key_names import text_of
from koii_p2p.cli.keys import Role, key_path
from koii_p2p.cli.main import Invocation
from koii_p2p.cli.output import pairs, print_result
from koii_p2p.cli.settings import Settings, load_settings
from koii_p2p.records.keys import SecretKey
from koii_p2p.storage.home import Home
from koii_p2p.storage.keyfile import load_public, save_secret
from koii_p2p.storage.private_file import create_private

NOT_IN_FILE = {"home"}
"""The settings file is found through the home, so the home is not set in it."""


def command(ctx: typer.Context) -> None:
    """Make the home folder, its staking and wallet keys, and config.toml; keep whatever is there already."""
    invocation: Invocation = ctx.obj
    loaded = load_settings(invocation)
    settings = loaded.settings
    home = Home(settings.home)
    home.prepare()
    found: dict[str, object] = {"home": str(settings.home)}
    made: list[str] = []
    for role in Role:
        path = key_path(settings, role)
        if not path.exists():
            save_secret(path, SecretKey.generate())
            made.append(str(path))
        found[role.value] = text_of(load_public(path))
    if not home.config.exists():
        create_private(home.config, config_text(settings, loaded.origins).encode())
        made.append(str(home.config))
    shown = {**found, "made": ", ".join(made) or "nothing: everything was there"}
    print_result({**found, "made": made}, pairs(shown), settings.output)


def config_text(settings: Settings, origins: dict[str, str]) -> str:
    """A settings file that explains every setting; only what was given as a flag is set in it."""
    values = settings.model_dump(mode="json")
    lines = [
        "# Settings of this node. Flags and the environment (KOII_P2P_*) go before them.",
        "# See them all with: koii-p2p config show --origin",
    ]
    for name, field in Settings.model_fields.items():
        if name in NOT_IN_FILE:
            continue
        value = values[name]
        given = origins[name].startswith("flag")
        if value is None or field.default is PydanticUndefined:
            example = f"# {name} ="
        else:
            # A JSON string, list, number or boolean is also one of TOML.
            example = f"{'' if given else '# '}{name} = {json.dumps(value)}"
        lines += ["", f"# {field.description}", example]
    return "\n".join(lines) + "\n"
