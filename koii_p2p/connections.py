"""Connections under hypercorn's protocol code, contained: what a peer sends ends only its own connection.

hypercorn's own `serve` runs all connections in one nursery without a guard, and some bytes make its
protocol code raise (a WebSocket upgrade with data right behind it, for one): the whole server would end. It
also sends under a shield, so that one reader who stopped reading would hold up a shutdown for ever. So the
accept loop is ours, and hypercorn does the talking.
"""

from __future__ import annotations

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
    """Serves one ASGI application to at most `most` connections at a time."""

    def __init__(self, application: Any, config: Config, *, most: int) -> None:
        self._application = ASGIWrapper(application)
        self._config = config
        self._most = most
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
        if len(self._open) >= self._most:
            self._counts["refused"] += 1
            await trio.aclose_forcefully(stream)
            return
        self._counts["accepted"] += 1
        self._open.add(stream)
        try:
            await self._protocol(stream).run()
        except* Exception as faults:  # noqa: BLE001 - counted, logged, and contained to this connection
            self._counts["faults"] += 1
            _log.warning("connection_ended_by_a_fault", fault=repr(faults.exceptions[0]))
        finally:
            self._open.discard(stream)
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
