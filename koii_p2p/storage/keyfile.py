"""Solana's keypair file: a JSON array of 64 integers, the ed25519 seed and the public key."""

from __future__ import annotations

import json
from pathlib import Path

from koii_p2p.errors import ConfigurationError
from koii_p2p.limits import Limits
from koii_p2p.records.keys import SecretKey
from koii_p2p.storage.faults import StorageError
from koii_p2p.storage.private_file import create_private, read_private

_BYTES = 64


def load_secret(path: Path) -> SecretKey:
    """Read a key file as `solana-keygen` writes it.

    Raises `ConfigurationError`, with the remedy, if it is missing, readable by others, not such a file, or if
    its public half does not belong to its secret half.
    """
    what = f"The key file {path} cannot be used."
    try:
        text = read_private(path, max_bytes=Limits().key_file_bytes)
    except StorageError as error:
        if isinstance(error.__cause__, FileNotFoundError):
            raise ConfigurationError(
                what, "It does not exist.", "Make one with `koii-p2p keys new`, or name the right file."
            ) from error
        raise ConfigurationError(what, error.why, error.remedy) from error
    remedy = "Restore it from a backup, or name the right file."
    try:
        numbers = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ConfigurationError(what, "It is not JSON.", remedy) from error
    if (
        not isinstance(numbers, list)
        or len(numbers) != _BYTES
        or not all(type(number) is int and 0 <= number <= 255 for number in numbers)
    ):
        raise ConfigurationError(what, f"It is not a list of {_BYTES} integers from 0 to 255.", remedy)
    try:
        return SecretKey.from_solana_bytes(bytes(numbers))
    except ValueError as error:
        raise ConfigurationError(what, str(error), remedy) from error


def save_secret(path: Path, key: SecretKey) -> None:
    """Write a new key file, mode 0600, whole and durable, and never over another file.

    Raises `ConfigurationError` if there is a file of this name or it cannot be written.
    """
    create_private(path, json.dumps(list(key.solana_bytes), separators=(",", ":")).encode())
