"""A node as its operator sees it: its HTTP API, found through `api.json` in its home."""

from __future__ import annotations

import json
from collections.abc import AsyncIterable, Awaitable, Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Final

import httpx
import trio

from koii_p2p.errors import CheckFailed, NetworkError
from koii_p2p.limits import Limits
from koii_p2p.storage.faults import StorageError
from koii_p2p.storage.private_file import read_private

_MOST_API_FILE_BYTES: Final = 4096
_MOST_JSON_BYTES: Final = 16 * 1024 * 1024
SECONDS: Final = 10.0
STALL_SECONDS: Final = 60.0
"""How long a call that moves a blob may stand still."""
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

    async def reach(self) -> dict[str, Any]:
        """How others get at it: addresses, dial-backs, relays."""
        return await self._known("/reach")

    async def mesh(self) -> dict[str, Any]:
        """Its gossip: topics, neighbours, meshes and counters."""
        return await self._known("/mesh")

    async def dht(self) -> dict[str, Any]:
        """Its DHT: role, routing table, what is stored and counted."""
        return await self._known("/dht")

    async def find_peer(self, name: str) -> dict[str, Any]:
        """Where it finds the peer with a PeerId or key; no addresses if it does not."""
        return await self._known(f"/dht/find/{name}")

    async def scores(self) -> list[dict[str, Any]]:
        """What its gossip thinks of each connected peer, and why."""
        found = await self._json("/mesh/scores")
        if not isinstance(found, list):
            raise self._failed("It has no /mesh/scores: it is of another version.")
        return [_object(item) for item in found]

    async def resources(self) -> dict[str, Any]:
        """What it uses of its machine, and of its limits."""
        return await self._known("/resources")

    async def artifact(self, task: str, number: int, name: str) -> bytes | None:
        """Stored bytes of a round (commitment, bundle or list), or None if the node has none."""
        return await self._call("GET", f"/artifacts/{task}/{number}/{name}", self._limits.artifact_bytes)

    async def data(self, method: str, path: str = "", **query: str) -> dict[str, Any]:
        """Ask about task data: `GET` lists it, and `/CID/stat` and `/CID/pin` are one blob's.

        Raises the `OperatorError` that the node answers with, or `NetworkError`.
        """
        body = bytearray()

        async def take(chunk: bytes) -> None:
            body.extend(chunk)
            if len(body) > _MOST_JSON_BYTES:
                raise self._failed(f"Its answer has more than {_MOST_JSON_BYTES} bytes.")

        await self._data_body(method, f"/data{path}", take, params=query)
        return self._decoded(body)

    async def put_blob(self, chunks: AsyncIterable[bytes], **query: str) -> dict[str, Any]:
        """Store a blob; what the node says of it. Raises as `data` does."""
        body = bytearray()

        async def take(chunk: bytes) -> None:
            body.extend(chunk[:_MOST_JSON_BYTES])

        await self._data_body("PUT", "/data", take, params=query, content=chunks)
        return self._decoded(body)

    async def get_blob(self, cid: str, key: str | None, take: Callable[[bytes], Awaitable[None]]) -> None:
        """Hand the bytes of a blob to `take`, in order. Raises as `data` does, also when they end too early."""
        await self._data_body("GET", f"/data/{cid}", take, headers={} if key is None else {"x-data-key": key})

    async def _data_body(
        self, method: str, path: str, take: Callable[[bytes], Awaitable[None]], **what: Any
    ) -> None:
        """One call whose bodies may be large: it is given up when nothing moves for a minute."""
        timeout = httpx.Timeout(STALL_SECONDS)
        try:
            async with self._client.stream(method, path, timeout=timeout, **what) as response:
                if response.status_code == httpx.codes.OK:
                    async for chunk in response.aiter_raw():
                        await take(chunk)
                    return
                said = _object(_json_or_none(await response.aread()))
        except (httpx.HTTPError, httpx.StreamError) as error:
            raise self._failed(f"{type(error).__name__}: {error}.") from error
        if not all(isinstance(said.get(name), str) for name in ("what", "why", "remedy")):
            raise self._failed(f"It answers {path} with HTTP status {response.status_code}.")
        raise CheckFailed(said["what"], said["why"], said["remedy"])

    async def collections(
        self, method: str, path: str, take: Callable[[bytes], Awaitable[None]], **what: Any
    ) -> None:
        """Ask about collections, and hand what comes to `take`. Raises as `data` does."""
        await self._data_body(method, f"/collections{path}", take, **what)

    async def collections_json(self, method: str, path: str, **what: Any) -> dict[str, Any]:
        """Ask about collections. Raises as `data` does."""
        body = bytearray()

        async def take(chunk: bytes) -> None:
            body.extend(chunk)
            if len(body) > _MOST_JSON_BYTES:
                raise self._failed(f"Its answer has more than {_MOST_JSON_BYTES} bytes.")

        await self.collections(method, path, take, **what)
        return self._decoded(body)

    def _decoded(self, body: bytearray) -> dict[str, Any]:
        found = _json_or_none(bytes(body))
        if not isinstance(found, dict):
            raise self._failed("Its answer is not JSON.")
        return found

    async def shutdown(self) -> None:
        """Ask the node to end."""
        await self._call("POST", "/shutdown", _MOST_JSON_BYTES)

    async def _known(self, path: str) -> dict[str, Any]:
        found = await self._json(path)
        if not isinstance(found, dict):
            raise self._failed(f"It has no {path}: it is of another version.")
        return found

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


def _json_or_none(body: bytes) -> Any:
    try:
        return json.loads(body)
    except ValueError:
        return None


def _object(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}
