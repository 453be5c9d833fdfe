"""JSON-RPC 2.0 over HTTP for nodes that may be slow, broken or hostile: one call, one checked answer.

Why httpx and not the `solana` package: the package's typed methods answer some errors (-32002, -32005, -32016
without `data`) with a panic that is not an `Exception` and would end the node, return unknown error codes as
if they were results, accept another call's id, and read replies of any size. httpx runs on trio, streams the
body so that its size can be capped while it arrives, and every one of its failures is an ordinary exception,
mapped here.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, NoReturn

import httpx
import structlog
import trio

from koii_p2p.errors import ChainError, ConfigurationError
from koii_p2p.limits import Limits
from koii_p2p.settlement.rpc_urls import shown_url

_log = structlog.get_logger(__name__)

_CONNECTIONS = 8
_FIRST_PAUSE = 0.1
_SHOWN_CHARACTERS = 300
_LONGEST_WAIT = 3600.0
_DIGITS = re.compile("[0-9]{1,9}")
_GATEWAY_STATUSES = frozenset({502, 504})  # the node was asked, and the proxy did not get its answer
_BUSY_STATUSES = _GATEWAY_STATUSES | {429, 503}  # a proxy or rate limiter answered for the node: ask again


# Error codes of Solana's nodes (rpc-client-api/src/custom_error.rs).
BLOCK_CLEANED_UP = -32001
PREFLIGHT_REFUSED = -32002
SIGNATURE_REFUSED = -32003
BLOCK_NOT_AVAILABLE = -32004
NODE_UNHEALTHY = -32005
SLOT_SKIPPED = -32007
HISTORY_NOT_AVAILABLE = -32011
BLOCK_STATUS_NOT_YET_AVAILABLE = -32014
VERSION_NOT_SUPPORTED = -32015
MINIMUM_CONTEXT_SLOT = -32016
METHOD_NOT_FOUND = -32601
INTERNAL_ERROR = -32603
TOO_MANY_REQUESTS = 429

BEHIND = frozenset({NODE_UNHEALTHY, BLOCK_STATUS_NOT_YET_AVAILABLE, MINIMUM_CONTEXT_SLOT})
"""Codes by which a node says that it is behind the chain: another node may answer, or this one later."""

TRY_ELSEWHERE = BEHIND | {INTERNAL_ERROR, TOO_MANY_REQUESTS}
"""Codes that speak of the node and not of the question."""


class RpcUnreachable(ChainError):
    """No answer: refused, reset, timed out, or a proxy said the node is busy. Asking again may work.

    `may_be_done` says whether a call may have reached the node, so that only its answer was lost.
    """

    def __init__(self, url: str, method: str, why: str, *, may_be_done: bool = True) -> None:
        super().__init__(
            f"K2 does not answer at {url} ({method}).",
            f"{why}.",
            "Check that it runs (`koii-p2p k2 up` starts a local one) and that --url names it.",
        )
        self.may_be_done = may_be_done
        self.url = url
        self.method = method


class RpcProtocolError(ChainError):
    """The node answered with something that is not the answer to the question. Its word is worth nothing."""

    def __init__(self, url: str, method: str, why: str) -> None:
        super().__init__(
            f"The answer of {url} to {method} cannot be used.",
            f"{why}.",
            "Check that the URL is a K2 JSON-RPC endpoint, or use another one.",
        )
        self.url = url
        self.method = method


class RpcError(ChainError):
    """The node refused the call: a JSON-RPC error object, as the node gave it.

    `may_be_done` says whether an earlier attempt of the same call may have reached it, and its answer was lost.
    """

    def __init__(self, code: int, message: str, data: Any = None, *, url: str = "", method: str = "") -> None:
        super().__init__(
            f"K2 at {url} refused {method}." if url else "K2 refused a call.",
            f"{message} (code {code}).",
            _remedy(code),
        )
        self.may_be_done = False
        self.code = code
        self.message = message
        self.data = data
        self.url = url
        self.method = method


@dataclass(frozen=True, slots=True)
class RpcStatistics:
    """Counts since the client was made: every attempt, and how those that gave no result ended."""

    calls: int
    attempts: int
    retries: int
    unreachable: int
    refused: int
    protocol_errors: int
    received_bytes: int


class _Transport(Exception):
    """One attempt got no answer at all; the next may, after so many seconds if the node named them."""

    def __init__(self, why: str, retry_after: float = 0.0, *, may_be_done: bool) -> None:
        super().__init__(why)
        self.retry_after = retry_after
        self.may_be_done = may_be_done


class JsonRpcConnection:
    """Calls to one node over kept-alive connections. Use `async with`, or call `aclose()`.

    `url` may be shown; `full_url` may hold a password or a provider's key.
    """

    def __init__(self, url: str, *, limits: Limits = Limits()) -> None:  # noqa: B008 - a frozen value
        """Check the URL; nothing is sent yet.

        Raises:
            ConfigurationError: the URL is not http:// or https:// with a host.
        """
        parts = _split(url)
        self.url = shown_url(url)
        self.full_url = url
        self._limits = limits
        self._last_id = 0
        self._client = httpx.AsyncClient(
            timeout=None,  # trio's deadline in `call` bounds it all, slow drips included
            # Certificates are only loaded where they are used: it costs 30 ms.
            verify=parts.scheme == "https",
            trust_env=False,
            # A compressed reply could grow past the cap before it is measured.
            headers={"accept-encoding": "identity", "content-type": "application/json"},
            limits=httpx.Limits(max_connections=_CONNECTIONS, max_keepalive_connections=_CONNECTIONS),
        )
        # The pool's own queue searches all of itself at every step; a limiter in front keeps it empty.
        self._turns = trio.CapacityLimiter(_CONNECTIONS)
        self._counts = dict.fromkeys(RpcStatistics.__dataclass_fields__, 0)

    async def __aenter__(self) -> JsonRpcConnection:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close every connection. Closing twice is allowed."""
        await self._client.aclose()

    def statistics(self) -> RpcStatistics:
        """Counts since the client was made."""
        return RpcStatistics(**self._counts)

    async def call(self, method: str, params: Sequence[Any] = (), *, retry: bool = True) -> Any:
        """The `result` of one JSON-RPC call.

        At most 8 calls are under way; others wait for their turn. From then on the whole call, retries
        included, takes at most `limits.rpc_deadline` seconds; the reply is at most
        `limits.rpc_response_bytes`. Only failures to get an answer are tried again (`limits.rpc_retries`
        times, with growing pauses, or after the pause that a rate limit asks for); `retry=False` is for
        calls that must not happen twice. An attempt takes at most half the time that is left, as long as
        there is another: a request that was lost does not use up the time of the next.

        Raises:
            RpcUnreachable: no answer in time.
            RpcError: the node answered with an error object.
            RpcProtocolError: the answer is not JSON-RPC, is too large, or is not to this call.
        """
        self._counts["calls"] += 1
        async with self._turns:
            return await self._call(method, params, 1 + (self._limits.rpc_retries if retry else 0))

    async def _call(self, method: str, params: Sequence[Any], attempts: int) -> Any:
        why, may_be_done = "No attempt was made", False
        with trio.move_on_after(self._limits.rpc_deadline) as scope:
            pause = 0.0
            for attempt in range(attempts):
                if attempt:
                    self._counts["retries"] += 1
                    await trio.sleep(pause)
                left = scope.deadline - trio.current_time()
                pause = _FIRST_PAUSE * 2**attempt
                with trio.move_on_after(left / 2 if attempt + 1 < attempts else math.inf) as turn:
                    try:
                        return await self._attempt(method, params)
                    except _Transport as failure:
                        why = str(failure)
                        pause = max(pause, failure.retry_after)
                        may_be_done |= failure.may_be_done
                    except RpcError as refusal:
                        refusal.may_be_done = may_be_done
                        raise
                if turn.cancelled_caught:
                    why, may_be_done = f"No complete answer within {left / 2:.1f} seconds", True
                _log.debug("rpc_attempt_failed", url=self.url, method=method, attempt=attempt, why=why)
                if trio.current_time() + pause >= scope.deadline:
                    break  # waiting that long would leave no time to ask
        if scope.cancelled_caught:
            why, may_be_done = f"No complete answer within {self._limits.rpc_deadline:g} seconds", True
        self._counts["unreachable"] += 1
        raise RpcUnreachable(self.url, method, why, may_be_done=may_be_done)

    def reject(self, method: str, why: str) -> NoReturn:
        """Count a reply whose content turned out to be unusable, and raise `RpcProtocolError`."""
        self._counts["protocol_errors"] += 1
        raise RpcProtocolError(self.url, method, why) from None

    async def _attempt(self, method: str, params: Sequence[Any]) -> Any:
        self._counts["attempts"] += 1
        self._last_id += 1
        request_id = self._last_id
        body = json.dumps({"jsonrpc": "2.0", "id": request_id, "method": method, "params": list(params)})
        try:
            async with self._client.stream("POST", self.full_url, content=body.encode()) as response:
                if response.status_code in _BUSY_STATUSES:
                    raise _Transport(
                        f"HTTP status {response.status_code}",
                        _seconds_to_wait(response.headers.get("retry-after")),
                        may_be_done=response.status_code in _GATEWAY_STATUSES,
                    )
                if response.status_code != 200:
                    self.reject(method, f"HTTP status {response.status_code}")
                if response.headers.get("content-encoding", "identity") != "identity":
                    self.reject(method, "The reply is compressed although that was not asked for")
                content = await self._read(method, response)
        except httpx.TransportError as error:
            connected = not isinstance(error, httpx.ConnectError)
            raise _Transport(_shown(f"{type(error).__name__}: {error}"), may_be_done=connected) from error
        except (httpx.HTTPError, httpx.StreamError, httpx.InvalidURL) as error:
            self.reject(method, _shown(f"{type(error).__name__}: {error}"))
        return self._result(method, request_id, content)

    async def _read(self, method: str, response: httpx.Response) -> bytes:
        content = bytearray()
        async for chunk in response.aiter_raw():
            self._counts["received_bytes"] += len(chunk)
            content += chunk
            if len(content) > self._limits.rpc_response_bytes:
                self.reject(method, f"The reply is larger than {self._limits.rpc_response_bytes} bytes")
        return bytes(content)

    def _result(self, method: str, request_id: int, content: bytes) -> Any:
        try:
            reply = json.loads(content, parse_constant=_refuse_constant)
        except (ValueError, RecursionError):
            self.reject(method, "The reply is not JSON")
        if not isinstance(reply, dict) or reply.get("jsonrpc") != "2.0":
            self.reject(method, "The reply is not a JSON-RPC 2.0 object")
        reply_id = reply.get("id")
        failure = reply.get("error")
        # A node that could not read the request answers with the id null (JSON-RPC 2.0, section 5).
        unnamed_failure = reply_id is None and failure is not None
        if not unnamed_failure and (type(reply_id) is not int or reply_id != request_id):
            self.reject(method, "The reply carries the id of another call")
        if failure is not None:
            self._refuse(method, failure)
        if "result" not in reply:
            self.reject(method, "The reply has neither a result nor an error")
        return reply["result"]

    def _refuse(self, method: str, failure: Any) -> NoReturn:
        code = failure.get("code") if isinstance(failure, dict) else None
        if type(code) is not int:
            self.reject(method, "The error in the reply has no integer code")
        message = failure.get("message")
        self._counts["refused"] += 1
        shown = _shown(message) if isinstance(message, str) else "No message was given"
        raise RpcError(code, shown, failure.get("data"), url=self.url, method=method)


def _seconds_to_wait(value: str | None) -> float:
    """A Retry-After header in seconds (RFC 9110, section 10.2.3); a date, or nonsense, counts as none."""
    return min(float(value), _LONGEST_WAIT) if value is not None and _DIGITS.fullmatch(value) else 0.0


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _split(url: str) -> httpx.URL:
    try:
        parts = httpx.URL(url)
    except (httpx.InvalidURL, TypeError):
        # httpx quotes parts of the URL, which may be a provider's key.
        raise _bad_url(str(url), "It is not written like a URL") from None
    if parts.scheme not in ("http", "https") or not parts.host:
        raise _bad_url(url, "It does not start with http:// or https:// and a host")
    return parts


def _bad_url(url: str, why: str) -> ConfigurationError:
    return ConfigurationError(
        f"The K2 URL {shown_url(url)!r} cannot be used.",
        f"{why}.",
        "Give --url like http://127.0.0.1:8899, or a moniker: l, t, d or m.",
    )


def _shown(message: str) -> str:
    """A node's words, made safe to print: one line, no control characters, bounded."""
    line = "".join(character if character.isprintable() else " " for character in message[:_SHOWN_CHARACTERS])
    return line.strip().rstrip(".") or "No reason was given"


def _remedy(code: int) -> str:
    if code == -32601:
        return "Use a node that serves this method."
    if code == BLOCK_CLEANED_UP:
        return "Use a node that keeps older blocks."
    if code in (*BEHIND, BLOCK_NOT_AVAILABLE):
        return "The node is behind the chain; wait, or use another one."
    if code == TOO_MANY_REQUESTS:
        return "Wait, or use a node without this rate limit."
    return "Check the values given; the node's words above say what it disliked."
