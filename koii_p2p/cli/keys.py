"""`koii-p2p keys`: key files in Solana's format. Secrets are never printed and no file is ever overwritten."""

from __future__ import annotations

import json
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import base58
import typer

from koii_p2p.cli.main import Invocation
from koii_p2p.cli.output import pairs, print_result
from koii_p2p.cli.settings import Settings, load_settings
from koii_p2p.errors import ConfigurationError
from koii_p2p.records.keys import SecretKey
from koii_p2p.storage.home import Home
from koii_p2p.storage.keyfile import load_secret, save_secret

LONGEST_KEY_TEXT = 4096


class Role(StrEnum):
    """The two keys of a node."""

    STAKING = "staking"
    """The node's identity: stakes, submits and votes."""

    WALLET = "wallet"
    """The main wallet: pays fees and receives claims."""


app = typer.Typer()

RoleArgument = Annotated[Role, typer.Argument(help="staking: the node's identity; wallet: pays and is paid.")]
OutfileOption = Annotated[
    Path | None, typer.Option("--outfile", "-o", help="Write to this file instead of the home.")
]


@app.callback()
def keys() -> None:
    """Key files are JSON arrays of 64 integers, as Solana's and Koii's tools write them, readable by you only."""


@app.command("new")
def new(ctx: typer.Context, role: RoleArgument = Role.STAKING, outfile: OutfileOption = None) -> None:
    """Make a new key. It is a plain file: whoever can read it owns the stake, so keep a copy in a safe place."""
    _save(ctx, role, outfile, SecretKey.generate())


@app.command("import")
def import_key(
    ctx: typer.Context,
    file: Annotated[Path, typer.Argument(help="A Solana key file, or - to read one from stdin.")],
    role: RoleArgument = Role.STAKING,
    outfile: OutfileOption = None,
) -> None:
    """Copy a key that exists into the home."""
    _save(ctx, role, outfile, _from_stdin() if str(file) == "-" else load_secret(file))


@app.command("show")
def show(
    ctx: typer.Context,
    file: Annotated[Path | None, typer.Argument(help="A key file; without it, the home's keys.")] = None,
) -> None:
    """Show public keys (addresses)."""
    invocation: Invocation = ctx.obj
    settings = load_settings(invocation).settings
    if file is not None:
        files = {"public_key": file}
    else:
        files = {"staking": settings.staking_key}
        if settings.wallet_key.exists():
            files["wallet"] = settings.wallet_key
    found = {name: public_text(load_secret(path)) for name, path in files.items()}
    print_result(found, pairs(found), settings.output)


def key_path(settings: Settings, role: Role) -> Path:
    """The file of a role's key."""
    return settings.staking_key if role is Role.STAKING else settings.wallet_key


def public_text(key: SecretKey) -> str:
    """The public key in base58: the address."""
    return base58.b58encode(key.public_key).decode("ascii")


def _save(ctx: typer.Context, role: Role, outfile: Path | None, key: SecretKey) -> None:
    invocation: Invocation = ctx.obj
    settings = load_settings(invocation).settings
    path = outfile or key_path(settings, role)
    if path.parent == settings.home:
        Home(settings.home).prepare()
    save_secret(path, key)
    found = {"role": role.value, "public_key": public_text(key), "file": str(path)}
    print_result(found, pairs(found), settings.output)


def _from_stdin() -> SecretKey:
    what = "The key on stdin cannot be used."
    remedy = "Pipe in a JSON array of 64 integers, as in a Solana key file."
    text = sys.stdin.read(LONGEST_KEY_TEXT)
    try:
        numbers = json.loads(text)
        return SecretKey.from_solana_bytes(bytes(numbers))
    except (ValueError, TypeError, RecursionError) as error:
        # The text itself is not repeated: it may be a secret with a typing error.
        raise ConfigurationError(what, "It is not a key in Solana's format.", remedy) from error
