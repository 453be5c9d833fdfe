"""Who may ask the public server for how much, before anything is done for them: counted by network, not by address."""

from __future__ import annotations

import ipaddress
from collections import Counter
from collections.abc import Iterable
from typing import Final

import trio
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from koii_p2p.limits import Limits
from koii_p2p.network.admission import address_range
from koii_p2p.node.api_answers import refusal

_LATER: Final = "Ask again in a second."


def crowd_of(host: str, limits: Limits) -> tuple[str, int]:
    """The public network that an IP address is counted with, and how many connections it may have.

    Addresses of private networks and of this machine are bounded by the total alone: behind a proxy they are everybody.
    """
    network = network_of(host)
    return (network, limits.task_http_connections if not network else limits.task_http_connections_per_range)


def network_of(host: str) -> str:
    """The /24 or /56 of a public IP address; empty for a private one, and for what is no address."""
    try:
        ip = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return ""
    mapped = ip.ipv4_mapped if isinstance(ip, ipaddress.IPv6Address) else None
    return "" if (mapped or ip).is_private else address_range(host)


class RequestGate:
    """Counts requests, those at work and those of each public network in the last moments, and says which are too many.

    A network's bucket holds two seconds' worth of requests and fills at `Limits.task_http_requests_per_second`.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._open = 0
        self._open_of: Counter[str] = Counter()
        self._buckets: dict[str, tuple[float, float]] = {}
        self.refused: Counter[str] = Counter()

    def enter(self, network: str, now: float) -> Response | None:
        """Take a place for a request from a public network (or "") at a time in seconds; why not, if it gets none."""
        limits = self._limits
        if network and not self._spend(network, now):
            most = limits.task_http_requests_per_second
            return self.refuse(429, "too_many_requests", f"At most {most} a second are answered.", _LATER)
        if network and self._open_of[network] >= limits.task_http_requests_per_range:
            most = limits.task_http_requests_per_range
            return self.refuse(429, "too_many_requests", f"At most {most} at once are answered.", _LATER)
        if self._open >= limits.task_http_requests:
            return self.refuse(503, "busy", "It answers as many requests as it can.", _LATER)
        self._open += 1
        self._open_of[network] += 1
        return None

    def leave(self, network: str) -> None:
        """Give the place back; once for each `enter` that gave one."""
        self._open -= 1
        self._open_of[network] -= 1
        if not self._open_of[network]:
            del self._open_of[network]

    def refuse(self, status: int, reason: str, why: str, remedy: str) -> Response:
        """A refusal, counted under its reason."""
        self.refused[reason] += 1
        answer = refusal(status, "The request was not answered.", why, remedy, reason=reason)
        if status in (429, 503):
            answer.headers["retry-after"] = "1"
        return answer

    def _spend(self, network: str, now: float) -> bool:
        rate = self._limits.task_http_requests_per_second
        left, since = self._buckets.pop(network, (2.0 * rate, now))
        left = min(left + (now - since) * rate, 2.0 * rate)
        good = left >= 1
        self._buckets[network] = (left - good, now)  # last: the first is who asked longest ago
        if len(self._buckets) > self._limits.task_http_ranges:
            del self._buckets[next(iter(self._buckets))]
        return good


class SignedOnce:
    """Remembers signed requests for as long as their slot is taken, so that none counts twice."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._by_slot: dict[int, set[bytes]] = {}
        self._count = 0

    def note(self, digest: bytes, slot: int, now: int) -> str:
        """Take a request signed for `slot`; the reason if it is refused. `digest` is of what was signed, and by whom;
        empty for a request that may be made again.
        """
        reach = self._limits.signed_request_slots
        if not now - reach <= slot <= now + reach:
            return "stale_signature"
        if not digest:
            return ""
        for old in [one for one in self._by_slot if one < now - reach]:
            self._count -= len(self._by_slot.pop(old))
        if digest in self._by_slot.get(slot, ()):
            return "replayed"
        if self._count >= self._limits.signed_requests_kept:
            return "busy"
        self._by_slot.setdefault(slot, set()).add(digest)
        self._count += 1
        return ""


class Guarded:
    """An ASGI application behind a gate: HTTP only, heads of a bounded size, so many requests at once and a second."""

    def __init__(self, application: ASGIApp, gate: RequestGate, limits: Limits) -> None:
        self._application = application
        self._gate = gate
        self._limits = limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or refuse it."""
        if scope["type"] != "http":
            if scope["type"] == "websocket":
                await send({"type": "websocket.close", "code": 1003})
            return
        headers: Iterable[tuple[bytes, bytes]] = scope["headers"]
        count = size = 0
        for name, value in headers:
            count, size = count + 1, size + len(name) + len(value)
        if count > self._limits.task_http_headers or size > self._limits.task_http_head_bytes:
            most = f"At most {self._limits.task_http_headers} headers of {self._limits.task_http_head_bytes} bytes."
            await self._gate.refuse(431, "head_too_large", most, "Send fewer.")(scope, receive, send)
            return
        client = scope.get("client")
        network = network_of(client[0]) if client else ""
        refused = self._gate.enter(network, trio.current_time())
        if refused is not None:
            await refused(scope, receive, send)
            return
        try:
            await self._application(scope, receive, send)
        finally:
            self._gate.leave(network)
