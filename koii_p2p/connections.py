"""Connections under hypercorn's protocol code, contained: what a peer sends ends only its own connection.

hypercorn's own `serve` runs all connections in one nursery without a guard, and some bytes make its
protocol code raise (a WebSocket upgrade with data right behind it, for one): the whole server would end. It
also sends under a shield, so that one reader who stopped reading would hold up a shutdown for ever. So the
accept loop is ours, and hypercorn does the talking.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, MutableMapping
from dataclasses import dataclass
from typing import Any

import structlog
import trio
from hypercorn.app_wrappers import ASGIWrapper
from hypercorn.config import Config
from hypercorn.trio.tcp_server import TCPServer
from hypercorn.trio.worker_context import WorkerContext

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class ConnectionStatistics:
    """Connections open now, those ever accepted, those refused for their number, those ended by a fault."""

    open: int
    accepted: int
    refused: int
    faults: int


class _Protocol(TCPServer):
    """hypercorn's protocol code for one connection, without the wait for a peer that has gone."""

    async def _read_data(self) -> None:
        await super()._read_data()
        # Left running, the keep-alive timer would hold the socket of every finished connection until it is due.
        await self.idle_task.stop()


class Connections:
    """Serves one ASGI application to at most `most` connections at a time.

    `crowd` says of a peer's IP address with which others it is counted, and how many connections they may have
    together; `seconds` is how long a connection may live.
    """

    def __init__(
        self,
        application: Any,
        config: Config,
        *,
        most: int,
        crowd: Callable[[str], tuple[str, int]] | None = None,
        seconds: float = math.inf,
    ) -> None:
        self._application = ASGIWrapper(_saying_the_end(application))
        self._config = config
        self._most = most
        self._crowd = crowd
        self._crowds: Counter[str] = Counter()
        self._seconds = seconds
        self._context = WorkerContext(None)
        self._open: set[trio.SocketStream] = set()
        self._counts = {"accepted": 0, "refused": 0, "faults": 0}

    def statistics(self) -> ConnectionStatistics:
        """Counts since the server started."""
        return ConnectionStatistics(open=len(self._open), **self._counts)

    async def run(
        self,
        listeners: list[trio.SocketListener],
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Accept and serve until cancelled; then close all connections at once, reading or not."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._close_all_when_cancelled)
            nursery.start_soon(trio.serve_listeners, self._talk, listeners)
            task_status.started()

    async def _talk(self, stream: trio.SocketStream) -> None:
        crowd, most = self._crowd_of(stream)
        if len(self._open) >= self._most or self._crowds[crowd] >= most:
            self._counts["refused"] += 1
            await trio.aclose_forcefully(stream)
            return
        self._counts["accepted"] += 1
        self._open.add(stream)
        self._crowds[crowd] += 1
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._close_in_time, stream)
                await self._protocol(stream).run()
                nursery.cancel_scope.cancel()
        except* Exception as faults:  # noqa: BLE001 - counted, logged, and contained to this connection
            self._counts["faults"] += 1
            _log.warning("connection_ended_by_a_fault", fault=repr(faults.exceptions[0]))
        finally:
            self._open.discard(stream)
            self._crowds[crowd] -= 1
            if not self._crowds[crowd]:
                del self._crowds[crowd]
            stream.socket.close()

    def _crowd_of(self, stream: trio.SocketStream) -> tuple[str, int]:
        """With whom a peer is counted, and how many they may be; one that has gone already is counted with nobody."""
        if self._crowd is None:
            return "", self._most
        try:
            return self._crowd(stream.socket.getpeername()[0])
        except (OSError, ValueError):
            return "", self._most

    async def _close_in_time(self, stream: trio.SocketStream) -> None:
        """End a connection that has lived long enough: hypercorn's sending cannot be cancelled, only cut off."""
        await trio.sleep(self._seconds)
        stream.socket.close()

    def _protocol(self, stream: trio.SocketStream) -> TCPServer:
        # Typed for TLS streams only, but made for both.
        return _Protocol(self._application, self._config, self._context, {}, stream)  # type: ignore[arg-type]

    async def _close_all_when_cancelled(self) -> None:
        try:
            await trio.sleep_forever()
        finally:
            for stream in self._open:
                stream.socket.close()


def _saying_the_end(application: Any) -> Any:
    """An ASGI application whose replies say so when the connection ends with them.

    Where a request's body has not been read to its end hypercorn closes the connection, and a client that has not been
    told may have sent its next request there already (RFC 9112, section 9.6).
    """

    async def asked(scope: MutableMapping[str, Any], receive: Any, send: Any) -> None:
        if scope["type"] != "http" or scope["http_version"] == "2" or not _has_body(scope):
            await application(scope, receive, send)
            return
        whole = False

        async def received() -> Any:
            nonlocal whole
            message = await receive()
            whole = whole or (message["type"] == "http.request" and not message.get("more_body", False))
            return message

        async def answered(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start" and not whole:
                headers = [*message.get("headers", ()), (b"connection", b"close")]
                message = {**message, "headers": headers}
            await send(message)

        await application(scope, received, answered)

    return asked


def _has_body(scope: MutableMapping[str, Any]) -> bool:
    return any(
        name == b"transfer-encoding" or (name == b"content-length" and value != b"0")
        for name, value in scope["headers"]
    )
