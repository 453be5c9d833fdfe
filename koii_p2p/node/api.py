"""The operator's HTTP API: loopback only, a token from the node's home, JSON out. What `status` and testnets read."""

from __future__ import annotations

import hmac
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import structlog
import trio
from hypercorn.config import Config
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from koii_p2p.connections import Connections
from koii_p2p.data.collections.service import Collections
from koii_p2p.data.service import DataRoom
from koii_p2p.errors import NetworkError
from koii_p2p.limits import Limits
from koii_p2p.node.api_answers import Handler
from koii_p2p.node.collections_api import collection_routes
from koii_p2p.node.data_api import data_routes
from koii_p2p.node.dht import NodeDht, dht_routes
from koii_p2p.storage.faults import StorageError
from koii_p2p.storage.private_file import create_private, read_private

log = structlog.get_logger(__name__)

TOKEN_BYTES = 32
MAX_REQUEST_HEAD = 16 * 1024
MAX_TOKEN_BYTES = 256
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

    def reach(self) -> Mapping[str, Any]:
        """How others get at it: addresses, dial-backs, relays; empty while the network does not run."""

    def mesh(self) -> Mapping[str, Any]:
        """Gossip: its topics, neighbours, meshes and counters."""

    def scores(self) -> list[Mapping[str, Any]]:
        """What gossip thinks of each connected peer, and why."""

    def resources(self) -> Mapping[str, Any]:
        """What the process uses, what waits, and every limit with its use."""

    def unready(self) -> list[str]:
        """Why the node cannot work now, in sentences; empty if it can."""

    def metrics(self, accept: str) -> tuple[bytes, str]:
        """Its numbers for Prometheus, and their content type."""

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


def metrics_token(path: Path) -> str:
    """The token that opens `/metrics` and nothing else: made once, so that a scraper may keep it.

    Raises `StorageError` if the file cannot be written, or others may read it.
    """
    if not path.exists():
        create_private(path, f"{new_token()}\n".encode())
    found = read_private(path, max_bytes=MAX_TOKEN_BYTES).decode("ascii", "replace").strip()
    if not found:
        raise StorageError(
            f"The file {path} cannot be used.",
            "It is empty.",
            "Remove it; the node makes another at its start.",
        )
    return found


def create_app(
    node: NodeView,
    token: str,
    scraper: str = "",
    data: Callable[[], DataRoom | str] | None = None,
    collections: Callable[[], Mapping[str, Collections]] | None = None,
    dht: Callable[[], NodeDht] | None = None,
) -> Starlette:
    """The ASGI application. Everything but `/healthz` and `/readyz` needs `Authorization: Bearer <token>`.

    `/metrics` takes the token `scraper` as well, if it is not empty. `data()` is the data room, or why there is none;
    `collections()` those of each task by its id.
    """

    def guarded(handler: Callable[[Request], Response], *tokens: str) -> Handler:
        async def answered(request: Request) -> Response:
            return handler(request)

        return awaited(answered, *tokens)

    def awaited(handler: Handler, *tokens: str) -> Handler:
        allowed = [f"Bearer {one}".encode() for one in (token, *tokens) if one]

        async def checked(request: Request) -> Response:
            given = request.headers.get("authorization", "").encode()
            # All are compared, so that time does not tell which one it nearly was.
            if not sum([hmac.compare_digest(given, one) for one in allowed]):
                raise HTTPException(401, "This API needs the token from the node's home (api.json).")
            return await handler(request)

        return checked

    async def healthz(_request: Request) -> Response:
        return PlainTextResponse("ok\n")

    async def readyz(_request: Request) -> Response:
        reasons = node.unready()
        if reasons:
            return PlainTextResponse("".join(f"{reason}\n" for reason in reasons), status_code=503)
        return PlainTextResponse("ready\n")

    def metrics(request: Request) -> Response:
        content, content_type = node.metrics(request.headers.get("accept", ""))
        return Response(content, headers={"content-type": content_type})

    def reach(_request: Request) -> Response:
        return JSONResponse(dict(node.reach()))

    def mesh(_request: Request) -> Response:
        return JSONResponse(dict(node.mesh()))

    def scores(_request: Request) -> Response:
        return JSONResponse([dict(item) for item in node.scores()])

    def resources(_request: Request) -> Response:
        return JSONResponse(dict(node.resources()))

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

    async def broken(request: Request, error: Exception) -> Response:
        log.error("the API could not answer", path=request.url.path, exc_info=error)
        what = f"The node could not answer: {type(error).__name__}. Its log says where."
        return JSONResponse({"error": what}, status_code=500)

    return Starlette(
        routes=[
            Route("/healthz", healthz),
            Route("/readyz", readyz),
            Route("/metrics", guarded(metrics, scraper)),
            Route("/status", guarded(status)),
            Route("/rounds", guarded(rounds)),
            Route("/rounds/{task}/{round:int}", guarded(one_round)),
            Route("/artifacts/{task}/{round:int}/{name}", guarded(artifact)),
            Route("/peers", guarded(peers)),
            Route("/reach", guarded(reach)),
            Route("/mesh", guarded(mesh)),
            Route("/mesh/scores", guarded(scores)),
            Route("/resources", guarded(resources)),
            Route("/shutdown", guarded(shutdown), methods=["POST"]),
            *(data_routes(data, awaited) if data is not None else ()),
            *(dht_routes(dht, awaited) if dht is not None else ()),
            *(collection_routes(collections, awaited) if collections is not None else ()),
        ],
        exception_handlers={HTTPException: failed, Exception: broken},
    )


async def serve_api(
    app: Starlette,
    host: str,
    port: int,
    limits: Limits,
    *,
    task_status: trio.TaskStatus[str] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve until cancelled; ready with the URL. Raises `NetworkError` when the port is taken.

    `app.state.connections` is then the `Connections` that serve it.
    """
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
    connections = Connections(app, config, most=limits.api_connections)
    app.state.connections = connections
    async with trio.open_nursery() as nursery:
        await nursery.start(connections.run, listeners)
        name = listeners[0].socket.getsockname()
        task_status.started(f"http://{name[0]}:{name[1]}")
