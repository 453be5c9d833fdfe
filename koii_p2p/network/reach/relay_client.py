"""Being reached through relays, and reaching others through them (circuit relay v2, the client sides).

A node that nobody can dial reserves a place at relays it is connected to, and tells others its address behind them:
`/ip4/.../tcp/.../p2p/<relay>/p2p-circuit/p2p/<itself>`. What comes through a relay is shaken hands with as any socket.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass

import structlog
import trio
from libp2p.relay.circuit_v2.pb.circuit_pb2 import HopMessage, PeerId, Status, StopMessage
from multiaddr import Multiaddr

from koii_p2p.errors import ConfigurationError
from koii_p2p.limits import Limits
from koii_p2p.network.containment import Guard, at_most
from koii_p2p.network.identity import peer_id_bytes, peer_id_text
from koii_p2p.network.reach.relay import OpenStream
from koii_p2p.network.reach.relay_wire import (
    CLOSE_SECONDS,
    HOP,
    BadMessage,
    MessageStream,
    RelayedSocket,
    stop_status,
)
from koii_p2p.network.settings import CIRCUIT, is_relayed, parse_dialable
from koii_p2p.network.statistics import RelayPlace
from koii_p2p.network.streams import PeerStream, StreamFailed

log = structlog.get_logger(__name__)

TICK_SECONDS = 1.0
RENEWED = 0.75
"""Of a reservation's time, after which it is renewed."""
ADDRESSES = 2
"""Of one relay, that are told to others."""
SERVED_AT_ONCE = 32


class RelayFailed(Exception):
    """A relay did not do what it was asked."""


@dataclass(slots=True)
class _Reservation:
    addresses: tuple[str, ...]
    expires: float
    renew: float


class RelayClient:
    """Keeps reservations while they are wanted, and makes and takes connections through relays."""

    def __init__(
        self,
        open_stream: OpenStream,
        wanted: Callable[[], bool],
        candidates: Callable[[], Iterable[tuple[bytes, str]]],
        serve: Callable[[RelayedSocket], Awaitable[None]],
        guard: Guard,
        limits: Limits,
    ) -> None:
        """`candidates()` are connected peers that could be relays, best first, with the address we see them at;
        `serve(socket)` serves an incoming connection until it ends."""
        self._open_stream = open_stream
        self._wanted = wanted
        self._candidates = candidates
        self._serve = serve
        self._guard = guard
        self._limits = limits
        self._held: dict[bytes, _Reservation] = {}
        self._not_before: dict[bytes, float] = {}
        self._serving = 0

    async def run(self) -> None:
        """Keep up to `Limits.relays_used` reservations, for ever."""
        while True:
            await trio.sleep(TICK_SECONDS)
            with self._guard.contain("relay_client"):
                await self._look_after()

    def lost(self, key: bytes) -> None:
        """Note that a peer is gone, and the reservation at it."""
        if self._held.pop(key, None) is not None:
            log.info("relay_lost", relay=peer_id_text(key))

    @property
    def addresses(self) -> tuple[str, ...]:
        """Return where this node can be reached through relays, without its own PeerId."""
        now = trio.current_time()
        return tuple(text for held in self._held.values() if held.expires > now for text in held.addresses)

    def places(self) -> tuple[RelayPlace, ...]:
        """Return the reservations held."""
        now = trio.current_time()
        return tuple(
            RelayPlace(peer_id_text(key), held.addresses, max(0.0, held.expires - now))
            for key, held in self._held.items()
        )

    def holds(self, relay: bytes) -> bool:
        """Say whether we have a place at a relay."""
        return relay in self._held

    async def connect(self, relay: bytes, key: bytes) -> RelayedSocket:
        """Have a relay that is connected connect us with a peer. Raises `RelayFailed`."""
        stream: PeerStream | None = None
        agreed = False
        try:
            stream = await self._open_stream(relay, [HOP])
            messages = MessageStream(stream)
            await messages.send(HopMessage(type=HopMessage.CONNECT, peer=PeerId(id=peer_id_bytes(key))))
            _check(await _answer(messages))
            agreed = True
            return RelayedSocket(stream, messages.rest())
        except (BadMessage, StreamFailed) as error:
            raise RelayFailed(f"The relay does not answer as one: {error}") from error
        finally:
            if stream is not None and not agreed:
                with at_most(CLOSE_SECONDS):
                    await stream.reset()

    async def accept(self, stream: PeerStream) -> None:
        """Take a connection that a relay brings, on a stream of the stop protocol, and serve it until it ends."""
        messages = MessageStream(stream)
        said = StopMessage()
        try:
            with trio.fail_after(self._limits.negotiation_deadline):
                await messages.receive(said)
        except BadMessage:
            await messages.send(stop_status(Status.MALFORMED_MESSAGE))
            return
        if said.type != StopMessage.CONNECT:
            await messages.send(stop_status(Status.UNEXPECTED_MESSAGE))
        elif stream.key not in self._held or stream.link.relayed:
            # Only a relay that we have asked may make us shake hands with strangers.
            await messages.send(stop_status(Status.PERMISSION_DENIED))
        elif self._serving >= SERVED_AT_ONCE:
            await messages.send(stop_status(Status.RESOURCE_LIMIT_EXCEEDED))
        else:
            self._serving += 1
            try:
                await messages.send(stop_status(Status.OK))
                await self._serve(RelayedSocket(stream, messages.rest()))
            finally:
                self._serving -= 1

    async def _look_after(self) -> None:
        now = trio.current_time()
        for key in [key for key, held in self._held.items() if held.expires <= now]:
            self.lost(key)
        self._not_before = {key: until for key, until in self._not_before.items() if until > now}
        if not self._wanted():
            return
        candidates = dict(self._candidates())
        due = [key for key, held in self._held.items() if held.renew <= now]
        lacking = self._limits.relays_used - len(self._held)
        fresh = [key for key in candidates if key not in self._held and key not in self._not_before]
        for key in (*due, *fresh):
            if key in self._held or lacking > 0:
                lacking -= await self.reserve(key, candidates.get(key, "")) and key not in due

    async def reserve(self, key: bytes, seen_at: str = "") -> bool:
        """Reserve at a connected relay, or renew; return whether that was granted.

        `seen_at` is where we have dialled it, for a relay that does not say where it is.
        """
        stream: PeerStream | None = None
        why = "it does not answer"
        with trio.move_on_after(self._limits.negotiation_deadline):
            try:
                stream = await self._open_stream(key, [HOP])
                messages = MessageStream(stream)
                await messages.send(HopMessage(type=HopMessage.RESERVE))
                answer = await _answer(messages)
                _check(answer)
                held = self._reservation(key, answer, seen_at)
                if key not in self._held:
                    log.info("relay_found", relay=peer_id_text(key), addresses=held.addresses)
                self._held[key] = held
                return True
            except (BadMessage, StreamFailed, RelayFailed) as error:
                why = str(error)
            finally:
                if stream is not None:
                    with at_most(CLOSE_SECONDS):
                        await stream.reset()
        log.debug("relay_refused", relay=peer_id_text(key), why=why)
        now = trio.current_time()
        self._not_before[key] = now + self._limits.relay_retry
        if key in self._held:
            self._held[key].renew = now + self._limits.relay_retry
        return False

    def _reservation(self, key: bytes, answer: HopMessage, seen_at: str) -> _Reservation:
        """What a relay gave. Raises `RelayFailed` when it says no address that could be told to others."""
        seconds = min(answer.reservation.expire - time.time(), self._limits.relay_reservation_seconds)
        if seconds <= 0:
            raise RelayFailed("The reservation is over already.")
        found: dict[str, None] = {}
        for raw in answer.reservation.addrs[: self._limits.presence_addresses]:
            try:
                transport, said = parse_dialable(str(Multiaddr(raw)))
            except (ConfigurationError, ValueError):
                continue
            except Exception:  # noqa: BLE001 - whatever the library makes of a stranger's bytes
                continue
            if said in (None, key) and not is_relayed(transport):
                found[transport] = None
        transports = list(found) or ([seen_at] if seen_at else [])
        if not transports:
            raise RelayFailed("The relay does not say where it is.")
        addresses = tuple(f"{one}/p2p/{peer_id_text(key)}{CIRCUIT}" for one in transports[:ADDRESSES])
        now = trio.current_time()
        return _Reservation(addresses, now + seconds, now + RENEWED * seconds)


async def _answer(messages: MessageStream) -> HopMessage:
    answer = HopMessage()
    await messages.receive(answer)
    return answer


def _check(answer: HopMessage) -> None:
    if answer.type != HopMessage.STATUS or answer.status != Status.OK:
        known = answer.status in Status.values()
        raise RelayFailed(f"The relay says {Status.Name(answer.status) if known else answer.status}.")
