"""The local K2, running: one ledger, its pace, and HTTP and WebSocket on two ports (hypercorn on trio).

`POST /` takes JSON-RPC, single or batched; `GET /health` answers `ok`; a WebSocket on any path takes the
same calls and subscriptions. Browsers may call it from any page: it is a chain for development, and listens
on loopback unless told otherwise.
"""

from __future__ import annotations

import json
import socket as sockets
from collections.abc import Awaitable, Callable, Mapping, MutableMapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from importlib import resources
from ipaddress import ip_address
from types import MappingProxyType
from typing import Any, Final

import structlog
import trio
from hypercorn.config import Config

from koii_p2p.connections import Connections
from koii_p2p.errors import ConfigurationError, NetworkError
from koii_p2p.limits import Limits
from koii_p2p.localk2.ledger import Ledger
from koii_p2p.localk2.params import INVALID_REQUEST, RpcFailure
from koii_p2p.localk2.rpc import JsonObject, LocalRpc, Requests, error_reply
from koii_p2p.localk2.rpc_node import RpcNode
from koii_p2p.localk2.settings import LocalK2Settings
from koii_p2p.localk2.subscriptions import Socket, Subscriptions
from koii_p2p.localk2.task_reader import TaskReader
from koii_p2p.settlement.instructions import PROGRAM_ID

_log = structlog.get_logger(__name__)

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

_CATCH_UP_SLOTS: Final = 8
_GRACE_SECONDS: Final = 0.3
_LOOPBACK: Final = frozenset({"127.0.0.1", "::1", "localhost"})
_HEADERS: Final = (
    (b"access-control-allow-origin", b"*"),
    (b"access-control-allow-headers", b"*"),
    (b"access-control-allow-methods", b"POST, GET, OPTIONS"),
)
_RATE_LIMIT: Final = 429
_SLOW_READER: Final = 1013  # WebSocket close code "try again later"


@dataclass(frozen=True, slots=True)
class LocalK2Address:
    """Where a running local K2 is, and which chain it has. `genesis` and `faucet` are 32 bytes.

    `nodes` are the URLs of all its RPC nodes, `url` first.
    """

    url: str
    ws: str
    genesis: bytes
    faucet: bytes
    nodes: tuple[str, ...] = ()


def settlement_program() -> bytes:
    """The settlement program's ELF, as packaged.

    Raises:
        ConfigurationError: the package was installed without it.
    """
    try:
        return (resources.files("koii_p2p.settlement") / "program" / "settlement.so").read_bytes()
    except OSError as error:
        raise ConfigurationError(
            "The settlement program is missing from this installation.",
            f"settlement/program/settlement.so cannot be read: {error.strerror}.",
            "Install the package again, or build the program with scripts/build_program.py.",
        ) from error


async def serve(
    settings: LocalK2Settings,
    *,
    limits: Limits = Limits(),  # noqa: B008 - a frozen value
    programs: Mapping[bytes, bytes] = MappingProxyType({}),
    task_readers: Sequence[TaskReader] = (),
    task_status: trio.TaskStatus[LocalK2Address] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Run a local K2 until cancelled; then seal the open slot and close the ledger.

    Reports its `LocalK2Address` when it answers calls. `programs` (address to ELF bytes) are loaded beside the
    settlement program; `task_readers` read their accounts for K2's own methods about tasks.

    Raises:
        ConfigurationError: the folder is in use or damaged, or the settlement program is missing.
        NetworkError: a port cannot be listened on.
        ChainError: the disk became full or broke; every sealed slot is kept.
    """
    with ExitStack() as stack:
        ports = (settings.port, settings.websocket_port, *settings.node_ports)
        listening = [stack.enter_context(_listen(settings.host, port)) for port in ports]
        ledger = Ledger(settings, programs={PROGRAM_ID: settlement_program(), **programs}, limits=limits)
        try:
            nodes = [RpcNode(ledger, settings.faults, task_readers) for _ in range(settings.rpc_nodes)]
            await _serve(nodes, settings, limits, listening, task_status)
        finally:
            ledger.close()
            _log.info("local_k2_closed", slot=ledger.slot)


async def _serve(
    nodes: Sequence[RpcNode],
    settings: LocalK2Settings,
    limits: Limits,
    listening: Sequence[sockets.socket],
    task_status: trio.TaskStatus[LocalK2Address],
) -> None:
    http, ws, *others = listening
    ledger = nodes[0].ledger
    address = LocalK2Address(
        url=f"http://{_authority(http)}",
        ws=f"ws://{_authority(ws)}",
        genesis=ledger.genesis,
        faucet=bytes(ledger.faucet.pubkey()),
        nodes=tuple(f"http://{_authority(one)}" for one in (http, *others)),
    )
    if settings.host not in _LOOPBACK:
        _log.warning("local_k2_open_to_the_network", host=settings.host)
    failure: BaseException | None = None
    async with trio.open_nursery() as nursery:
        for node, its_sockets in zip(nodes, [(http, ws), *((one,) for one in others)], strict=True):
            rpc = LocalRpc(node, limits, admin=settings.allow_faults)
            application = Application(rpc, Subscriptions(ledger, rpc, limits), limits)
            listeners = [trio.SocketListener(trio.socket.from_stdlib_socket(one)) for one in its_sockets]
            connections = Connections(application, _hypercorn_config(limits), most=limits.localk2_connections)
            await nursery.start(connections.run, listeners)
        task_status.started(address)
        try:
            await keep_pace(nodes, settings.slot_ms / 1000)
        except Exception as error:  # noqa: BLE001 - raised below, where no exception group hides it
            failure = error
            nursery.cancel_scope.cancel()
    if failure is not None:
        raise failure


async def keep_pace(nodes: Sequence[RpcNode], seconds: float) -> None:
    """Seal a slot of the nodes' ledger every so many seconds, for ever.

    After a stall (a busy or sleeping machine) at most `_CATCH_UP_SLOTS` are sealed in a row; the rest of
    the lost time stays lost, so that no reader sees the chain jump.
    """
    due = trio.current_time()
    while True:
        due = max(due + seconds, trio.current_time() - _CATCH_UP_SLOTS * seconds)
        await trio.sleep_until(due)
        for node in nodes:
            node.before_seal()
        nodes[0].ledger.seal()


class Application:
    """The ASGI application of one ledger."""

    def __init__(self, rpc: LocalRpc, subscriptions: Subscriptions, limits: Limits) -> None:
        self.rpc = rpc
        self.subscriptions = subscriptions
        self._switches = rpc.node.switches
        self._limits = limits

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answer one HTTP request, or talk on one WebSocket until it ends."""
        match scope["type"]:
            case "http":
                await self._http(scope, receive, send)
            case "websocket":
                await self._websocket(receive, send, _stranger(scope))

    async def _http(self, scope: Message, receive: Receive, send: Send) -> None:
        match scope["method"], scope["path"]:
            case "GET", "/health":
                await _respond(send, 200, self._health(), b"text/plain")
            case "OPTIONS", _:
                await _respond(send, 204, b"")
            case "POST", _:
                await self._post(receive, send, _stranger(scope))
            case _:
                await _respond(send, 405, b"Use POST with JSON-RPC 2.0.\n", b"text/plain")

    def _health(self) -> bytes:
        try:
            self.rpc.node.check_health()
        except RpcFailure as failure:
            return b"behind" if "behind" in failure.message else b"unknown"  # the words of Solana's nodes
        return b"ok"

    async def _post(self, receive: Receive, send: Send, stranger: str | None) -> None:
        body: bytes | None = None
        with trio.move_on_after(self._limits.rpc_deadline):
            body = await self._body(receive)
        if body is None:
            failure = RpcFailure(INVALID_REQUEST, "The request took too long")
            await _respond(send, 408, json.dumps(error_reply(None, failure)).encode())
        elif len(body) > self._limits.rpc_request_bytes:
            most = self._limits.rpc_request_bytes
            failure = RpcFailure(INVALID_REQUEST, f"The request is larger than {most} bytes")
            await _respond(send, 413, json.dumps(error_reply(None, failure)).encode())
        else:
            await self._answer(receive, send, self.rpc.parse(body), stranger)

    async def _answer(
        self, receive: Receive, send: Send, requests: Requests | RpcFailure, stranger: str | None
    ) -> None:
        """Answer a request, unless a fault does something else with it."""
        if isinstance(requests, RpcFailure):
            await _respond(send, 200, json.dumps(error_reply(None, requests)).encode())
            return
        if requests.only_admin():
            reply = self.rpc.answer_all(requests, stranger=stranger)
            await _respond(send, 200, json.dumps(reply).encode())
            return
        wait = self._switches.seconds_over_rate()
        if wait is not None:
            limited = json.dumps(error_reply(None, _over_rate())).encode()
            await _respond(send, _RATE_LIMIT, limited, extra=((b"retry-after", str(wait).encode()),))
            return
        if self._switches.drops_request():
            while (await receive())["type"] != "http.disconnect":
                pass  # until the caller gives up
            return
        await trio.sleep(self._switches.now.delay_ms / 1000)
        await _respond(send, 200, self._switches.spoiled(self.rpc.answer_all(requests)))

    async def _body(self, receive: Receive) -> bytes:
        """The request's body, or a little more than is allowed of it."""
        body = bytearray()
        while len(body) <= self._limits.rpc_request_bytes:
            message = await receive()
            if message["type"] != "http.request":
                break
            body += message.get("body", b"")
            if not message.get("more_body"):
                break
        return bytes(body)

    async def _websocket(self, receive: Receive, send: Send, stranger: str | None) -> None:
        if (await receive())["type"] != "websocket.connect":
            return
        outgoing, waiting = trio.open_memory_channel[JsonObject](self._limits.localk2_notices)
        scope = trio.CancelScope()
        socket = Socket(outgoing, scope.cancel)
        if not self.subscriptions.connect(socket):
            await send({"type": "websocket.close", "code": _SLOW_READER})
            return
        try:
            await send({"type": "websocket.accept"})
            with scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(_write, waiting, send)
                    await self._read(socket, receive, stranger)
                    nursery.cancel_scope.cancel()
            if scope.cancelled_caught:
                with trio.move_on_after(_GRACE_SECONDS):
                    await send({"type": "websocket.close", "code": _SLOW_READER})
        finally:
            self.subscriptions.disconnect(socket)

    async def _read(self, socket: Socket, receive: Receive, stranger: str | None) -> None:
        while True:
            message = await receive()
            if message["type"] != "websocket.receive":
                return
            requests = self.rpc.parse(message.get("text") or message.get("bytes") or b"")
            if isinstance(requests, RpcFailure):
                await socket.outgoing.send(error_reply(None, requests))
                continue
            if not requests.only_admin():
                if self._switches.seconds_over_rate() is not None:
                    await socket.outgoing.send(error_reply(None, _over_rate()))
                    continue
                if self._switches.drops_request():
                    continue
                await trio.sleep(self._switches.now.delay_ms / 1000)
            for request in requests.calls:
                await socket.outgoing.send(self.subscriptions.answer(socket, request, stranger=stranger))
            self.subscriptions.after_answer()


async def _write(waiting: trio.MemoryReceiveChannel[JsonObject], send: Send) -> None:
    async for message in waiting:
        await send({"type": "websocket.send", "text": json.dumps(message)})


def _stranger(scope: Message) -> str | None:
    """Why the one who makes this request may not change this K2, or None."""
    client = scope.get("client")
    if client is None or not _is_loopback(str(client[0])):
        return "they are only for callers on the same machine"
    if any(name == b"origin" for name, _ in scope["headers"]):
        return "they are not for pages in a browser"
    return None


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def _over_rate() -> RpcFailure:
    return RpcFailure(_RATE_LIMIT, "Too many requests from your IP, contact your app developer or support.")


async def _respond(
    send: Send,
    status: int,
    body: bytes,
    kind: bytes = b"application/json; charset=utf-8",
    extra: tuple[tuple[bytes, bytes], ...] = (),
) -> None:
    headers = [(b"content-type", kind), (b"content-length", str(len(body)).encode()), *_HEADERS, *extra]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def _listen(host: str, port: int) -> sockets.socket:
    """A bound socket; the system picks the port if it is 0."""
    family = sockets.AF_INET6 if ":" in host else sockets.AF_INET
    socket = sockets.socket(family, sockets.SOCK_STREAM)
    try:
        socket.setsockopt(sockets.SOL_SOCKET, sockets.SO_REUSEADDR, 1)
        socket.bind((host, port))
        socket.setblocking(False)
        socket.listen()
    except OSError as error:
        socket.close()
        raise NetworkError(
            f"The local K2 cannot listen on {host}:{port}.",
            f"{error.strerror or error}.",
            "Stop the program that uses the port, or choose another --port (0 picks a free one).",
        ) from error
    return socket


def _authority(socket: sockets.socket) -> str:
    host, port = socket.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _hypercorn_config(limits: Limits) -> Config:
    config = Config()
    config.loglevel = "WARNING"
    config.keep_alive_timeout = 60
    config.websocket_max_message_size = limits.rpc_request_bytes
    config.websocket_ping_interval = 20
    return config
