"""The operator's HTTP API: loopback only, a token from the node's home, JSON out. What `status` and testnets read."""

from __future__ import annotations

import hmac
import secrets
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import trio
from hypercorn.config import Config
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from koii_p2p.connections import Connections
from koii_p2p.errors import NetworkError
from koii_p2p.limits import Limits

TOKEN_BYTES = 32
MAX_REQUEST_HEAD = 16 * 1024
ARTIFACTS = ("commitment", "bundle", "list")


class NodeView(Protocol):
    """What the API shows of a node. Every method returns JSON-ready values; keys are base58, digests hex."""

    def status(self) -> Mapping[str, Any]:
        """The node as a whole."""

    def rounds(self) -> list[Mapping[str, Any]]:
        """The rounds in memory, of every task, oldest first."""

    def round(self, task: str, number: int) -> Mapping[str, Any] | None:
        """One round in full, or None if the node does not know it."""

    def peers(self) -> list[Mapping[str, Any]]:
        """Connected peers."""

    def artifact(self, task: str, number: int, name: str) -> bytes | None:
        """Stored bytes of a round: commitment, bundle or list; None if the node has none."""

    def stop(self) -> None:
        """Ask the node to end."""


@dataclass(frozen=True, slots=True)
class ApiAddress:
    """Where the API listens and the token it wants."""

    url: str
    token: str


def new_token() -> str:
    """A fresh secret for one run of a node."""
    return secrets.token_urlsafe(TOKEN_BYTES)


def create_app(node: NodeView, token: str) -> Starlette:
    """The ASGI application. Everything but `/healthz` needs `Authorization: Bearer <token>`."""

    def guarded(handler: Callable[[Request], Response]) -> Callable[[Request], Awaitable[Response]]:
        async def checked(request: Request) -> Response:
            given = request.headers.get("authorization", "")
            if not hmac.compare_digest(given.encode(), f"Bearer {token}".encode()):
                raise HTTPException(401, "This API needs the token from the node's home (api.json).")
            return handler(request)

        return checked

    async def healthz(_request: Request) -> Response:
        return PlainTextResponse("ok\n")

    def status(_request: Request) -> Response:
        return JSONResponse(dict(node.status()))

    def rounds(_request: Request) -> Response:
        return JSONResponse([dict(item) for item in node.rounds()])

    def one_round(request: Request) -> Response:
        task, number = request.path_params["task"], request.path_params["round"]
        found = node.round(task, number)
        if found is None:
            raise HTTPException(404, f"Round {number} of task {task} is not known to this node.")
        return JSONResponse(dict(found))

    def artifact(request: Request) -> Response:
        task, number, name = (request.path_params[part] for part in ("task", "round", "name"))
        if name not in ARTIFACTS:
            raise HTTPException(404, f"There are {', '.join(ARTIFACTS)}; not {name}.")
        data = node.artifact(task, number, name)
        if data is None:
            raise HTTPException(404, f"The {name} of round {number} is not held by this node.")
        return Response(data, media_type="application/octet-stream")

    def peers(_request: Request) -> Response:
        return JSONResponse([dict(item) for item in node.peers()])

    async def stop() -> None:
        node.stop()

    def shutdown(_request: Request) -> Response:
        return JSONResponse({"stopping": True}, background=BackgroundTask(stop))  # once the reply is sent

    async def failed(_request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        return JSONResponse({"error": error.detail}, status_code=error.status_code)

    return Starlette(
        routes=[
            Route("/healthz", healthz),
            Route("/status", guarded(status)),
            Route("/rounds", guarded(rounds)),
            Route("/rounds/{task}/{round:int}", guarded(one_round)),
            Route("/artifacts/{task}/{round:int}/{name}", guarded(artifact)),
            Route("/peers", guarded(peers)),
            Route("/shutdown", guarded(shutdown), methods=["POST"]),
        ],
        exception_handlers={HTTPException: failed},
    )


async def serve_api(
    app: Starlette,
    host: str,
    port: int,
    limits: Limits,
    *,
    task_status: trio.TaskStatus[str] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve until cancelled; ready with the URL. Raises `NetworkError` when the port is taken."""
    try:
        listeners = await trio.open_tcp_listeners(port, host=host)
    except OSError as error:
        raise NetworkError(
            f"The node's API cannot listen on {host}:{port}.",
            f"The system says: {error.strerror or error}.",
            "Stop the process that has the port, or choose another with --api-port.",
        ) from error
    config = Config()
    config.loglevel = "ERROR"
    config.accesslog = None
    config.h11_max_incomplete_size = MAX_REQUEST_HEAD
    async with trio.open_nursery() as nursery:
        await nursery.start(Connections(app, config, most=limits.api_connections).run, listeners)
        name = listeners[0].socket.getsockname()
        task_status.started(f"http://{name[0]}:{name[1]}")
