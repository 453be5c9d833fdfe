"""One question to a node's WebSocket: tell me when this signature has settled.

RFC 6455 by wsproto over a trio stream: the handshake, one `signatureSubscribe`, and its one notice. Whatever
goes wrong is `WebSocketUnusable`; the caller can do without.
"""

from __future__ import annotations

import base64
import json
import ssl
from collections.abc import AsyncIterator, Callable
from typing import Any, Final

import httpx
import trio
from wsproto import ConnectionType, WSConnection
from wsproto.events import (
    AcceptConnection,
    CloseConnection,
    Ping,
    RejectConnection,
    Request,
    TextMessage,
)
from wsproto.utilities import ProtocolError

from koii_p2p.settlement.rpc_replies import Commitment

_OPEN_SECONDS: Final = 5.0
_ANSWER_SECONDS: Final = 5.0
_MESSAGE_CHARACTERS: Final = 64 * 1024
_MESSAGES: Final = 64  # more than one answer and one notice is noise; so much of it is an attack
_HIGHEST_PORT: Final = 65535
_READ_BYTES: Final = 16 * 1024
_TLS: Final = ("https", "wss")


class WebSocketUnusable(Exception):
    """There is no WebSocket at the URL, or it does not do what was asked."""


async def wait_for_signature(
    url: str, signature: str, commitment: Commitment, subscribed: Callable[[], None]
) -> None:
    """Return when the node at an HTTP URL says that a transaction has settled at `commitment`.

    Calls `subscribed` once the node has promised to say so. Waits for ever: bound it with a cancel scope.

    Raises:
        WebSocketUnusable: no connection, no subscription, or an end before the notice.
    """
    try:
        stream, connection, early = await _open(url)
        async with stream:
            asked = {
                "jsonrpc": "2.0",
                "id": 1,
                "method": "signatureSubscribe",
                "params": [signature, {"commitment": commitment}],
            }
            await stream.send_all(connection.send(TextMessage(json.dumps(asked))))
            messages = _messages(stream, connection, early)
            with trio.fail_after(_ANSWER_SECONDS):
                answer = await anext(messages)
                while "id" not in answer:
                    answer = await anext(messages)
            subscription = answer.get("result")
            if answer.get("id") != 1 or type(subscription) is not int:
                raise WebSocketUnusable("the node does not take the subscription")
            subscribed()
            async for message in messages:
                params = message.get("params")
                named = params.get("subscription") if isinstance(params, dict) else None
                if message.get("method") == "signatureNotification" and named == subscription:
                    return
            raise WebSocketUnusable("the node closed the connection")
    except (OSError, trio.BrokenResourceError, trio.ClosedResourceError, trio.TooSlowError) as error:
        raise WebSocketUnusable(f"{type(error).__name__}: {error}") from error
    except (ProtocolError, ssl.SSLError, ValueError, RecursionError, StopAsyncIteration) as error:
        raise WebSocketUnusable(f"it does not speak WebSocket with JSON: {error}") from error


async def _open(url: str) -> tuple[trio.abc.Stream, WSConnection, list[Any]]:
    """A WebSocket of the node at an HTTP URL, and the events that came with its acceptance.

    Providers and the local K2 have it at the same URL; a validator has it on the next port.
    """
    parts = httpx.URL(url)
    candidates = [parts]
    if parts.port is not None and parts.port < _HIGHEST_PORT:
        candidates.append(parts.copy_with(port=parts.port + 1))
    why = WebSocketUnusable("it has no address")
    for candidate in candidates:
        try:
            with trio.fail_after(_OPEN_SECONDS):
                return await _handshake(candidate)
        except (OSError, trio.BrokenResourceError, trio.TooSlowError, ProtocolError) as error:
            why = WebSocketUnusable(f"{type(error).__name__}: {error}")
        except WebSocketUnusable as error:
            why = error
    raise why


async def _handshake(url: httpx.URL) -> tuple[trio.abc.Stream, WSConnection, list[Any]]:
    secure = url.scheme in _TLS
    port = url.port or (443 if secure else 80)
    stream: trio.abc.Stream
    if secure:
        stream = await trio.open_ssl_over_tcp_stream(url.host, port, ssl_context=ssl.create_default_context())
    else:
        stream = await trio.open_tcp_stream(url.host, port)
    try:
        connection = WSConnection(ConnectionType.CLIENT)
        target = url.raw_path.decode("ascii")
        host = url.netloc.decode("ascii").rpartition("@")[2]
        await stream.send_all(connection.send(Request(host=host, target=target, extra_headers=_login(url))))
        while True:
            data = await stream.receive_some(_READ_BYTES)
            connection.receive_data(bytes(data) or None)
            events = list(connection.events())
            if events and isinstance(events[0], AcceptConnection):
                return stream, connection, events[1:]
            if not data or any(isinstance(event, RejectConnection) for event in events):
                raise WebSocketUnusable("the node refuses the connection")
    except BaseException:
        await trio.aclose_forcefully(stream)
        raise


def _login(url: httpx.URL) -> list[tuple[bytes, bytes]]:
    """The header for a URL with user and password, as HTTP calls send it."""
    if not url.userinfo:
        return []
    login = base64.b64encode(f"{url.username}:{url.password}".encode())
    return [(b"authorization", b"Basic " + login)]


async def _messages(
    stream: trio.abc.Stream, connection: WSConnection, early: list[Any]
) -> AsyncIterator[dict[str, Any]]:
    """JSON objects as they come, until the node closes; pings are answered."""
    text = ""
    left = _MESSAGES
    events = early
    while True:
        for event in events:
            if isinstance(event, Ping):
                await stream.send_all(connection.send(event.response()))
            elif isinstance(event, CloseConnection):
                return
            elif isinstance(event, TextMessage):
                text += event.data
                if len(text) > _MESSAGE_CHARACTERS:
                    raise WebSocketUnusable("a message is too large")
                if not event.message_finished:
                    continue
                message, text = json.loads(text), ""
                left -= 1
                if not left or not isinstance(message, dict):
                    raise WebSocketUnusable("the node sends what was not asked for")
                yield message
        data = await stream.receive_some(_READ_BYTES)
        if not data:
            return
        connection.receive_data(bytes(data))
        events = list(connection.events())
