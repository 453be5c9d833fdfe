"""A node as its operator sees it: its HTTP API, found through `api.json` in its home."""

from __future__ import annotations

import json
from pathlib import Path
from types import TracebackType
from typing import Any, Final

import httpx
import trio

from koii_p2p.errors import NetworkError
from koii_p2p.limits import Limits
from koii_p2p.storage.faults import StorageError
from koii_p2p.storage.private_file import read_private

_MOST_API_FILE_BYTES: Final = 4096
_MOST_JSON_BYTES: Final = 16 * 1024 * 1024
SECONDS: Final = 10.0
_NOT_FOUND: Final = 404


class NodeClient:
    """Calls to one node. Every method raises `NetworkError` if the node does not answer as it should in time."""

    def __init__(self, url: str, token: str, *, name: str = "the node", limits: Limits | None = None) -> None:
        self.name = name
        self.url = url
        self._limits = limits or Limits()
        self._client = httpx.AsyncClient(
            base_url=url,
            headers={"authorization": f"Bearer {token}"},
            timeout=None,
            trust_env=False,
            verify=False,
        )

    @classmethod
    def of_home(cls, home: Path, *, name: str = "the node") -> NodeClient:
        """The node that runs from a home. Raises `NetworkError` if none does."""
        path = home / "api.json"
        try:
            fields = json.loads(read_private(path, max_bytes=_MOST_API_FILE_BYTES))
            return cls(str(fields["url"]), str(fields["token"]), name=name)
        except (StorageError, ValueError, KeyError, TypeError) as error:
            why = error.why if isinstance(error, StorageError) else f"{path} is damaged."
            raise NetworkError(
                f"No node runs from {home}.", why, "Start one with `koii-p2p join`, or name its --home."
            ) from error

    async def __aenter__(self) -> NodeClient:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the connections."""
        with trio.CancelScope(shield=True):
            await self._client.aclose()

    async def status(self) -> dict[str, Any]:
        """The node as a whole."""
        return _object(await self._json("/status"))

    async def rounds(self) -> list[dict[str, Any]]:
        """The rounds in its memory, oldest first."""
        found = await self._json("/rounds")
        return [_object(item) for item in found] if isinstance(found, list) else []

    async def round(self, task: str, number: int) -> dict[str, Any] | None:
        """One round in full, or None if the node does not know it."""
        found = await self._json(f"/rounds/{task}/{number}")
        return None if found is None else _object(found)

    async def peers(self) -> list[dict[str, Any]]:
        """Its connected peers."""
        found = await self._json("/peers")
        return [_object(item) for item in found] if isinstance(found, list) else []

    async def artifact(self, task: str, number: int, name: str) -> bytes | None:
        """Stored bytes of a round (commitment, bundle or list), or None if the node has none."""
        return await self._call("GET", f"/artifacts/{task}/{number}/{name}", self._limits.artifact_bytes)

    async def shutdown(self) -> None:
        """Ask the node to end."""
        await self._call("POST", "/shutdown", _MOST_JSON_BYTES)

    async def _json(self, path: str) -> Any:
        body = await self._call("GET", path, _MOST_JSON_BYTES)
        try:
            return None if body is None else json.loads(body)
        except ValueError as error:
            raise self._failed("Its answer is not JSON.") from error

    async def _call(self, method: str, path: str, most_bytes: int) -> bytes | None:
        body = bytearray()
        with trio.move_on_after(SECONDS) as scope:
            try:
                async with self._client.stream(method, path) as response:
                    if response.status_code == _NOT_FOUND:
                        return None
                    if response.status_code != httpx.codes.OK:
                        raise self._failed(f"It answers {path} with HTTP status {response.status_code}.")
                    async for chunk in response.aiter_raw():
                        body += chunk
                        if len(body) > most_bytes:
                            raise self._failed(f"Its answer has more than {most_bytes} bytes.")
            except (httpx.HTTPError, httpx.StreamError) as error:
                raise self._failed(f"{type(error).__name__}: {error}.") from error
        if scope.cancelled_caught:
            raise self._failed(f"It took longer than {SECONDS:.0f} seconds.")
        return bytes(body)

    def _failed(self, why: str) -> NetworkError:
        return NetworkError(
            f"The API of {self.name} at {self.url} cannot be used.",
            why,
            "Look at its log; start the node again if it has ended.",
        )


def _object(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}
