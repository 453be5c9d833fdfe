"""`koii-p2p keys`: key files in Solana's format, from chance, files or recovery words.

Secret keys are never printed, words are shown once, on a terminal, and no file is ever overwritten.
"""

from __future__ import annotations

import getpass
import json
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Final

import typer
from rich.console import Group, RenderableType
from rich.text import Text

from koii_p2p.cli.key_names import text_of
from koii_p2p.cli.main import Invocation
from koii_p2p.cli.output import pairs, print_result, table
from koii_p2p.cli.settings import Settings, load_settings
from koii_p2p.errors import ConfigurationError
from koii_p2p.records.keys import SecretKey
from koii_p2p.storage.derivation import (
    MOST_CHARACTERS,
    STAKING_PATH,
    WALLET_PATH,
    WORD_COUNTS,
    checked_words,
    derived_key,
    new_words,
)
from koii_p2p.storage.home import Home
from koii_p2p.storage.keyfile import load_public, load_secret, save_secret
from koii_p2p.storage.locked_key import SHORTEST_PASSPHRASE, passphrase_in_file
from koii_p2p.storage.private_file import read_private

LONGEST_KEY_TEXT = 4096


class Role(StrEnum):
    """The two keys of a node."""

    STAKING = "staking"
    """The node's identity: stakes, submits and votes."""

    WALLET = "wallet"
    """The main wallet: pays fees and receives claims."""


DUTIES: Final = {
    Role.STAKING: "the node's identity: its stake, its submissions and votes, its place in lists",
    Role.WALLET: "the main wallet: pays stakes, fees and rents; is paid rewards and stakes back",
}
PATHS: Final = {Role.STAKING: STAKING_PATH, Role.WALLET: WALLET_PATH}

app = typer.Typer()

RoleArgument = Annotated[
    Role | None,
    typer.Argument(
        help="staking: the node's identity; wallet: pays and is paid. Without it staking; with --mnemonic both.",
        show_default=False,
    ),
]
OutfileOption = Annotated[
    Path | None, typer.Option("--outfile", "-o", help="Write to this file instead of the home.")
]
LockOption = Annotated[
    bool,
    typer.Option("--lock", help="Lock the file with a passphrase, which is then asked for when it is used."),
]
PassphraseOption = Annotated[
    bool,
    typer.Option(
        "--bip39-passphrase", help="Ask for a BIP-39 passphrase as well. Koii's own wallets have none."
    ),
]


@app.callback()
def keys() -> None:
    """Key files are JSON arrays of 64 integers, as Solana's and Koii's tools write them, readable by you only.

    With --lock they are our own, and open with a passphrase.
    """


@app.command("new")
def new(
    ctx: typer.Context,
    role: RoleArgument = None,
    outfile: OutfileOption = None,
    lock: LockOption = False,
    mnemonic: Annotated[
        bool,
        typer.Option("--mnemonic", help="From new recovery words, which are shown once and kept nowhere."),
    ] = False,
    words: Annotated[
        int, typer.Option("--words", help="How many words: 12, as Koii's node has, or 24.")
    ] = 12,
    passphrase: PassphraseOption = False,
) -> None:
    """Make a new key. Whoever can read a file that is not locked owns the stake. Keep a copy in a safe place."""
    if not mnemonic:
        _only_with_words(passphrase)
        _save(ctx, role or Role.STAKING, outfile, lock, SecretKey.generate())
        return
    if words not in WORD_COUNTS:
        raise typer.BadParameter(f"{words} is not 12 or 24", param_hint="--words")
    places = _free_places(ctx, role, outfile)
    if not sys.stderr.isatty():
        raise typer.BadParameter(
            "there is no terminal to show the words on, and they belong into no file", param_hint="--mnemonic"
        )
    extra = _asked_twice("BIP-39 passphrase") if passphrase else ""
    locked = _lock_passphrase() if lock else None
    made = new_words(words)
    sys.stderr.write(
        f"Write these {words} words down, in this order. They are shown once, and kept nowhere:\n\n{made}\n\n"
    )
    sys.stderr.flush()
    _save_derived(ctx, places, made, extra, locked)


@app.command("import")
def import_key(
    ctx: typer.Context,
    file: Annotated[
        Path | None,
        typer.Argument(
            help="A Solana key file, or - for stdin. With --mnemonic a file of words; asked for without."
        ),
    ] = None,
    role: RoleArgument = None,
    outfile: OutfileOption = None,
    lock: LockOption = False,
    mnemonic: Annotated[
        bool,
        typer.Option("--mnemonic", help="From 12 or 24 recovery words, by Koii's derivation paths."),
    ] = False,
    passphrase: PassphraseOption = False,
) -> None:
    """Copy a key that exists into the home, or both from recovery words, as Koii's node derives them."""
    if mnemonic:
        places = _free_places(ctx, role, outfile)
        text, extra = _words_given(file, passphrase)
        checked = checked_words(text)
        _save_derived(ctx, places, checked, extra, _lock_passphrase() if lock else None)
        return
    _only_with_words(passphrase)
    if file is None:
        raise typer.BadParameter("name a key file, - for stdin, or give --mnemonic", param_hint="FILE")
    key = _from_stdin() if str(file) == "-" else load_secret(file)
    _save(ctx, role or Role.STAKING, outfile, lock, key)


@app.command("show")
def show(
    ctx: typer.Context,
    file: Annotated[Path | None, typer.Argument(help="A key file; without it, the home's keys.")] = None,
) -> None:
    """Show public keys (addresses) and what each is for."""
    invocation: Invocation = ctx.obj
    settings = load_settings(invocation).settings
    if file is None:
        own = {Role.STAKING: text_of(load_public(settings.staking_key))}
        if settings.wallet_key.exists():
            own[Role.WALLET] = text_of(load_public(settings.wallet_key))
        print_result({role.value: key for role, key in own.items()}, _roles_table(own), settings.output)
        return
    address = text_of(load_public(file))
    known = {role: path for role in Role if (path := key_path(settings, role)).exists()}
    roles = [role.value for role, path in known.items() if text_of(load_public(path)) == address]
    found = {"public_key": address, "role": " and ".join(roles) or None}
    shown = {**found, "role": found["role"] or "none of this home's keys"}
    print_result(found, pairs(shown), settings.output)


def key_path(settings: Settings, role: Role) -> Path:
    """The file of a role's key."""
    return settings.staking_key if role is Role.STAKING else settings.wallet_key


def _roles_table(own: dict[Role, str]) -> RenderableType:
    rows = table(
        ("role", "address", "what it is for"), [(role, key, DUTIES[role]) for role, key in own.items()]
    )
    if len(own) > 1 and len(set(own.values())) == 1:
        return Group(
            rows, Text("Both are one key: whoever gets at the node's files has all the money as well.")
        )
    return rows


def _save(ctx: typer.Context, role: Role, outfile: Path | None, lock: bool, key: SecretKey) -> None:
    invocation: Invocation = ctx.obj
    settings = load_settings(invocation).settings
    path = outfile or key_path(settings, role)
    if path.parent == settings.home:
        Home(settings.home).prepare()
    save_secret(path, key, _lock_passphrase() if lock else None)
    found = {"role": role.value, "public_key": text_of(key.public_key), "file": str(path)}
    print_result(found, pairs(found), settings.output)


# --- recovery words


def _free_places(ctx: typer.Context, role: Role | None, outfile: Path | None) -> dict[Role, Path]:
    """Where the keys go, before any words are asked for or shown. Raises if there is a file already."""
    invocation: Invocation = ctx.obj
    settings = load_settings(invocation).settings
    if outfile is not None and role is None:
        raise typer.BadParameter(
            "the words make two keys: say which is meant, staking or wallet", param_hint="ROLE"
        )
    places = {one: outfile or key_path(settings, one) for one in ([role] if role else Role)}
    for path in places.values():
        if path.exists():
            raise ConfigurationError(
                "No key was written.",
                f"There is a file {path} already.",
                "Name one role that has no file yet, another --home, or move the file away.",
            )
    return places


def _save_derived(
    ctx: typer.Context, places: dict[Role, Path], words: str, passphrase: str, locked: str | None
) -> None:
    invocation: Invocation = ctx.obj
    settings = load_settings(invocation).settings
    found = {}
    for role, path in places.items():
        if path.parent == settings.home:
            Home(settings.home).prepare()
        key = derived_key(words, PATHS[role], passphrase)
        save_secret(path, key, locked)
        found[role.value] = {
            "public_key": text_of(key.public_key),
            "derivation": PATHS[role],
            "file": str(path),
        }
    columns = ("role", "address", "derivation", "file")
    print_result(
        found, table(columns, [(role, *made.values()) for role, made in found.items()]), settings.output
    )


def _words_given(file: Path | None, passphrase: bool) -> tuple[str, str]:
    """Words and passphrase: from a prompt without echo or, where there is no terminal, from stdin.

    On stdin, with a passphrase, that is the last line. Words may also be in a file that only its owner can read.
    """
    asked = sys.stdin is not None and sys.stdin.isatty()
    if file is not None and str(file) != "-":
        words = read_private(file, max_bytes=MOST_CHARACTERS).decode("utf-8", "replace")
        if not passphrase:
            return words, ""
        return words, _ask("BIP-39 passphrase: ") if asked else _last_line(_stdin_text())[1]
    if asked:
        words = _ask("Recovery words (not shown): ")
        return words, _ask("BIP-39 passphrase: ") if passphrase else ""
    return _last_line(_stdin_text()) if passphrase else (_stdin_text(), "")


def _lock_passphrase() -> str:
    """The passphrase of new key files, from the file of `PASSPHRASE_FILE` or asked for twice."""
    given = passphrase_in_file()
    found = _asked_twice("Passphrase of the key file") if given is None else given
    if len(found) < SHORTEST_PASSPHRASE:
        raise ConfigurationError(
            "No key was written.",
            f"The passphrase has fewer than {SHORTEST_PASSPHRASE} characters.",
            "Take a longer one: a file that was copied can be tried offline.",
        )
    return found


def _asked_twice(what: str) -> str:
    if sys.stdin is None or not sys.stdin.isatty():
        raise typer.BadParameter(f"{what}: there is no terminal to ask at")
    first = _ask(f"{what}: ")
    if _ask("The same again: ") != first:
        raise ConfigurationError(
            "No key was written.", "The two passphrases are not the same.", "Run it again."
        )
    return first


def _ask(prompt: str) -> str:
    try:
        return getpass.getpass(prompt)
    except EOFError:
        return ""


def _stdin_text() -> str:
    return "" if sys.stdin is None else sys.stdin.read(LONGEST_KEY_TEXT)


def _last_line(text: str) -> tuple[str, str]:
    before, _, last = text.removesuffix("\n").rpartition("\n")
    return before, last


def _only_with_words(passphrase: bool) -> None:
    if passphrase:
        raise typer.BadParameter(
            "it goes with recovery words: give --mnemonic", param_hint="--bip39-passphrase"
        )


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
