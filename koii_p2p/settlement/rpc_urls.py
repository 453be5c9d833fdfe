"""What of an RPC node's address may be shown."""

from __future__ import annotations

from typing import Final
from urllib.parse import urlsplit

_HIDDEN: Final = "..."
_LONGEST_WORD: Final = 15  # providers' keys in paths are longer, what paths mean is shorter


def shown_url(url: str) -> str:
    """The URL without user, password, query and long parts of its path: any of them may be a provider's key.

    What is no URL may hold one anywhere, and is not shown at all.
    """
    try:
        parts = urlsplit(url)
        host = parts.netloc.rpartition("@")[2]
        named = bool(parts.scheme and parts.hostname) and parts.port != 0  # a port that is none raises
    except ValueError:
        return _HIDDEN
    if not named:
        return _HIDDEN
    path = [one if len(one) <= _LONGEST_WORD else _HIDDEN for one in parts.path.rstrip("/").split("/")]
    return f"{parts.scheme}://{host}{'/'.join(path)}"
