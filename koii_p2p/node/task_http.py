"""The public HTTP server of a node: Koii's paths, and the REST of its tasks, which runs in their workers.

Koii docs: the node's REST API (port 30017). It has a socket of its own and knows nothing of the operator's API. Whoever
asks is a stranger: every request is bounded in size, number and time, and what a task answers is its own word, stamped
with the slot and signed by the node (`koii_p2p.tasks.stamps`). What the node answers itself has no stamp.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Final, Protocol

import structlog
import trio
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from koii_p2p.limits import Limits
from koii_p2p.node.task_gate import Guarded, RequestGate, SignedOnce
from koii_p2p.records.cose import Signer
from koii_p2p.tasks.process import Begun, CallFailed, Failure
from koii_p2p.tasks.routes import AskedRoute, RouteReply
from koii_p2p.tasks.stamps import (
    STAMP_HEADERS,
    Stamp,
    is_signed,
    read_signed_request,
    request_hash,
    request_message,
    stamp_headers,
)

log = structlog.get_logger(__name__)

METHODS: Final = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")
_NOT_PASSED: Final = frozenset(
    {
        *(
            b"connection",
            b"keep-alive",
            b"te",
            b"trailer",
            b"transfer-encoding",
            b"upgrade",
            b"http2-settings",
        ),
        *(b"proxy-authorization", b"proxy-connection", b"cookie", b"content-length"),
    }
)
"""Headers of a request that a task does not see: those of the connection, and cookies, which no task has."""

_FAILURES: Final = {
    Failure.RAISED: (502, "failed", "The task's route raised an exception."),
    Failure.CRASHED: (502, "crashed", "The task's worker ended while it worked on the request."),
    Failure.BAD_ANSWER: (502, "bad_answer", "The task's route gave no answer that can be sent."),
    Failure.TIMED_OUT: (504, "timed_out", "The task's route did not answer in time."),
    Failure.NOT_RUNNING: (503, "not_running", "The task's worker does not run now."),
}


class Routed(Protocol):
    """What answers for a task's routes: a `TaskRunner`."""

    @property
    def has_routes(self) -> bool:
        """Whether there are any."""

    async def route(self, asked: AskedRoute, begun: Begun) -> RouteReply:
        """What they answer. Raises `CallFailed`."""


@dataclass(frozen=True, slots=True)
class ServedTask:
    """What the server knows of one task. `period` is the task's period at a slot, `nodes` says who works on it, JSON-
    ready, and `register` whether a record is somebody's new and valid presence.
    """

    task: bytes
    title: str
    runner: Routed
    period: Callable[[int], int]
    nodes: Callable[[], Sequence[Mapping[str, Any]]]
    register: Callable[[bytes], bool]


class TaskHttp:
    """The ASGI application (`app`), its counters, and what it knows of the node.

    `tasks` are those that the node works on, by their ids in base58; `now` is K2's slot, None while the node does not
    know it; `about` is what `/id` says.
    """

    def __init__(
        self,
        signer: Signer,
        tasks: Callable[[], Mapping[str, ServedTask]],
        now: Callable[[], int | None],
        about: Mapping[str, Any],
        limits: Limits,
    ) -> None:
        self._signer = signer
        self._tasks = tasks
        self._now = now
        self._about = about
        self._limits = limits
        self._gate = RequestGate(limits)
        self._signed = SignedOnce(limits)
        self._working: Counter[str] = Counter()
        self._answered = 0
        self.app: ASGIApp = CORSMiddleware(
            Guarded(self._application(), self._gate, limits),
            allow_origins=["*"],
            allow_methods=list(METHODS),
            allow_headers=["*"],
            expose_headers=list(STAMP_HEADERS),
        )

    def statistics(self) -> dict[str, Any]:
        """Requests that tasks answered, and those that were not, by reason; counts since the start."""
        return {"answered": self._answered, "refused": dict(self._gate.refused)}

    def _application(self) -> Starlette:
        async def failed(_request: Request, error: Exception) -> Response:
            assert isinstance(error, HTTPException)
            return self._refuse(error.status_code, "no_such_path", f"{error.detail}.", "Look at GET /tasks.")

        async def broken(request: Request, error: Exception) -> Response:
            log.error("a public request could not be answered", path=request.url.path[:200], exc_info=error)
            return self._refuse(500, "node_failed", "Something failed in the node.", "Its log says what.")

        return Starlette(
            routes=[
                Route("/", self._root),
                Route("/id", self._id),
                Route("/tasks", self._task_list),
                Route("/nodes/{task}", self._nodes),
                Route("/register-node/{task}", self._register, methods=["POST"]),
                Route("/task/{task}", self._task, methods=list(METHODS)),
                Route("/task/{task}/{path:path}", self._task, methods=list(METHODS)),
            ],
            exception_handlers={HTTPException: failed, Exception: broken},
        )

    # --- Koii's paths

    async def _root(self, _request: Request) -> Response:
        return JSONResponse({"status": "OK", "message": "Node is running", "slot": self._now()})

    async def _id(self, _request: Request) -> Response:
        return JSONResponse(dict(self._about))

    async def _task_list(self, _request: Request) -> Response:
        found = [
            {"TaskName": one.title, "TaskID": name, "routes": one.runner.has_routes}
            for name, one in self._tasks().items()
        ]
        return JSONResponse(found)

    async def _nodes(self, request: Request) -> Response:
        served = self._tasks().get(request.path_params["task"])
        return self._unknown() if served is None else JSONResponse(list(served.nodes()))

    async def _register(self, request: Request) -> Response:
        served = self._tasks().get(request.path_params["task"])
        if served is None:
            return self._unknown()
        record = await self._body(request, self._limits.record_bytes)
        if isinstance(record, Response):
            return record
        if not served.register(record):
            why = "It is duplicate, outdated, or invalid: only a newer signed presence of this task is taken."
            return self._refuse(409, "not_registered", why, "koii_p2p/records/records.cddl says what one is.")
        return JSONResponse({"message": "registered"})

    # --- a task's own

    async def _task(self, request: Request) -> Response:
        name = request.path_params["task"]
        served = self._tasks().get(name)
        if served is None:
            return self._unknown()
        if not served.runner.has_routes:
            return self._refuse(
                404, "no_routes", "This task has no routes.", "Look at GET /tasks for one that has."
            )
        if self._working[name] >= self._limits.task_routes_at_once:
            why = f"The task works on {self._limits.task_routes_at_once} requests, and takes no more at once."
            return self._refuse(503, "busy", why, "Ask again in a second.")
        self._working[name] += 1
        try:
            return await self._answer(request, served)
        finally:
            self._working[name] -= 1

    async def _answer(self, request: Request, served: ServedTask) -> Response:
        body = await self._body(request, self._limits.task_request_bytes)
        if isinstance(body, Response):
            return body
        if self._now() is None:
            return self._slot_unknown()
        target, query = _target(request)
        hashed = request_hash(request.method, target + (b"?" + query if query else b""), body)
        signer = self._signer_of(request, served, hashed)
        if isinstance(signer, Response):
            return signer
        headers = [pair for pair in request.headers.raw if pair[0].lower() not in _NOT_PASSED]
        client = request.client.host if request.client else ""
        asked = AskedRoute(request.method, target, query, headers, body, client, signer)
        reply = await _forwarded(served.runner, asked, request)
        if isinstance(reply, CallFailed):
            status, reason, why = _FAILURES[reply.failure]
            return self._refuse(status, reason, why, "The node's operator finds out by `koii-p2p task logs`.")
        slot = self._now()
        return self._slot_unknown() if slot is None else self._stamped(request, served, hashed, reply, slot)

    def _stamped(
        self, request: Request, served: ServedTask, hashed: bytes, reply: RouteReply, slot: int
    ) -> Response:
        body = b"" if request.method == "HEAD" else reply.body
        period = max(served.period(slot), 0)
        stamp = Stamp(served.task, period, slot, reply.status, hashed, sha256(body).digest())
        answer = Response(body, reply.status)
        own = {b"content-length"} if reply.status not in (204, 304) else set()
        answer.raw_headers = [pair for pair in answer.raw_headers if pair[0] in own]
        answer.raw_headers += reply.headers
        answer.raw_headers += [
            (name.encode(), value.encode()) for name, value in stamp_headers(stamp, self._signer)
        ]
        # What strangers' tasks answer is never to be taken for something else than it says.
        answer.raw_headers.append((b"x-content-type-options", b"nosniff"))
        self._answered += 1
        return answer

    def _signer_of(self, request: Request, served: ServedTask, hashed: bytes) -> bytes | Response:
        """Who signed a request, empty if nobody did, or why it is refused."""
        if not is_signed(request.headers):
            return b""
        claim, node, now = read_signed_request(request.headers), self._signer.public_key, self._now()
        if now is None:
            return self._slot_unknown()
        if claim is None or not claim.is_good(served.task, node, hashed):
            why = "Its signature is not of this request to this task at this node."
            return self._refuse(401, "bad_signature", why, "docs/writing-tasks.md says what is signed.")
        # What changes nothing may be asked again as often as one likes.
        once = (
            b""
            if request.method in ("GET", "HEAD")
            else request_message(served.task, node, claim.slot, hashed)
        )
        reason = self._signed.note(once and sha256(claim.key + once).digest(), claim.slot, now)
        if not reason:
            return claim.key
        status, why = {
            "stale_signature": (401, f"It was signed for slot {claim.slot}, and this is slot {now}."),
            "replayed": (409, "It was made before: a signed request counts once."),
            "busy": (503, "Too many signed requests were made lately."),
        }[reason]
        return self._refuse(status, reason, why, "Sign the request again, for the present slot (GET /).")

    async def _body(self, request: Request, most: int) -> bytes | Response:
        """The body of a request, or why it is refused."""
        too_large = f"The body of a request has at most {most} bytes."
        declared = request.headers.get("content-length", "")
        if len(declared) > len(str(most)) or (declared.isdecimal() and int(declared) > most):
            return self._refuse(413, "body_too_large", too_large, "Send less.")
        body = bytearray()
        seconds = self._limits.task_request_seconds
        with trio.move_on_after(seconds):
            while True:
                message = await request.receive()
                body += message.get("body", b"")
                if len(body) > most:
                    return self._refuse(413, "body_too_large", too_large, "Send less.")
                if not message.get("more_body", False):
                    return bytes(body)
        why = f"Not all of the request was there after {seconds:g} seconds."
        return self._refuse(408, "too_slow", why, "Send it at once.")

    # --- refusals

    def _refuse(self, status: int, reason: str, why: str, remedy: str) -> Response:
        return self._gate.refuse(status, reason, why, remedy)

    def _unknown(self) -> Response:
        return self._refuse(
            404, "unknown_task", "This node does not work on this task.", "Look at GET /tasks."
        )

    def _slot_unknown(self) -> Response:
        why = "The node has not heard from K2 lately, and does not know the slot."
        return self._refuse(503, "slot_unknown", why, "Ask another node, or again later.")


def _target(request: Request) -> tuple[bytes, bytes]:
    """The path of a request as it was sent, and its query."""
    raw: bytes = request.scope.get("raw_path") or request.url.path.encode()
    return raw.partition(b"?")[0], request.scope["query_string"]


async def _forwarded(runner: Routed, asked: AskedRoute, request: Request) -> RouteReply | CallFailed:
    """Have a task's routes answer. If whoever asked goes away it is cancelled there, and waited for all the same: a
    task has so many requests at work as are counted.
    """
    cancels: list[Callable[[], None]] = []
    gone = False

    def begun(cancel: Callable[[], None]) -> None:
        cancels.append(cancel)
        if gone:
            cancel()

    async def watch() -> None:
        nonlocal gone
        while (await request.receive())["type"] != "http.disconnect":
            pass
        gone = True
        for cancel in cancels:
            cancel()

    found: RouteReply | CallFailed
    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch)
        try:
            found = await runner.route(asked, begun)
        except CallFailed as failure:
            found = failure
        nursery.cancel_scope.cancel()
    return found
