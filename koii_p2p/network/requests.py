"""Questions and answers between two peers: each on a stream of its own, bounded in size, number and time.

Wire: the asker sends a 4-byte big-endian length and the request, the other answers with a length and the response.
Whatever goes wrong resets the stream; there is no error message to parse.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Protocol

import trio

from koii_p2p.limits import Limits
from koii_p2p.network.containment import Guard, at_most
from koii_p2p.network.frames import READ_BYTES, FrameError
from koii_p2p.network.streams import PeerStream, StreamFailed

if TYPE_CHECKING:
    from koii_p2p.network.host import ContainedHost

LENGTH_BYTES = 4
RESET_SECONDS = 1.0

#: `handler(asker_key, request) -> response`
Handler = Callable[[bytes, bytes], Awaitable[bytes]]


class RequestReason(Enum):
    """Why a request got no response."""

    NOT_CONNECTED = "not connected"
    """There is no connection to the peer and none could be made."""

    REFUSED = "refused"
    """The peer does not speak this protocol, or has too many of our requests open."""

    TIMED_OUT = "timed out"
    """The deadline passed."""

    TOO_LARGE = "too large"
    """The request is, or the response would be, larger than its limit."""

    BROKEN = "broken"
    """The stream ended before the response did: the peer went away, or its handler failed."""


class RequestFailed(Exception):
    """A request got no response; `reason` says why."""

    def __init__(self, reason: RequestReason, text: str) -> None:
        super().__init__(f"{reason.value}: {text}")
        self.reason = reason


@dataclass(frozen=True, slots=True)
class RequestStatistics:
    """Counters since the start."""

    asked: int
    answered: int
    """Requests of ours that got a response."""
    failed: tuple[tuple[str, int], ...]
    """Requests of ours that got none, by reason."""
    served: int
    refused: int
    """Requests of peers turned away because they had too many open."""
    serving_failed: int
    """Requests of peers that ended without a response."""
    open: int
    """Requests of peers being served now."""


class Requests:
    """Asks peers and answers them, over one host."""

    def __init__(self, guard: Guard, limits: Limits) -> None:
        self._guard = guard
        self._limits = limits
        self._handlers: dict[str, Handler] = {}
        self._host: ContainedHost | None = None
        self._open: Counter[bytes] = Counter()
        # Half of what the peer allows us: it may not have noticed yet that our last streams ended.
        self._asking: defaultdict[bytes, trio.CapacityLimiter] = defaultdict(
            lambda: trio.CapacityLimiter(max(1, limits.streams_per_peer // 2))
        )
        self._asked = self._answered = self._served = self._refused = self._serving_failed = 0
        self._failed: Counter[str] = Counter()

    def serve(self, protocol: str, handler: Handler) -> None:
        """Answer requests on a protocol from now on. Raises `ValueError` when it has a handler already."""
        if protocol in self._handlers:
            raise ValueError(f"The protocol {protocol!r} has a handler already.")
        self._handlers[protocol] = handler
        if self._host is not None:
            self._register(self._host, protocol, handler)

    def attach(self, host: ContainedHost | None) -> None:
        """Use a host that runs, or none."""
        self._host = host
        if host is not None:
            for protocol, handler in self._handlers.items():
                self._register(host, protocol, handler)

    def _register(self, host: ContainedHost, protocol: str, handler: Handler) -> None:
        async def answer(stream: PeerStream) -> None:
            await self._answer(stream, handler)

        host.serve(protocol, answer)

    async def ask(self, key: bytes, protocol: str, payload: bytes, *, deadline: float) -> bytes:
        """Send a request to a connected peer and return its response. Raises `RequestFailed`."""
        self._asked += 1
        try:
            response = await self._ask(key, protocol, payload, deadline)
        except RequestFailed as error:
            self._failed[error.reason.value] += 1
            raise
        self._answered += 1
        return response

    async def _ask(self, key: bytes, protocol: str, payload: bytes, deadline: float) -> bytes:
        if len(payload) > self._limits.request_bytes:
            raise RequestFailed(
                RequestReason.TOO_LARGE, f"A request has at most {self._limits.request_bytes} bytes."
            )
        with trio.move_on_after(deadline):
            async with self._asking[key]:
                stream = await self._open_stream(key, protocol)
                try:
                    await stream.write(_framed(payload))
                    response = await read_frame(stream, self._limits.response_bytes)
                except FrameTooLarge as error:
                    await _reset(stream)
                    raise RequestFailed(RequestReason.TOO_LARGE, str(error)) from error
                except Exception as error:
                    await _reset(stream)
                    raise RequestFailed(RequestReason.BROKEN, str(error)) from error
                except BaseException:
                    await _reset(stream)
                    raise
                with trio.move_on_after(RESET_SECONDS), self._guard.contain("request_close"):
                    await stream.close()
                return response
        raise RequestFailed(RequestReason.TIMED_OUT, f"No response within {deadline:g} s.")

    async def _open_stream(self, key: bytes, protocol: str) -> PeerStream:
        if self._host is None:
            raise RequestFailed(RequestReason.NOT_CONNECTED, "The network does not run.")
        try:
            return await self._host.open_stream(key, [protocol])
        except StreamFailed as error:
            raise RequestFailed(RequestReason(error.reason.value), str(error)) from error

    async def _answer(self, stream: PeerStream, handler: Handler) -> None:
        key = stream.key
        if self._open[key] >= self._limits.streams_per_peer:
            self._refused += 1
            await _reset(stream)
            return
        self._open[key] += 1
        done = False
        try:
            with trio.move_on_after(self._limits.respond_deadline), self._guard.contain("handler"):
                with trio.fail_after(self._limits.request_deadline):
                    request = await read_frame(stream, self._limits.request_bytes)
                response = await _while_wanted(stream, handler(key, request))
                if len(response) > self._limits.response_bytes:
                    raise FrameTooLarge(f"The response has {len(response)} bytes.")
                await stream.write(_framed(response))
                await stream.close()
                done = True
        finally:
            self._open[key] -= 1
            if not self._open[key]:
                del self._open[key]
            if not done:
                await _reset(stream)
        if done:
            self._served += 1
        else:
            self._serving_failed += 1

    def forget(self, key: bytes) -> None:
        """Drop what was kept about a peer that went away."""
        limiter = self._asking.get(key)
        if limiter is not None and not limiter.borrowed_tokens:
            del self._asking[key]

    def statistics(self) -> RequestStatistics:
        """Return the counters."""
        return RequestStatistics(
            asked=self._asked,
            answered=self._answered,
            failed=tuple(sorted(self._failed.items())),
            served=self._served,
            refused=self._refused,
            serving_failed=self._serving_failed,
            open=self._open.total(),
        )


class FrameTooLarge(FrameError):
    """A frame is announced that is larger than its limit."""


class Readable(Protocol):
    """What is needed of a stream to read a frame from it."""

    async def read_some(self, max_bytes: int) -> bytes:
        """Return up to `max_bytes`, nothing at the end."""


async def read_frame(stream: Readable, limit: int) -> bytes:
    """Read one frame of at most `limit` bytes; memory grows with what arrives, not with what is announced.

    Raises `FrameTooLarge`, `FrameError`, or what the stream raises when it is cut.
    """
    buffer = bytearray()
    while len(buffer) < LENGTH_BYTES:
        buffer += await _some(stream)
    size = int.from_bytes(buffer[:LENGTH_BYTES], "big")
    if size > limit:
        raise FrameTooLarge(f"{size} bytes are announced, at most {limit} are read.")
    del buffer[:LENGTH_BYTES]
    while len(buffer) < size:
        buffer += await _some(stream)
    if len(buffer) > size:
        raise FrameError("More bytes than announced.")
    return bytes(buffer)


async def _while_wanted(stream: PeerStream, answer: Awaitable[bytes]) -> bytes:
    """Await an answer, giving up as soon as the asker resets the stream or sends more than its request.

    Raises `FrameError` then. An asker that only closed its own direction still wants the answer.
    """
    response: bytes | None = None

    async def watch() -> None:
        try:
            if not await stream.read_some(1):
                return
        except StreamFailed:
            pass
        nursery.cancel_scope.cancel()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch)
        response = await answer
        nursery.cancel_scope.cancel()
    if response is None:
        raise FrameError("The asker gave up.")
    return response


async def _some(stream: Readable) -> bytes:
    data = await stream.read_some(READ_BYTES)
    if not data:
        raise FrameError("The stream ended.")
    return data


def _framed(payload: bytes) -> bytes:
    return len(payload).to_bytes(LENGTH_BYTES, "big") + payload


async def _reset(stream: PeerStream) -> None:
    with at_most(RESET_SECONDS):
        await stream.reset()
