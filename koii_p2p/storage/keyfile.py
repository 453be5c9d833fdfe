"""Solana's keypair file: a JSON array of 64 integers, the ed25519 seed and the public key; or a locked one of ours."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from koii_p2p.errors import ConfigurationError
from koii_p2p.limits import Limits
from koii_p2p.records.keys import SecretKey
from koii_p2p.storage.faults import StorageError
from koii_p2p.storage.locked_key import MARK, WrongPassphrase, lock, passphrase_of, public_key_in, unlock
from koii_p2p.storage.private_file import create_private, read_private

_BYTES = 64


def load_secret(path: Path) -> SecretKey:
    """Read a key file as `solana-keygen` writes it, or a locked one, for which the passphrase is asked.

    Raises `ConfigurationError`, with the remedy, if it is missing, readable by others, not such a file, if its public
    half does not belong to its secret half, or if the passphrase is wrong.
    """
    content = _content(path)
    if isinstance(content, list):
        return _plain(path, content)
    passphrase = passphrase_of(path)
    try:
        return unlock(content, passphrase)
    except WrongPassphrase as error:
        raise _unusable(path, str(error), "Try again.") from error
    except ValueError as error:
        raise _unusable(path, str(error)) from error


def load_public(path: Path) -> bytes:
    """The public key of a key file, for which no passphrase is needed. Raises `ConfigurationError` as `load_secret`."""
    content = _content(path)
    if isinstance(content, list):
        return _plain(path, content).public_key
    try:
        return public_key_in(content)
    except ValueError as error:
        raise _unusable(path, str(error)) from error


def is_locked(path: Path) -> bool:
    """Whether a key file needs a passphrase. Raises `ConfigurationError` as `load_secret`."""
    return not isinstance(_content(path), list)


def save_secret(path: Path, key: SecretKey, passphrase: str | None = None) -> None:
    """Write a new key file, mode 0600, whole and durable, and never over another file; locked with a `passphrase`.

    Raises `ConfigurationError` if there is a file of this name or it cannot be written.
    """
    if passphrase is None:
        content = json.dumps(list(key.solana_bytes), separators=(",", ":")).encode()
    else:
        content = lock(key, passphrase)
    create_private(path, content)


def _content(path: Path) -> list[object] | dict[str, Any]:
    try:
        text = read_private(path, max_bytes=Limits().key_file_bytes)
    except StorageError as error:
        if isinstance(error.__cause__, FileNotFoundError):
            remedy = "Make one with `koii-p2p keys new`, or name the right file."
            raise _unusable(path, "It does not exist.", remedy) from error
        raise _unusable(path, error.why, error.remedy) from error
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _unusable(path, "It is not JSON.") from error
    if isinstance(content, list) or (isinstance(content, dict) and MARK in content):
        return content
    raise _unusable(path, f"It is not a list of {_BYTES} integers from 0 to 255.")


def _plain(path: Path, numbers: list[object]) -> SecretKey:
    whole = [number for number in numbers if type(number) is int and 0 <= number <= 255]
    if len(numbers) != _BYTES or len(whole) != _BYTES:
        raise _unusable(path, f"It is not a list of {_BYTES} integers from 0 to 255.")
    try:
        return SecretKey.from_solana_bytes(bytes(whole))
    except ValueError as error:
        raise _unusable(path, str(error)) from error


def _unusable(
    path: Path, why: str, remedy: str = "Restore it from a backup, or name the right file."
) -> ConfigurationError:
    return ConfigurationError(f"The key file {path} cannot be used.", why, remedy)
