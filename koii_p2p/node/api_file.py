"""`api.json` in a node's home: where its API listens and the token it wants. Readable by the operator only."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from koii_p2p.errors import ConfigurationError
from koii_p2p.storage.private_file import read_private, replace_private

MAX_BYTES = 4096


@dataclass(frozen=True, slots=True)
class ApiFile:
    """Address, bearer token and process id of a running node."""

    url: str
    token: str
    pid: int


def write_api_file(path: Path, url: str, token: str, pid: int) -> None:
    """Write the file, for the owner only (0600), in place of an older one."""
    replace_private(path, json.dumps({"url": url, "token": token, "pid": pid}).encode())


def remove_api_file(path: Path) -> None:
    """Remove the file when the node ends; nothing happens if it is gone."""
    path.unlink(missing_ok=True)


def read_api_file(path: Path) -> ApiFile:
    """Read the file of a running node. Raises `ConfigurationError` if there is none, or it is not one."""
    try:
        fields = json.loads(read_private(path, max_bytes=MAX_BYTES))
        return ApiFile(str(fields["url"]), str(fields["token"]), int(fields["pid"]))
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigurationError(
            f"The file {path} does not say where the node is.", f"{error}.", "Restart the node."
        ) from error
