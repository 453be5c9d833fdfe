"""Files that people write as TOML, read with a bound on their size and with errors that say what to do."""

from __future__ import annotations

import tomllib
from decimal import Decimal
from pathlib import Path
from typing import Any

from koii_p2p.errors import ConfigurationError


def read_bounded(file: Path, what: str, most_bytes: int, remedy: str) -> bytes:
    """The bytes of a file. `what` says in a sentence what cannot be used then, `remedy` how to name another file.

    Raises `ConfigurationError` for one that cannot be read or has more bytes than that.
    """
    try:
        with file.open("rb") as stream:
            data = stream.read(most_bytes + 1)
    except OSError as error:
        raise ConfigurationError(what, f"It cannot be read: {error.strerror}.", remedy) from error
    if len(data) > most_bytes:
        raise ConfigurationError(what, f"It is too large: more than {most_bytes} bytes.", remedy)
    return data


def toml_of(data: bytes, what: str) -> dict[str, Any]:
    """The table that TOML says; numbers with a point are `Decimal`. Raises `ConfigurationError` for what is no TOML."""
    try:
        return tomllib.loads(data.decode(), parse_float=Decimal)
    except (ValueError, RecursionError) as error:
        raise ConfigurationError(what, f"It is not TOML: {error}.", "Correct this line.") from error
