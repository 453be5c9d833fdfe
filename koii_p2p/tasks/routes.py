"""HTTP requests inside a task's worker: one goes through the task's routes, and what a route may ask about it.

A node reads each request whole, hands it over as one call, and sends the answer when it has all of it: neither bodies
nor answers are streams. There are no WebSockets and no cookies.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeAlias
from urllib.parse import unquote

import base58

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.routing import BaseRoute

Headers: TypeAlias = Sequence[tuple[bytes, bytes]]
Endpoint: TypeAlias = "Callable[[Request], Response | Awaitable[Response]]"
Keys: TypeAlias = Collection[str] | Callable[[], Awaitable[Collection[str]]]

PREFIX: Final = "/task/"
"""Where the routes of a task are: `/task/<id>/...`, as at Koii's nodes."""

_SIGNER: Final = "koii_p2p.signer"


@dataclass(frozen=True, slots=True)
class AskedRoute:
    """One request to a task. `target` is the path as it was sent, from `/task/` on; `signer` the key (32 bytes) that
    signed the request to this node, empty if none did; `client` the address that it came from.
    """

    method: str
    target: bytes
    query: bytes
    headers: Headers
    body: bytes
    client: str
    signer: bytes = b""

    def arguments(self) -> list[object]:
        """What goes to the worker; `from_arguments` reads it."""
        headers = [[name, value] for name, value in self.headers]
        return [self.method, self.target, self.query, headers, self.body, self.client, self.signer]

    @classmethod
    def from_arguments(cls, arguments: Sequence[Any]) -> AskedRoute:
        """What `arguments` made."""
        method, target, query, headers, body, client, signer = arguments
        pairs = [(name, value) for name, value in headers]
        return cls(method, target, query, pairs, body, client, signer)


@dataclass(frozen=True, slots=True)
class RouteReply:
    """What a task's routes answered."""

    status: int
    headers: Headers
    body: bytes


class BadReply(Exception):
    """What a task's routes answered is no HTTP answer, or too large; the text says why."""


def signer_of(request: Request) -> str | None:
    """The key, in base58, that signed this request to this node; None if it is not signed.

    The node has checked the signature, that the request is for this task and new, and that it was not made before.
    """
    found: str | None = request.scope.get(_SIGNER)
    return found


def only_for(keys: Keys, endpoint: Endpoint) -> Endpoint:
    """An endpoint that answers to requests signed with one of `keys` (base58) alone: Koii's authentication list.

    `keys` may be an `async def` that looks them up each time, as in the task's database. Whoever has not signed is
    told 401, and whoever is not on the list 403, in JSON.
    """

    async def checked(request: Request) -> Response:
        from starlette.concurrency import run_in_threadpool
        from starlette.responses import JSONResponse

        signer = signer_of(request)
        if signer is None:
            why = "This route wants a signed request: docs/writing-tasks.md says how one is made."
            return JSONResponse({"error": why, "reason": "not_signed"}, status_code=401)
        if signer not in (await keys() if callable(keys) else keys):
            why = f"The key {signer} is not on this task's list."
            return JSONResponse({"error": why, "reason": "not_listed"}, status_code=403)
        if inspect.iscoroutinefunction(endpoint):
            return await endpoint(request)  # type: ignore[no-any-return]
        made: Response | Awaitable[Response] = await run_in_threadpool(endpoint, request)
        return await made if inspect.isawaitable(made) else made

    return checked


def application(routes: Sequence[BaseRoute]) -> Any:
    """The ASGI application of a task's routes. Raises `TypeError` for anything else than routes."""
    from starlette.applications import Starlette
    from starlette.routing import BaseRoute

    if not isinstance(routes, list | tuple) or not all(isinstance(one, BaseRoute) for one in routes):
        raise TypeError(
            f"routes() returned {type(routes).__name__}; it must return a list of starlette.routing routes"
        )
    return Starlette(routes=list(routes))


async def answer(app: Any, asked: AskedRoute, task_id: str, most: int) -> list[object]:
    """Have an ASGI application answer, with at most `most` bytes of body; what goes to the node.

    Raises what the application raises, and `BadReply` if it answers nothing or too much.
    """
    started: dict[str, Any] = {}
    body = bytearray()
    unread = [{"type": "http.request", "body": asked.body, "more_body": False}]

    async def receive() -> dict[str, Any]:
        if unread:
            return unread.pop()
        await asyncio.Event().wait()  # whoever asks may go away: then the node ends this call
        raise AssertionError("nobody sets it")

    async def send(message: dict[str, Any]) -> None:
        if message["type"] == "http.response.start":
            started.update(message)
            return
        body.extend(message.get("body", b""))
        if len(body) > most:
            raise BadReply(f"the answer has more than {most} bytes")
        await asyncio.sleep(0)  # an endless answer that never waits can be ended too

    await app(_scope(asked, task_id), receive, send)
    if not started:
        raise BadReply("the route sent no answer")
    headers = [[bytes(name), bytes(value)] for name, value in started.get("headers", ())]
    return [int(started["status"]), headers, bytes(body)]


def read_reply(value: object, *, most_bytes: int, most_headers: int, header_bytes: int) -> RouteReply:
    """What `answer` sent, out of a worker that may send anything. Raises `BadReply`."""
    match value:
        case [int(status), list(headers), bytes(body)] if type(status) is int and 200 <= status <= 599:
            pass
        case _:
            raise BadReply("the task answered with something that is no HTTP answer")
    if len(body) > most_bytes:
        raise BadReply(f"the answer has {len(body)} bytes where at most {most_bytes} are allowed")
    if len(headers) > most_headers:
        raise BadReply(f"the answer has {len(headers)} headers where at most {most_headers} are allowed")
    pairs = [_header(one) for one in headers]
    if sum(len(name) + len(text) for name, text in pairs) > header_bytes:
        raise BadReply(f"the answer's headers have more than {header_bytes} bytes")
    kept = tuple((name, text) for name, text in pairs if _passes(name))
    return RouteReply(status, kept, b"" if status in (204, 304) else body)


_PASSED: Final = frozenset(
    {
        *(
            b"content-type",
            b"content-disposition",
            b"content-encoding",
            b"content-language",
            b"content-range",
        ),
        *(b"cache-control", b"etag", b"expires", b"last-modified", b"vary", b"age", b"accept-ranges"),
        *(b"location", b"link", b"retry-after", b"allow", b"www-authenticate"),
    }
)
"""Headers of a task's answer that are sent on, beside those of its own that begin with x-. Those of the connection are
the node's, and all tasks of a node are one origin to a browser: no cookies, and nothing that is about the origin."""

_TOKEN: Final = frozenset(b"!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyz")


def _header(one: object) -> tuple[bytes, bytes]:
    match one:
        case [bytes(name), bytes(value)]:
            name, value = name.lower(), value.strip(b" \t")
            if name and set(name) <= _TOKEN and all(byte >= 0x20 or byte == 0x09 for byte in value):
                return name, value
    raise BadReply("the answer has a header that is none")


def _passes(name: bytes) -> bool:
    return name in _PASSED or name.startswith(b"x-")


def _scope(asked: AskedRoute, task_id: str) -> dict[str, Any]:
    root, path = f"{PREFIX}{task_id}", unquote(asked.target.decode("ascii", "replace"))
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": asked.method,
        "scheme": "http",
        "path": f"{root}/" if path == root else path,
        "raw_path": asked.target,
        "query_string": asked.query,
        "root_path": root,
        "headers": list(asked.headers),
        "client": (asked.client, 0),
        "server": None,
        "state": {},
        "extensions": {},
        _SIGNER: base58.b58encode(asked.signer).decode("ascii") if asked.signer else None,
    }
