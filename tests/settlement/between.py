"""A node between the client and real RPC nodes: it passes calls on, to whom and with what changes a test says."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import httpx
import trio

Call = dict[str, Any]


class Between:
    """An RPC URL behind which are several nodes, as behind a provider's load balancer.

    `choose` says which of the nodes gets a call, `change` what it becomes on the way there, `answer` what its reply
    becomes on the way back: None is lost. A WebSocket is opened and then says nothing, if `sockets`.
    """

    def __init__(
        self,
        nodes: Sequence[str],
        choose: Callable[[Call], int] = lambda call: 0,
        change: Callable[[Call], Call] = lambda call: call,
        answer: Callable[[Call, Any], Any] = lambda call, reply: reply,
        *,
        sockets: bool = False,
    ) -> None:
        self.url = ""
        self.calls: list[str] = []
        self.sockets_opened = 0
        self._nodes, self._choose, self._change, self._answer = nodes, choose, change, answer
        self._sockets = sockets

    async def _talk(self, client: httpx.AsyncClient, stream: trio.SocketStream) -> None:
        received = b""
        try:
            while b"\r\n\r\n" not in received or len(received) < _whole(received):
                more = await stream.receive_some(65536)
                if not more:
                    return
                received += more
            if b"upgrade: websocket" in received.lower():
                await self._stay_silent(stream, received)
                return
            call = self._change(json.loads(received.partition(b"\r\n\r\n")[2]))
            self.calls.append(call["method"])
            reply = self._answer(call, (await client.post(self._nodes[self._choose(call)], json=call)).json())
            if reply is None:
                return
            body = json.dumps(reply).encode()
            head = f"HTTP/1.1 200 OK\r\ncontent-length: {len(body)}\r\nconnection: close\r\n\r\n"
            await stream.send_all(head.encode() + body)
        except (trio.BrokenResourceError, httpx.TransportError):
            pass
        finally:
            await trio.aclose_forcefully(stream)

    async def _stay_silent(self, stream: trio.SocketStream, request: bytes) -> None:
        if not self._sockets:
            await stream.send_all(b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n")
            return
        (key,) = [
            line[19:].strip()
            for line in request.split(b"\r\n")
            if line.lower().startswith(b"sec-websocket-key:")
        ]
        accept = base64.b64encode(hashlib.sha1(key + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest())
        await stream.send_all(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Accept: " + accept + b"\r\n\r\n"
        )
        self.sockets_opened += 1
        await stream.receive_some(65536)
        taken = b'{"jsonrpc":"2.0","id":1,"result":1}'
        await stream.send_all(b"\x81" + bytes([len(taken)]) + taken)
        await trio.sleep_forever()


def _whole(received: bytes) -> int:
    head, _, _ = received.partition(b"\r\n\r\n")
    lengths = [int(line[15:]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")]
    return len(head) + 4 + sum(lengths)


@asynccontextmanager
async def standing(between: Between) -> AsyncIterator[Between]:
    """The same, while it listens on loopback."""
    async with httpx.AsyncClient(trust_env=False, timeout=30) as client, trio.open_nursery() as nursery:
        talk = partial(between._talk, client)
        listeners = await nursery.start(partial(trio.serve_tcp, talk, 0, host="127.0.0.1"))
        between.url = f"http://127.0.0.1:{listeners[0].socket.getsockname()[1]}"
        yield between
        nursery.cancel_scope.cancel()
