"""The operator's API to collections: JSON in and out; changes come as lines of JSON for as long as somebody reads."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict
from typing import Final

import base58
import trio
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from koii_p2p.data.collections.definition import Definition
from koii_p2p.data.collections.feed import Change
from koii_p2p.data.collections.reasons import DocumentError, DocumentReason
from koii_p2p.data.collections.service import Collections
from koii_p2p.data.collections.values import Json, parse_json
from koii_p2p.errors import OperatorError
from koii_p2p.node.api_answers import Guard, Handler, refusal, stop_when_nobody_reads
from koii_p2p.node.collection_calls import CALLS, Call

MOST_BODY_BYTES: Final = 8 * 1024 * 1024
BEAT_SECONDS: Final = 15.0
"""An empty line is sent when nothing changed for so long, so that a reader can tell a quiet node from a dead one."""

_STATUS: Final = {
    DocumentReason.KEY_TAKEN: 409,
    DocumentReason.NOT_AN_AUTHOR: 403,
    DocumentReason.TOO_MUCH: 413,
    DocumentReason.TOO_MANY_READERS: 429,
    DocumentReason.OVER_QUOTA: 507,
    DocumentReason.TOO_MANY_COLLECTIONS: 507,
}
REMEDIES: Final[Mapping[DocumentReason, str]] = {
    DocumentReason.NOT_AN_AUTHOR: "Only stakers of the task write, or those that the collection's definition names.",
    DocumentReason.TOO_EARLY: "Try again in a moment.",
    DocumentReason.TOO_MANY_READERS: "End another `collection watch` of this node, or ask another node of the task.",
    DocumentReason.TOO_MUCH: "Narrow the filter, or ask for a part with a limit.",
    DocumentReason.KEY_TAKEN: "Choose another _id, or update the document that is there.",
}


def collection_routes(tasks: Callable[[], Mapping[str, Collections]], guard: Guard) -> list[Route]:
    """The routes under /collections. `tasks()` has the collections of each task by its id; `guard` wants the token."""

    def handler(work: Callable[[Collections, Request], Awaitable[Response]]) -> Handler:
        async def handle(request: Request) -> Response:
            try:
                return await work(_of_task(tasks(), request), request)
            except DocumentError as error:
                return _refused(error)
            except OperatorError as error:
                return refusal(503, error.what, error.why, error.remedy)
            except ClientDisconnect:
                return Response(status_code=499)

        return guard(handle)

    return [
        Route("/collections", handler(_statistics), methods=["GET"]),
        Route("/collections/{name}/watch", handler(_watch), methods=["GET"]),
        *(
            Route(f"/collections/{{name}}/{what}", handler(_asked(work)), methods=["POST"])
            for what, work in CALLS.items()
        ),
    ]


def _asked(call: Call) -> Callable[[Collections, Request], Awaitable[Response]]:
    async def answer(collections: Collections, request: Request) -> Response:
        asked = await _body(request)
        definition = _definition(collections, request)
        return JSONResponse({"answer": await call(collections, definition, asked)})

    return answer


async def _statistics(collections: Collections, _request: Request) -> Response:
    return JSONResponse(asdict(collections.statistics()))


async def _watch(collections: Collections, request: Request) -> Response:
    definition = _definition(collections, request)
    return _Changes(collections, definition, request.query_params.get("from_start") == "1")


class _Changes(Response):
    """Changes as lines of JSON, until the reader goes away."""

    def __init__(self, collections: Collections, definition: Definition, from_start: bool) -> None:
        super().__init__()
        self._collections = collections
        self._definition = definition
        self._from_start = from_start

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        refused: DocumentError | None = None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(stop_when_nobody_reads, receive, nursery.cancel_scope)
            try:
                await self._tell(send)
            except DocumentError as error:
                refused = error
            nursery.cancel_scope.cancel()
        if refused is not None:
            await _refused(refused)(scope, receive, send)

    async def _tell(self, send: Send) -> None:
        """Send changes for ever. Raises `DocumentError` before anything is sent when there are too many readers."""
        async with self._collections.watch(self._definition, from_start=self._from_start) as changes:
            headers = [(b"content-type", b"application/x-ndjson")]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            # An empty line says that from here on nothing is missed.
            await send({"type": "http.response.body", "body": b"\n", "more_body": True})
            while True:
                line = b"\n"
                with trio.move_on_after(BEAT_SECONDS):
                    line = _line(await changes.receive())
                await send({"type": "http.response.body", "body": line, "more_body": True})


def _line(change: Change) -> bytes:
    author = base58.b58encode(change.author).decode("ascii")
    said = {"_id": change.key, "document": change.value, "author": author, "slot": change.version.slot}
    return json.dumps(said, ensure_ascii=False).encode() + b"\n"


def _of_task(tasks: Mapping[str, Collections], request: Request) -> Collections:
    task = request.query_params.get("task")
    if task is None and len(tasks) == 1:
        return next(iter(tasks.values()))
    if task is None or task not in tasks:
        raise DocumentError(
            DocumentReason.BAD_DEFINITION,
            f"Name one of the tasks that this node works on with --task: {', '.join(tasks) or 'there is none'}.",
        )
    return tasks[task]


def _definition(collections: Collections, request: Request) -> Definition:
    """The collection of a name, or of an id, of which the beginning will do."""
    name, id = request.path_params["name"], request.query_params.get("id")
    if not id:
        return collections.named(name)
    known = {
        one.id.hex(): one
        for one in (*collections.store.definitions(), *collections.replicator.heard.values())
    }
    found = [one for key, one in known.items() if key.startswith(id)]
    if len(found) != 1:
        raise DocumentError(
            DocumentReason.BAD_DEFINITION, f"{len(found)} collections have an id that begins so."
        )
    return found[0]


async def _body(request: Request) -> dict[str, Json]:
    data = bytearray()
    async for chunk in request.stream():
        data += chunk
        if len(data) > MOST_BODY_BYTES:
            raise DocumentError(DocumentReason.TOO_MUCH, f"A request has at most {MOST_BODY_BYTES} bytes.")
    try:
        value = parse_json(bytes(data) or b"{}")
    except ValueError as error:
        raise DocumentError(DocumentReason.BAD_QUERY, f"The request is not JSON: {error}.") from error
    if not isinstance(value, dict):
        raise DocumentError(DocumentReason.BAD_QUERY, "A request is a JSON object.")
    return value


def _refused(error: DocumentError) -> Response:
    remedy = REMEDIES.get(error.reason, "Look at docs/collections.md for what this means.")
    return refusal(
        _STATUS.get(error.reason, 400), "It was not done.", str(error), remedy, reason=error.reason.value
    )
