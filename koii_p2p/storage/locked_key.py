"""Key files behind a passphrase: the seed in a box that Argon2id of the passphrase opens, the public key beside it.

A JSON object where Solana's files are a list, so that Solana's and Koii's tools refuse it and cannot misread it.
"""

from __future__ import annotations

import functools
import getpass
import json
import os
import sys
import unicodedata
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import base58
from nacl.exceptions import CryptoError
from nacl.pwhash import argon2id
from nacl.secret import SecretBox
from nacl.utils import random

from koii_p2p.errors import ConfigurationError
from koii_p2p.records.keys import PUBLIC_KEY_BYTES, SecretKey
from koii_p2p.storage.private_file import read_private

PASSPHRASE_FILE: Final = "KOII_P2P_PASSPHRASE_FILE"
"""The environment variable that names a private file with the passphrase, for nodes that nobody can be asked at."""

SHORTEST_PASSPHRASE: Final = 8
MARK: Final = "koii_p2p_locked_key"

_VERSION: Final = 1
_OPERATIONS, _MEMORY = argon2id.OPSLIMIT_MODERATE, argon2id.MEMLIMIT_INTERACTIVE
_MOST_OPERATIONS: Final = 16
_MOST_MEMORY: Final = 1 << 30
_MOST_PASSPHRASE_BYTES: Final = 1024


class WrongPassphrase(ValueError):
    """The box does not open with this passphrase, or was changed."""


def lock(key: SecretKey, passphrase: str) -> bytes:
    """The content of a key file that only this passphrase opens."""
    salt = random(argon2id.SALTBYTES)
    box = SecretBox(_box_key(passphrase, salt, _OPERATIONS, _MEMORY)).encrypt(key.seed)
    content = {
        MARK: _VERSION,
        "public_key": base58.b58encode(key.public_key).decode("ascii"),
        "argon2id": {"operations": _OPERATIONS, "memory": _MEMORY, "salt": salt.hex()},
        "secretbox": bytes(box).hex(),
    }
    return json.dumps(content, indent=2).encode() + b"\n"


def unlock(content: Mapping[str, Any], passphrase: str) -> SecretKey:
    """The key in a locked file. Raises `WrongPassphrase`, and ValueError for what is no such file."""
    public_key = public_key_in(content)
    work, box = content.get("argon2id"), content.get("secretbox")
    if not isinstance(work, dict) or not isinstance(box, str):
        raise ValueError("Its box or its Argon2id settings are missing.")
    operations, memory, salt = (work.get(name) for name in ("operations", "memory", "salt"))
    # A file from elsewhere must not decide how much memory and time opening it takes.
    if type(operations) is not int or not argon2id.OPSLIMIT_MIN <= operations <= _MOST_OPERATIONS:
        raise ValueError("Its Argon2id operations are out of range.")
    if type(memory) is not int or not argon2id.MEMLIMIT_MIN <= memory <= _MOST_MEMORY:
        raise ValueError("Its Argon2id memory is out of range.")
    if not isinstance(salt, str) or len(salt) != 2 * argon2id.SALTBYTES:
        raise ValueError("Its salt is not that of Argon2id.")
    opener = SecretBox(_box_key(passphrase, bytes.fromhex(salt), operations, memory))
    try:
        key = SecretKey.from_seed(opener.decrypt(bytes.fromhex(box)))
    except CryptoError as error:
        raise WrongPassphrase("The passphrase is wrong, or the file was changed.") from error
    if key.public_key != public_key:
        raise ValueError("Its public key is not that of the key in the box.")
    return key


def public_key_in(content: Mapping[str, Any]) -> bytes:
    """The public key that a locked file names; `unlock` proves it. Raises ValueError."""
    if content.get(MARK) != _VERSION:
        raise ValueError("It is not a locked key of this version.")
    text = content.get("public_key")
    if (
        not isinstance(text, str)
        or len(text) > 44
        or len(found := base58.b58decode(text)) != PUBLIC_KEY_BYTES
    ):
        raise ValueError("Its public key is not 32 bytes in base58.")
    return found


@functools.cache
def passphrase_of(path: Path) -> str:
    """The passphrase of a key file, from `PASSPHRASE_FILE` or asked for, once in a process.

    Raises `ConfigurationError` if nobody can be asked, `StorageError` for a passphrase file that others can read.
    """
    found = passphrase_in_file()
    if found is not None:
        return found
    if sys.stdin is None or not sys.stdin.isatty():
        raise ConfigurationError(
            f"The key file {path} cannot be used.",
            "It is locked with a passphrase, and there is no terminal to ask at.",
            f"Name a file that has the passphrase, and that only you can read, with {PASSPHRASE_FILE}.",
        )
    try:
        return getpass.getpass(f"Passphrase of {path}: ")
    except EOFError:
        return ""


def passphrase_in_file() -> str | None:
    """What is in the file that `PASSPHRASE_FILE` names, without its line's end. Raises `StorageError`."""
    file = os.environ.get(PASSPHRASE_FILE)
    if not file:
        return None
    return (
        read_private(Path(file), max_bytes=_MOST_PASSPHRASE_BYTES).decode("utf-8", "replace").rstrip("\r\n")
    )


def _box_key(passphrase: str, salt: bytes, operations: int, memory: int) -> bytes:
    # The same passphrase typed on another system may come in other code points.
    text = unicodedata.normalize("NFKD", passphrase).encode()
    return argon2id.kdf(SecretBox.KEY_SIZE, text, salt, operations, memory)
