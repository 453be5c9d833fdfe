"""The operator's API to task data: blobs as request and response bodies, streamed; everything else as JSON."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict
from typing import Any, Final

import base58
import trio
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from koii_p2p.data.durability import DEFAULT_LEVEL, Level
from koii_p2p.data.manifest import Reference
from koii_p2p.data.putting import PutResult, PutSettings
from koii_p2p.data.reasons import DataError, DataReason
from koii_p2p.data.room import Found
from koii_p2p.data.service import BlobView, DataRoom
from koii_p2p.node.api_answers import Guard, Handler, refusal, stop_when_nobody_reads
from koii_p2p.records.cid import cid_to_text
from koii_p2p.storage.faults import LimitExceeded, StorageError

MOST_LISTED: Final = 10_000
KEY_HEADER: Final = "x-data-key"
_STATUS: Final = {
    DataReason.NOT_FOUND: 404,
    DataReason.NO_SPACE: 409,
    DataReason.NO_HOLDERS: 503,
    DataReason.TOO_FEW_HOLDERS: 503,
    DataReason.BLOB_TOO_LARGE: 413,
}


def data_routes(data: Callable[[], DataRoom | str], guard: Guard) -> list[Route]:
    """The routes under /data. `data()` is the room, or a sentence why there is none; `guard` wants the token."""

    def handler(work: Callable[[DataRoom, Request], Awaitable[Response]]) -> Handler:
        async def handle(request: Request) -> Response:
            room = data()
            if isinstance(room, str):
                return refusal(
                    503, "Task data cannot be used.", room, "Mend what it says and start the node again."
                )
            try:
                return await work(room, request)
            except DataError as error:
                return refused(error)
            except LimitExceeded as error:
                return refusal(507, error.what, error.why, error.remedy, reason="quota_full")
            except StorageError as error:
                return refusal(507, error.what, error.why, error.remedy)

        return guard(handle)

    return [
        Route("/data", handler(_ls), methods=["GET"]),
        Route("/data", handler(_put), methods=["PUT"]),
        Route("/data/{cid}", handler(_get), methods=["GET"]),
        Route("/data/{cid}/stat", handler(_stat), methods=["GET"]),
        Route("/data/{cid}/pin", handler(_pin), methods=["POST"]),
        Route("/data/{cid}/pin", handler(_unpin), methods=["DELETE"]),
    ]


async def _ls(data: DataRoom, _request: Request) -> Response:
    return JSONResponse(
        {
            "blobs": [view_of(one) for one in await data.blobs(MOST_LISTED)],
            "statistics": asdict(data.statistics()),
        }
    )


async def _put(data: DataRoom, request: Request) -> Response:
    query = request.query_params
    task = query.get("task")
    try:
        level = Level[query.get("level", DEFAULT_LEVEL.title).upper()]
        rounds = int(query.get("rounds", PutSettings().rounds))
        key = None if task is None else base58.b58decode(task)
    except (KeyError, ValueError):
        return refusal(
            400,
            "The blob was not stored.",
            "Its level, rounds or task cannot be understood.",
            f"Levels are {', '.join(level.title for level in Level)}.",
        )
    settings = PutSettings(level, rounds, query.get("pin") == "1", query.get("private") == "1")
    try:
        return JSONResponse(result_of(await data.put(key, request.stream(), settings)))
    except ClientDisconnect:
        return Response(status_code=499)


async def _get(data: DataRoom, request: Request) -> Response:
    reference = _reference(request)
    found = await data.find(reference.manifest)
    if found.manifest.is_private != (reference.key is not None):
        raise DataError(DataReason.WRONG_KEY)
    return _Blob(data, found, reference.key)


async def _stat(data: DataRoom, request: Request) -> Response:
    return JSONResponse(view_of(await data.stat(_reference(request).manifest, ask=True)))


async def _pin(data: DataRoom, request: Request) -> Response:
    return JSONResponse(view_of(await data.pin(_reference(request).manifest)))


async def _unpin(data: DataRoom, request: Request) -> Response:
    return JSONResponse(view_of(await data.unpin(_reference(request).manifest)))


class _Blob(Response):
    """A blob as the body: begun with its first bytes, so that what fails before them has a status of its own.

    What fails later breaks the connection, and the reader sees that the body is not whole.
    """

    def __init__(self, data: DataRoom, found: Found, key: bytes | None) -> None:
        super().__init__()
        self._data = data
        self._found = found
        self._key = key

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        begun = False

        async def begin() -> None:
            nonlocal begun
            begun = True
            size = str(self._found.manifest.plain_size).encode()
            headers = [(b"content-type", b"application/octet-stream"), (b"content-length", size)]
            await send({"type": "http.response.start", "status": 200, "headers": headers})

        async def take(piece: bytes) -> None:
            if not begun:
                await begin()
            await send({"type": "http.response.body", "body": piece, "more_body": True})

        failed: DataError | None = None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(stop_when_nobody_reads, receive, nursery.cancel_scope)
            try:
                await self._data.read(self._found, self._key, take)
                if not begun:
                    await begin()
                await send({"type": "http.response.body", "body": b"", "more_body": False})
            except DataError as error:
                failed = error
            nursery.cancel_scope.cancel()
        if failed is not None:
            if begun:
                raise failed
            await refused(failed)(scope, receive, send)


def _reference(request: Request) -> Reference:
    key = request.headers.get(KEY_HEADER)
    text = request.path_params["cid"]
    return Reference.from_text(text if key is None else f"{text}.{key}")


def result_of(result: PutResult) -> dict[str, Any]:
    """What became of a put, for JSON."""
    return {
        "reference": result.reference.to_text(),
        "cid": cid_to_text(result.reference.manifest),
        "content": cid_to_text(result.content),
        "size": result.size,
        "stored": result.stored,
        "until": result.until,
        "shards_placed": result.placed.placed,
        "shards_waiting": result.placed.waiting,
    }


def view_of(view: BlobView) -> dict[str, Any]:
    """What a node knows of a blob, for JSON."""
    return {
        **asdict(view),
        "cid": cid_to_text(view.cid),
        "content": cid_to_text(view.content),
        "task": None if view.task is None else base58.b58encode(view.task).decode("ascii"),
    }


def refused(error: DataError) -> Response:
    """The response to what the data room refuses."""
    return refusal(
        _STATUS.get(error.reason, 400),
        "The data room refuses it.",
        str(error),
        REMEDIES.get(error.reason, "Look at docs/data.md for what this means."),
        reason=error.reason.value,
    )


REMEDIES: Final[Mapping[DataReason, str]] = {
    DataReason.NOT_FOUND: "Check the CID; it may also be that its term is over, or that its holders are away.",
    DataReason.NO_SPACE: "Name a task that the node works on with --task.",
    DataReason.NO_HOLDERS: "Wait until the node knows the task's roster: `koii-p2p status` shows it.",
    DataReason.TOO_FEW_HOLDERS: "Try again when more of its holders can be reached.",
    DataReason.BLOB_TOO_LARGE: "Split it, or choose larger blocks.",
    DataReason.BAD_TERM: "Choose another --rounds.",
    DataReason.BAD_REFERENCE: "Copy the whole reference that `koii-p2p data put` printed.",
    DataReason.WRONG_KEY: "A private blob is read by its whole reference, with the key behind the full stop.",
}
