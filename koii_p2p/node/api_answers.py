"""What the parts of the operator's API share: how a refusal is said, and an answer that ends with its reader."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import trio
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import Message, Receive

Handler = Callable[[Request], Awaitable[Response]]
Guard = Callable[[Handler], Handler]
"""Wraps a handler so that it wants the token."""


def refusal(status: int, what: str, why: str, remedy: str, *, reason: str = "") -> Response:
    """What was not done, why, and what to do, as JSON; `reason` is the name of the refusal, if it has one."""
    body = {"error": why, "what": what, "why": why, "remedy": remedy, "reason": reason}
    return JSONResponse(body, status_code=status)


async def stop_when_nobody_reads(receive: Receive, scope: trio.CancelScope) -> None:
    """Cancel `scope` as soon as the reader of an answer has gone away."""
    message: Message = {"type": ""}
    while message["type"] != "http.disconnect":
        message = await receive()
    scope.cancel()
