"""Keys on the command line: in base58, whole or by their beginning."""

from __future__ import annotations

import re
from collections.abc import Iterable

import base58
import typer

SHORTEST = 8
"""Characters of a key that are shown at least; more, where that is not enough to tell keys apart."""

_KEY_BYTES = 32
_KEY_CHARACTERS = 44  # base58 decoding is quadratic
_BEGINNING = re.compile(f"[1-9A-HJ-NP-Za-km-z]{{4,{_KEY_CHARACTERS}}}…?")


def text_of(key: bytes) -> str:
    """A key, task, hash or signature as K2's tools write it."""
    return base58.b58encode(key).decode("ascii")


def key_given(text: str, option: str) -> bytes:
    """32 bytes in base58 from the command line. Raises typer's usage error."""
    value = _decoded(text)
    if value is None:
        raise typer.BadParameter(f"{text!r} is not {_KEY_BYTES} bytes in base58", param_hint=option)
    return value


def check_key(text: str) -> None:
    """Refuse what is neither a key nor the beginning of one, before anything is asked. Raises typer's usage error."""
    if _decoded(text) is None and not _BEGINNING.fullmatch(text):
        why = f"{text!r} is neither a key in base58 nor 4 characters or more that one begins with"
        raise typer.BadParameter(why, param_hint="KEY")


def chosen_key(text: str, known: Iterable[bytes]) -> bytes:
    """The key that is given, or the one of `known` that begins like this. Raises typer's usage error."""
    value = _decoded(text)
    if value is not None:
        return value
    beginning = text.removesuffix("…")
    found = sorted(name for name in map(text_of, set(known)) if name.startswith(beginning))
    if len(found) != 1:
        why = (
            f"{len(found)} stakers' keys begin with it: {', '.join(found[:4])}"
            if found
            else "no staker's key begins"
        )
        raise typer.BadParameter(f"{text!r}: {why}" if found else f"{why} with {text!r}", param_hint="KEY")
    return base58.b58decode(found[0])


class KeyNames:
    """Writes keys short: as many characters of each as tell the known ones apart, eight at least; others whole."""

    def __init__(self, known: Iterable[bytes]) -> None:
        names = {key: text_of(key) for key in set(known)}
        size = SHORTEST
        while len({name[:size] for name in names.values()}) < len(names):
            size += 1
        self._names = {key: f"{name[:size]}…" for key, name in names.items()}

    def __call__(self, key: bytes) -> str:
        """The name of a key."""
        return self._names.get(key) or text_of(key)


def _decoded(text: str) -> bytes | None:
    if len(text) > _KEY_CHARACTERS:
        return None
    try:
        value = base58.b58decode(text)
    except ValueError:
        return None
    return value if len(value) == _KEY_BYTES else None
